"""A world of a few pictures and a training of a few steps, made by the commands themselves, and kept before and after
each of them; and the comparison of what two calls left, byte for byte.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from . import processes
from .outcomes import DIFFERENT, LEFTOVER, SAME, Outcome

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "S16-resize64-syntax8"
"""Reads shards, their sidecars and the vocabulary; as released (train-released), the tags of its entries, too."""

SCALE = {
    "extends": "ci",
    "about": "six steps of sixteen",
    "data": {
        "world": {"training_images": 96, "images_per_shard": 32, "test_images_plain": 48, "test_images": 48},
        "lanes": 2,
        "shuffle_window": 16,
    },
    "tagger": "world",
    "pretrain": {"samples": 96, "batch_size": 16, "warmup_steps": 2},
    "finetune": {"samples": 64, "batch_size": 16, "warmup_steps": 2},
    "negatives": {"neighbours": "pixels", "rows": 64},
    "negclip": {"samples": 64, "batch_size": 16, "warmup_steps": 2},
    "experiments": ["table11"],
    "checkpoint_every": 2,
    "log_every": 1,
}
TAGGED = {"extends": "tiny", "about": "likewise, with a tagger that is trained first", "tagger": "gold"}

ASKED = ("--scale", "tiny")
VERBS: dict[str, tuple[str, ...]] = {
    "draw-train": ("draw", "train", *ASKED),
    "draw-test": ("draw", "plain", *ASKED),
    "vocabulary": ("vocabulary", *ASKED),
    "annotate": ("annotate", *ASKED),
    "negatives": ("negatives", *ASKED),
    "resolve": ("resolve", RUN, *ASKED),
    "train": ("train", "{pretrain}"),
    "finetune": ("train", "{finetune}"),
    "evaluate": ("evaluate", "--run", RUN, *ASKED),
    "accept": ("accept", "{records}", *ASKED),
}
"""In their order; each begins with what those before have left."""

BESIDE: dict[str, tuple[str, tuple[str, ...]]] = {
    "annotate-gold": ("annotate", ("annotate", "--scale", "tagged")),
    "train-released": ("train", ("train", "{released}")),
    "run": ("draw-train", ("run", RUN, *ASKED, "--seeds", "0", "--processes", "1", "--out", "out.tar.gz")),
}
"""Other commands, each with the one that it begins in place of."""

_PREPARED = {"train-released": ("resolve", f"{RUN}-released", *ASKED)}

_IGNORED = (".lock", "progress.json")
_STAGES = {"{pretrain}": "pretrain", "{finetune}": "finetune", "{released}": "pretrain"}


class BrokenWorld(RuntimeError):
    """The world could not be made without any attack; the harness cannot say anything then."""


class World:
    """``states/<verb>/before`` and ``…/after`` below ``root``, and copies of these to be attacked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self, quick: bool = False) -> None:
        """Make every state, undisturbed (``quick``: all but those of `run`). BrokenWorld where a command fails."""
        home = self.root / "home"
        configure(home, {"tiny": SCALE, "tagged": TAGGED})
        for verb in VERBS:
            self._step(verb, VERBS[verb], home)
        shutil.rmtree(home)
        for verb, (start, words) in BESIDE.items():
            if quick and verb == "run":
                continue
            with self.copy(start) as home:
                self._step(verb, words, home)

    def _step(self, verb: str, words: tuple[str, ...], home: Path) -> None:
        if verb in _PREPARED:
            processes.run(home, list(_PREPARED[verb]))
        shutil.copytree(home, self.root / "states" / verb / "before", symlinks=True)
        if verb == "accept":
            commit_records(home)
            shutil.copytree(home, self.root / "states" / verb / "before", symlinks=True, dirs_exist_ok=True)
        ended = processes.run(home, spelled(words, home))
        if ended.code != 0:
            raise BrokenWorld(f"{verb}, undisturbed, ended with {ended.code}: {ended.said[-1000:]}")
        shutil.copytree(home, self.root / "states" / verb / "after", symlinks=True)

    def words(self, verb: str, home: Path) -> list[str]:
        """The command line of a verb in ``home``."""
        return spelled(VERBS[verb] if verb in VERBS else BESIDE[verb][1], home)

    def state(self, verb: str, when: str = "before") -> Path:
        return self.root / "states" / verb / when

    @contextmanager
    def copy(self, verb: str, when: str = "before") -> Iterator[Path]:
        """A copy of a state, in a folder of its own that is removed afterwards."""
        with scratch(self.root) as home:
            shutil.copytree(self.state(verb, when), home, symlinks=True, dirs_exist_ok=True)
            yield home

    def compare(self, home: Path, verb: str, attacked: tuple[str, ...] = ()) -> Outcome:
        """What ``home`` holds, beside what the undisturbed verb left; ``attacked``: patterns of paths to overlook."""
        return compare(home, self.state(verb, "after"), attacked)

    def named(self, home: Path, verb: str) -> bool:
        """Whether a stage in ``home`` says itself that it was made from other input than the undisturbed one."""
        after = self.state(verb, "after")
        return any(
            inputs_of(home / path.relative_to(after)) not in (inputs_of(path), None)
            for path in after.glob("results/runs/**/stage.json")
        )


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A new folder below ``root``, removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="attacked-", dir=root))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def inputs_of(path: Path) -> Any:
    """The digests of what a stage was made from, as its stage.json has them; None where it has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("inputs")
    except (OSError, ValueError, AttributeError):
        return None


def configure(home: Path, scales: dict[str, Any]) -> None:
    """The project's configuration and some scales, in a folder where commands can run."""
    shutil.copytree(REPOSITORY / "config", home / "config")
    for name, values in scales.items():
        path = home / "config" / "scales" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")


def spelled(words: tuple[str, ...], home: Path) -> list[str]:
    """A command line with the paths that carry a fingerprint, relative to ``home``."""
    runs = home / "results" / "runs" / "tiny" / RUN
    found = []
    for word in words:
        if word in _STAGES:
            stages = sorted((runs / _STAGES[word]).glob("seed0-*/stage.resolved.json"))
            released = word == "{released}"
            [path] = [
                path for path in stages if ('"released"' in path.read_text("utf-8", "replace")) == released
            ]
            word = str(path.relative_to(home))
        elif word == "{records}":
            [path] = sorted((home / "results" / "runs").rglob("records.json"))
            word = str(path.relative_to(home))
        found.append(word)
    return found


def commit_records(home: Path) -> None:
    """Let records and stages say that a clean tree of a known commit made them, whatever this checkout is."""
    from clipa.files import with_digest
    from clipa.provenance import commit

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            known = {"commit": commit()[0], "dirty": False} if "dirty" in value else {}
            return {key: cleaned(one) for key, one in value.items()} | known
        return [cleaned(one) for one in value] if isinstance(value, list) else value

    for name in ("records.json", "stage.json"):
        for path in (home / "results" / "runs").rglob(name):
            document = cleaned(json.loads(path.read_text(encoding="utf-8")))
            path.write_text(json.dumps(with_digest(document), indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- comparison


def compare(home: Path, expected: Path, attacked: tuple[str, ...] = ()) -> Outcome:
    """SAME, LEFTOVER (more files) or DIFFERENT, with the first paths that differ."""
    found, wanted = contents(home), contents(expected)
    for pattern in attacked:
        for path in fnmatch.filter(found.keys() | wanted.keys(), pattern):
            found.pop(path, None)
            wanted.pop(path, None)
    wrong = [path for path, digest in wanted.items() if found.get(path) != digest]
    if wrong:
        return DIFFERENT, ", ".join(wrong[:3])
    more = sorted(found.keys() - wanted.keys())
    return (LEFTOVER, ", ".join(more[:3])) if more else (SAME, "")


def contents(home: Path) -> dict[str, str]:
    """Digest of every file by its path, without what differs from call to call: times, and names made of digests."""
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.name not in _IGNORED and path.relative_to(home).parts[0] != "config":
            name, content = _steady(path.name, path.read_bytes())
            place = path.relative_to(home).with_name(name)
            found[str(place)] = hashlib.sha256(content).hexdigest()[:16]
    return found


def _steady(name: str, content: bytes) -> tuple[str, bytes]:
    """Name and content of a file without times."""
    try:
        if match := re.fullmatch(r"(checkpoint-\d+)-[0-9a-f]{16}\.safetensors", name):
            return match[1], _steady_checkpoint(content)
        if name in ("stage.json", "records.json"):
            return name, json.dumps(_timeless(json.loads(content))).encode()
        if name.endswith(".tar.gz"):
            return name, _steady_archive(content)
        if name.endswith(".json") and b'"created"' in content:
            return name, json.dumps(_timeless(json.loads(content))).encode()
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OSError,
        EOFError,
        tarfile.TarError,
    ):
        pass
    return name, content


_TIMES = ("seconds", "samples_per_second", "created", "digest")


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in _TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _steady_checkpoint(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = _timeless(json.loads(header.pop("__metadata__")["clipa"]))
    return json.dumps([header, facts], sort_keys=True).encode() + content[8 + length :]


def _steady_archive(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]
    return json.dumps(
        [(name, hashlib.sha256(_steady(Path(name).name, body)[1]).hexdigest()) for name, body in members]
    ).encode()
