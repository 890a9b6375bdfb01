"""`clipa verify`: walks number, record, stage, model, parent and data on disk, and says what does not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from tabulate import tabulate

from clipa.accept import AcceptError, doubts, doubts_of_value
from clipa.config import ConfigError, load_scale
from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.data.download import MANIFEST
from clipa.data.shards import ShardError, check_bytes, named_shards
from clipa.data.vocabulary import MANIFEST as VOCABULARY
from clipa.files import read_json
from clipa.inputs import OtherInputs, differences, lineage, named
from clipa.records import RecordError, read_records, run_name
from clipa.resolved import FILE_NAME, UnfinishedStage, fingerprint, finished, read, sealed
from clipa.schema import MeasuredRecord, Record
from clipa.stages import Stage, recorded_path, stages_of
from clipa.study import parse_run

NOTE = "note"
Finding = tuple[str, str | None]
"""What was checked ("record", "stage", …), and what does not fit; None where it fits."""

EVALUATED = ("records.json", "suite.json")
"""What evaluations write below results/runs."""

_RECORDED = re.compile(r"seed\d+-[0-9a-f]{12}\.json")
"""Names of accepted records, below results/recorded or in a copy of it (:func:`clipa.stages.recorded_path`)."""


def report(paths: list[Path]) -> tuple[str, int]:
    """The table of what was checked below ``paths`` and a line for each finding; exit code 1 if there is any.

    Stages that several codes trained are listed, which is no fault.
    """
    found = [finding for path in paths for finding in verify(path)]
    checked = Counter(kind for kind, _ in found if kind != NOTE)
    wrong = Counter(kind for kind, doubt in found if doubt and kind != NOTE)
    if not checked:
        return f"{', '.join(map(str, paths))}: nothing to check: no stages, measured records or data", 1
    rows = [(kind, number, wrong[kind]) for kind, number in checked.items()]
    lines = tabulate(rows, ["", "checked", "do not fit"], "plain").splitlines()
    lines += [doubt for _, doubt in found if doubt]
    return "\n".join(line.rstrip() for line in lines), int(bool(wrong))


def refuse(paths: Iterable[Path]) -> None:
    """Raise AcceptError for the first record in ``paths`` that does not fit what it names, if that is still there."""
    for path in paths:
        for kind, doubt in verify(path):
            if doubt and kind != NOTE:
                raise AcceptError(doubt)


def verify(path: Path) -> Iterator[Finding]:
    """Everything below ``path`` (or the file itself) that names other bytes."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    if not files:
        yield "file", f"{path}: there is nothing to check"
    for file in files:
        if file.name == "stage.json":
            yield from _stage(file)
        elif file.name in (MANIFEST, ANNOTATED):
            yield from _data(file)
        elif file.name == VOCABULARY:
            yield from _vocabulary(file)
        elif file.name in EVALUATED or _RECORDED.fullmatch(file.name) or _holds_measured(file):
            yield from _records(file)


def _holds_measured(file: Path) -> bool:
    """Whether a file of another name has measured records."""
    try:
        return read_json(file)["records"][0]["source"] == "measured"
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _records(file: Path) -> Iterator[Finding]:
    """Schema and ids; stage, commit and outcomes of each record; and the place, which names run, seed and stage."""
    try:
        records = read_records(file)
        if records and "checkpoint" in records[0]:  # of no stage
            yield from _of_checkpoint(file, records)
            return
        stages = stages_of(
            parse_run(run_name(records[0])), load_scale(records[0]["scale"]), records[0]["seed"]
        )
    except (RecordError, ConfigError, ValueError, IndexError) as error:
        yield "record", str(error) if str(file) in str(error) else f"{file}: {error}"
        return
    if _RECORDED.fullmatch(file.name):
        place = recorded_path(stages)
        fits = file.name == place.name and place.parent.name in file.parts
        yield "file", None if fits else f"{file}: holds records of {place}"
    for record in records:
        doubt = next(chain(doubts(record, stages), _doubts_of_evaluation(file, record, stages)), None)
        yield "record", doubt and f"{file}: record {record['id']}: {doubt}"


def _of_checkpoint(file: Path, records: Sequence[Record]) -> Iterator[Finding]:
    for record in records:
        doubt = next(doubts_of_value(record), None)
        yield "record", doubt and f"{file}: record {record['id']}: {doubt}"


def _doubts_of_evaluation(file: Path, record: MeasuredRecord, stages: Sequence[Stage]) -> Iterator[str]:
    """The stage and the test set that a record in results/runs names, where they are still there."""
    stage = next(one for one in stages if one.fingerprint == record["stage_fingerprint"])
    if file.name not in EVALUATED or len(file.parts) < 5:
        return
    directory, provenance = file.parents[4] / stage.directory, record["provenance"]
    try:
        made = sealed(directory, stage.fingerprint)
        data = read(directory / FILE_NAME).training_data.parent
    except (UnfinishedStage, ConfigError):
        return  # gone, or reported as a stage
    for name in ("inputs", "commits", "integrity", "data_fingerprint", "hardware", "container", "seconds"):
        if provenance.get(name) != made.get(name):
            yield (
                f"its {name} is {_short(provenance.get(name))}, {directory / 'stage.json'} has {_short(made.get(name))}"
            )
    if record["actual"]["parameters"] != made["parameters"]:
        counts = record["actual"]["parameters"], made["parameters"]
        yield f"its model has {counts[0]} parameters, {directory / 'stage.json'} has {counts[1]}"
    name, measured = record["dataset"]["name"].rpartition("/")[2], record["dataset"]["fingerprint"]
    manifest = data / "test" / name / MANIFEST
    if manifest.is_file() and (found := _test_set(manifest)) != measured:
        yield f"was measured on {name} {measured}, {manifest} is {found}"


def _test_set(manifest: Path) -> str:
    """The fingerprint of a test set, as evaluation computes it from its shards."""
    try:
        return fingerprint(named_shards(read_json(manifest)))
    except (OSError, ValueError, KeyError, TypeError):
        return "no manifest"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _stage(file: Path) -> Iterator[Finding]:
    """The exported model against stage.json, its content against its fingerprint, its inputs against what is there."""
    directory = file.parent
    try:
        made = finished(directory, directory.name.rpartition("-")[2])
        if fingerprint(made["content"]) != made["fingerprint"]:
            raise UnfinishedStage(f"{file}: its content is not what its fingerprint names")
        resolved = read(directory / FILE_NAME)
        for doubt in differences(resolved, made["inputs"]):
            raise OtherInputs(f"{file}: {doubt}")
        if resolved.parent is not None and resolved.parent.is_dir():
            for doubt in lineage(made, finished(resolved.parent, resolved.content.parent)):
                raise OtherInputs(f"{file}: {doubt}")
        codes = [f"{one['code']} from step {one['from_step']} ({named(one)})" for one in made["commits"]]
        yield "stage", None
        if len(codes) > 1:
            yield NOTE, f"{file}: trained by {', '.join(codes)}"
    except (UnfinishedStage, ConfigError, OtherInputs, ShardError) as error:
        yield "stage", str(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield "stage", f"{file}: cannot be read ({error!r})"


def _data(file: Path) -> Iterator[Finding]:
    """Every shard, or sidecar, that a manifest names."""
    try:
        content = read_json(file)
        parts = content["sidecars" if file.name == ANNOTATED else "shards"]
        folder = file.parent / "test" if (file.parent / "test").is_dir() else file.parent
        digests = [(folder / part["name"], part["sha256"]) for part in parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield "shard", f"{file}: cannot be read ({error!r})"
        return
    for path, digest in digests:
        yield "shard", _doubt(path, digest)


def _vocabulary(file: Path) -> Iterator[Finding]:
    try:
        digests = read_json(file)["sha256"].items()
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
