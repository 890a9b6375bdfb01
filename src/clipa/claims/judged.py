"""Everything that the pages and the report say, computed once: claims, conflicts, measured verdicts, costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipa.claims import Claim, Result, Settled, check, settle
from clipa.claims.content import CLAIMS_FILE, ClaimError, Content, load
from clipa.claims.effort import Effort, Rate, calibrated, effort
from clipa.claims.measured import MEASURED_VERDICTS, Measured, Scale, recorded, recorded_scales
from clipa.claims.numbers import Published
from clipa.claims.verdicts import VERDICTS
from clipa.records import ROOT, Record, published_records


@dataclass(frozen=True)
class Judged:
    """The verdicts on a claims file. `measured`: by scale and claim id, scale-free claims only."""

    content: Content
    published: Published
    results: tuple[Result, ...]
    settled: tuple[Settled, ...]
    scales: dict[str, Scale]
    measured: dict[str, dict[str, Measured]]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many claims have each verdict of the paper's tables."""
        counts = Counter(result.verdict for result in self.results)
        return {verdict: counts[verdict] for verdict in VERDICTS}

    def measured_verdicts(self, scale: str) -> dict[str, int]:
        """How many scale-free claims have each verdict of measured records."""
        counts = Counter(found.verdict for found in self.measured[scale].values())
        return {verdict: counts[verdict] for verdict in MEASURED_VERDICTS}

    def records(self, identities: tuple[str, ...]) -> list[Record]:
        """The published records of these ids."""
        return [self.published.record(identity) for identity in identities]

    def tables(self, identities: tuple[str, ...]) -> list[str]:
        """`Table 11`, `Figure 5`: where these records stand, in order."""
        found = {(r["table"] is None, r["table"] or r["figure"]) for r in self.records(identities)}
        return [f"{'Figure' if is_figure else 'Table'} {number}" for is_figure, number in sorted(found)]

    def effort(self, result: Result) -> Effort:
        """The trainings that a claim's numbers need, if they were to be measured."""
        return effort(self.records(result.rests_on))

    @cached_property
    def rate(self) -> Rate:
        """A100 hours per unit of compute (Table 1)."""
        return calibrated(self.published.records)

    def trainable(self, result: Result) -> list[str]:
        """`table11`, `figure5`: what of a claim's ground has runs that can be trained."""
        places: dict[tuple[bool, int], None] = {}
        for record in self.records(result.rests_on):
            if effort([record]).stages:
                places[record["table"] is None, record["table"] or record["figure"]] = None
        return [f"{'figure' if is_figure else 'table'}{number}" for is_figure, number in sorted(places)]


def judge_all(file: Path | None = None, scales: list[str] | None = None, root: Path = ROOT) -> Judged:
    """Every verdict; `scales` (all recorded ones unless given) are those whose measured records are asked.

    ClaimError for a mistake in the claims, RecordError for records that cannot be read.
    """
    content = load(file)
    published = Published(published_records())
    measured_at = recorded_scales(root) if scales is None else scales
    try:
        results = tuple(check(claim, published) for claim in content.claims)
        settled = tuple(settle(conflict, published) for conflict in content.conflicts)
        at = {name: Scale(name, recorded(name, root), published) for name in measured_at}
        free = [claim for claim in content.claims if claim.scale_free]
        measured = {name: _judged(scale, free) for name, scale in at.items()}
    except ClaimError as error:
        raise ClaimError(f"{(file or CLAIMS_FILE).name}: {error}") from None
    return Judged(content, published, results, settled, at, measured)


def _judged(scale: Scale, claims: list[Claim]) -> dict[str, Measured]:
    return {claim.id: scale.judge(claim) for claim in claims}
