"""When a training stops before its end: asked to by a signal, or because the time of its job is up.

Signals are heard between the passes of a step, not only after it: a step of L/16 at full length takes 24 s, and SLURM
kills 30 s after SIGTERM. What was computed of the step is dropped; the optimizer has not moved, so the state is that of
the last finished step, and a resumed training ends with the same bits.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from clipa import distributed

SLOW_DISK = 200e6
"""Bytes a second at which the first save is expected to write. Later ones may take twice as long as the one before."""

MARGIN = 60.0
"""Seconds that are always left for saving, at most a tenth of the job's time."""


class Interrupted(RuntimeError):
    """SIGTERM arrived; the state is saved."""


class OutOfTime(Interrupted):
    """The time of the job is up, or SIGUSR1 said that it will be soon; the state is saved."""


class Stop:
    """Whether this training has to stop: the same answer in all of its processes. A context manager.

    ``seconds``: that are left of the job (None: no limit). ``state_bytes``: what a checkpoint holds.
    """

    def __init__(self, seconds: float | None = None, state_bytes: int = 0) -> None:
        self.reason: type[Interrupted] | None = None
        self._began = time.monotonic()
        self._ends = self._began + (math.inf if seconds is None else seconds)
        self._margin = 0.0 if seconds is None else min(MARGIN, seconds / 10)
        self._saving = state_bytes / SLOW_DISK
        self._received: set[int] = set()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, lambda heard, _frame: self._received.add(heard))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def between_passes(self) -> None:
        """Raises the reason, without a message, as soon as one process was asked to stop."""
        self._agree(out_of_time=False)
        if self.reason:
            raise self.reason

    def after_step(self, *counts: int) -> list[int]:
        """Sets ``reason`` where the training must stop after this step; the sum of each count over the processes.

        The next step may take half as long again as the last one.
        """
        now = time.monotonic()
        needed = 1.5 * (now - self._began) + max(self._margin, self._saving)
        self._began = now
        return self._agree(now + needed > self._ends, *counts)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save, whose time counts as no step's."""
        began = time.monotonic()
        yield
        self._began = time.monotonic()
        self._saving = 2 * (self._began - began)

    def _agree(self, out_of_time: bool, *counts: int) -> list[int]:
        terminated = signal.SIGTERM in self._received
        out_of_time |= signal.SIGUSR1 in self._received
        terminated, out_of_time, *counts = distributed.all_reduce(terminated, out_of_time, *counts)
        self.reason = Interrupted if terminated else OutOfTime if out_of_time else None
        return counts
