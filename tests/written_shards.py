"""Shards that hold captions and gold tags only, for tests that need no pictures."""

import io
import json
import random
import tarfile
from pathlib import Path

from clipa.files import sha256_of

COLOURS = ("red", "blue", "green", "purple")
NOUNS = ("umbrella", "anchor", "snowman", "star", "heart", "telephone", "aeroplane", "scissors")
SENTENCES = (
    "a/DET {colour}/ADJ {noun}/NOUN on/ADP a/DET plain/ADJ background/NOUN",
    "photo/NOUN of/ADP the/DET {noun}/NOUN ,/PUNCT {number}/NUM px/NOUN !/PUNCT",
    "The/DET {noun}/NOUN is/AUX {colour}/ADJ -/PUNCT free/ADJ download/NOUN",
)


def write_shards(train: Path, shards: int, samples: int, seed: int = 0) -> list[str]:
    """Write ``shards`` tar files of ``samples`` samples, two captions each, and their manifest.

    Returns all captions in order.
    """
    train.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    written = []
    for index in range(shards):
        with tarfile.open(train / f"{index:05d}.tar", "w") as archive:
            for sample in range(samples):
                captions, tags = zip(*(_caption(draw) for _ in range(2)), strict=True)
                written += captions
                key = f"{index * samples + sample:09d}"
                _add(archive, f"{key}.jpg", b"not looked at")
                _add(archive, f"{key}.txt", captions[0].encode())
                _add(archive, f"{key}.json", json.dumps({"captions": captions, "pos": tags}).encode())
    write_manifest(train, dict.fromkeys(sorted(path.name for path in train.glob("*.tar")), samples))
    return written


def write_manifest(train: Path, samples: dict[str, int]) -> Path:
    """Write the manifest of the shards that ``samples`` names, with their numbers of samples."""
    shards = [
        {"name": name, "samples": count, "sha256": sha256_of(train / name)} for name, count in samples.items()
    ]
    path = train / "manifest.json"
    path.write_text(json.dumps({"shards": shards}), encoding="utf-8")
    return path


def _caption(draw: random.Random) -> tuple[str, list[str]]:
    filled = draw.choice(SENTENCES).format(
        colour=draw.choice(COLOURS), noun=draw.choice(NOUNS), number=draw.randrange(10, 9999)
    )
    words, tags = zip(*(word.rsplit("/", 1) for word in filled.split()), strict=True)
    return " ".join(words), list(tags)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
