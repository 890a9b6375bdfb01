"""A prepared copy of a training set: small images, and the word pieces of the captions, for stages with small targets.

At 17 image tokens a GPU trains on tens of thousands of images a second (docs/data.md has what a core reads). So the
images of ``train/`` are made once as small as such stages need, and the captions cut once. The copy is a training set
of its own, ``<data>/prepared-<short side>-q<quality>/`` (or ``-raw``): as many shards, of the same names, with the same
samples in the same order. So it is read in the order of ``train/``, and its parts of speech are those beside
``train/``'s shards.

A sample is ``<key>.jpg`` (raw: ``<key>.ppm``), whose short side has ``short_side`` pixels (images that are no larger
stay as they are), and ``<key>.json``: ``{"captions": [c, …], "pieces": [[id, …], …], "words": [[number, …], …]}``, of
each caption the word pieces without [CLS], and the number of the word of each. All of them, so that every text
reduction takes from them what it takes from the caption (:mod:`clipa.data.vocabulary`). Of a bad sample only an empty
``<key>.json`` is left: whoever reads replaces and counts it as before, as one with no image.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from clipa.data.samples import BadSample, RawSample, Reason, captions_of, decoded, named, read_shard
from clipa.data.shards import (
    Entry,
    Members,
    ShardError,
    file_sha256,
    progress_bar,
    read_manifest,
    tar_bytes,
    writing,
)
from clipa.data.vocabulary import Pieces, cut, load_tokenizer
from clipa.resolved import digest, fingerprint
from clipa.sources import Prepared

_VERSION = 1  # raised when the same samples would give other shards


def prepare(data_directory: Path, asked: Prepared, vocabulary: Path, processes: int = 1) -> Path:
    """Make the prepared copy of ``<data_directory>/train``; returns its ``manifest.json``.

    The manifest names what the copy was made from: the digests of the training set's manifest and of the tokenizer in
    ``vocabulary``, and what was ``asked``. Shards that an interrupted call has finished from the same are kept. Bad
    samples are counted on standard error. Raises ShardError or VocabularyError where either is missing or damaged.
    """
    train, out = Path(data_directory) / "train", Path(data_directory) / asked.folder
    manifest = read_manifest(train)
    load_tokenizer(vocabulary)  # first: it may be missing
    made_from = {
        "version": _VERSION,
        "train": digest(manifest),
        "vocabulary": file_sha256(Path(vocabulary) / "tokenizer.json"),
        **asked.model_dump(),
    }
    header = {"world": manifest.get("world"), "made_from": made_from}
    with writing(out / "manifest.json", "prepared shards") as parts:
        if parts.resume(header):
            return parts.manifest
        jobs = {shard["name"]: (train, shard, asked, vocabulary) for shard in manifest["shards"]}
        total = sum(shard["samples"] for shard in manifest["shards"])
        with progress_bar("prepared images", total, "image", unit_scale=True) as bar:
            entries = parts.write(_shard_of, jobs, processes, lambda entry: bar.update(entry["samples"]))
        bad = sum((Counter(entry.get("bad_samples", {})) for entry in entries), Counter())
        if bad:
            print(f"{train}: {bad.total()} bad samples: {named(bad)}", file=sys.stderr)
        content = header | {"shards": entries}
        return parts.finish({"fingerprint": fingerprint(content), **content})


def check_vocabulary(prepared: Path, manifest: Mapping[str, Any], vocabulary: Path) -> None:
    """Raise ShardError unless a copy's captions were cut by the tokenizer in ``vocabulary``, as its manifest says."""
    named_, found = manifest["made_from"]["vocabulary"], file_sha256(vocabulary / "tokenizer.json")
    if named_ != found:
        raise ShardError(
            f"{prepared}: its captions were cut with vocabulary {named_[:12]}, {vocabulary} is {str(found)[:12]}; "
            "prepare it again (python -m clipa prepare)"
        )


def _shard_of(name: str, train: Path, shard: Entry, asked: Prepared, vocabulary: Path) -> tuple[bytes, Entry]:
    """The prepared shard ``name``, and its entry in the manifest (in a worker process)."""
    made, bad = [_small(sample, asked) for sample in read_shard(train, shard)], Counter()
    pieces = iter(cut(load_tokenizer(vocabulary), [text for *_, texts in made for text in texts]))
    members: Members = []
    for key, image, reason, captions in made:
        facts = {} if reason else _facts(captions, [next(pieces) for _ in captions])
        members += [(f"{key}.{ending}", content) for ending, content in image]
        members.append((f"{key}.json", json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()))
        bad += Counter([reason] if reason else [])
    content = tar_bytes(members)
    entry = {"name": name, "samples": len(made), "bytes": len(content)}
    return content, entry | ({"bad_samples": dict(bad)} if bad else {})


def _small(sample: RawSample, asked: Prepared) -> tuple[str, Members, Reason | None, list[str]]:
    """Key, image (ending and content), what is wrong, and captions; of a bad sample neither image nor captions."""
    try:
        ending, captions = sample.image_ending(), captions_of(sample)
        image = sample.image(ending)
        ending, image = reduced(image, asked) or (ending, image)
    except BadSample as error:
        return sample.key, [], error.reason, []
    return sample.key, [(ending, image)], None, captions


def _facts(captions: list[str], pieces: list[Pieces]) -> dict[str, list]:
    return {
        "captions": captions,
        "pieces": [one.ids for one in pieces],
        "words": [one.words for one in pieces],
    }


def reduced(content: bytes, asked: Prepared) -> tuple[str, bytes] | None:
    """An image file made as small as asked: ending and content, a JPEG or a PPM; None if it is no larger than that.

    Lanczos keeps most of what the bilinear resize in training needs. Chroma is not halved, as is usual in JPEGs: it
    would have fewer pixels than the targets. Raises BadSample.
    """
    image = decoded(content)
    factor = asked.short_side / min(image.size)
    if factor >= 1:
        return None
    small = image.resize(tuple(round(side * factor) for side in image.size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if asked.quality == "raw":
        small.save(buffer, "PPM")
        return "ppm", buffer.getvalue()
    small.save(buffer, "JPEG", quality=asked.quality, subsampling="4:4:4", optimize=True)
    return "jpg", buffer.getvalue()
