"""What an attack comes to, and the table of all of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from .processes import Ended

SAME, REFUSED, NAMED = "same bytes", "refused in one line", "other input named"
DIFFERENT, ACCEPTED = "silently different", "wrongly accepted"
CODE, TRACEBACK, UNCLEAR = "code execution", "traceback", "no clear line"
HANG, LEFTOVER, MEMORY, STOPPED = "hang", "leftover", "memory", "stopped for good"
SURVIVED = (SAME, REFUSED, NAMED)
FAILED = (DIFFERENT, ACCEPTED, CODE, TRACEBACK, UNCLEAR, HANG, LEFTOVER, MEMORY, STOPPED)
IMPOSSIBLE = "not possible here"

Outcome = tuple[str, str]
"""One of the names above, and what was seen."""


@dataclass(frozen=True)
class Case:
    """One attack: ``attack()`` makes it and says what it came to."""

    kind: str
    name: str
    attack: Callable[[], Outcome] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Result:
    """What came of one attack."""

    kind: str
    name: str
    outcome: str
    detail: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.outcome in FAILED

    def line(self, seed: int) -> str:
        """The failure, and the command that repeats it."""
        detail = " ".join(self.detail.split())[:200]
        repeat = (
            f"python -m benchmarks.faults --only {self.kind} --case {shlex.quote(self.name)} --seed {seed}"
        )
        return f"{self.outcome}: {self.name}: {detail}\n    {repeat}"


def judge(ended: Ended) -> Outcome | None:
    """What a command that ended by itself came to; None where it succeeded, so that its result must be looked at."""
    if ended.timed_out:
        return HANG, f"no end within {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.said:
        return TRACEBACK, ended.said.strip().splitlines()[-1]
    if ended.code == 0:
        return None
    if ended.error is None or ended.code < 0:
        return UNCLEAR, f"exit code {ended.code}: {' | '.join(ended.said.strip().splitlines()[-3:])}"
    return REFUSED, ended.error


def table(results: Iterable[Result]) -> str:
    """Attacks tried, survived and failed by kind."""
    kinds: dict[str, Counter[str]] = {}
    for result in results:
        kinds.setdefault(result.kind, Counter())[result.outcome] += 1
    rows, totals = [], Counter()
    for kind, counts in kinds.items():
        rows.append(_row(kind, counts))
        totals += counts
    rows.append(_row("all", totals))
    seen = [name for name in FAILED if totals[name]]
    header = ["attack", "tried", "survived", *SURVIVED, "failed", *seen]
    rows = [
        [*row, *(counts[name] for name in seen)]
        for row, counts in zip(rows, [*kinds.values(), totals], strict=True)
    ]
    if totals[IMPOSSIBLE]:
        header.append(IMPOSSIBLE)
        rows = [
            [*row, counts[IMPOSSIBLE]] for row, counts in zip(rows, [*kinds.values(), totals], strict=True)
        ]
    return tabulate(rows, header, "github")


def _row(kind: str, counts: Counter[str]) -> list[Any]:
    tried = counts.total() - counts[IMPOSSIBLE]
    failed = sum(counts[name] for name in FAILED)
    return [kind, tried, tried - failed, *(counts[name] for name in SURVIVED), failed]


def plain(results: Iterable[Result]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(result) for result in results]
