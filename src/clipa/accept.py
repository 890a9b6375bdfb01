"""Accepting measured records: from `results/runs`, which git ignores, to `results/recorded`, in the repository.

What is recorded is reused in place of a training, so it is checked hard: schema, identity of the stages, clean
and known commit, all stages there, and values that follow from the outcomes of the items.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from clipa.config import Scale
from clipa.plan import Plan
from clipa.records import (
    RECORDED_DIRECTORY,
    read_records,
    run_name,
    value_and_error,
    write_records,
)
from clipa.resolved import named_manifest, same_digest
from clipa.schema import MeasuredRecord, Record
from clipa.stages import Stage, measured_stages, recorded_path, recorded_suite_path, stages_of
from clipa.study import parse_run

SUITE = "suite.json"
TOLERANCE = 1e-6  # points; a value must be that of its outcomes, up to the arithmetic of another library


class AcceptError(ValueError):
    """Records cannot be accepted; one line says which, why, and what to do."""


@cache
def git_knows(commit: str) -> bool:
    """Whether `commit` is in the repository that holds this file. False without git."""
    try:
        done = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
            cwd=Path(__file__).parent,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def accept(
    run_records: Iterable[str | Path],
    scale: Scale,
    recorded_root: str | Path,
    *,
    replace: bool = False,
    knows_commit: Callable[[str], bool] = git_knows,
) -> list[Path]:
    """Check records files of runs and write each to its place below `recorded_root`; returns those places.

    A file called `suite.json` holds the test suite on a run's last stage and is kept apart from the others.
    `scale` is the configuration that the records must have been made with. Nothing is written unless every
    file passes. A file that is recorded already with the same content is left as it is; with other content it
    is replaced only with `replace`. `knows_commit` says whether a commit is in the repository. Raises AcceptError,
    RecordError.
    """
    chosen: dict[Path, tuple[Path, list[Record]]] = {}
    for path in map(Path, run_records):
        records = read_records(path)
        stages = check(path, records, scale, knows_commit)
        place = recorded_suite_path if path.name == SUITE else recorded_path
        target = Path(recorded_root) / place(stages)
        if target in chosen:
            raise AcceptError(
                f"{path}: records the same run and seed as {chosen[target][0]}; give one of them"
            )
        if target.exists() and not replace and read_records(target) != records:
            raise AcceptError(
                f"{path}: {target} holds other records of this run; add --replace to replace them"
            )
        chosen[target] = (path, records)
    for target, (_, records) in chosen.items():
        if not target.exists() or read_records(target) != records:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_records(target, records)
    return list(chosen)


def accept_plan(
    plan: Plan, *, replace: bool = False, knows_commit: Callable[[str], bool] = git_knows
) -> list[Path]:
    """Accept the measured records of every job of `plan`; returns their recorded places.

    Raises AcceptError if a run was neither measured here nor recorded before: a plan is recorded whole or not at all.
    """
    measured, missing = [], []
    for job in plan.jobs():
        if (path := plan.root / job.output).is_file():
            measured.append(path)
        elif not (plan.root / RECORDED_DIRECTORY / job.recorded_path).is_file():
            missing.append(path)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise AcceptError(f"{missing[0]}{others}: not measured yet; run snakemake first")
    root = plan.root / RECORDED_DIRECTORY
    return accept(measured, plan.scale, root, replace=replace, knows_commit=knows_commit)


def agreement(plan: Plan) -> str:
    """A line on whether records measured here hold the same outcomes as the accepted ones of the same fingerprints.

    Empty where none of the plan's jobs has accepted records.
    """
    same: dict[str, bool] = {}
    for job in plan.jobs():
        accepted = plan.root / RECORDED_DIRECTORY / job.recorded_path
        if accepted.is_file():
            outcomes = {record["id"]: record["outcomes"] for record in read_records(accepted)}
            measured = read_records(plan.root / job.output)
            same |= {
                one["id"]: one["outcomes"] == outcomes[one["id"]] for one in measured if one["id"] in outcomes
            }
    different = [name for name, equal in same.items() if not equal]
    if not same:
        return ""
    line = f"{len(same) - len(different)} of {len(same)} accepted records have the same outcomes here"
    return line + (
        f"; not, for instance, {different[0]} (other hardware gives other bits)" if different else ""
    )


def check(
    path: Path, records: Sequence[Record], scale: Scale, knows_commit: Callable[[str], bool]
) -> list[Stage]:
    """The stages that `records` measure, all of them, of one run and seed. AcceptError for any doubt."""
    if not records:
        raise AcceptError(f"{path}: holds no records; evaluate the run first")
    for name in ("source", "scale", "run", "recipe", "seed"):
        if len({record.get(name) for record in records}) != 1:
            raise AcceptError(f"{path}: records of one {name} are accepted at a time, these mix several")
    first = records[0]
    if first["source"] != "measured":
        raise AcceptError(f"{path}: these are published numbers; only measured ones are recorded")
    if first["scale"] != scale.name:
        raise AcceptError(f"{path}: measured at scale {first['scale']}, not {scale.name}")
    stages = stages_of(parse_run(run_name(first)), scale, first["seed"])
    for record in records:
        for doubt in doubts(record, stages, knows_commit):
            raise AcceptError(f"{path}: record {record['id']}: {doubt}")
    of_file = _doubts_of_suite if path.name == SUITE else _doubts_of_completeness
    for doubt in of_file(records, stages):
        raise AcceptError(f"{path}: {doubt}")
    return stages


def doubts(
    record: MeasuredRecord, stages: Sequence[Stage], knows_commit: Callable[[str], bool] = git_knows
) -> Iterator[str]:
    """Why a record is not one of a run with these stages: identity, data set, commit, outcomes; nothing where it is."""
    by_kind = {stage.kind: stage for stage in measured_stages(stages)}
    yield from _doubts_of_identity(record, by_kind)
    yield from _doubts_of_data(record, stages[-1].scale)
    yield from _doubts_of_training_data(record, stages)
    yield from _doubts_of_commit(record, knows_commit)
    yield from doubts_of_value(record)


def _doubts_of_identity(record: MeasuredRecord, by_kind: Mapping[str, Stage]) -> Iterator[str]:
    stage = by_kind.get(record["stage"])
    if stage is None:
        yield f"run {run_name(record)} has no stage {record['stage']}"
        return
    if record["stage_fingerprint"] != stage.fingerprint:
        yield (
            f"trained as {record['stage_fingerprint']}, the configuration says {stage.fingerprint}; "
            "train again, or check out its configuration"
        )
    for name in ("model", "image_reduction", "image_size", "patches", "text_reduction", "text_tokens"):
        expected = getattr(stage.run, name)
        if record[name] != expected:
            yield f"field {name} is {record[name]}, the run says {expected}"


def _doubts_of_data(record: MeasuredRecord, scale: Scale) -> Iterator[str]:
    """A drawn world's test sets carry its name: none of them is called ImageNet-1k."""
    named = {**scale.evaluation.suite, **scale.evaluation.benchmarks}.get(record["benchmark"])
    world = f"{scale.data.name}/" if scale.data.world else ""
    name = record["dataset"]["name"]
    if named is None and not name.startswith(world):
        yield f"data set {name} is not of {scale.data.name}, the data of scale {scale.name}"
    elif named is not None and name != (expected := world + named.partition("/")[0]):
        yield f"data set is {name}; at scale {scale.name}, {record['benchmark']} is measured on {expected}"


def _doubts_of_training_data(record: MeasuredRecord, stages: Sequence[Stage]) -> Iterator[str]:
    """Downloaded data must be named in the scale's file, by the digest of its manifest. A drawn world is known from its
    parameters up to the last bit of its JPEGs: where results of it are recorded, others must be of the same bytes.
    """
    measured = {stage.kind: stage for stage in measured_stages(stages)}.get(record["stage"])
    provenance = record["provenance"]
    inputs = provenance.get("inputs", {})
    found = inputs.get("train") or inputs.get("data") or provenance["data_fingerprint"]
    for stage in stages:
        file, key = _entry_of(stage)
        named = named_manifest(stage.data)
        if named is None and stage.data.world is None:
            line = f"`manifest: {found}`" if stage is measured else "`manifest` (`clipa index` prints it)"
            yield f"{file}: {key} does not say which data was downloaded; add {line} and train with it"
        if named is None or stage is not measured or (stage.kind == "negclip" and "train" not in inputs):
            continue
        if not same_digest(named, found) and stage.data.world is None:
            yield f"trained on data {found[:12]}, {file} names {named[:12]} as {key}.manifest"
        elif not same_digest(named, found):
            yield (
                f"trained on data {found[:12]}, recorded results on {named[:12]}: another libjpeg, FreeType or "
                "processor drew other bytes; measure where `clipa draw` draws the recorded ones"
            )


def _entry_of(stage: Stage) -> tuple[str, str]:
    """The scale's file, and the key in it that has a stage's data."""
    scale = stage.scale
    sources = [f"sources.{name}" for name, data in scale.sources.items() if data is stage.data]
    return f"{scale.config_directory.as_posix()}/scales/{scale.name}.yaml", [*sources, "data"][0]


def _doubts_of_commit(record: MeasuredRecord, knows_commit: Callable[[str], bool]) -> Iterator[str]:
    """Of the last code, and of those before it that trained a part."""
    provenance = record["provenance"]
    for one in [provenance, *provenance.get("commits", [])]:
        commit, dirty = one["commit"], one["dirty"]
        if commit is None or dirty is None:
            yield "made outside a git checkout; its code is not known"
        elif dirty:
            yield "made with uncommitted changes; commit and measure again"
        elif not knows_commit(commit):
            yield f"commit {commit[:12]} is not in this repository; fetch it"


def doubts_of_value(record: Record) -> Iterator[str]:
    """Whether number, value and error of a measured record are not those of its outcomes."""
    n, outcomes = record["dataset"]["n"], record["outcomes"]["n"]
    if n != outcomes:
        yield f"{outcomes} outcomes for a test set of {n} items"
    try:
        value, error = value_and_error(record)
    except ValueError as problem:
        yield str(problem)
        return
    for name, found in (("value", value), ("standard_error", error)):
        if abs(record[name] - found) > TOLERANCE:
            yield f"field {name} is {record[name]}, its outcomes give {found}; evaluate again"


def _doubts_of_completeness(records: Sequence[MeasuredRecord], stages: Sequence[Stage]) -> Iterator[str]:
    """Every stage of the run must be measured, and on the same benchmarks as the others."""
    measured = {stage.kind: set() for stage in stages}
    for record in records:
        measured[record["stage"]].add((record["benchmark"], record["metric"], record["protocol"]))
    first = stages[0].kind
    for kind, benchmarks in measured.items():
        if not benchmarks:
            yield f"no record of stage {kind}; evaluate all stages of the run"
        elif benchmarks != measured[first]:
            yield f"stage {kind} was not measured on the same benchmarks as {first}"


def _doubts_of_suite(records: Sequence[MeasuredRecord], stages: Sequence[Stage]) -> Iterator[str]:
    """The suite must be measured as a whole, on the run's last stage only."""
    last = stages[-1]
    if {record["stage"] for record in records} != {last.kind}:
        yield f"the suite is measured on stage {last.kind}, the run's last, alone"
    missing = last.scale.evaluation.suite.keys() - {record["benchmark"] for record in records}
    if missing:
        yield f"no record of {', '.join(sorted(missing))}; evaluate the whole suite"
