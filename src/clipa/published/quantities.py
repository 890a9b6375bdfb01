"""Numbers known to a printed precision, statements about them that rounding may leave open, and the published ones.

A quantity is a central value and the values that it may have had before it was rounded for print. It remembers from
which printed number each part of its uncertainty comes, so a baseline that is taken off two accuracies cancels in
the difference of the two drops: 56.7 - 50.5 is 6.2 ± 0.1, and 56.7 - 56.7 is 0. All arithmetic is exact (fractions).
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from clipa.schema import Record

NOTHING: Mapping[str, Fraction] = {}
ZERO = Fraction(0)
LARGEST_EXPONENT = 1000  # exact arithmetic: 9**9**9 would never end


class FormulaError(ValueError):
    """What is wrong with a formula, without saying which formula it is."""


@dataclass(frozen=True)
class Quantity:
    """A number with what rounding leaves open.

    `terms`: signed half width by source, for the part that is linear in the printed numbers. `below`, `above`: how far
    the rest (products, quotients, extremes of uncertain numbers) may lie under and over `value`; never negative.
    """

    value: Fraction
    terms: Mapping[str, Fraction] = field(default_factory=lambda: NOTHING)
    below: Fraction = ZERO
    above: Fraction = ZERO

    @cached_property
    def _linear(self) -> Fraction:
        return sum(map(abs, self.terms.values()), ZERO)

    @property
    def low(self) -> Fraction:
        """The least value that it may have."""
        return self.value - self.below - self._linear

    @property
    def high(self) -> Fraction:
        """The greatest value that it may have."""
        return self.value + self.above + self._linear

    @property
    def half_width(self) -> Fraction:
        """How far it may lie from its central value, to the worse side."""
        return self._linear + max(self.below, self.above)

    def overlaps(self, low: Fraction, high: Fraction) -> bool:
        """Whether what it may be and what lies between two limits overlap; touching is not enough."""
        if self.is_exact:
            return low < self.value < high
        return self.low < high and self.high > low

    @property
    def is_exact(self) -> bool:
        """Whether rounding leaves nothing open."""
        return not (self.terms or self.below or self.above)

    def __neg__(self) -> Quantity:
        terms = {source: -width for source, width in self.terms.items()} if self.terms else NOTHING
        return Quantity(-self.value, terms, self.above, self.below)

    def __add__(self, other: Quantity) -> Quantity:
        terms = self.terms
        if other.terms:
            summed = {**terms}
            for source, width in other.terms.items():
                summed[source] = summed.get(source, ZERO) + width
            terms = {source: width for source, width in summed.items() if width}
        return Quantity(self.value + other.value, terms, self.below + other.below, self.above + other.above)

    def __sub__(self, other: Quantity) -> Quantity:
        return self + -other

    def __mul__(self, other: Quantity) -> Quantity:
        if other.is_exact:
            return self.scaled(other.value)
        if self.is_exact:
            return other.scaled(self.value)
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return between(self.value * other.value, min(ends), max(ends))

    def __truediv__(self, other: Quantity) -> Quantity:
        if other.low <= 0 <= other.high:
            raise FormulaError(f"divides by {describe(other)}, which may be zero")
        if other.is_exact:
            return self.scaled(1 / other.value)
        ends = [a / b for a in (self.low, self.high) for b in (other.low, other.high)]
        return between(self.value / other.value, min(ends), max(ends))

    def __pow__(self, exponent: Quantity) -> Quantity:
        if not exponent.is_exact or exponent.value.denominator != 1:
            raise FormulaError(f"an exponent must be a whole number, got {describe(exponent)}")
        power = int(exponent.value)
        if abs(power) > LARGEST_EXPONENT:
            raise FormulaError(f"an exponent may be at most {LARGEST_EXPONENT}, got {describe(exponent)}")
        if power < 0:
            return exact(1) / self ** exact(-power)
        ends = [self.low**power, self.high**power]
        if self.low <= 0 <= self.high and power % 2 == 0:
            ends.append(ZERO if power else Fraction(1))
        return between(self.value**power, min(ends), max(ends))

    def __abs__(self) -> Quantity:
        if self.low >= 0:
            return self
        if self.high <= 0:
            return -self
        return between(abs(self.value), ZERO, max(-self.low, self.high))

    def scaled(self, factor: Fraction) -> Quantity:
        """This number times an exact one."""
        if not factor:
            return exact(0)
        terms = {source: width * factor for source, width in self.terms.items()} if self.terms else NOTHING
        below, above = self.below * abs(factor), self.above * abs(factor)
        if factor < 0:
            below, above = above, below
        return Quantity(self.value * factor, terms, below, above)

    def rounded(self, digits: int = 0) -> Quantity:
        """Rounded to `digits` decimals; what may round elsewhere stays open."""
        return between(*(_half_up(number, digits) for number in (self.value, self.low, self.high)))


def exact(number: Fraction | int | str) -> Quantity:
    """A number without uncertainty; a string is read as a decimal."""
    return Quantity(Fraction(number))


def printed(number: Fraction | int | str, half_width: Fraction | int | str, source: str) -> Quantity:
    """A number printed to a precision: it may lie `half_width` to either side. One `source`, one uncertainty."""
    width = Fraction(half_width)
    return Quantity(Fraction(number), {source: width} if width else NOTHING)


def between(value: Fraction, low: Fraction, high: Fraction) -> Quantity:
    """A number of which only its bounds are known, low <= value <= high."""
    return Quantity(value, NOTHING, value - low, high - value)


def _half_up(number: Fraction, digits: int) -> Fraction:
    scale = Fraction(10) ** digits
    return Fraction((number * scale + Fraction(1, 2)).__floor__()) / scale


def smallest(numbers: Sequence[Quantity]) -> Quantity:
    """The least of several numbers; one that is surely the least keeps its sources."""
    least = min(numbers, key=lambda number: number.value)
    if all(other is least or other.low >= least.high for other in numbers):
        return least
    return between(least.value, min(n.low for n in numbers), min(n.high for n in numbers))


def largest(numbers: Sequence[Quantity]) -> Quantity:
    """The greatest of several numbers."""
    return -smallest([-number for number in numbers])


def total(numbers: Iterable[Quantity]) -> Quantity:
    """The sum of several numbers; 0 for none."""
    return sum(numbers, exact(0))


# ----------------------------------------------------------------------------------------------------- statements

TRUE = "true"
WITHIN_ROUNDING = "within rounding"
FALSE = "false"
OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True)
class Statement:
    """A comparison of quantities, or several joined by `how` ("all" or "any").

    `holds`: with the central values. `can_hold`, `can_fail`: for some values within what rounding leaves open. `margin`
    is positive where a comparison holds (zero does if it is not `strict`); None where strings are compared. A
    comparison keeps its two `sides`, and `where` a formula made it: the names in scope with their values.
    """

    holds: bool
    can_hold: bool
    can_fail: bool
    margin: Quantity | None = None
    strict: bool = True
    how: str = ""
    parts: tuple[Statement, ...] = ()
    sign: str = ""
    sides: tuple[Quantity, Quantity] | None = None
    where: tuple[tuple[str, str], ...] = ()

    @property
    def truth(self) -> str:
        """TRUE with the central values, WITHIN_ROUNDING if false but for rounding, else FALSE."""
        if self.holds:
            return TRUE
        return WITHIN_ROUNDING if self.can_hold else FALSE

    def negated(self) -> Statement:
        """The opposite: comparisons are turned round, "all" becomes "any"."""
        if self.parts:
            parts = tuple(part.negated() for part in self.parts)
            return _joined(parts, "any" if self.how == "all" else "all")
        return replace(
            self,
            holds=not self.holds,
            can_hold=self.can_fail,
            can_fail=self.can_hold,
            margin=-self.margin if self.margin is not None else None,
            strict=not self.strict,
            sign=OPPOSITE.get(self.sign, ""),
        )

    def placed(self, where: tuple[tuple[str, str], ...]) -> Statement:
        """The same, every comparison that does not say where it was made saying `where`."""
        if self.parts:
            return replace(self, parts=tuple(part.placed(where) for part in self.parts))
        return self if self.where else replace(self, where=where)

    @property
    def mean_margin(self) -> Fraction:
        """Mean central margin of the comparisons of numbers; 0 if there are none."""
        margins = [leaf.margin.value for leaf in self.comparisons() if leaf.margin is not None]
        return sum(margins, ZERO) / len(margins) if margins else ZERO

    def failures(self) -> list[Statement]:
        """The comparisons, false with the central values, that make the statement false; none if it holds."""
        if self.holds:
            return []
        return [leaf for part in self.parts for leaf in part.failures()] if self.parts else [self]

    def comparisons(self) -> list[Statement]:
        """The elementary comparisons, in the order of the formula."""
        return [leaf for part in self.parts for leaf in part.comparisons()] if self.parts else [self]


def compare(sign: str, left: Quantity, right: Quantity) -> Statement:
    """`left` against `right`; `sign` is one of < <= > >= == !=.

    What rounding leaves open is an open interval, and where two of them only touch nothing is left open: 68.2 > 68.2 is
    false but for rounding; 68.1 >= 68.2 is false, since it would need both numbers to lie exactly at 68.15.
    """
    if sign == "!=":
        return compare("==", left, right).negated()
    if sign == "==":
        return _equal(left, right)
    margin, strict = left - right if sign.startswith(">") else right - left, sign in ("<", ">")
    value = margin.value
    holds = value > 0 if strict else value >= 0
    can_hold, can_fail = holds or margin.high > 0, not holds or margin.low < 0
    return Statement(holds, can_hold, can_fail, margin, strict, sign=sign, sides=(left, right))


def _equal(left: Quantity, right: Quantity) -> Statement:
    difference = left - right
    holds = difference.value == 0
    can_hold = holds or difference.low < 0 < difference.high
    can_fail = not (holds and difference.is_exact)
    return Statement(holds, can_hold, can_fail, -abs(difference), False, sign="==", sides=(left, right))


def fact(holds: bool) -> Statement:
    """A comparison of strings: nothing is left open."""
    return Statement(holds, holds, not holds)


def all_of(statements: Sequence[Statement]) -> Statement:
    """True if all are. Raises FormulaError for none at all: it would hold whatever the numbers."""
    return _joined(tuple(statements), "all")


def any_of(statements: Sequence[Statement]) -> Statement:
    """True if one is. Raises FormulaError for none at all."""
    return _joined(tuple(statements), "any")


def falling(numbers: Sequence[Quantity], sign: str = ">") -> Statement:
    """Each number against the next."""
    return all_of([compare(sign, one, other) for one, other in itertools.pairwise(numbers)])


def number_of(statements: Sequence[Statement]) -> Quantity:
    """How many hold; rounding may add those that can hold and take those that can fail."""
    held = sum(statement.holds for statement in statements)
    low = sum(not statement.can_fail for statement in statements)
    high = sum(statement.can_hold for statement in statements)
    return between(Fraction(held), Fraction(low), Fraction(high))


def _joined(parts: tuple[Statement, ...], how: str) -> Statement:
    if not parts:
        raise FormulaError(f"{how} of no statements")
    if len(parts) == 1:
        return parts[0]
    every: Callable[[Iterable[bool]], bool] = all if how == "all" else any
    margins = [part.margin for part in parts if part.margin is not None]
    extreme = smallest if how == "all" else largest
    return Statement(
        holds=every(part.holds for part in parts),
        can_hold=every(part.can_hold for part in parts),
        can_fail=(any if how == "all" else all)(part.can_fail for part in parts),
        margin=extreme(margins) if len(margins) == len(parts) else None,
        how=how,
        parts=parts,
    )


# -------------------------------------------------------------------------------------------------------- in words


def describe(value: Any) -> str:
    """A value in words: `6.2 ± 0.1`, `50 (37 to 50)`, `true, margin 1.9 ± 0.2`, or a string as it is."""
    if isinstance(value, Statement):
        truth = {TRUE: "true", WITHIN_ROUNDING: "false but for rounding", FALSE: "false"}[value.truth]
        if value.margin is None or (value.margin.is_exact and not value.mean_margin):
            return truth
        several = len(value.comparisons())
        beside = f" (closest of {several}, mean {_significant(value.mean_margin, 3)})" if several > 1 else ""
        return f"{truth}, margin {describe(value.margin)}{beside}"
    if isinstance(value, Quantity):
        return _describe_quantity(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(describe(part) for part in value)
    return str(value)


def number_text(value: Quantity) -> str:
    """The central value alone, to the digits that its half width leaves; exact numbers to four significant ones."""
    width = value.half_width
    if not width:
        return _significant(value.value, 4)
    digits = 0
    while 2 * width * 10**digits < 1 and digits < 12:
        digits += 1
    return _decimal(value.value, digits)


def _describe_quantity(value: Quantity) -> str:
    if value.is_exact:
        return number_text(value)
    if abs(value.above - value.below) > value.half_width / 4:
        return f"{number_text(value)} ({_significant(value.low, 4)} to {_significant(value.high, 4)})"
    return f"{number_text(value)} ± {_significant(value.half_width, 2)}"


def _significant(number: Fraction, digits: int) -> str:
    """A number in plain notation with so many significant digits; whole numbers in full."""
    if number.denominator == 1:
        return str(number.numerator)
    decimals = 0
    while abs(number) * 10**decimals < 10 ** (digits - 1) and decimals < 12:
        decimals += 1
    text = _decimal(number, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def _decimal(number: Fraction, decimals: int) -> str:
    return f"{float(_half_up(number, decimals)) or 0.0:.{decimals}f}"


# ---------------------------------------------------------------------------------------------- published numbers

EXACT_UNITS = ("count", "samples", "rate", "text")
"""Settings: nothing was rounded in them."""

_NUMBER = re.compile(r"(?P<mantissa>[\d,]*\.?\d+)(?:[eE](?P<exponent>[+-]?\d+))?")
LENGTHS = {11: "image_tokens", 12: "text_tokens", 13: "image_size"}
"""What the length of a sequence is in the tables that vary it (Table 13: pixels, ConvNeXt has no tokens)."""


def half_width(record: Mapping[str, Any]) -> Fraction:
    """How far a number may lie from what is printed: half a unit of the last printed digit.

    Settings (counts, samples, learning rates) are exact. GPU hours that end in zeros are taken to be rounded at their
    last other digit: 36 hours on 128 GPUs (§1) are 4608, and 4600 is printed. Where the paper's text has lost
    a digit or a point, so that `value` is not what is printed, the digits of the value count.
    """
    if record["unit"] in EXACT_UNITS:
        return Fraction(0)
    found = _NUMBER.search((record["printed"] or "").replace("−", "-"))
    mantissa, exponent = (
        (found["mantissa"].replace(",", ""), int(found["exponent"] or 0)) if found else ("", 0)
    )
    value = abs(Fraction(str(record["value"])))
    if not found or Fraction(mantissa) * Fraction(10) ** exponent != value:
        mantissa, exponent = str(abs(record["value"])), 0
    _, _, decimals = mantissa.partition(".")
    if record["unit"] == "GPU hours" and not decimals:
        exponent += len(mantissa) - len(mantissa.rstrip("0"))
    return Fraction(10) ** (exponent - len(decimals)) / 2


def printed_unit(record: Mapping[str, Any]) -> Fraction:
    """One unit of the last printed digit of a rounded number."""
    return 2 * half_width(record)


class Published:
    """The published records as numbers, by record id: what formulas ask."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = {record["id"]: record for record in records}
        self._known: dict[str, Any] = {}
        self._lengths: dict[tuple[int, str, str], dict[str, int]] = {}
        for record in self.records.values():
            self._add_length(record)

    def record(self, identity: str) -> Record:
        """The record of an id. FormulaError names the nearest one."""
        if identity not in self.records:
            near = difflib.get_close_matches(identity, self.records, n=9, cutoff=0.5)
            # Of ids that are equally near, the one that is alike the longest from the start.
            near.sort(key=lambda other: -_alike(identity, other))
            raise FormulaError(f"no record {identity}" + (f" (nearest: {near[0]})" if near else ""))
        return self.records[identity]

    def matching(self, pattern: str) -> list[str]:
        """The ids that a pattern (* and ? as in file names) matches. FormulaError if there are none."""
        found = fnmatch.filter(self.records, pattern) if "*" in pattern or "?" in pattern else []
        return found or [self.record(pattern)["id"]]

    def value(self, identity: str) -> Quantity | str | tuple[Any, ...]:
        """The number, string or list of a record. FormulaError for an unknown id or a cell without a value."""
        if identity not in self._known:
            self._known[identity] = self._value(self.record(identity))
        return self._known[identity]

    def with_value(self, identity: str, value: Quantity) -> Published:
        """The same numbers but one; everything else is shared."""
        other = copy.copy(self)
        other._known = {**self._known, identity: value}
        return other

    def text(self, identity: str) -> str:
        """The value of a record in words, else what is printed."""
        record = self.record(identity)
        if isinstance(record["value"], str):
            return record["value"]
        if record["printed"] is None:
            raise FormulaError(f"record {identity} has no text: the paper's is lost or is a plot")
        return record["printed"]

    def lengths(self, table: int, model: str, reduction: str) -> dict[str, int]:
        """Runs of a table that have one model and reduction, with their sequence lengths, longest first."""
        key = (table, model.replace("/", ""), reduction)
        if key not in self._lengths:
            known = sorted({name for number, name, _ in self._lengths if number == table})
            where = f"models {', '.join(known)}" if known else f"tables {', '.join(map(str, LENGTHS))}"
            raise FormulaError(
                f"tokens_needed: no {model} with {reduction} in Table {table}; there are {where}"
            )
        return dict(sorted(self._lengths[key].items(), key=lambda item: -item[1]))

    def _value(self, record: Record) -> Quantity | str | tuple[Any, ...]:
        identity = record["id"]
        value = record["value"]
        if value is None:
            raise FormulaError(f"record {identity} has no value ({record['note'] or 'the paper gives none'})")
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return tuple(exact(Fraction(str(part))) for part in value)
        return printed(str(value), half_width(record), self._source(record))

    def _source(self, record: Record) -> str:
        """One name for a number that several tables print alike, so that it has one rounding."""
        same = [record["id"]]
        for identity in record.get("same_as") or ():
            other = self.records.get(identity)
            if other and (other["value"], other["printed"]) == (record["value"], record["printed"]):
                same.append(identity)
        return min(same)

    def _add_length(self, record: Record) -> None:
        table, run = record["table"], record["run"]
        name = LENGTHS.get(table)
        if name is None or not run or record["value"] is None or record["benchmark"] != "imagenet1k":
            return
        reduction = record["text_reduction" if table == 12 else "image_reduction"]
        model = record["model"].replace("/", "")
        if reduction == "none" or (table == 12 and record["text_tokens"] == 32):
            return
        if record["stage"] == "finetune":
            self._lengths.setdefault((table, model, reduction), {})[run] = record[name]


def _alike(one: str, other: str) -> int:
    """How many characters two texts share from the start."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
