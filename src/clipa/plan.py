"""What is asked for, as jobs: which runs fill which tables and figures, their stages, files and state.

One planner. The Snakefile makes a :class:`Plan` when it is parsed; `clipa plan`, the demo, `clipa run` and
`clipa accept` make another. A :class:`Job` is one run with one seed: its stages in training order, then one
evaluation. Ground floor: neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from clipa import downloads
from clipa.config import (
    CONFIG_DIRECTORY,
    ConfigError,
    Experiment,
    Project,
    Scale,
    load_experiment,
    load_project,
    load_scale,
)
from clipa.protocols import STUDY_PROTOCOL, protocol_named
from clipa.recipes import load_recipes
from clipa.records import RECORDED_DIRECTORY, ROOT
from clipa.released import RELEASED_SCALE, ReleasedTable, released_tables
from clipa.resolved import data_slug
from clipa.sources import Data
from clipa.stages import Stage, evaluation_directory, recorded_path, recorded_suite_path, stages_of
from clipa.study import IMAGE_REDUCTIONS, STUDY, Run, parse_run, run_order

PUBLISHED_TARGETS = ("published", "figures", "tables", "pages", "data")
"""Targets of the workflow that train nothing; so do files below figures/, tables/ and docs/."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run with one seed: its stages in training order, then their evaluation.

    ``suite``: the whole test suite on the last stage, instead of the scale's benchmarks on every stage. ``output``:
    what the evaluation writes; ``accepted``: the accepted records of exactly these stages, where they are reused.
    """

    run: Run
    seed: int
    stages: tuple[Stage, ...]
    suite: bool
    output: Path
    accepted: Path | None

    @property
    def name(self) -> str:
        return f"{self.run.slug} seed {self.seed}" + (" suite" if self.suite else "")

    @property
    def records(self) -> Path:
        """The records that fill the run's cells: accepted ones of the same fingerprint, else its evaluation's."""
        return self.accepted or self.output

    @property
    def recorded_path(self) -> Path:
        """Below ``results/recorded``: where its records go when they are accepted."""
        return (recorded_suite_path if self.suite else recorded_path)(self.stages)


@dataclass(frozen=True)
class Work:
    """The stages behind a target, each once, by their state; and the number of evaluations that are pending."""

    recorded: tuple[Stage, ...]
    finished: tuple[Stage, ...]
    pending: tuple[Stage, ...]
    evaluations: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.recorded + self.finished + self.pending


@dataclass(frozen=True)
class Plan:
    """The runs that a configuration asks for, as jobs; paths are relative to ``root``.

    ``fills``: tables and figures by run. ``suites``: those that take the whole test suite on a run's last stage.
    ``left_out``: runs of the experiments whose image size the scale leaves out.
    """

    project: Project
    scale: Scale
    fills: dict[Run, frozenset[str]]
    suites: dict[Run, frozenset[str]]
    root: Path = Path()
    left_out: tuple[Run, ...] = ()
    _known: dict[tuple[Run, int, bool], Job] = field(default_factory=dict, repr=False, compare=False)

    # ------------------------------------------------------------------------------------------------- what is asked

    @cached_property
    def targets(self) -> list[str]:
        """Every table, figure and other name that the experiments fill."""
        return sorted(set().union(*self.fills.values()))

    @cached_property
    def released(self) -> dict[str, ReleasedTable]:
        """With ``released: true``, the tables that released checkpoints fill, in the place of trainings; else none."""
        if not self.project.released:
            return {}
        return released_tables(self.scale.evaluation.suite, self.scale.config_directory)

    def runs(self, target: str | None = None) -> list[Run]:
        """All runs, or those that fill ``target`` (``figure4``, ``table11``), in a stable order."""
        chosen = [run for run, targets in self.fills.items() if target is None or target in targets]
        return sorted(chosen, key=run_order)

    def job(self, run: Run, seed: int, suite: bool = False) -> Job:
        """The job of a run, whether the experiments name it or not. ConfigError where the scale cannot build it."""
        key = run, seed, suite
        if key not in self._known:
            stages = tuple(stages_of(run, self.scale, seed))
            folder = Path(self.project.runs_directory, evaluation_directory(stages))
            accepted = RECORDED_DIRECTORY / (recorded_suite_path if suite else recorded_path)(stages)
            reused = self.project.reuse_recorded and (self.root / accepted).is_file()
            output = folder / ("suite.json" if suite else "records.json")
            self._known[key] = Job(run, seed, stages, suite, output, accepted if reused else None)
        return self._known[key]

    def jobs(self, target: str = "all") -> list[Job]:
        """The jobs behind a target, seed by seed, each once.

        A target is one of the workflow's (``all``, ``measure_table11`` or ``table11``, ``measure_suite``, a file), a
        run's name, or an image reduction: Table 11's runs of it, with their baselines. Targets that only draw
        published numbers have no jobs. ValueError for a name that there is not.
        """
        name = target.removeprefix(f"{self.measured_directory}/").removeprefix("measure_")
        place = Path(name).stem if name.startswith(("figures/", "tables/")) else name
        if target in PUBLISHED_TARGETS or target.startswith(("figures/", "tables/", "docs/")):
            return []
        if name == "all":
            jobs = [job for place in self.targets for job in self.jobs(place)]
        elif name == "suite":
            jobs = [self.job(run, self.project.seeds[0], suite=True) for run in self._baselines()]
        elif place in self.released:
            jobs = []
        elif place in self.targets:
            jobs = self._of_runs(self.runs(place), place)
        elif name in IMAGE_REDUCTIONS:
            runs = self.runs("table11")
            jobs = self._of_runs([run for run in runs if run.image_reduction in ("none", name)], "table11")
        else:
            jobs = self._of_file(target) or self._of_runs([self._named(target)], "")
        return list(dict.fromkeys(jobs))

    def _of_runs(self, runs: Sequence[Run], target: str) -> list[Job]:
        return [
            self.job(run, seed, suite=target in self.suites.get(run, ()))
            for run in runs
            for seed in self.project.seeds
        ]

    def _baselines(self) -> list[Run]:
        return [run for run in self.runs() if run.is_full_length and run.recipe == STUDY]

    def _of_file(self, target: str) -> list[Job]:
        """The job that makes a file: an evaluation's, or (its stages up to there) a stage's."""
        for run in self.fills:
            for seed in self.project.seeds:
                for suite in (False, True):
                    if target == str((job := self.job(run, seed, suite)).output):
                        return [job]
                for number, stage in enumerate(job.stages, 1):
                    if target == str(self.stage_file(stage)):
                        return [Job(run, seed, job.stages[:number], False, self.stage_file(stage), None)]
        return []

    def _named(self, target: str) -> Run:
        try:
            return parse_run(target)
        except ValueError:
            raise ValueError(
                f"{target}: at scale {self.scale.name} the experiments fill {', '.join(self.targets)}; targets are "
                "measure_<one of these>, measure_suite, all, an image reduction, or a run as L16-resize64-truncation32"
            ) from None

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage of every run by its fingerprint. The stages of several runs may be one."""
        jobs = self._of_runs(self.runs(), "")
        return {stage.fingerprint: stage for job in jobs for stage in job.stages}

    def stage(self, fingerprint: str) -> Stage:
        """KeyError when no experiment asks for such a stage."""
        if fingerprint not in self.stages:
            raise KeyError(f"{fingerprint} is no stage of {self.scale.name}'s experiments and these seeds")
        return self.stages[fingerprint]

    def asked(self, slug: str, seed: int) -> Job:
        """The job of a run that the experiments name; KeyError for another."""
        run = parse_run(slug)
        if run not in self.fills or seed not in self.project.seeds:
            raise KeyError(f"{slug} with seed {seed} is not asked for by {self.scale.name}'s experiments")
        return self.job(run, seed)

    # --------------------------------------------------------------------------------------------------------- files

    @property
    def data(self) -> Path:
        """The data of the scale: ``results/data/pictograms-v1-…``; test sets and vocabulary lie there."""
        return self.data_of(self.scale.data)

    def data_of(self, data: Data) -> Path:
        """Where training data lies, the scale's or another source's."""
        return Path(self.project.data_directory, data_slug(data))

    @property
    def measured_directory(self) -> Path:
        """What jobs write at this scale: ``results/runs/micro-v1``."""
        return Path(self.project.runs_directory, self.scale.name)

    def released_file(self, table: str, row: str) -> Path:
        """What is measured of a released checkpoint for a table: ``results/runs/released/table1/OpenAI-B32.json``."""
        return Path(self.project.runs_directory, RELEASED_SCALE, table, f"{row}.json")

    def stage_file(self, stage: Stage) -> Path:
        """The file that says that a stage is finished."""
        return Path(self.project.runs_directory, stage.directory, "stage.json")

    def all_recorded(self, suites: bool = False) -> list[Path]:
        """Every accepted records file of this scale; or those of the whole test suite, which are kept apart."""
        pattern = "*/suite/*.json" if suites else "*/*.json"
        found = (self.root / RECORDED_DIRECTORY / self.scale.name).glob(pattern)
        return sorted(path.relative_to(self.root) for path in found)

    # --------------------------------------------------------------------------------------------------------- state

    def is_measured(self, job: Job) -> bool:
        """Whether the job's records are there, accepted or just measured."""
        return job.accepted is not None or (self.root / job.output).is_file()

    def is_finished(self, stage: Stage) -> bool:
        return (self.root / self.stage_file(stage)).is_file()

    def trained_by(self, outputs: Iterable[str]) -> list[Stage]:
        """The stages that jobs of these outputs train: their own, and of a job that is a whole run what it lacks."""
        files = {str(self.stage_file(stage)): [stage] for stage in self.stages.values()}
        if self.scale.one_process:
            for job in self.jobs():
                missing = [stage for stage in job.stages if not self.is_finished(stage)]
                files.setdefault(str(job.output), []).extend(missing)
        found = {stage.fingerprint: stage for file in outputs for stage in files.get(file, ())}
        return list(found.values())

    def work(self, target: str = "all") -> Work:
        """The stages behind a target by state: recorded, finished on disk, pending. ValueError as :meth:`jobs`."""
        states: dict[str, dict[Path, Stage]] = {"recorded": {}, "finished": {}, "pending": {}}
        jobs = self.jobs(target)
        for job in jobs:
            for stage in job.stages:
                # Evaluated stages are not trained again, even if their folders were cleared away.
                done = self.is_measured(job) or self.is_finished(stage)
                state = "recorded" if job.accepted else "finished" if done else "pending"
                states[state][stage.directory] = stage
        # Jobs may share a pre-training: it is pending if one of them needs it, and on disk rather than in records.
        for better, worse in (("pending", "recorded"), ("finished", "recorded"), ("pending", "finished")):
            for directory in states[better].keys() & states[worse].keys():
                del states[worse][directory]
        return Work(
            *(tuple(stages.values()) for stages in states.values()),
            evaluations=len({job.output for job in jobs if not self.is_measured(job)}),
        )


def load_plan(overrides: dict[str, Any] | None = None, root: Path = Path()) -> Plan:
    """The plan that ``config/`` under ``root`` asks for, ``overrides`` on top. ConfigError for any mistake.

    A run that several experiments name exists once.
    """
    directory = root / CONFIG_DIRECTORY if root != Path() else CONFIG_DIRECTORY
    project = load_project(overrides, directory)
    file = f"{directory.as_posix()}/config.yaml"
    scale = load_scale(project.scale, directory, f"{file}: scale")
    scale_file = f"{directory.as_posix()}/scales/{scale.name}.yaml"
    try:
        downloads.check(scale, downloads.load_downloads(directory))
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{scale_file}: {error}") from None
    for name, recipe in load_recipes(directory).items():
        protocol_named(
            recipe.protocol or STUDY_PROTOCOL, directory, f"{directory}/recipes.yaml: {name}.protocol"
        )
        if scale.sources and recipe.data not in (None, *scale.sources):
            raise ConfigError(
                f"{directory}/recipes.yaml: {name}.data: {scale_file} has no data source {recipe.data!r}"
            )
    fills: dict[Run, frozenset[str]] = {}
    suites: dict[Run, frozenset[str]] = {}
    left_out: dict[Run, None] = {}
    for name in project.experiments or scale.experiments:
        experiment = load_experiment(name, directory, f"{file}: experiments")
        targets = frozenset(experiment.fills)
        for run in runs_of(experiment, f"{directory.as_posix()}/experiments/{name}.yaml"):
            if run.image_size in scale.left_out_sizes:
                left_out[run] = None
                continue
            _check_buildable(run, scale, f"{directory.as_posix()}/experiments/{name}.yaml")
            fills[run] = fills.get(run, frozenset()) | targets
            if experiment.suite:
                suites[run] = suites.get(run, frozenset()) | targets
    plan = Plan(project, scale, fills, suites, root, tuple(left_out))
    for stage in plan.stages.values():
        stage.fingerprint  # noqa: B018  what cannot be resolved is reported now, not by a job
    return plan


def _check_buildable(run: Run, scale: Scale, file: str) -> None:
    """ConfigError that names the experiment's ``file``, where the scale cannot build one of its runs."""
    try:
        stages_of(run, scale, seed=0)
    except ConfigError as error:
        raise ConfigError(f"{file}: {run.slug}: {str(error).removeprefix(f'{run.slug}: ')}") from None


# ------------------------------------------------------------------------------------------- experiments and cells


def runs_of(experiment: Experiment, file: str) -> list[Run]:
    """The runs of one experiment, the products of its blocks first; ConfigError names ``file``."""
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


def filling(record: Mapping[str, Any], directory: Path = ROOT / CONFIG_DIRECTORY) -> list[str]:
    """Names of the runs whose records fill a published number's cell (one; Table 14 has two, one a stage).

    Empty for models of others, settings, and whatever else is not measured.
    """
    if record["table"] is None or record["run"] is None:
        return []
    cells = _cells_of(record["table"], directory)
    subject = record.get("case") or record["run"]
    return [run.slug for run in cells[subject]] if subject in cells else [record["run"]]


def takes_suite(table: str, directory: Path = CONFIG_DIRECTORY) -> bool:
    """Whether a table is filled from the whole test suite; no for those that no experiment fills."""
    path = directory / "experiments" / f"{table}.yaml"
    return path.is_file() and load_experiment(table, directory).suite


@cache
def _cells_of(number: int, directory: Path) -> dict[str, list[Run]]:
    """The runs behind the cells of a table whose ids do not name the run itself."""
    path = directory / "experiments" / f"table{number}.yaml"
    return _cells(load_experiment(path.stem, directory), path.as_posix()) if path.is_file() else {}


def _cells(experiment: Experiment, file: str) -> dict[str, list[Run]]:
    cells = {}
    for subject, names in experiment.cells.items():
        try:
            cells[subject] = [parse_run(name) for name in ([names] if isinstance(names, str) else names)]
        except ValueError as error:
            raise ConfigError(f"{file}: cells.{subject}: {error}") from None
    return cells
