"""Errata: where the paper's sentences and its own tables differ, and where two of its places do.

They are made once from an :class:`~clipa.published.claims.Evaluation`. docs/errata.md, docs/numbers.html and
`clipa cite` show the same errata, each in its own form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clipa.published.claims import (
    CONTRADICTED,
    DIFFERS,
    WITHIN,
    ConflictResult,
    Evaluation,
    ReadResult,
    Result,
)
from clipa.published.quantities import Statement, describe

CLAIM, COUNT, READING, ROUNDING = "claim", "count", "reading", "rounding"
"""Kinds of errata that are claims: contradicted in every reading; different under our cost count; contradicted in one
fair reading but not in another; true only within rounding. The others are kinds of conflicts."""
# A sentence about a whole table says nothing about one cell of it; a wrong cell or label does.
ABOUT_A_CELL = 8
ABOUT_CELLS = ("cell", "label", "compute")
ABOUT_ROWS = 40
"""A conflict that names at most so many numbers is about rows of a table, and is shown with each of them."""
SYMBOLS = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}


@dataclass(frozen=True)
class Erratum:
    """One disagreement of the paper with itself. `says`: what its places say, verbatim; `computed`: what we compute.

    `result` is the claim behind it; None for a conflict, which then says what is `taken` here.
    """

    id: str
    kind: str
    places: tuple[str, ...]
    says: tuple[str, ...]
    computed: str
    meant: str | None
    rests_on: tuple[str, ...]
    result: Result | None = None
    taken: str = ""
    named: tuple[str, ...] = ()

    @cached_property
    def evidence(self) -> frozenset[str]:
        """The numbers that it is computed from, without those that it names itself."""
        return frozenset(self.rests_on) - frozenset(self.named)

    @property
    def title(self) -> str:
        """The id as words."""
        words = re.sub(
            r"\b(table|figure) (\d)", lambda found: found[0].capitalize(), self.id.replace("-", " ")
        )
        return words[:1].upper() + words[1:]

    @property
    def meant_label(self) -> str:
        """How `meant` is introduced: a guess, or a question that stays open."""
        return "Open" if self.kind == "unknown" else "Probably meant"

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is computed, what was probably meant, and what is taken, in plain text."""
        meant = f"{self.meant_label}: {self.meant}" if self.meant else ""
        if self.result is None:
            return tuple(filter(None, (self.computed, meant, f"Taken here: {self.taken}")))
        readings = self.result.all_readings
        if len(readings) > 1 and self.kind != CLAIM:
            return (*map(reading_text, readings), *filter(None, (meant,)))
        found = ""
        if self.result.states:
            source = ground(self.result)
            found = f"{source.capitalize()} {'gives' if source == 'our count' else 'give'} {self.computed}."
        others = map(reading_text, readings[1:])
        return tuple(filter(None, (found, *others, meant))) or ("The tables say otherwise.",)

    @property
    def text(self) -> str:
        """One line to read beside a number, with the place of the full entry."""
        if self.result is not None:
            text = f"{self.places[0]} says “{self.says[0]}”. {self.sentences[0]}"
        else:
            text = f"{self.title} ({', '.join(self.places)}). {self.sentences[-1]}"
        return f"{text} See docs/errata.md#{self.id}"


def errata_of(evaluation: Evaluation) -> list[Erratum]:
    """Claims by kind, then conflicts; each in the paper's order."""
    found = [(kind_of(result), result) for result in evaluation.results]
    claims = [
        _of_claim(result, kind)
        for wanted in (CLAIM, COUNT, READING, ROUNDING)
        for kind, result in found
        if kind == wanted
    ]
    return claims + [_of_conflict(found) for found in evaluation.conflicts]


def kind_of(result: Result) -> str | None:
    """The kind of erratum that a claim is; None for one that plainly holds, or cannot be checked."""
    if result.verdict == CONTRADICTED:
        return CLAIM
    if result.verdict == DIFFERS:
        return COUNT
    if result.depends_on_the_reading:
        return READING
    return ROUNDING if result.verdict == WITHIN else None


def about(record: Mapping[str, Any], errata: Iterable[Erratum]) -> list[Erratum]:
    """The errata that a record, or a repeat of it in another table, is part of.

    Of claims those that are contradicted. A claim about costs says nothing about a cell that its conflict does not say.
    """
    names = {record["id"], *(record.get("same_as") or ())}
    return [erratum for erratum in errata if _concerns(erratum, names)]


def errata_behind(
    record: Mapping[str, Any], published: Mapping[str, Mapping[str, Any]], errata: Iterable[Erratum]
) -> list[Erratum]:
    """The errata of a published number, or of the `published` cells (by id) that a derived one rests on.

    A measured number has none: they are about the paper's.
    """
    errata = list(errata)
    if record["source"] == "measured":
        return []
    cells = [published[identity] for identity in record.get("rests_on") or () if identity in published]
    return list({one.id: one for cell in (cells or [record]) for one in about(cell, errata)}.values())


def notes_behind(record: Mapping[str, Any], published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A record's note, and those of the `published` cells (by id) that it rests on, with the cells that have them."""
    cells: dict[str, list[str]] = {}
    for identity in record.get("rests_on") or ():
        if note := published.get(identity, {}).get("note"):
            cells.setdefault(note, []).append(identity)
    own = [record["note"]] if record.get("note") else []
    return own + [f"{', '.join(identities)}: {note}" for note, identities in cells.items()]


def _concerns(erratum: Erratum, names: set[str]) -> bool:
    if erratum.kind in (COUNT, READING, ROUNDING):
        return False
    if len(erratum.named) <= ABOUT_ROWS and not names.isdisjoint(erratum.named):
        return True
    few = erratum.kind in ABOUT_CELLS or len(erratum.evidence) <= ABOUT_A_CELL
    return few and not names.isdisjoint(erratum.evidence)


def ground(result: ReadResult) -> str:
    """What a computed number comes from: the tables' cells alone, or our count too."""
    return "our count" if result.counted else "the tables"


def reading_text(found: ReadResult) -> str:
    """A reading with what it gives and its verdict: `Points of accuracy: 2.0 ± 0.1, contradicted.`"""
    name = found.reading.name
    given = found.reading.why or f"{found.computed}, {found.verdict}."
    return f"{name[:1].upper()}{name[1:]}: {given}"


def comparison_text(comparison: Statement) -> str:
    """`1.6 ± 0.1 < 1 for m = S16, n = 8`: both numbers, and where in the formula they come from."""
    names = ", ".join(f"{name} = {value}" for name, value in comparison.where)
    if comparison.sides is None:
        return names or "two texts differ"
    left, right = map(describe, comparison.sides)
    sign = SYMBOLS.get(comparison.sign, comparison.sign)
    return f"{left} {sign} {right}{f' for {names}' if names else ''}"


def _of_claim(result: Result, kind: str) -> Erratum:
    claim = result.claim
    return Erratum(
        claim.id,
        kind,
        (claim.place,),
        (claim.quote,),
        result.computed,
        claim.meant,
        result.rests_on,
        result=result,
    )


def _of_conflict(found: ConflictResult) -> Erratum:
    conflict = found.conflict
    return Erratum(
        conflict.id,
        conflict.kind,
        conflict.places,
        conflict.says,
        " ".join(found.evidence),
        conflict.meant,
        found.rests_on,
        taken=conflict.taken,
        named=found.about,
    )
