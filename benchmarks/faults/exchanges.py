"""Whole and well-formed content that is not the one which is named: shards exchanged, labels moved, names reversed,
data that changes under a training.

The command that reads it next must refuse in one line, or end with the bytes of an undisturbed call.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import processes
from .outcomes import DIFFERENT, NAMED, UNCLEAR, Case, Outcome, judge
from .world import World

KIND = "other-content"

TRAIN, VOCABULARY, TEST = "results/data/*/train/", "results/data/*/vocabulary/", "results/data/*/test/plain/"
STAGE = "results/runs/tiny/*/pretrain/*/"


def _one(home: Path, pattern: str) -> Path:
    return sorted(home.glob(pattern))[0]


def _exchanged(first: str, second: str) -> Callable[[Path], None]:
    """Two files take each other's place."""

    def change(home: Path) -> None:
        one, other = _one(home, first), _one(home, second)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    return change


def _json(pattern: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A JSON document, changed in place (or replaced by what ``change`` returns)."""

    def apply(home: Path) -> None:
        path = _one(home, pattern)
        content = json.loads(path.read_text(encoding="utf-8"))
        changed = change(content)
        path.write_text(
            json.dumps(content if changed is None else changed, ensure_ascii=False), encoding="utf-8"
        )

    return apply


def _text(pattern: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(home: Path) -> None:
        path = _one(home, pattern)
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


def _tar(pattern: str, change: Callable[[list], list], named: bool = False) -> Callable[[Path], None]:
    """A shard with other members; ``named``: its manifest names the new bytes."""

    def apply(home: Path) -> None:
        path = _one(home, pattern)
        with tarfile.open(path) as archive:
            members = [(member.name, archive.extractfile(member).read()) for member in archive]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in change(members):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        if named:
            place = path.parent if (path.parent / "manifest.json").is_file() else path.parent.parent
            manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
            for shard in manifest["shards"]:
                if shard["name"] == path.name:
                    shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return apply


def _labels_moved(members: list) -> list:
    labels = [content for name, content in members if name.endswith(".cls")]
    moved = iter([*labels[1:], labels[0]])
    return [(name, next(moved) if name.endswith(".cls") else content) for name, content in members]


def _captions_moved(members: list) -> list:
    texts = [content for name, content in members if name.endswith(".json")]
    moved = iter([*texts[1:], texts[0]])
    return [(name, next(moved) if name.endswith(".json") else content) for name, content in members]


def _ids_exchanged(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def _tags_exchanged(entries: dict) -> None:
    entries["tags"] = dict.fromkeys(entries["tags"], "NOUN")


def _count_more(manifest: dict) -> None:
    manifest["shards"][0]["samples"] += 1


def _order_reversed(manifest: dict) -> None:
    manifest["shards"].reverse()


def _shard_left_out(manifest: dict) -> None:
    manifest["shards"].pop()


def _n_less(manifest: dict) -> None:
    manifest["n"] -= 1


def _zeroed(pattern: str) -> Callable[[Path], None]:
    """Weights of zeros."""

    def apply(home: Path) -> None:
        path = _one(home, pattern)
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[:start] + bytes(len(content) - start))

    return apply


def _step_renamed(home: Path) -> None:
    """The newest checkpoint, called by another step."""
    path = sorted(home.glob(f"{STAGE}checkpoint-*"))[-1]
    path.rename(
        path.with_name(re.sub(r"\d{9}", lambda found: f"{int(found[0]) + 1:09d}", path.name, count=1))
    )


def _lines_reversed(text: str) -> str:
    return "\n".join(reversed(text.splitlines())) + "\n"


SHARD, SIDECAR, MODEL = (
    f"{TRAIN}00000.tar",
    f"{TRAIN}00000.pos.jsonl",
    "open_clip/open_clip_model.safetensors",
)
FRESH: dict[str, tuple[str, Callable[[Path], None]]] = {
    "train: two shards exchanged": ("train", _exchanged(SHARD, f"{TRAIN}00001.tar")),
    "train: captions of other images": ("train", _tar(SHARD, _captions_moved)),
    "train: two sidecars exchanged": ("train", _exchanged(SIDECAR, f"{TRAIN}00001.pos.jsonl")),
    "train: other tags in a sidecar": (
        "train",
        _text(SIDECAR, lambda text: text.replace('"NOUN"', '"VERB"')),
    ),
    "train: two ids of the tokenizer exchanged": (
        "train",
        _json(f"{VOCABULARY}tokenizer.json", _ids_exchanged),
    ),
    "train: other tags of the entries": (
        "train-released",
        _json(f"{VOCABULARY}entries.json", _tags_exchanged),
    ),
    "train: a sample more in the manifest": ("train", _json(f"{TRAIN}manifest.json", _count_more)),
    "finetune: weights of zeros in the parent": ("finetune", _zeroed(f"{STAGE}{MODEL}")),
    "negatives: captions of other images": ("negatives", _tar(SHARD, _captions_moved)),
    "evaluate: weights of zeros": ("evaluate", _zeroed(f"results/runs/tiny/*/finetune/*/{MODEL}")),
    "evaluate: the parent's weights": (
        "evaluate",
        _exchanged(f"{STAGE}{MODEL}", f"results/runs/tiny/*/finetune/*/{MODEL}"),
    ),
    "evaluate: the parent's stage.json": (
        "evaluate",
        _exchanged(f"{STAGE}stage.json", "results/runs/tiny/*/finetune/*/stage.json"),
    ),
    "evaluate: labels moved": ("evaluate", _tar(f"{TEST}test/0.tar", _labels_moved)),
    "evaluate: items in another order": (
        "evaluate",
        _tar(f"{TEST}test/0.tar", lambda members: members[2:] + members[:2]),
    ),
    "evaluate: class names reversed": ("evaluate", _text(f"{TEST}classnames.txt", _lines_reversed)),
    "evaluate: templates reversed": (
        "evaluate",
        _text(f"{TEST}zeroshot_classification_templates.txt", _lines_reversed),
    ),
    "evaluate: an item less in the manifest": ("evaluate", _json(f"{TEST}manifest.json", _n_less)),
}
"""A command that begins on other content than its manifests and parents name."""

CHANGED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "shards in another order": ("train", _json(f"{TRAIN}manifest.json", _order_reversed)),
    "a shard less": ("train", _json(f"{TRAIN}manifest.json", _shard_left_out)),
    "another shard, and the manifest names it": ("train", _tar(SHARD, _captions_moved, named=True)),
    "other tags in a sidecar": ("train", _text(SIDECAR, lambda text: text.replace('"NOUN"', '"VERB"'))),
    "another tokenizer": ("train", _json(f"{VOCABULARY}tokenizer.json", _ids_exchanged)),
    "other tags of the entries": ("train-released", _json(f"{VOCABULARY}entries.json", _tags_exchanged)),
    "a checkpoint of another step": ("train", _step_renamed),
}
"""What changes between the two parts of a training, or after it."""


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """Commands that begin on other content; trainings that are resumed, or entered again when finished, on it."""
    for number, (name, (verb, change)) in enumerate(FRESH.items()):
        if not quick or number % 4 == 0:
            yield Case(KIND, name, lambda verb=verb, change=change: begun(world, verb, change))
    for number, (name, (verb, change)) in enumerate(CHANGED.items()):
        if not quick or number == 2:
            yield Case(
                KIND, f"resumed: {name}", lambda verb=verb, change=change: resumed(world, verb, change)
            )
            yield Case(
                KIND,
                f"entered again: {name}",
                lambda verb=verb, change=change: begun(world, verb, change, "after"),
            )


def begun(world: World, verb: str, change: Callable[[Path], None], when: str = "before") -> Outcome:
    """Change the content, then run ``verb``."""
    with world.copy(verb, when) as home:
        return changed(world, verb, home, change, when == "before")


def resumed(world: World, verb: str, change: Callable[[Path], None]) -> Outcome:
    """Kill a training after its first checkpoint, change the content, and start it again."""
    with world.copy(verb) as home:
        words = world.words(verb, home)
        processes.run(home, words, undisturbed := processes.Watch(home))
    with world.copy(verb) as home:
        killed = processes.run(home, words, processes.Watch(home, undisturbed.events * 2 // 3))
        if killed.code != -signal.SIGKILL or not list(home.glob(f"{STAGE}checkpoint-*")):
            return UNCLEAR, f"it was not killed with a checkpoint left: {killed.code}"
        return changed(world, verb, home, change, False)


def changed(world: World, verb: str, home: Path, change: Callable[[Path], None], fresh: bool) -> Outcome:
    """Change the content of ``home``, and run ``verb`` there; ``fresh``: it has not begun before."""
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    change(home)
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    touched = [str(path.relative_to(home)) for path, content in after.items() if before.get(path) != content]
    if not touched:
        return UNCLEAR, "nothing was changed"
    outcome = judge(processes.run(home, world.words(verb, home)))
    if outcome is not None:
        return outcome
    outcome = world.compare(home, verb)
    if outcome[0] == DIFFERENT:
        outcome = world.compare(home, verb, (*touched, "*checkpoint-*"))
    return (NAMED, outcome[1]) if outcome[0] == DIFFERENT and fresh and world.named(home, verb) else outcome
