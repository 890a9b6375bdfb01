"""Where the paper disagrees with itself, as far as it touches a record: what must be known before it is cited.

Errata are sentences that the tables contradict, and conflicts (settings, labels, cells, compute) whose evidence
uses the record; both from `clipa.claims`, whose import is left until they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipa.claims import Result, Settled

Record = Mapping[str, Any]

# A sentence about a whole table says nothing about one cell of it; a wrong cell or label does.
ABOUT_A_CELL = 8
ABOUT_CELLS = ("cell", "label", "compute")


@dataclass(frozen=True)
class Erratum:
    """One disagreement of the paper with itself; `lines` are whole sentences, `says` what its places say."""

    id: str
    kind: str
    places: tuple[str, ...]
    says: tuple[str, ...]
    lines: tuple[str, ...]
    rests_on: tuple[str, ...]

    @property
    def title(self) -> str:
        """The id as words."""
        words = re.sub(
            r"\b(table|figure) (\d)", lambda found: found[0].capitalize(), self.id.replace("-", " ")
        )
        return words[:1].upper() + words[1:]

    @property
    def text(self) -> str:
        """What it says in one line, to be read beside a number, and where the whole of it stands."""
        if self.kind == "claim":
            told = f"{self.places[0]} says {self.says[0]}. {self.lines[0]}"
        else:
            told = f"{self.title} ({', '.join(self.places)}). {self.lines[-1]}"
        return f"{told} See docs/errata.md#{self.id}"


def checked(records: Sequence[Record]) -> tuple[list[Result], list[Erratum]]:
    """Every claim with its verdict, and the errata: contradicted claims first, then conflicts."""
    from clipa.claims import CONTRADICTED, check, load, settle
    from clipa.claims.numbers import Published

    content, numbers = load(), Published(records)
    results = [check(claim, numbers) for claim in content.claims]
    errata = [_of_claim(result) for result in results if result.verdict == CONTRADICTED]
    return results, errata + [_of_conflict(settle(conflict, numbers)) for conflict in content.conflicts]


def about(record: Record, errata: Iterable[Erratum]) -> list[Erratum]:
    """The errata that a record, or a repeat of it in another table, is part of."""
    names = {record["id"], *(record.get("same_as") or ())}
    return [
        erratum
        for erratum in errata
        if not names.isdisjoint(erratum.rests_on)
        and (erratum.kind in ABOUT_CELLS or len(erratum.rests_on) <= ABOUT_A_CELL)
    ]


def ground(result: Result) -> str:
    """What a computed number comes from: the tables' cells alone, or our count of costs too."""
    return "our count" if "macs(" in (result.claim.formula or "") else "the tables"


def _of_claim(result: Result) -> Erratum:
    claim, source = result.claim, ground(result)
    gives = "gives" if source == "our count" else "give"
    found = f"{source.capitalize()} {gives} {result.computed}." if claim.states else ""
    meant = f"Probably meant: {claim.meant}" if claim.meant else ""
    return Erratum(
        id=claim.id,
        kind="claim",
        places=(claim.place,),
        says=(f"“{claim.quote}”",),
        lines=tuple(line for line in (found, meant) if line) or ("The tables say otherwise.",),
        rests_on=result.rests_on,
    )


def _of_conflict(settled: Settled) -> Erratum:
    conflict = settled.conflict
    label = "Open" if conflict.kind == "unknown" else "Probably meant"
    meant = f"{label}: {conflict.meant}" if conflict.meant else ""
    return Erratum(
        id=conflict.id,
        kind=conflict.kind,
        places=conflict.places,
        says=conflict.says,
        lines=tuple(
            line for line in (" ".join(settled.evidence), meant, f"Taken here: {conflict.taken}") if line
        ),
        rests_on=settled.rests_on,
    )
