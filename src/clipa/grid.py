"""Which runs fill which tables and figures: the files of ``config/experiments``, expanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from clipa.config import (
    CONFIG_DIRECTORY,
    MODELS,
    ConfigError,
    Experiment,
    Project,
    Scale,
    load_experiment,
    load_scale,
)
from clipa.records import ROOT
from clipa.runs import Run, Stage, parse_run, stages_of


@dataclass(frozen=True)
class Grid:
    """The runs that a project's configuration asks for, and what each run fills.

    ``fills``: tables and figures by run. ``suites``: those of them that take the whole test suite on a run's last
    stage.
    """

    project: Project
    scale: Scale
    fills: dict[Run, frozenset[str]]
    suites: dict[Run, frozenset[str]] = field(default_factory=dict)

    def runs(self, target: str | None = None) -> list[Run]:
        """All runs, or those that fill ``target`` (``figure4``, ``table11``), in a stable order."""
        chosen = [run for run, targets in self.fills.items() if target is None or target in targets]
        return sorted(
            chosen,
            key=lambda run: (
                MODELS.index(run.model),
                -run.text_tokens,
                -(run.patches or run.image_size),
                run.slug,
            ),
        )

    def needs_suite(self, run: Run, target: str | None = None) -> bool:
        """Whether ``target`` (or anything) is filled from the whole test suite on the last stage of ``run``."""
        targets = self.suites.get(run, frozenset())
        return bool(targets) if target is None else target in targets

    def stages(self, run: Run, seed: int) -> list[Stage]:
        return stages_of(run, self.scale, seed)


def load_grid(project: Project, directory: Path = CONFIG_DIRECTORY) -> Grid:
    """Expand the experiments of ``project``. A run that several experiments name exists once."""
    scale = load_scale(project.scale, directory)
    fills: dict[Run, frozenset[str]] = {}
    suites: dict[Run, frozenset[str]] = {}
    for name in project.experiments or scale.experiments:
        experiment = load_experiment(name, directory)
        targets = frozenset(experiment.fills)
        for run in runs_of(experiment, f"{directory.as_posix()}/experiments/{name}.yaml"):
            fills[run] = fills.get(run, frozenset()) | targets
            if experiment.suite:
                suites[run] = suites.get(run, frozenset()) | targets
    return Grid(project, scale, fills, suites)


def takes_suite(table: str, directory: Path = CONFIG_DIRECTORY) -> bool:
    """Whether a table is filled from the whole test suite; no for those that no experiment fills."""
    path = directory / "experiments" / f"{table}.yaml"
    return path.is_file() and load_experiment(table, directory).suite


@cache
def _cells_of(number: int, directory: Path) -> dict[str, list[Run]]:
    """The runs behind the cells of a table, by what the ids of its numbers call them; where that is a run's own name,
    the cell is not listed. Empty for tables that no runs fill, or none but runs called by their own names.
    """
    path = directory / "experiments" / f"table{number}.yaml"
    return _cells(load_experiment(path.stem, directory), path.as_posix()) if path.is_file() else {}


def filling(record: Mapping[str, Any], directory: Path = ROOT / CONFIG_DIRECTORY) -> list[str]:
    """Names of the runs that a published number's cell would be filled from (one; Table 14 has two, one a stage).

    Empty for external models, settings, and whatever else is not measured.
    """
    if record["table"] is None or record["run"] is None:
        return []
    own = _cells_of(record["table"], directory)
    subject = record.get("case") or record["run"]
    return [run.slug for run in own[subject]] if subject in own else [record["run"]]


def runs_of(experiment: Experiment, file: str) -> list[Run]:
    """The runs of one experiment, the products of its blocks first; ConfigError names ``file``."""
    for model in experiment.models:
        if model not in MODELS:
            raise ConfigError(f"{file}: models: unknown model {model!r} (known: {', '.join(MODELS)})")
    products = [
        Run(model, block.image_reduction, size, kept, reduction, tokens, recipe)
        for model in experiment.models
        for block in experiment.runs
        for size in block.image_size
        for kept in block.kept_patches or [None]
        for reduction in block.text_reduction
        for tokens in block.text_tokens
        for recipe in block.recipe
    ]
    return products + [run for runs in _cells(experiment, file).values() for run in runs]


def _cells(experiment: Experiment, file: str) -> dict[str, list[Run]]:
    try:
        return {
            subject: [parse_run(name) for name in ([names] if isinstance(names, str) else names)]
            for subject, names in experiment.cells.items()
        }
    except ValueError as error:
        raise ConfigError(f"{file}: cells: {error}") from None
