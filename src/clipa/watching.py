"""What trains now, here or on a cluster: read from the files that trainings write (:mod:`clipa.progress`), and squeue.

Only looks: a file that is missing, cut or not yet written shows nothing, and stops nothing. `clipa watch` shows it.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipa import slurm
from clipa.files import process_lives, read_json
from clipa.progress import STALE_SECONDS
from clipa.resolved import FILE_NAME

BARS = "▁▂▃▄▅▆▇█"
TRAINING, FINISHED, STOPPED, SILENT = "training", "finished", "stopped", "silent"
"""Of a stage: SILENT where another machine's process has not written for a minute, which may be a long checkpoint or
its end; STOPPED where this machine's process is gone, or SLURM has no such job."""

_LOG_BYTES = 1 << 26
Points = list[tuple[int, float]]
"""Step and loss."""


@dataclass(frozen=True)
class Training:
    """One stage as its files say. ``rate``: samples a second; ``left``: seconds; both None
    after the first step; ``place``: host, or job of SLURM."""

    directory: Path
    scale: str
    run: str
    kind: str
    seed: str
    state: str
    step: int
    steps: int
    loss: float
    rate: float | None
    left: float | None
    silent: float
    place: str


@dataclass
class Watch:
    """All stages below a directory of runs (of one scale, or of all), and the losses that were seen of each."""

    runs: Path
    scale: str | None = None
    losses: dict[Path, dict[int, float]] = field(default_factory=dict)
    _logs: dict[Path, tuple[int, Points]] = field(default_factory=dict)

    def look(self, now: float | None = None) -> list[Training]:
        """Every stage that has begun, those that train first, then by name."""
        jobs = queue()
        found = []
        for path in self.runs.glob(f"{self.scale or '*'}/*/*/seed*-*/progress.json"):
            training = _training(path, jobs, time.time() if now is None else now)
            if training is not None:
                found.append(training)
                self.losses.setdefault(path.parent, {})[training.step] = training.loss
        order = (TRAINING, SILENT, STOPPED, FINISHED)
        return sorted(found, key=lambda one: (order.index(one.state), one.scale, one.run, one.kind, one.seed))

    def to_come(self) -> int:
        """How many stages a workflow has made ready here (it writes what each starts from) that have not begun."""
        ready = self.runs.glob(f"{self.scale or '*'}/*/*/seed*-*/{FILE_NAME}")
        begun = ("progress.json", "stage.json")
        return sum(not any(path.with_name(name).is_file() for name in begun) for path in ready)

    def points(self, training: Training) -> Points:
        """Steps and losses of a stage: its log up to the last checkpoint, then what was seen since."""
        path = training.directory / "loss.jsonl"
        logged = self._logged(path)
        last = logged[-1][0] if logged else 0
        seen = sorted(self.losses.get(training.directory, {}).items())
        return logged + [point for point in seen if last < point[0] <= training.step]

    def _logged(self, path: Path) -> Points:
        try:
            state = path.stat()
        except OSError:
            return []
        if self._logs.get(path, (None,))[0] != state.st_mtime_ns:
            self._logs[path] = state.st_mtime_ns, [(row["step"], row["loss"]) for row in loss_log(path)]
        return self._logs[path][1]


def loss_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a stage's ``loss.jsonl`` that have a step and a loss; none where it is missing or too large."""
    try:
        if path.stat().st_size > _LOG_BYTES:
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"]), "loss": float(row["loss"])} | row)
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def _training(path: Path, jobs: Mapping[str, str] | None, now: float) -> Training | None:
    """A stage by its progress.json; None where that cannot be read."""
    try:
        said = read_json(path)
        step, steps, loss = int(said["step"]), int(said["steps"]), float(said["loss"])
        updated = float(said["updated"])
        rate, left = (
            None if said[key] is None else float(said[key]) for key in ("samples_per_second", "eta_seconds")
        )
        host, job, pid = str(said.get("host") or ""), said.get("job"), int(said["pid"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    scale, run, kind, folder = path.parts[-5:-1]
    silent = max(0.0, now - updated)
    state = FINISHED if path.with_name("stage.json").is_file() else _state(silent, host, pid, job, jobs)
    place = f"job {job}" if job else host
    seed = folder.removeprefix("seed").partition("-")[0]
    return Training(path.parent, scale, run, kind, seed, state, step, steps, loss, rate, left, silent, place)


def _state(silent: float, host: str, pid: int, job: Any, jobs: Mapping[str, str] | None) -> str:
    if job and jobs is not None and jobs.get(str(job)) != "RUNNING":
        return STOPPED
    if host in ("", socket.gethostname()) and not job and not process_lives(pid):
        return STOPPED
    return TRAINING if silent < STALE_SECONDS else SILENT


def queue() -> dict[str, str] | None:
    """The user's jobs of SLURM by number, with their state; None where there is no SLURM, or it does not answer."""
    if shutil.which("squeue") is None:
        return None
    try:
        told = slurm.ask("squeue", "--me", "--noheader", "--format=%i %T")
    except slurm.SlurmError:
        return None
    return dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line)


def counted_jobs(jobs: Mapping[str, str] | None) -> str:
    """``SLURM: 3 running, 5 pending``; empty without jobs."""
    counts = Counter(state.lower() for state in (jobs or {}).values())
    return (
        f"SLURM: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}" if counts else ""
    )


def sparkline(points: Sequence[tuple[int, float]], width: int) -> str:
    """Losses over steps in so many characters at most, low to high; each stands for the mean of its share of steps."""
    points = [(step, loss) for step, loss in points if loss == loss and abs(loss) != float("inf")]
    if not points or width < 1:
        return ""
    first, last = points[0][0], points[-1][0]
    shares: dict[int, list[float]] = {}
    for step, loss in points:
        share = 0 if last == first else min(width - 1, (step - first) * width // (last - first))
        shares.setdefault(share, []).append(loss)
    means = [sum(losses) / len(losses) for _, losses in sorted(shares.items())]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def still_going(trainings: Iterable[Training]) -> list[Training]:
    """Those that may still write: training or silent."""
    return [one for one in trainings if one.state in (TRAINING, SILENT)]
