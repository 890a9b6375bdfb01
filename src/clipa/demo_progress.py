"""How far the demo is: pieces of work with a nominal length, read from what jobs write, shown as bars with an ETA."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipa.cost import stage_macs
from clipa.estimate import CORE_MACS_PER_SECOND, CORE_SECONDS_PER_SAMPLE
from clipa.plan import Plan
from clipa.stages import Stage

LINE_SECONDS = 15.0
LAYOUT = "{desc:<44} {percentage:3.0f} % |{bar}| {unit}"

# Nominal lengths, measured on one core of a two-core machine. They weigh the pieces against each other and make the
# first estimate; once something has run, the rate seen replaces them.
DRAWN_PER_SECOND = 900.0
ANNOTATED_PER_SECOND = 1500.0
START_UP_SECONDS = 8.0
EVALUATION_SECONDS = 14.0
PICTURE_SECONDS = 4.0


def clock(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``25 min``, ``1 h 05 min``: for people."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Piece:
    """One job: its name, its nominal seconds of one core, and how to see how much of it is done (0 … 1)."""

    name: str
    seconds: float
    done: Callable[[], float]


class Work:
    """Everything that the demo has to make, and how much of it is there."""

    def __init__(self, plan: Plan, cores: int) -> None:
        self.plan, self.cores = plan, cores
        self.stages = [
            stage
            for run in plan.grid.runs()
            for s in plan.project.seeds
            for stage in plan.grid.stages(run, s)
        ]
        self.pieces = [*self._data_pieces(), *map(self._stage_piece, self.stages), *self._result_pieces()]
        self.total = sum(piece.seconds for piece in self.pieces)
        self.began, self.done_at_start = time.monotonic(), self.done()

    def done(self) -> float:
        """Nominal seconds of what is there."""
        return sum(piece.seconds * piece.done() for piece in self.pieces)

    def seconds_left(self) -> float:
        """An estimate from the rate since the start; from the nominal lengths while there is too little to see."""
        done, elapsed = self.done(), time.monotonic() - self.began
        left = self.total - done
        if left < 1e-6:
            return 0.0
        nominal_rate = 0.9 * self.cores
        trust = min(1.0, (done - self.done_at_start) / (0.1 * self.total))
        seen_rate = (done - self.done_at_start) / max(elapsed, 1e-9)
        return left / max(trust * seen_rate + (1 - trust) * nominal_rate, 1e-9)

    def under_way(self) -> list[tuple[Stage, dict[str, Any]]]:
        """Stages being trained now, with what they last reported."""
        found = []
        for stage in self.stages:
            state = self._progress(stage)
            if state and not self._file(stage).is_file() and time.time() - state["updated"] < 60:
                found.append((stage, state))
        return found

    def results(self) -> list[Path]:
        """The files of the measured figures and tables that exist."""
        names = ("figures/figure*.png", "tables/table*.tex")
        return [path for pattern in names for path in (self.plan.root / self.plan.runs).glob(pattern)]

    def _file(self, stage: Stage) -> Path:
        return self.plan.root / self.plan.stage_file(stage)

    def _progress(self, stage: Stage) -> dict[str, Any] | None:
        try:
            return json.loads((self._file(stage).parent / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _stage_piece(self, stage: Stage) -> Piece:
        seconds = (
            START_UP_SECONDS
            + stage_macs(stage) / CORE_MACS_PER_SECOND
            + stage.schedule.samples * CORE_SECONDS_PER_SAMPLE
        )

        def done() -> float:
            if self._file(stage).is_file():
                return 1.0
            state = self._progress(stage)
            return min(0.99, state["step"] / state["steps"]) if state else 0.0

        return Piece(f"{stage.run.slug} {stage.kind} seed {stage.seed}", seconds, done)

    def _data_pieces(self) -> list[Piece]:
        evaluation = self.plan.scale.evaluation
        world, data = self.plan.scale.data.world, self.plan.root / self.plan.data
        if world is None:
            return []
        drawn = {"train": world.training_images} | {
            f"test/{name}": world.test_count(name)
            for name in sorted({*evaluation.benchmarks.values(), *evaluation.suite.values()})
        }
        captions = world.training_images * world.captions_per_image
        return [
            *(
                Piece(f"draw {name}", n / DRAWN_PER_SECOND, _drawn(data / name, n))
                for name, n in drawn.items()
            ),
            Piece("vocabulary", 10.0, (data / "vocabulary" / "vocabulary.json").is_file),
            Piece(
                "annotate",
                10.0 + captions / ANNOTATED_PER_SECOND,
                (data / "train" / "annotation.json").is_file,
            ),
        ]

    def _result_pieces(self) -> list[Piece]:
        root, grid = self.plan.root, self.plan.grid
        evaluations = [
            self.plan.records_file(grid.stages(run, seed))
            for run in grid.runs()
            for seed in self.plan.project.seeds
        ]
        pictures = [f"figures/figure{n}.png" for n in (4, 9, 10)] + ["tables/table11.tex", "report.html"]
        return [
            *(
                Piece(f"evaluate {path.parts[-4]}", EVALUATION_SECONDS, (root / path).is_file)
                for path in evaluations
            ),
            *(Piece(name, PICTURE_SECONDS, (root / self.plan.runs / name).is_file) for name in pictures),
        ]


def _drawn(folder: Path, images: int) -> Callable[[], float]:
    """How much of a training or test set is drawn: its manifest is written last, a partial one grows before."""

    def done() -> float:
        if (folder / "manifest.json").is_file():
            return 1.0
        try:
            shards = json.loads((folder / "manifest.partial.json").read_text(encoding="utf-8"))["shards"]
        except (OSError, ValueError, KeyError):
            return 0.0
        return min(0.99, sum(shard["samples"] for shard in shards) / images)

    return done


class Display:
    """The bars: one for everything, one for each stage under way; plain lines where there is no terminal."""

    def __init__(self, work: Work) -> None:
        self.work, self.bars, self.next_line = work, [], time.monotonic() + LINE_SECONDS
        self.on_terminal = sys.stderr.isatty()

    def __enter__(self) -> Display:
        if self.on_terminal:
            from tqdm import tqdm

            self.bars = [
                tqdm(total=1.0, position=i, leave=i == 0, bar_format=LAYOUT, dynamic_ncols=True)
                for i in range(1 + self.work.cores)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for bar in reversed(self.bars):
            bar.close()

    def show(self, final: bool = False) -> None:
        """Read what jobs have written and show it; ``final``: the last time, whatever the files say."""
        share = 1.0 if final else self.work.done() / self.work.total
        left = "done" if final else f"{clock(self.work.seconds_left())} left"
        stages = [
            (
                f"{stage.run.slug} {stage.kind}",
                state["step"] / state["steps"],
                f"{state['step']}/{state['steps']} steps, {clock(state['eta_seconds'])} left",
            )
            for stage, state in ([] if final else self.work.under_way())
        ]
        if self.on_terminal:
            self._bars([(f"demo ({self.work.plan.scale.name})", share, left), *stages])
        elif final or time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            details = "".join(f"; {name} {text}" for name, _, text in stages)
            print(f"{100 * share:3.0f} %, {left}{details}", flush=True)

    def _bars(self, rows: list[tuple[str, float, str]]) -> None:
        rows = rows[: len(self.bars)]
        for bar, (name, share, text) in zip(
            self.bars, rows + [("", 0.0, "")] * (len(self.bars) - len(rows)), strict=True
        ):
            bar.n = share
            bar.set_description_str(name, refresh=False)
            bar.unit, bar.bar_format = text, LAYOUT if name else "{desc}"
            bar.refresh()
