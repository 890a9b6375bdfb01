"""`clipa verify`: walks number, record, stage, model, parent and data on disk, and says what does not fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from clipa.accept import doubts
from clipa.config import ConfigError, load_scale
from clipa.data.download import MANIFEST
from clipa.data.shards import ShardError, check_bytes
from clipa.records import RECORDED_DIRECTORY, RecordError, read_records, run_name
from clipa.resolved import FILE_NAME, UnfinishedStage, fingerprint, finished, read
from clipa.stages import recorded_path, stages_of
from clipa.study import parse_run

Finding = tuple[str, str | None]
"""What was checked ("record", "stage", …), and what does not fit; None where it fits."""


def report(paths: list[Path]) -> tuple[str, int]:
    """The table of what was checked below ``paths`` and a line for each finding; exit code 1 if there is any."""
    found = [finding for path in paths for finding in verify(path)]
    checked, wrong = Counter(kind for kind, _ in found), Counter(kind for kind, doubt in found if doubt)
    rows = [(kind, number, wrong[kind]) for kind, number in checked.items()]
    lines = tabulate(rows, ["", "checked", "do not fit"], "plain").splitlines() or ["nothing to check"]
    lines += [doubt for _, doubt in found if doubt]
    return "\n".join(line.rstrip() for line in lines), int(bool(wrong))


def verify(path: Path) -> Iterator[Finding]:
    """Everything below ``path`` (or the file itself) that names other bytes."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    if not files:
        yield "file", f"{path}: there is nothing to check"
    for file in files:
        if file.name == "stage.json":
            yield from _stage(file)
        elif file.name in (MANIFEST, "annotation.json"):
            yield from _data(file)
        elif file.name == "vocabulary.json":
            yield from _vocabulary(file)
        elif file.name in ("records.json", "suite.json") or RECORDED_DIRECTORY.name in file.parts:
            yield from _records(file)


def _records(file: Path) -> Iterator[Finding]:
    """Schema and ids; stage, commit and outcomes of each record; and the place, which names run, seed and stage."""
    try:
        records = read_records(file)
        stages = stages_of(
            parse_run(run_name(records[0])), load_scale(records[0]["scale"]), records[0]["seed"]
        )
    except (RecordError, ConfigError, ValueError, IndexError) as error:
        yield "record", str(error) if str(file) in str(error) else f"{file}: {error}"
        return
    if RECORDED_DIRECTORY.name in file.parts:
        place = recorded_path(stages)
        fits = file.name == place.name and place.parent.name in file.parts
        yield "file", None if fits else f"{file}: holds records of {place}"
    for record in records:
        doubt = next(doubts(record, stages), None)
        yield "record", doubt and f"{file}: record {record['id']}: {doubt}"


def _stage(file: Path) -> Iterator[Finding]:
    """The exported model against stage.json, its content against its fingerprint, the parent's and the data's."""
    directory = file.parent
    try:
        named = json.loads(file.read_text(encoding="utf-8"))
        made = finished(directory, directory.name.rpartition("-")[2])
        if fingerprint(named["content"]) != made["fingerprint"]:
            raise UnfinishedStage(f"{file}: its content is not what its fingerprint names")
        resolved = read(directory / FILE_NAME)
        manifest = resolved.training_data / MANIFEST
        if manifest.is_file():
            data = fingerprint(json.loads(manifest.read_text(encoding="utf-8")))
            if data != made["data_fingerprint"]:
                raise UnfinishedStage(
                    f"{file}: trained on data {made['data_fingerprint']}, {manifest} is {data}"
                )
        if resolved.parent is not None and resolved.parent.is_dir():
            finished(resolved.parent, resolved.content.parent)
        yield "stage", None
    except (UnfinishedStage, ConfigError) as error:
        yield "stage", str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield "stage", f"{file}: cannot be read ({error!r})"


def _data(file: Path) -> Iterator[Finding]:
    """Every shard that a manifest names."""
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["shards"]
        folder = file.parent / "test" if (file.parent / "test").is_dir() else file.parent
        named = [(folder / shard["name"], shard["sha256"]) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield "shard", f"{file}: cannot be read ({error!r})"
        return
    for path, digest in named:
        yield "shard", _doubt(path, digest)


def _vocabulary(file: Path) -> Iterator[Finding]:
    try:
        digests = json.loads(file.read_text(encoding="utf-8"))["sha256"].items()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        yield "vocabulary", f"{file}: cannot be read ({error!r})"
        return
    for name, digest in digests:
        yield "vocabulary", _doubt(file.parent / name, digest)


def _doubt(path: Path, digest: str) -> str | None:
    try:
        check_bytes(path, digest)
    except ShardError as error:
        return str(error)
    return None
