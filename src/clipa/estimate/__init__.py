"""What a plan costs before anything is launched: stages, device-hours, wall-clock, disk, and whether a budget holds.

A device is what a stage trains on: a GPU, or at a CPU scale a core. Its speed comes from stages measured at the scale
(accepted records, stages finished on disk); failing these, for CPUs from another scale measured on CPUs, for GPUs from
the hours that the paper's Table 1 gives for three runs on A100s. Every estimate has the spread of what it comes from.
Ground floor: neither torch nor pandas.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipa.estimate.throughput import device_name, short, throughput_of
from clipa.plan import Plan
from clipa.runs import Stage

# --------------------------------------------------------------------------------------------------- what is pending


@dataclass(frozen=True)
class Work:
    """The stages behind a target, each once, by what there is of them; and evaluations that are pending."""

    recorded: tuple[Stage, ...]
    finished: tuple[Stage, ...]
    pending: tuple[Stage, ...]
    evaluations: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.recorded + self.finished + self.pending


def work_of(plan: Plan, target: str = "all") -> Work:
    """What a target of the workflow needs: `all`, `measure_table11` (or `table11`), `measure_suite`, a file.

    A target that measures nothing needs nothing. ValueError for a name that the workflow does not have.
    """
    states: dict[str, dict[Path, Stage]] = {"recorded": {}, "finished": {}, "pending": {}}
    evaluations = set()
    for stages, records, accepted in _cells(plan, target):
        made = bool(accepted) or (plan.root / records).is_file()
        if not made:
            evaluations.add(records)
        for stage in stages:
            # Evaluated stages are not trained again, even if their folders were cleared away.
            done = made or (plan.root / plan.stage_file(stage)).is_file()
            state = "recorded" if accepted else "finished" if done else "pending"
            states[state][stage.directory] = stage
    # Cells may share a pre-training: it is pending if one of them needs it, and on disk rather than in records.
    for better, worse in (("pending", "recorded"), ("finished", "recorded"), ("pending", "finished")):
        for directory in states[better].keys() & states[worse].keys():
            del states[worse][directory]
    return Work(
        *(tuple(states[name].values()) for name in ("recorded", "finished", "pending")), len(evaluations)
    )


Cell = tuple[list[Stage], Path, Path | None]
"""Stages in training order, where their evaluation writes, and the accepted records if there are any."""


def _cells(plan: Plan, target: str) -> list[Cell]:
    name = target.removeprefix(f"{plan.runs}/").removeprefix("measure_")
    if name == "suite":
        return [
            (stages, plan.suite_file(stages), plan.recorded_suite_file(stages))
            for stages in plan.suite_stages()
        ]
    if target in ("figures", "tables", "pages", "data", "published") or target.startswith(
        ("figures/", "tables/", "docs/")
    ):
        return []
    runs = plan.grid.runs()
    all_stages = [plan.grid.stages(run, seed) for run in runs for seed in plan.project.seeds]
    filled = sorted({place for run in runs for place in plan.grid.fills[run]})
    if name == "all":
        return [cell for place in filled for cell in _filling(plan, place)]
    place = Path(name).stem if name.startswith(("figures/", "tables/")) else name
    if place in filled:
        return _filling(plan, place)
    for stages in all_stages:
        if target == str(plan.records_file(stages)):
            return [_cell(plan, stages)]
        if target == str(plan.suite_file(stages)):
            return [(stages, plan.suite_file(stages), None)]
        for number, stage in enumerate(stages, 1):
            if target == str(plan.stage_file(stage)):
                return [(stages[:number], plan.stage_file(stage), None)]
    raise ValueError(
        f"{target}: at scale {plan.scale.name} the experiments fill {', '.join(filled)}; targets are measure_<one of "
        "these>, measure_suite and all"
    )


def _filling(plan: Plan, place: str) -> list[Cell]:
    """The cells behind a table or figure."""
    cells = []
    for run in plan.grid.runs(place):
        for seed in plan.project.seeds:
            stages = plan.grid.stages(run, seed)
            if plan.grid.needs_suite(run, place):
                cells.append((stages, plan.suite_file(stages), plan.recorded_suite_file(stages)))
            else:
                cells.append(_cell(plan, stages))
    return cells


def _cell(plan: Plan, stages: list[Stage]) -> Cell:
    return stages, plan.records_file(stages), plan.recorded_file(stages)


# ----------------------------------------------------------------------------------------------- wall-clock and budget


def wall_clock(stages: Sequence[Stage], hours: Callable[[Stage], float], slots: int) -> tuple[float, float]:
    """Hours until all are trained, `slots` at a time, the longest way first, a parent before its child; and the
    longest way itself, which no number of devices shortens.

    `hours`: of one stage. A parent that is not among `stages` is there already.
    """
    here = {stage.directory: stage for stage in stages}
    children: dict[Path, list[Path]] = {}
    for directory, stage in here.items():
        if stage.parent is not None and stage.parent.directory in here:
            children.setdefault(stage.parent.directory, []).append(directory)

    way: dict[Path, float] = {}

    def measure(directory: Path) -> float:
        if directory not in way:
            way[directory] = hours(here[directory]) + max(
                map(measure, children.get(directory, ())), default=0.0
            )
        return way[directory]

    waiting = {child for several in children.values() for child in several}
    ready = [(-measure(directory), directory) for directory in here if directory not in waiting]
    heapq.heapify(ready)
    running: list[tuple[float, Path]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            directory = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + hours(here[directory]), directory))
        now, directory = heapq.heappop(running)
        for child in children.get(directory, ()):
            heapq.heappush(ready, (-measure(child), child))
    return now, max(way.values(), default=0.0)


def over_budget(plan: Plan, pending: Sequence[Stage]) -> str | None:
    """Why `pending` must not be started, in one line; None where the budget (or no budget) allows it."""
    budget = plan.project.budget_gpu_hours
    if budget is None or not pending:
        return None
    hours = throughput_of(plan).total(pending)
    if hours.mean <= budget:
        return None
    needed, over = math.ceil(hours.mean), hours.mean - budget
    return (
        f"budget_gpu_hours: {len(pending)} pending stages at scale {plan.scale.name} need about {short(hours.mean)} "
        f"{device_name(plan.scale)}-hours ({short(hours.low)} to {short(hours.high)}), {short(over)} more than the "
        f"{budget:,g} allowed; nothing was started. To allow it: --config budget_gpu_hours={needed}, or the key in "
        "config/config.yaml; `clipa plan` shows what costs how much"
    )
