"""Where formulas get their numbers from: the published records, each as a quantity that knows its rounding."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Protocol

from clipa.claims.quantities import Quantity, exact, printed
from clipa.records import Record

EXACT_UNITS = ("count", "samples", "rate", "text")
"""Settings: nothing was rounded in them."""

_NUMBER = re.compile(r"(?P<mantissa>[\d,]*\.?\d+)(?:[eE](?P<exponent>[+-]?\d+))?")
LENGTHS = {11: "image_tokens", 12: "text_tokens", 13: "image_size"}
"""What the length of a sequence is in the tables that vary it (Table 13: pixels, ConvNeXt has no tokens)."""


class FormulaError(ValueError):
    """What is wrong with a formula, without saying which formula it is."""


class Numbers(Protocol):
    """What a formula may ask for. Every answer is by record id; FormulaError where there is none."""

    def value(self, identity: str) -> Quantity | str | tuple[Any, ...]:
        """The number, string or list of a record."""

    def text(self, identity: str) -> str:
        """The value of a record in words, else what is printed."""

    def lengths(self, table: int, model: str, reduction: str) -> dict[str, int]:
        """Runs of a table that have one model and reduction, with their sequence lengths, longest first."""


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


class Published:
    """The published records as numbers. `changed` puts other values in place of some (for the mutation test)."""

    def __init__(self, records: Iterable[Record], changed: Mapping[str, Any] | None = None) -> None:
        self.records = {record["id"]: record for record in records}
        self._changed = dict(changed or {})
        self._known: dict[str, Any] = {}
        self._lengths: dict[tuple[int, str, str], dict[str, int]] = {}
        for record in self.records.values():
            self._add_length(record)

    def with_value(self, identity: str, value: Any) -> Published:
        """The same numbers but one. Cheap: everything else is shared."""
        other = object.__new__(Published)
        other.records, other._lengths = self.records, self._lengths
        other._changed = {**self._changed, identity: value}
        other._known = {name: known for name, known in self._known.items() if name != identity}
        return other

    def record(self, identity: str) -> Record:
        """The record of an id. FormulaError names the nearest one."""
        if identity not in self.records:
            near = difflib.get_close_matches(identity, self.records, n=9, cutoff=0.5)
            # Of ids that are equally near, the one that is alike the longest from the start.
            near.sort(key=lambda other: -_alike(identity, other))
            raise FormulaError(f"no record {identity}" + (f" (nearest: {near[0]})" if near else ""))
        return self.records[identity]

    def value(self, identity: str) -> Quantity | str | tuple[Any, ...]:
        """The number, string or list of a record. FormulaError for an unknown id or a cell without a value."""
        if identity not in self._known:
            self._known[identity] = self._value(self.record(identity))
        return self._known[identity]

    def text(self, identity: str) -> str:
        """The value of a record in words, else what is printed."""
        record = self.record(identity)
        value = self._changed.get(identity, record["value"])
        if isinstance(value, str) or identity in self._changed:
            return str(value)
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
        value = self._changed.get(identity, record["value"])
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
