"""``clipa preflight``: everything that is missing for a target, at once and before anything is submitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

OK, MISSING, UNKNOWN = "ok", "MISSING", "unknown"


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do (or what was seen)."""

    what: str
    state: str
    said: str


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For people: what is missing last, so that it stays on the screen."""
    order = (OK, UNKNOWN, MISSING)
    width = max(len(one.what) for one in findings)
    for one in sorted(findings, key=lambda one: order.index(one.state)):
        yield f"{one.state:<8} {one.what:<{width}}  {one.said}"
    missing = sum(one.state == MISSING for one in findings)
    yield (
        f"{missing} missing, {len(findings)} looked at"
        if missing
        else f"nothing missing, {len(findings)} looked at"
    )


def looked(what: str, look: Callable[..., Any], *asked: Any) -> list[Finding]:
    """What ``look`` finds. A look that fails is no reason to see nothing else."""
    try:
        return list(look(*asked))
    except (OSError, ValueError, RuntimeError) as error:
        return [Finding(what, UNKNOWN, " ".join(str(error).split()) or type(error).__name__)]
