"""One flipped bit in every kind of file that a command reads.

The command that reads the file next must refuse in one line, or end with the bytes of an undisturbed call. Places are
drawn: a half of them among the first 512 bytes of a file or of a member of an archive (headers), a half anywhere.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

from . import processes
from .outcomes import ACCEPTED, DIFFERENT, NAMED, REFUSED, SAME, Case, Outcome, judge
from .world import BESIDE, VERBS, World

KIND = "flipped-bit"

READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shard": (
        "results/data/*/train/00000.tar",
        ("draw-train:again", "vocabulary", "annotate", "negatives", "train"),
    ),
    "training manifest": ("results/data/*/train/manifest.json", ("draw-train:again", "train")),
    "sidecar": ("results/data/*/train/00001.pos.jsonl", ("negatives", "train")),
    "manifest of sidecars": ("results/data/*/train/annotation.json", ("negatives", "train")),
    "tokenizer": ("results/data/*/vocabulary/tokenizer.json", ("annotate", "train", "finetune")),
    "tokenizer configuration": ("results/data/*/vocabulary/tokenizer_config.json", ("train",)),
    "manifest of the vocabulary": ("results/data/*/vocabulary/vocabulary.json", ("annotate", "train")),
    "entries of the vocabulary": ("results/data/*/vocabulary/entries.json", ("train-released",)),
    "shard of negatives": ("results/data/*/negclip/00000.tar", ("negatives:again",)),
    "manifest of negatives": ("results/data/*/negclip/manifest.json", ("negatives:again",)),
    "resolved stage": ("results/runs/tiny/*/pretrain/*/stage.resolved.json", ("train",)),
    "checkpoint": ("results/runs/tiny/*/pretrain/*/checkpoint-000000006-*.safetensors", ("train:again",)),
    "stage.json": ("results/runs/tiny/*/pretrain/*/stage.json", ("train:again", "finetune", "evaluate")),
    "exported weights": (
        "results/runs/tiny/*/pretrain/*/open_clip/open_clip_model.safetensors",
        ("train:again", "finetune", "evaluate"),
    ),
    "exported configuration": (
        "results/runs/tiny/*/finetune/*/open_clip/open_clip_config.json",
        ("finetune:again", "evaluate"),
    ),
    "exported tokenizer": (
        "results/runs/tiny/*/finetune/*/open_clip/tokenizer.json",
        ("finetune:again", "evaluate"),
    ),
    "loss log": ("results/runs/tiny/*/pretrain/*/loss.jsonl", ("train:again", "finetune")),
    "test shard": ("results/data/*/test/plain/test/0.tar", ("draw-test:again", "evaluate")),
    "manifest of a test set": ("results/data/*/test/plain/manifest.json", ("draw-test:again", "evaluate")),
    "class names": ("results/data/*/test/plain/classnames.txt", ("draw-test:again", "evaluate")),
    "templates": (
        "results/data/*/test/plain/zeroshot_classification_templates.txt",
        ("draw-test:again", "evaluate"),
    ),
    "type of test set": ("results/data/*/test/plain/dataset_type.txt", ("draw-test:again", "evaluate")),
    "measured records": ("results/runs/tiny/*/evaluation/*/records.json", ("evaluate:again", "accept")),
    "accepted records": ("results/recorded/tiny/*/*.json", ("accept:again", "verify")),
    "archive of a run": ("out.tar.gz", ("run:again",)),
}
"""The files of each kind, and the commands that read them. ``again``: the command is called where it had finished."""


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """Eight flips for every file and command that reads it (``quick``: one for the last of these)."""
    for what, (pattern, verbs) in READERS.items():
        for verb in verbs[-1:] if quick else verbs:
            run = verb.startswith("run")  # starts a process that imports torch anew
            for number in range((0 if run else 1) if quick else 2 if run else 8):
                yield Case(
                    KIND,
                    f"{what}, {verb}, {number}",
                    lambda what=what, pattern=pattern, verb=verb, number=number: flip(
                        world, pattern, verb, random.Random(f"{seed} {what} {verb} {number}"), number % 2 == 0
                    ),
                )


def flip(world: World, pattern: str, verb: str, draw: random.Random, header: bool) -> Outcome:
    """Flip one bit of the file, and run ``verb``."""
    verb, _, again = verb.partition(":")
    start = ("accept", "after") if verb == "verify" else (verb, "after" if again else "before")
    with world.copy(*start) as home:
        [path] = sorted(home.glob(pattern))[:1]
        place, bit = flip_bit(path, draw, header)
        name = str(path.relative_to(home))
        if path.name.startswith("checkpoint-"):  # only serves to resume; a damaged one is left where it is
            name = name.replace(path.name, "checkpoint-*")
        words = ["verify", "results/recorded"] if verb == "verify" else world.words(verb, home)
        how = f"bit {bit} of byte {place} of {path.name}"
        ended = processes.run(home, words)
        if verb == "verify":
            found = f"{name}: " in ended.said
            return (
                (REFUSED, how)
                if ended.code == 1 and found
                else judge(ended) or (ACCEPTED, f"{how}: {ended.said}")
            )
        outcome = judge(ended)
        if outcome is None:
            kept = world.compare(
                home, verb
            )  # the bit is flipped back, or was not: either is seen in the rest
            outcome = kept if kept[0] == SAME else world.compare(home, verb, (name,))
            if outcome[0] == DIFFERENT and not again and world.named(home, verb):
                outcome = NAMED, outcome[1]
            if outcome[0] == SAME and kept[0] == DIFFERENT and name in written(world, verb):
                outcome = DIFFERENT, name
        return outcome[0], f"{how}: {outcome[1]}"


def written(world: World, verb: str) -> set[str]:
    """What ``verb`` itself writes: there a flipped bit must not remain."""
    before, after = (
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        for root in (world.state(verb), world.state(verb, "after"))
    )
    return after - before


def flip_bit(path: Path, draw: random.Random, header: bool) -> tuple[int, int]:
    """Flip a drawn bit of a file; returns its byte and its number."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if header:
        place = draw.choice(_headers(path, bytes(content))) + draw.randrange(min(512, len(content)))
    place, bit = min(place, len(content) - 1), draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return place, bit


def _headers(path: Path, content: bytes) -> list[int]:
    """Where headers begin: of every member of a tar, else of the file."""
    if path.suffix != ".tar":
        return [0]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


assert all(
    verb.partition(":")[0] in (*VERBS, *BESIDE, "verify") for _, verbs in READERS.values() for verb in verbs
)
