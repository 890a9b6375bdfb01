"""What the paper says, against its own tables: every claim and every conflict, with what is computed for it.

They stand in `results/published/claims.yaml` with formulas over published records (:mod:`clipa.published.formulas`);
verdicts are computed. :class:`Evaluation` holds all of them: the pages, the reports and the errata are made from it.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipa.published.formulas import evaluate
from clipa.published.quantities import (
    FALSE,
    TRUE,
    WITHIN_ROUNDING,
    FormulaError,
    Published,
    Quantity,
    Statement,
    describe,
    number_text,
)
from clipa.records import PUBLISHED_DIRECTORY, ROOT, published_records
from clipa.schema import Record

CLAIMS_FILE = ROOT / PUBLISHED_DIRECTORY / "claims.yaml"
LONGEST_QUOTE = 240
LONGEST_FORMULA = 160

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


def verdict_of(value: Any, states: str | None) -> str:
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


# ---------------------------------------------------------------------------------------------------- claims.yaml


class ClaimError(ValueError):
    """A mistake in the claims, as one line: file, claim, field or formula, what is wrong."""


class Entry(BaseModel):
    """Frozen; an unknown key, and a text without a letter in it, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, str_min_length=1)


class Claim(Entry):
    """One quantitative statement of the paper."""

    id: str = Field(pattern=r"^[A-Za-z0-9]+([.-][A-Za-z0-9]+)*$")
    place: str
    quote: str = Field(max_length=LONGEST_QUOTE, description="short, verbatim")
    formula: str | None = Field(description="null: the tables cannot answer; then why says so")
    states: str | None = Field(None, description="the number of the text; None if the formula is a statement")
    scale_free: bool = Field(False, description="a matter of sign or order: measured records can answer too")
    why: str | None = None
    meant: str | None = Field(None, description="what was probably meant, where the tables say otherwise")

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        if self.formula is None and not self.why:
            raise ValueError("formula is null: why must say what it cannot be checked for")
        if self.formula is not None and self.why:
            raise ValueError("why is for claims without a formula")
        if self.scale_free and (self.formula is None or self.states is not None):
            raise ValueError(
                "scale_free is for formulas that are statements: numbers are not compared over scales"
            )
        return self


class Evidence(Entry):
    """A sentence with `{value}` in it, and the formula that gives the value."""

    formula: str
    text: str

    @model_validator(mode="after")
    def _has_place(self) -> Evidence:
        if self.text.count("{value}") != 1 or self.text.replace("{value}", "").count("{"):
            raise ValueError("text must hold {value} once, and no other braces")
        return self


Kind = Literal["setting", "label", "cell", "compute", "unknown"]


class Conflict(Entry):
    """Two places of the paper that disagree, a wrong label or cell, or something that nobody outside can know."""

    id: str = Field(pattern=r"^[A-Za-z0-9]+([.-][A-Za-z0-9]+)*$")
    kind: Kind
    places: tuple[str, ...] = Field(min_length=1)
    says: tuple[str, ...] = Field(min_length=1)
    evidence: tuple[Evidence, ...] = ()
    meant: str | None = None
    taken: str


class NotClaim(Entry):
    """A number of the prose that is no claim, so that nothing is silently left out."""

    place: str
    quote: str = Field(max_length=LONGEST_QUOTE)
    why: str


class Content(Entry):
    """The whole file."""

    claims: tuple[Claim, ...]
    conflicts: tuple[Conflict, ...] = ()
    not_claims: tuple[NotClaim, ...] = ()


def load(path: Path | None = None) -> Content:
    """The claims file, checked. ClaimError names file, entry and key in one line."""
    import yaml

    path = path or CLAIMS_FILE
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ClaimError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ClaimError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    try:
        content = Content.model_validate(values)
    except ValidationError as error:
        raise ClaimError(f"{path}: {_explained(values, error)}") from None
    _check(content, path)
    return content


def _check(content: Content, path: Path) -> None:
    """Ids are unique, over claims and conflicts; what is stated beside a formula can be read as a number."""
    seen: set[str] = set()
    for entry in (*content.claims, *content.conflicts):
        if entry.id in seen:
            raise ClaimError(f"{path}: claim {entry.id}: id occurs twice")
        seen.add(entry.id)
    for claim in content.claims:
        if claim.formula is not None and claim.states is not None and not claim.formula.startswith("text("):
            try:
                stated(claim.states)
            except FormulaError as error:
                raise ClaimError(f"{path}: claim {claim.id}: {error}") from None


def _explained(values: Any, error: ValidationError) -> str:
    """One line of pydantic's first complaint: entry by its id, key, reason."""
    first = error.errors()[0]
    where, place = "", list(first["loc"])
    if len(place) >= 2 and isinstance(place[1], int):
        entry = values[place[0]][place[1]]
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"{str(place[0]).removesuffix('s')} {name or f'number {place[1] + 1}'}: "
        place = place[2:]
    key = ".".join(map(str, place))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = {"claim": Claim, "conflict": Conflict, "not_claim": NotClaim}.get(
            where.split(" ")[0], Content
        )
        fields = list(known.model_fields)
        near = difflib.get_close_matches(str(place[-1]), fields, n=1)
        reason = (
            f"unknown key (nearest: {near[0]})" if near else f"unknown key (there are {', '.join(fields)})"
        )
    elif first["type"] == "missing":
        reason = "is missing"
    return where + (f"{key}: " if key else "") + " ".join(reason.split())


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class Result:
    """A claim with its verdict. `computed` is `value` in words; `rests_on` are ids of published records."""

    claim: Claim
    verdict: str
    value: Quantity | Statement | str | None
    computed: str
    rests_on: tuple[str, ...]

    @property
    def comparisons(self) -> int:
        """How many elementary comparisons a statement makes; 0 for a number."""
        return len(self.value.comparisons()) if isinstance(self.value, Statement) else 0

    @property
    def failures(self) -> int:
        """How many of them make it false."""
        return len(self.value.failures()) if isinstance(self.value, Statement) else 0


@dataclass(frozen=True)
class ConflictResult:
    """A conflict with the sentences of its evidence, the numbers filled in."""

    conflict: Conflict
    evidence: tuple[str, ...]
    rests_on: tuple[str, ...]


def check(claim: Claim, numbers: Published) -> Result:
    """The verdict on one claim. ClaimError for a formula that cannot be evaluated."""
    if claim.formula is None:
        return Result(claim, NOT_CHECKABLE, None, "", ())
    try:
        value, rests_on = evaluate(claim.formula, numbers)
        return Result(claim, verdict_of(value, claim.states), value, describe(value), rests_on)
    except FormulaError as error:
        raise ClaimError(f"claim {claim.id}: {_shortened(claim.formula)}: {error}") from None


def check_conflict(conflict: Conflict, numbers: Published) -> ConflictResult:
    """A conflict with its evidence computed. ClaimError for a formula that cannot be evaluated."""
    sentences, used = [], {}
    for evidence in conflict.evidence:
        try:
            value, rests_on = evaluate(evidence.formula, numbers)
        except FormulaError as error:
            formula = _shortened(evidence.formula)
            raise ClaimError(f"conflict {conflict.id}: {formula}: {error}") from None
        text = number_text(value) if isinstance(value, Quantity) else describe(value)
        sentences.append(evidence.text.replace("{value}", text))
        used |= dict.fromkeys(rests_on)
    return ConflictResult(conflict, tuple(sentences), tuple(used))


class Evaluation:
    """A claims file on published numbers; each claim and each conflict is computed once, when first asked for."""

    def __init__(self, records: Iterable[Record] | None = None, file: Path | None = None) -> None:
        self.file = file or CLAIMS_FILE
        self.content = load(file)
        self.numbers = Published(published_records() if records is None else records)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """Every claim with its verdict, in the order of the paper. ClaimError for the first mistake."""
        return self._each(check, self.content.claims)

    @cached_property
    def conflicts(self) -> tuple[ConflictResult, ...]:
        """Every conflict with its evidence. ClaimError for the first mistake."""
        return self._each(check_conflict, self.content.conflicts)

    def _each(self, compute: Any, entries: Sequence[Any]) -> tuple[Any, ...]:
        try:
            return tuple(compute(entry, self.numbers) for entry in entries)
        except ClaimError as error:
            raise ClaimError(f"{self.file.name}: {error}") from None

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict."""
        counts = Counter(result.verdict for result in self.results)
        return {verdict: counts[verdict] for verdict in VERDICTS}

    def records(self, identities: Iterable[str]) -> list[Record]:
        """The published records of these ids."""
        return [self.numbers.record(identity) for identity in identities]

    def places(self, identities: Iterable[str]) -> list[str]:
        """`Table 11`, `Figure 5`: where these records stand, in order."""
        found = {(r["table"] is None, r["table"] or r["figure"]) for r in self.records(identities)}
        return [f"{'Figure' if is_figure else 'Table'} {number}" for is_figure, number in sorted(found)]


def _shortened(formula: str) -> str:
    line = " ".join(formula.split())
    return line if len(line) <= LONGEST_FORMULA else line[: LONGEST_FORMULA - 1] + "…"
