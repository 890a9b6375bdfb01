"""What the paper says, against its own tables and against measured records.

Every quantitative statement stands in `results/published/claims.yaml` with a formula over records
(`clipa.claims.formulas`); its verdict is computed. Reader's side: no torch, no pandas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipa.claims.content import CLAIMS_FILE, Claim, ClaimError, Conflict, Content, load
from clipa.claims.formulas import evaluate
from clipa.claims.numbers import FormulaError, Numbers, Published
from clipa.claims.quantities import Quantity, Statement, number_text, said
from clipa.claims.verdicts import CONTRADICTED, HOLDS, NOT_CHECKABLE, VERDICTS, WITHIN, judge
from clipa.records import Record, published_records

__all__ = [
    "CLAIMS_FILE",
    "CONTRADICTED",
    "HOLDS",
    "NOT_CHECKABLE",
    "VERDICTS",
    "WITHIN",
    "Claim",
    "ClaimError",
    "Conflict",
    "Content",
    "Result",
    "Settled",
    "check",
    "evaluate_all",
    "load",
    "report",
    "settle",
    "write_pages",
]
LONGEST_FORMULA = 160


@dataclass(frozen=True)
class Result:
    """A claim with its verdict. `computed` is `value` in words; `rests_on` are ids of published records."""

    claim: Claim
    verdict: str
    value: Quantity | Statement | str | None
    computed: str
    rests_on: tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """A conflict with the sentences of its evidence, the numbers filled in."""

    conflict: Conflict
    evidence: tuple[str, ...]
    rests_on: tuple[str, ...]


def check(claim: Claim, numbers: Numbers) -> Result:
    """The verdict on one claim. ClaimError for a formula that cannot be evaluated."""
    if claim.formula is None:
        return Result(claim, NOT_CHECKABLE, None, "", ())
    try:
        value, rests_on = evaluate(claim.formula, numbers)
        return Result(claim, judge(value, claim.states), value, said(value), rests_on)
    except FormulaError as error:
        raise ClaimError(f"claim {claim.id}: {_short(claim.formula)}: {error}") from None


def settle(conflict: Conflict, numbers: Numbers) -> Settled:
    """A conflict with its evidence computed. ClaimError for a formula that cannot be evaluated."""
    sentences, used = [], {}
    for evidence in conflict.evidence:
        try:
            value, rests_on = evaluate(evidence.formula, numbers)
        except FormulaError as error:
            raise ClaimError(f"conflict {conflict.id}: {_short(evidence.formula)}: {error}") from None
        text = number_text(value) if isinstance(value, Quantity) else said(value)
        sentences.append(evidence.text.replace("{value}", text))
        used |= dict.fromkeys(rests_on)
    return Settled(conflict, tuple(sentences), tuple(used))


def evaluate_all(records: Iterable[Record] | None = None, file: Path | None = None) -> list[Result]:
    """Every claim with its verdict, in the order of the paper; by default on the published records.

    ClaimError, naming file and claim, for the first mistake.
    """
    content = load(file)
    numbers = Published(published_records() if records is None else records)
    try:
        return [check(claim, numbers) for claim in content.claims]
    except ClaimError as error:
        raise ClaimError(f"{file or CLAIMS_FILE.name}: {error}") from None


def report(scale: str | None, verdict: str | None, as_json: bool) -> str:
    """What `clipa claims` prints: counts of verdicts and the claims of interest, at most 100 columns wide."""
    from clipa.claims.telling import report as tell

    return tell(scale, verdict, as_json)


def write_pages(docs: Path) -> list[Path]:
    """Write claims.md and errata.md into a folder, atomically, the same bytes for the same records and claims."""
    from clipa.claims.pages import write

    return write(docs)


def _short(formula: str) -> str:
    line = " ".join(formula.split())
    return line if len(line) <= LONGEST_FORMULA else line[: LONGEST_FORMULA - 1] + "…"
