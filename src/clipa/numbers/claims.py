"""Claims and errata as the page of numbers shows them: verdicts on the tables, and on what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipa.cite import errata
from clipa.cite.errata import Erratum

if TYPE_CHECKING:
    from clipa.claims import Result

Record = Mapping[str, Any]

KINDS = {
    "claim": "Sentences that the tables contradict",
    "setting": "Settings",
    "label": "Labels",
    "cell": "Cells",
    "compute": "Compute",
    "unknown": "What cannot be known",
}


@dataclass(frozen=True)
class Told:
    """A claim with its verdict; `measured` holds (scale, verdict, on what it rests) where it was attempted."""

    result: Result
    measured: tuple[tuple[str, str, str], ...]
    contradicted: bool

    @property
    def ground(self) -> str:
        return errata.ground(self.result)

    @property
    def anchor(self) -> str:
        return f"claim-{self.result.claim.id}"


@dataclass(frozen=True)
class Checked:
    """Every claim, how many have which verdict, and the errata with the records that they are about."""

    claims: list[Told]
    counts: list[tuple[str, int]]
    errata: list[Erratum]

    def of_kind(self, kind: str) -> list[Erratum]:
        return [erratum for erratum in self.errata if erratum.kind == kind]

    def about(self, record: Record) -> list[tuple[str, str]]:
        """Anchor and words of every erratum that a record is part of."""
        return [
            (
                anchor(one),
                f"erratum: {one.places[0]}" if one.kind == "claim" else f"conflict: {_lower(one.title)}",
            )
            for one in errata.about(record, self.errata)
        ]


def anchor(erratum: Erratum) -> str:
    """Where an erratum stands on the page."""
    return f"erratum-{erratum.id}"


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def checked(records: Sequence[Record], measured: Mapping[str, Sequence[Record]]) -> Checked:
    """All claims on the published `records`, and the scale-free ones on those `measured` at each scale."""
    from clipa.claims import CONTRADICTED, VERDICTS
    from clipa.claims.measured import NOT_ATTEMPTED, Scale
    from clipa.claims.numbers import Published

    results, found = errata.checked(records)
    scales = [Scale(name, of_scale, Published(records)) for name, of_scale in measured.items()]
    told = []
    for result in results:
        verdicts = [scale.judge(result.claim) for scale in scales] if result.claim.scale_free else []
        attempted = [one for one in verdicts if one.verdict != NOT_ATTEMPTED]
        told.append(
            Told(
                result,
                tuple((one.scale, one.verdict, one.said) for one in attempted),
                result.verdict == CONTRADICTED,
            )
        )
    counts = Counter(result.verdict for result in results)
    return Checked(told, [(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]], found)
