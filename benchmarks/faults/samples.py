"""Bad samples among good ones, from a data set that somebody else has made: the manifest fits, the content does not.

Every command that reads samples meets each: `index`, `vocabulary`, `train`, `evaluate`. None may end in a traceback,
run code, or need much memory; and no single sample may end a training.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .outcomes import CODE, HANG, MEMORY, REFUSED, SAME, STOPPED, Case, Outcome, judge
from .world import SCALE, World, configure, scratch

KIND = "bad-sample"
RUN = "S16-none-truncation32"
ASKED = ("--scale", "foreign")
FOREIGN = {
    # Data of another name inherits no test sets, and nothing of NegCLIP, whose set is made from the old data.
    **{key: value for key, value in SCALE.items() if key not in ("negatives", "negclip")},
    "data": {
        "kind": "webdataset",
        "name": "foreign",
        "world": None,
        "shards": 3,
        "lanes": 1,
        "shuffle_window": 16,
        "download": {"repository": "laion/relaion400m"},
    },
    "evaluation": {"benchmarks": {"imagenet1k": "imagenet1k"}},
    "about": "the small world as if somebody else had made it",
    "tagger": "en_core_web_sm",
}
LIMIT_SECONDS, LIMIT_MB = 60.0, 500
"""Time and memory of a command, beside what the process had before; a small training needs 100 MB."""

Members = list[tuple[str, bytes]]
MARK = "executed"


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


def png(width: int, height: int) -> bytes:
    """A whole grey picture, small as a file whatever its size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer, row = zlib.compressobj(), bytes(width + 1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _json(value: object) -> Callable[[Members], Members]:
    """The sample with another .json (and where it would be read, .txt) member."""
    return lambda members: _with(members, "json", json.dumps(value).encode())


def _with(members: Members, ending: str, content: bytes) -> Members:
    """The sample with this member in place of its own, or more."""
    stem = members[0][0].partition(".")[0]
    return [pair for pair in members if not pair[0].endswith(f".{ending}")] + [(f"{stem}.{ending}", content)]


def _without(members: Members, *endings: str) -> Members:
    return [pair for pair in members if pair[0].partition(".")[2] not in endings]


def _renamed(members: Members, stem: str) -> Members:
    return [(f"{stem}.{name.partition('.')[2]}", content) for name, content in members]


def _jpeg(members: Members) -> bytes:
    return next(content for name, content in members if name.endswith(".jpg"))


def _bomb() -> bytes:
    return pickle.dumps(Touch(MARK))


SAMPLES: dict[str, Callable[[Members], Members]] = {
    "captions null": _json({"captions": [None]}),
    "captions a number": _json({"captions": [3]}),
    "captions a list of lists": _json({"captions": [["a", "b"]]}),
    "captions a string": _json({"captions": "a dog"}),
    "captions a map": _json({"captions": {"0": "a dog"}}),
    "captions empty": _json({"captions": []}),
    "caption of blanks": _json({"captions": [" \n\t "]}),
    "json a number": _json(3),
    "json a list": _json(["a dog"]),
    "json null": _json(None),
    "json cut": lambda members: _with(members, "json", b'{"captions": ["a d'),
    "json not utf-8": lambda members: _with(members, "json", b'{"captions": ["\xff\xfe"]}'),
    "json of 20,000 brackets": lambda members: _with(members, "json", b"[" * 20_000),
    "json with a long number": lambda members: _with(
        members, "json", b'{"captions": [' + b"9" * 10_000 + b"]}"
    ),
    "lone surrogate": _json({"captions": ["a \ud800 dog"]}),
    "null character": _json({"captions": ["a \0 dog"]}),
    "caption of 1 MB": _json({"captions": ["dog " * 250_000]}),
    "word of 1 MB": _json({"captions": ["d" * 1_000_000]}),
    "words of 1 MB, all different": _json({"captions": [" ".join(f"w{i:x}" for i in range(160_000))]}),
    "text not utf-8": lambda members: _with(_without(members, "json"), "txt", b"\xff\xfe dog"),
    "text of 1 MB": lambda members: _with(_without(members, "json"), "txt", b"dog " * 250_000),
    "no caption at all": lambda members: _without(members, "json", "txt"),
    "no image": lambda members: _without(members, "jpg"),
    "image empty": lambda members: _with(members, "jpg", b""),
    "image cut": lambda members: _with(members, "jpg", _jpeg(members)[: len(_jpeg(members)) // 2]),
    "image of noise": lambda members: _with(members, "jpg", random.Random(0).randbytes(3000)),
    "image of 179 megapixels": lambda members: _with(members, "jpg", png(13_400, 13_400)),
    "image of 169 megapixels": lambda members: _with(members, "jpg", png(13_000, 13_000)),
    "image of one pixel": lambda members: _with(members, "jpg", png(1, 1)),
    "image of one line": lambda members: _with(members, "jpg", png(60_000, 1)),
    "image a text file": lambda members: _with(
        members, "jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    ),
    "member .pyd": lambda members: _with(members, "pyd", _bomb()),
    "member .pickle": lambda members: _with(members, "pickle", _bomb()),
    "member .pth": lambda members: _with(members, "pth", _bomb()),
    "member .npy": lambda members: _with(members, "npy", b"\x93NUMPY\x01\x00" + _bomb()),
    "member .ten": lambda members: _with(members, "ten", _bomb()),
    "member .json.gz": lambda members: _with(members, "json.gz", b"\x1f\x8b"),
    "image twice": lambda members: [*members, *[one for one in members if one[0].endswith(".jpg")]],
    "key twice": lambda members: [*members, ("other.jpg", _jpeg(members)), *members],
    "key ../../x": lambda members: _renamed(members, "../../x"),
    "key an absolute path": lambda members: _renamed(members, "/tmp/clipa-bad-sample"),
    "key empty": lambda members: _renamed(members, ""),
    "key of 5,000 letters": lambda members: _renamed(members, "k" * 5000),
    "members all empty": lambda members: [(name, b"") for name, _ in members],
    "label a word": lambda members: _with(members, "cls", b"dog"),
    "label of no class": lambda members: _with(members, "cls", b"999999"),
    "label below zero": lambda members: _with(members, "cls", b"-1"),
    "label of 10,000 digits": lambda members: _with(members, "cls", b"9" * 10_000),
}
"""What is done to the members of one sample."""

QUICK = (
    "captions null",
    "lone surrogate",
    "image of 179 megapixels",
    "member .pyd",
    "key ../../x",
    "label a word",
)


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """Every bad sample in a training set, and in a test set."""
    for name, change in SAMPLES.items():
        if quick and name not in QUICK:
            continue
        if not name.startswith("label"):
            yield Case(
                KIND, f"train: {name}", lambda name=name, change=change: trained(world, seed, name, change)
            )
        if not name.startswith(("caption", "json", "text", "word", "lone", "null", "no caption")):
            yield Case(
                KIND, f"test: {name}", lambda name=name, change=change: evaluated(world, seed, name, change)
            )


def trained(world: World, seed: int, name: str, change: Callable[[Members], Members]) -> Outcome:
    """Index, vocabulary and training on shards one sample of which is bad."""
    with foreign(world) as (home, data):
        shutil.copytree(
            next(world.state("train").glob("results/data/*/train")), data / "train", dirs_exist_ok=True
        )
        for made in (*data.glob("train/*.json*"), *data.glob("train/.lock")):
            made.unlink()
        spoil(data / "train" / "00001.tar", random.Random(f"{seed} {name}"), change)
        said = "counted"
        for verb in ("index", "vocabulary", "annotate", "resolve", "train"):
            words = {"index": ["train", *ASKED], "resolve": [RUN, *ASKED], "train": said.splitlines()[:1]}
            outcome, said = step(home, [verb, *words.get(verb, ASKED)])
            if outcome is not None and (verb, outcome[0]) != (
                "annotate",
                REFUSED,
            ):  # the tagger may be absent
                return (STOPPED, f"{verb}: {outcome[1]}") if outcome[0] == REFUSED else outcome
        return SAME, "trained to its end"


def evaluated(world: World, seed: int, name: str, change: Callable[[Members], Members]) -> Outcome:
    """Index and evaluation of a test set one sample of which is bad; either may refuse it."""
    with foreign(world) as (home, data):
        source = next(world.state("evaluate").glob("results/data/*/test/plain"))
        shutil.copytree(source, data / "test" / "plain", dirs_exist_ok=True)
        (data / "test" / "plain" / "manifest.json").unlink()
        for made in world.state("evaluate").glob("results/runs/tiny"):
            shutil.copytree(made, home / "results" / "runs" / "tiny")
        spoil(data / "test" / "plain" / "test" / "0.tar", random.Random(f"{seed} {name}"), change)
        outcome, _ = step(home, ["index", "plain", *ASKED])
        if outcome is not None:
            return outcome
        # The models are those of the small world; the test set takes the place of its own.
        shutil.rmtree(home / "results" / "data" / source.parents[1].name, ignore_errors=True)
        shutil.copytree(
            world.state("evaluate") / "results" / "data", home / "results" / "data", dirs_exist_ok=True
        )
        shutil.rmtree(home / "results" / "data" / source.parents[1].name / "test" / "plain")
        shutil.copytree(
            data / "test" / "plain", home / "results" / "data" / source.parents[1].name / "test" / "plain"
        )
        outcome, _ = step(home, world.words("evaluate", home))
        return outcome or (SAME, "evaluated to its end")


def step(home: Path, words: list[str]) -> tuple[Outcome | None, str]:
    """What a command came to (None: it succeeded), and what it said."""
    ended = processes.run(home, words, limit=LIMIT_SECONDS)
    outcome = judge(ended)
    if list(home.rglob(MARK)):
        outcome = CODE, f"{words[0]} unpickled a member"
    elif ended.peak_mb > LIMIT_MB:
        outcome = MEMORY, f"{words[0]} needed {ended.peak_mb} MB"
    elif outcome and outcome[0] == HANG:
        outcome = HANG, f"{words[0]}: {outcome[1]}"
    return outcome, ended.said


@contextmanager
def foreign(world: World) -> Iterator[tuple[Path, Path]]:
    """A folder with the scale of foreign data, and the folder of that data, which is not there yet."""
    with scratch(world.root) as home:
        configure(home, {"tiny": SCALE, "foreign": FOREIGN})
        processes.run(home, ["resolve", RUN, *ASKED])
        [file] = home.glob(f"results/runs/foreign/{RUN}/pretrain/*/stage.resolved.json")
        data = home / Path(json.loads(file.read_text(encoding="utf-8"))["training_data"]).parent
        shutil.rmtree(home / "results")
        data.mkdir(parents=True)
        yield home, data


def spoil(shard: Path, draw: random.Random, change: Callable[[Members], Members]) -> None:
    """Change a drawn sample of a shard."""
    with tarfile.open(shard) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    keys = list(dict.fromkeys(name.partition(".")[0] for name, _ in members))
    chosen = draw.choice(keys)
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT) as archive:
        for key in keys:
            sample = [pair for pair in members if re.fullmatch(rf"{key}\..*", pair[0])]
            for name, content in change(sample) if key == chosen else sample:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
