"""Would anybody notice? Changes a cell of the tables and looks for a claim that says something else then."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from clipa.published.claims import ClaimError, Result, check
from clipa.published.quantities import Published, Quantity, Statement
from clipa.schema import Record

POINTS = 5


def with_value(numbers: Published, identity: str, value: Any) -> Published:
    """The same numbers but one. Cheap: everything else is shared."""
    other = copy.copy(numbers)
    record = numbers.record(identity)
    other.records = {**numbers.records, identity: {**record, "value": value, "printed": str(value)}}
    other._known = {name: known for name, known in numbers._known.items() if name != identity}
    return other


def unnoticed(records: Iterable[Record], results: Sequence[Result], points: float = POINTS) -> list[str]:
    """Ids of cells that claims rest on, but whose change by `points` changes no verdict and no computed value.

    A cell is noticed if raising it or lowering it changes something in some claim: an order may well survive a winner's
    getting better. Words are changed by a letter. `results` are those of the records as they are.
    """
    numbers = Published(records)
    resting: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: len(result.rests_on)):  # the cheapest first
        for identity in result.rests_on:
            resting.setdefault(identity, []).append(result)
    return [
        identity
        for identity, claims in resting.items()
        if not any(
            _differs(result, with_value(numbers, identity, value))
            for value in _changes(numbers.record(identity)["value"], points)
            for result in claims
        )
    ]


def _changes(value: Any, points: float) -> list[Any]:
    """Other values of a cell: more and less; another word; a list with another first number."""
    if isinstance(value, str):
        return [value + "x"]
    if isinstance(value, list):
        return [[changed, *value[1:]] for changed in _changes(value[0], points)]
    return [float(Fraction(str(value)) + sign * Fraction(str(points))) for sign in (1, -1)]


def _differs(result: Result, numbers: Published) -> bool:
    try:
        changed = check(result.claim, numbers)
    except ClaimError:  # a count of layers below zero, a division by zero: noticed
        return True
    return (changed.verdict, _number(changed)) != (result.verdict, _number(result))


def _number(result: Result) -> Any:
    """What a claim's formula gave: a number, words, or the margins of a statement that its page shows."""
    value = result.value
    if isinstance(value, Statement):
        return value.mean_margin, value.margin and value.margin.value
    return value.value if isinstance(value, Quantity) else value
