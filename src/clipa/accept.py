"""Accepting measured records: from `results/runs`, which git ignores, to `results/recorded`, in the repository.

What is recorded is reused in place of a training, so it is checked hard: schema, identity of the stages, clean
and known commit, all stages there, and values that follow from the outcomes of the items.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from clipa.config import Scale
from clipa.plan import Plan
from clipa.records import (
    RECORDED_DIRECTORY,
    Record,
    correct_items,
    percent_and_error,
    read_records,
    run_name,
    write_records,
)
from clipa.runs import Run, Stage, measured_stages, parse_run, recorded_path, recorded_suite_path, stages_of

SUITE = "suite.json"
TOLERANCE = 1e-6  # points; a value must be that of its outcomes, up to the arithmetic of another library


class AcceptError(ValueError):
    """Records cannot be accepted; one line says which, why, and what to do."""


def accept(
    run_records: Iterable[str | Path],
    scale: Scale,
    recorded_root: str | Path,
    *,
    replace: bool = False,
    knows_commit: Callable[[str], bool] | None = None,
) -> list[Path]:
    """Check records files of runs and write each to its place below `recorded_root`; returns those places.

    A file called `suite.json` holds the test suite on a run's last stage and is kept apart from the grid's.
    `scale` is the configuration that the records must have been made with. Nothing is written unless every
    file passes. A file that is recorded already with the same content is left as it is; with other content it
    is replaced only with `replace`. `knows_commit` says whether a commit is in the repository (default: ask
    git). Raises AcceptError, RecordError.
    """
    chosen: dict[Path, tuple[Path, list[Record]]] = {}
    for path in map(Path, run_records):
        records = read_records(path)
        stages = check(path, records, scale, knows_commit or git_knows)
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
    plan: Plan, *, replace: bool = False, knows_commit: Callable[[str], bool] | None = None
) -> list[Path]:
    """Accept the measured records of every run and seed that `plan` asks for; returns their recorded places.

    Raises AcceptError if a run was neither measured here nor recorded before: a half grid is not recorded.
    """
    measured, missing = [], []
    for run in plan.grid.runs():
        for seed in plan.project.seeds:
            stages = plan.grid.stages(run, seed)
            path = plan.root / plan.records_file(stages)
            if path.is_file():
                measured.append(path)
            elif not (plan.root / RECORDED_DIRECTORY / recorded_path(stages)).is_file():
                missing.append(path)
            if (suite := plan.root / plan.suite_file(stages)).is_file():
                measured.append(suite)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise AcceptError(f"{missing[0]}{others}: not measured yet; run snakemake first")
    root = plan.root / RECORDED_DIRECTORY
    return accept(measured, plan.scale, root, replace=replace, knows_commit=knows_commit)


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
    run = parse_run(run_name(first))
    stages = stages_of(run, scale, first["seed"])
    for record in records:
        _check_identity(path, record, run, stages)
        _check_commit(path, record, knows_commit)
        _check_value(path, record)
    if path.name == SUITE:
        _check_suite(path, records, stages[-1], scale)
    else:
        _check_complete(path, records, measured_stages(stages))
    return stages


def _check_identity(path: Path, record: Record, run: Run, stages: Sequence[Stage]) -> None:
    stage = next((stage for stage in measured_stages(stages) if stage.kind == record["stage"]), None)
    if stage is None:
        raise AcceptError(f"{path}: record {record['id']}: run {run.slug} has no stage {record['stage']}")
    if record["stage_fingerprint"] != stage.fingerprint:
        raise AcceptError(
            f"{path}: record {record['id']}: trained as {record['stage_fingerprint']}, "
            f"the configuration says {stage.fingerprint}; train again, or check out its configuration"
        )
    expected: dict[str, Any] = {
        "model": run.model,
        "image_reduction": run.image_reduction,
        "image_size": run.image_size,
        "patches": run.patches,
        "text_reduction": run.text_reduction,
        "text_tokens": run.text_tokens,
    }
    for name, value in expected.items():
        if record[name] != value:
            raise AcceptError(
                f"{path}: record {record['id']}: field {name} is {record[name]}, the run says {value}"
            )


def _check_commit(path: Path, record: Record, knows_commit: Callable[[str], bool]) -> None:
    commit, dirty = record["provenance"]["commit"], record["provenance"]["dirty"]
    if commit is None or dirty is None:
        raise AcceptError(
            f"{path}: record {record['id']}: made outside a git checkout; its code is not known"
        )
    if dirty:
        raise AcceptError(
            f"{path}: record {record['id']}: made with uncommitted changes; commit and measure again"
        )
    if not knows_commit(commit):
        raise AcceptError(
            f"{path}: record {record['id']}: commit {commit[:12]} is not in this repository; fetch it"
        )


def _check_value(path: Path, record: Record) -> None:
    n, outcomes = record["dataset"]["n"], record["outcomes"]["n"]
    if n != outcomes:
        raise AcceptError(f"{path}: record {record['id']}: {outcomes} outcomes for a test set of {n} items")
    try:
        value, error = percent_and_error(correct_items(record))
    except ValueError as problem:
        raise AcceptError(f"{path}: record {record['id']}: {problem}") from None
    for name, found in (("value", value), ("standard_error", error)):
        if abs(record[name] - found) > TOLERANCE:
            raise AcceptError(
                f"{path}: record {record['id']}: field {name} is {record[name]}, its outcomes give {found}; "
                "evaluate again"
            )


def _check_complete(path: Path, records: Sequence[Record], stages: Sequence[Stage]) -> None:
    """Every stage of the run must be measured, and on the same benchmarks as the others."""
    measured = {
        stage.kind: {
            (r["benchmark"], r["metric"], r["protocol"]) for r in records if r["stage"] == stage.kind
        }
        for stage in stages
    }
    for kind, benchmarks in measured.items():
        if not benchmarks:
            raise AcceptError(f"{path}: no record of stage {kind}; evaluate all stages of the run")
        if benchmarks != next(iter(measured.values())):
            raise AcceptError(
                f"{path}: stage {kind} was not measured on the same benchmarks as {stages[0].kind}"
            )


def _check_suite(path: Path, records: Sequence[Record], stage: Stage, scale: Scale) -> None:
    """The whole suite, on the run's last stage only."""
    if {record["stage"] for record in records} != {stage.kind}:
        raise AcceptError(f"{path}: the suite is measured on stage {stage.kind}, the run's last, alone")
    missing = scale.evaluation.suite.keys() - {record["benchmark"] for record in records}
    if missing:
        raise AcceptError(f"{path}: no record of {', '.join(sorted(missing))}; evaluate the whole suite")


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
