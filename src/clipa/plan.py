"""What is asked for, as files: which records fill a table or figure, and where everything lies.

The Snakefile makes one :class:`Plan` when it is parsed; the demo's progress bar makes another. Ground floor:
neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipa.config import CONFIG_DIRECTORY, Data, Project, Scale, load_project
from clipa.grid import Grid, load_grid
from clipa.recipes import STUDY
from clipa.records import RECORDED_DIRECTORY
from clipa.runs import (
    Run,
    Stage,
    data_slug,
    evaluation_directory,
    parse_run,
    recorded_path,
    recorded_suite_path,
)


@dataclass(frozen=True)
class Plan:
    """The grid of a project with the paths of everything that it reads and writes (relative to the root)."""

    grid: Grid
    root: Path = Path()

    @property
    def project(self) -> Project:
        return self.grid.project

    @property
    def scale(self) -> Scale:
        return self.grid.scale

    @property
    def data(self) -> Path:
        """The data of the scale: ``results/data/pictograms-v1-…``; the test sets and the vocabulary lie there."""
        return self.data_of(self.scale.data)

    def data_of(self, data: Data) -> Path:
        """Where training data lies, the scale's or another source's."""
        return Path(self.project.data_directory, data_slug(data))

    @property
    def runs(self) -> Path:
        """What jobs write at this scale: ``results/runs/micro``."""
        return Path(self.project.runs_directory, self.scale.name)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage of the grid by its fingerprint. The stages of several runs may be one."""
        return {
            stage.fingerprint: stage
            for run in self.grid.runs()
            for seed in self.project.seeds
            for stage in self.grid.stages(run, seed)
        }

    def stage(self, fingerprint: str) -> Stage:
        """KeyError when the grid does not ask for such a stage."""
        if fingerprint not in self.stages:
            raise KeyError(f"{fingerprint} is no stage of {self.scale.name}'s experiments and these seeds")
        return self.stages[fingerprint]

    def stages_of(self, slug: str, seed: int) -> list[Stage]:
        """The stages of a run in training order; KeyError when the grid does not ask for them."""
        run = parse_run(slug)
        if run not in self.grid.fills or seed not in self.project.seeds:
            raise KeyError(f"{slug} with seed {seed} is not asked for by {self.scale.name}'s experiments")
        return self.grid.stages(run, seed)

    def stage_file(self, stage: Stage) -> Path:
        """The file that says that a stage is finished."""
        return Path(self.project.runs_directory, stage.directory, "stage.json")

    def records_file(self, stages: list[Stage]) -> Path:
        """Where the records of a run are written by its evaluation."""
        return Path(self.project.runs_directory, evaluation_directory(stages), "records.json")

    def suite_file(self, stages: list[Stage]) -> Path:
        """Where the records of the whole test suite on a run's last stage are written."""
        return self.records_file(stages).with_name("suite.json")

    def recorded_suite_file(self, stages: list[Stage]) -> Path | None:
        """The accepted suite of exactly this checkpoint, if it is committed and may be used."""
        path = RECORDED_DIRECTORY / recorded_suite_path(stages)
        return path if self.project.reuse_recorded and (self.root / path).is_file() else None

    def recorded_file(self, stages: list[Stage]) -> Path | None:
        """The accepted records of exactly these stages, if they are committed and may be used."""
        path = RECORDED_DIRECTORY / recorded_path(stages)
        return path if self.project.reuse_recorded and (self.root / path).is_file() else None

    def cell(self, run: Run, seed: int) -> Path:
        """The records that fill the cells of ``run``: accepted ones of the same fingerprint, else a run's."""
        stages = self.grid.stages(run, seed)
        return self.recorded_file(stages) or self.records_file(stages)

    def suite_cell(self, run: Run, seed: int) -> Path:
        """Likewise, the whole test suite on the last stage of ``run``."""
        stages = self.grid.stages(run, seed)
        return self.recorded_suite_file(stages) or self.suite_file(stages)

    def cells(self, target: str | None = None) -> list[Path]:
        """All records behind a table or figure (``table11``, ``figure4``), or behind everything."""
        found: list[Path] = []
        for run in self.grid.runs(target):
            for seed in self.project.seeds:
                suite = self.grid.needs_suite(run, target)
                # Both name the last stage's number on the first benchmark: a table takes one or the other.
                if target is None or not suite:
                    found.append(self.cell(run, seed))
                if suite:
                    found.append(self.suite_cell(run, seed))
        return found

    def suite_cells(self) -> list[Path]:
        """The whole suite on one checkpoint a model: the full-length baseline of the first seed."""
        return [self.recorded_suite_file(stages) or self.suite_file(stages) for stages in self.suite_stages()]

    def suite_stages(self) -> list[list[Stage]]:
        """The stages of the runs that the suite is measured on."""
        baselines = [run for run in self.grid.runs() if run.is_full_length and run.recipe == STUDY]
        return [self.grid.stages(run, self.project.seeds[0]) for run in baselines]

    def planned_stages(self, cells: Iterable[Path] | None = None) -> list[Stage]:
        """The stages behind cells that no recorded file fills, finished or not, longest first in each kind."""
        wanted = None if cells is None else set(cells)
        chosen: list[Stage] = []
        for run in self.grid.runs():
            for seed in self.project.seeds:
                stages = self.grid.stages(run, seed)
                unrecorded = self.recorded_file(stages) is None
                if unrecorded and (wanted is None or self.records_file(stages) in wanted):
                    chosen += stages
        return chosen

    def all_recorded(self, suites: bool = False) -> list[Path]:
        """Every accepted records file of this scale; or those of the whole test suite, which are kept apart."""
        pattern = "*/suite/*.json" if suites else "*/*.json"
        found = (self.root / RECORDED_DIRECTORY / self.scale.name).glob(pattern)
        return sorted(path.relative_to(self.root) for path in found)


def load_plan(overrides: dict[str, Any] | None = None, root: Path = Path()) -> Plan:
    """The plan that ``config/`` under ``root`` asks for, ``overrides`` on top. ConfigError for any mistake."""
    directory = root / CONFIG_DIRECTORY if root != Path() else CONFIG_DIRECTORY
    plan = Plan(load_grid(load_project(overrides, directory), directory), root)
    for stage in plan.stages.values():
        stage.fingerprint  # noqa: B018  a missing model configuration must be said now, not by a job
    return plan
