"""The verdict on a claim: what the paper states against what its tables give."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from clipa.claims.numbers import FormulaError
from clipa.claims.quantities import FALSE, TRUE, WITHIN_ROUNDING, Quantity, Statement

HOLDS = "holds"
WITHIN = "holds within rounding"
CONTRADICTED = "contradicted"
NOT_CHECKABLE = "not checkable from the tables"
VERDICTS = (HOLDS, WITHIN, CONTRADICTED, NOT_CHECKABLE)

ABOUT = Fraction(5, 100)
"""What a "~" allows: the text's number may be off by 5 % of itself, where that is more than its rounding."""

_STATED = re.compile(r"(?P<about>~\s*)?(?P<number>-?\d[\d,]*(?:\.(?P<decimals>\d+))?)")


def stated(text: str) -> tuple[Fraction, Fraction]:
    """What the paper's text states, and how far the truth may lie from it: half a unit of its last digit.

    "6.2" is 6.2 and 0.05; "~33" is 33 and 1.65. FormulaError for anything that is no number.
    """
    found = _STATED.fullmatch(text.strip())
    if not found:
        raise FormulaError(f'states {text!r}: expected a number as printed, as in "6.2" or "~33"')
    number = Fraction(found["number"].replace(",", ""))
    tolerance = Fraction(1, 2) / 10 ** len(found["decimals"] or "")
    return number, max(tolerance, ABOUT * abs(number)) if found["about"] else tolerance


def judge(value: Any, states: str | None) -> str:
    """The verdict on what a formula gave.

    A number is compared with what the text states: it holds if its central value rounds to it, within rounding if some
    value that the tables leave open does. A statement is its own verdict; a string must be the one that is stated.
    FormulaError where formula and `states` do not fit.
    """
    if isinstance(value, Statement):
        if states is not None:
            raise FormulaError("the formula is a statement, true or false: leave out states")
        return {TRUE: HOLDS, WITHIN_ROUNDING: WITHIN, FALSE: CONTRADICTED}[value.truth]
    if states is None:
        raise FormulaError("the formula gives no statement: say in states what the paper's text gives")
    if isinstance(value, str):
        return HOLDS if value == states else CONTRADICTED
    if not isinstance(value, Quantity):
        raise FormulaError("the formula gives a list: neither a number nor a statement")
    number, tolerance = stated(states)
    if abs(value.value - number) <= tolerance:
        return HOLDS
    touches = value.low <= number + tolerance and value.high >= number - tolerance
    return WITHIN if touches else CONTRADICTED
