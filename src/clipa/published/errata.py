"""Errata: where the paper's sentences and its own tables differ, and where two of its places do.

They are made once from an :class:`~clipa.published.claims.Evaluation`. docs/errata.md, docs/numbers.html and
`clipa cite` show the same errata, each in its own form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipa.published.claims import CONTRADICTED, WITHIN, ConflictResult, Evaluation, Result
from clipa.published.quantities import Statement, describe

CLAIM, ROUNDING = "claim", "rounding"
"""Kinds of errata that are claims: contradicted, or true only within rounding. The others are kinds of conflicts."""
# A sentence about a whole table says nothing about one cell of it; a wrong cell or label does.
ABOUT_A_CELL = 8
ABOUT_CELLS = ("cell", "label", "compute")
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
        found = ""
        if self.result.claim.states:
            source = ground(self.result)
            found = f"{source.capitalize()} {'gives' if source == 'our count' else 'give'} {self.computed}."
        return tuple(filter(None, (found, meant))) or ("The tables say otherwise.",)

    @property
    def text(self) -> str:
        """One line to read beside a number, with the place of the full entry."""
        if self.result is not None:
            text = f"{self.places[0]} says “{self.says[0]}”. {self.sentences[0]}"
        else:
            text = f"{self.title} ({', '.join(self.places)}). {self.sentences[-1]}"
        return f"{text} See docs/errata.md#{self.id}"


def errata_of(evaluation: Evaluation) -> list[Erratum]:
    """Contradicted claims, then claims that hold only within rounding, then conflicts; each in the paper's order."""
    kinds = {CONTRADICTED: CLAIM, WITHIN: ROUNDING}
    claims = [
        _of_claim(result, kind)
        for verdict, kind in kinds.items()
        for result in evaluation.results
        if result.verdict == verdict
    ]
    return claims + [_of_conflict(found) for found in evaluation.conflicts]


def about(record: Mapping[str, Any], errata: Iterable[Erratum]) -> list[Erratum]:
    """The errata that a record, or a repeat of it in another table, is part of; not those of mere rounding."""
    names = {record["id"], *(record.get("same_as") or ())}
    return [
        erratum
        for erratum in errata
        if erratum.kind != ROUNDING
        and not names.isdisjoint(erratum.rests_on)
        and (erratum.kind in ABOUT_CELLS or len(erratum.rests_on) <= ABOUT_A_CELL)
    ]


def ground(result: Result) -> str:
    """What a computed number comes from: the tables' cells alone, or our count of costs too."""
    return "our count" if "macs(" in (result.claim.formula or "") else "the tables"


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
    )
