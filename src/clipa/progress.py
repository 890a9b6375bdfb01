"""How far a stage is: a bar on a terminal, a line every ten seconds in a log, and a file for whoever watches.

And how far all of a plan is (:class:`Overall`), from the files that its jobs write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipa.files import naming, read_json

_LINE_SECONDS = 10.0
_FILE_SECONDS = 2.0
_SEEN = 60
"""The rate is that of so many updates of the file: two minutes, or so many steps that take longer."""
STALE_SECONDS = 60.0
"""A stage that has written nothing for so long is not counted as under way."""


class Progress:
    """Reports updates of a stage. ``progress.json`` in its directory holds the same for the demo's overall bar."""

    def __init__(self, directory: Path, steps: int, batch_size: int, first: int, enabled: bool) -> None:
        from tqdm import tqdm

        self.path, self.steps, self.batch_size, self.enabled = (
            directory / "progress.json",
            steps,
            batch_size,
            enabled,
        )
        self.next_line = self.next_file = time.monotonic()
        self.seen: deque[tuple[int, float]] = deque(maxlen=_SEEN)
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=first, unit="step", disable=not (enabled and on_terminal))
        self.lines = enabled and not on_terminal

    def update(self, step: int, loss: Any) -> None:
        """``step`` updates are done; ``loss`` (a scalar tensor) is read only when something is shown."""
        self.bar.update(step - self.bar.n)
        now = time.monotonic()
        if not self.enabled or (now < self.next_file and step < self.steps):
            return
        rate = self._rate(step, now)
        remaining = None if rate is None else (self.steps - step) / rate
        self.bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if self.lines and (now >= self.next_line or step == self.steps):
            told = "" if rate is None else f"  {rate * self.batch_size:.0f} samples/s  {remaining:.0f} s left"
            print(f"step {step}/{self.steps}  loss {loss.item():.3f}{told}", flush=True)
            self.next_line = now + _LINE_SECONDS
        state = {
            "step": step,
            "steps": self.steps,
            "loss": loss.item(),
            "samples_per_second": None if rate is None else round(rate * self.batch_size, 1),
            "eta_seconds": None if remaining is None else round(remaining, 1),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "updated": time.time(),
        }
        temporary = self.path.with_suffix(".partial")
        with naming(self.path):
            temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.path)
        self.next_file = now + _FILE_SECONDS

    def _rate(self, step: int, now: float) -> float | None:
        """Steps a second of the last updates; the first step is not counted, since it starts what loads data."""
        self.seen.append((step, now))
        before, since = self.seen[0]
        return (step - before) / max(now - since, 1e-9) if step > before else None

    def close(self) -> None:
        self.bar.close()


def clock(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``25 min``, ``1 h 05 min``: for people."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Overall:
    """One bar for many jobs; where there is no terminal, a line every 15 seconds.

    ``jobs``: the file that says that a job is done, with the job's name and its nominal seconds on one core. These
    weigh the jobs against each other; the time left follows the rate seen, once enough is done to see one.
    """

    def __init__(self, name: str, jobs: Mapping[Path, tuple[str, float]], cores: int) -> None:
        self.name, self.jobs, self.cores = name, jobs, cores
        self.total = sum(seconds for _, seconds in jobs.values())
        self.began, self.done_before, self.next_line = time.monotonic(), self.look()[0], 0.0

    def __enter__(self) -> Overall:
        from tqdm import tqdm

        layout = "{desc} {percentage:3.0f} % |{bar}|{postfix}"
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=1, desc=self.name, bar_format=layout, dynamic_ncols=True, disable=hidden)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def look(self) -> tuple[float, list[str]]:
        """Nominal seconds of what is there, and what is under way, from the progress.json beside a job's file."""
        done, under_way = 0.0, []
        for file, (name, seconds) in self.jobs.items():
            share, state = float(file.is_file()), file.with_name("progress.json")
            if not share and state.is_file():
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
                    read = read_json(state)  # only to be looked at: what cannot be read shows nothing
                    share = min(0.99, read["step"] / read["steps"])
                    if time.time() - read["updated"] < STALE_SECONDS:
                        under_way.append(f"{name} {read['step']}/{read['steps']}")
            done += share * seconds
        return done, under_way

    def left(self) -> float:
        """Seconds left."""
        done = self.look()[0]
        seen = (done - self.done_before) / max(time.monotonic() - self.began, 1e-9)
        trust = min(1.0, (done - self.done_before) / (0.1 * self.total))
        return (self.total - done) / (trust * seen + (1 - trust) * 0.9 * self.cores)

    def show(self, final: bool = False) -> None:
        """Read what jobs have written, and show it; ``final``: all is done."""
        done, under_way = (self.total, []) if final else self.look()
        text = "done" if final else "; ".join([f"{clock(self.left())} left", *under_way])
        self.bar.n = done / self.total
        self.bar.set_postfix_str(text)
        if self.bar.disable and (final or time.monotonic() >= self.next_line):
            print(f"{100 * done / self.total:3.0f} %, {text}", flush=True)
            self.next_line = time.monotonic() + 15.0
