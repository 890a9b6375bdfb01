"""What the paper says, against its own tables: every claim and every conflict, with what is computed for it.

They stand in `results/published/claims.yaml` with formulas over published records (:mod:`clipa.published.formulas`);
verdicts are computed. :class:`Evaluation` holds all of them: the pages, the reports and the errata are made from it.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
DIFFERS = "differs under our cost count"
NOT_CHECKABLE = "not checkable from the tables"
VERDICTS = (HOLDS, WITHIN, CONTRADICTED, DIFFERS, NOT_CHECKABLE)
BEST_FIRST = (HOLDS, WITHIN, DIFFERS, CONTRADICTED)

OUR_COUNT = re.compile(r"\b(?:macs|training_macs|parameters)\(")
"""Calls that rest on :mod:`clipa.cost`, and so on more than the paper prints (MLP widths, OpenCLIP-L/14)."""

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

    A number is compared with what the text states: it holds if its central value rounds to it, within rounding if what
    the tables leave open and what rounds to it overlap (two intervals that touch at one end do not). A statement is its
    own verdict; a string must be the one that is stated.
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
    return WITHIN if value.overlaps(number - tolerance, number + tolerance) else CONTRADICTED


# ---------------------------------------------------------------------------------------------------- claims.yaml


class ClaimError(ValueError):
    """A mistake in the claims, as one line: file, claim, field or formula, what is wrong."""


class Entry(BaseModel):
    """Frozen; an unknown key, and a text without a letter in it, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, str_min_length=1)


class Reading(Entry):
    """One way to read a sentence, with its own formula; `states` where it differs from the claim's."""

    name: str = Field(max_length=LONGEST_QUOTE)
    formula: str | None
    states: str | None = None
    why: str | None = None

    @model_validator(mode="after")
    def _says_why(self) -> Reading:
        if (self.formula is None) != (self.why is not None):
            raise ValueError("a reading has a formula, or why says that the tables cannot answer it")
        return self


class Claim(Entry):
    """One quantitative statement of the paper. `readings`: other fair ways to read it, beside `formula`'s own."""

    id: str = Field(pattern=r"^[A-Za-z0-9]+([.-][A-Za-z0-9]+)*$")
    place: str
    quote: str = Field(max_length=LONGEST_QUOTE, description="short, verbatim")
    formula: str | None = Field(description="null: the tables cannot answer; then why says so")
    states: str | None = Field(None, description="the number of the text; None if the formula is a statement")
    reading: str | None = Field(None, description="how formula reads the sentence, where there are others")
    readings: tuple[Reading, ...] = ()
    scale_free: bool = Field(False, description="a matter of sign or order: measured records can answer too")
    why: str | None = None
    meant: str | None = Field(None, description="what was probably meant, where the tables say otherwise")

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        if self.formula is None and not self.why:
            raise ValueError("formula is null: why must say what it cannot be checked for")
        if self.formula is not None and self.why:
            raise ValueError("why is for claims without a formula")
        if bool(self.readings) != bool(self.reading):
            raise ValueError("reading names the formula's own reading beside other readings")
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
    """Two places of the paper that disagree, a wrong label or cell, or something that nobody outside can know.

    `numbers`: ids of the records that it is about (with * and ? as in file names), beside those of its evidence.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9]+([.-][A-Za-z0-9]+)*$")
    kind: Kind
    places: tuple[str, ...] = Field(min_length=1)
    says: tuple[str, ...] = Field(min_length=1)
    numbers: tuple[str, ...] = ()
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
class ReadResult:
    """One reading with its verdict. `computed` is `value` in words; `rests_on` are ids of published records."""

    reading: Reading
    verdict: str
    value: Quantity | Statement | str | None
    computed: str
    rests_on: tuple[str, ...]

    @property
    def counted(self) -> bool:
        """Whether it rests on our own count, and not on printed cells alone."""
        return bool(OUR_COUNT.search(self.reading.formula or ""))

    @property
    def states(self) -> str | None:
        """What the sentence states, for a reading that gives a number."""
        return self.reading.states

    @property
    def comparisons(self) -> int:
        """How many elementary comparisons a statement makes; 0 for a number."""
        return len(self.value.comparisons()) if isinstance(self.value, Statement) else 0

    @property
    def failures(self) -> int:
        """How many of them make it false."""
        return len(self.value.failures()) if isinstance(self.value, Statement) else 0


@dataclass(frozen=True)
class Result(ReadResult):
    """A claim: its verdict over all its readings, and the value of its own formula. `others`: its other readings."""

    claim: Claim
    own_verdict: str
    others: tuple[ReadResult, ...] = ()

    @property
    def all_readings(self) -> tuple[ReadResult, ...]:
        """Every reading, the formula's own first, each with its own verdict."""
        own = ReadResult(self.reading, self.own_verdict, self.value, self.computed, self.rests_on)
        return (own, *self.others)

    @property
    def depends_on_the_reading(self) -> bool:
        """Whether the sentence is right in one fair reading and not in another."""
        failed = any(one.verdict == CONTRADICTED for one in self.all_readings)
        return failed and self.verdict in (HOLDS, WITHIN)


@dataclass(frozen=True)
class ConflictResult:
    """A conflict with the sentences of its evidence, the numbers filled in; `about`: the records that it names."""

    conflict: Conflict
    evidence: tuple[str, ...]
    rests_on: tuple[str, ...]
    about: tuple[str, ...] = ()


def check(claim: Claim, numbers: Published) -> Result:
    """The verdict on one claim. ClaimError for a formula that cannot be evaluated."""
    name = claim.reading or "as the sentence stands"
    own = _read(claim, Reading(name=name, formula=claim.formula, states=claim.states, why=claim.why), numbers)
    others = [_read(claim, reading, numbers) for reading in claim.readings]
    others = tuple(replace(one, verdict=WITHIN) if _compatible(one, own) else one for one in others)
    verdict = over_readings((own, *others))
    return Result(own.reading, verdict, own.value, own.computed, own.rests_on, claim, own.verdict, others)


def _read(claim: Claim, reading: Reading, numbers: Published) -> ReadResult:
    if reading.formula is None:
        return ReadResult(reading, NOT_CHECKABLE, None, "", ())
    try:
        value, rests_on = evaluate(reading.formula, numbers)
        if reading.states is None and isinstance(value, Quantity):
            reading = reading.model_copy(update={"states": claim.states})
        verdict = verdict_of(value, reading.states)
    except FormulaError as error:
        raise ClaimError(f"claim {claim.id}: {_shortened(reading.formula)}: {error}") from None
    found = ReadResult(reading, verdict, value, describe(value), rests_on)
    return replace(found, verdict=DIFFERS) if found.counted and verdict == CONTRADICTED else found


def over_readings(readings: Sequence[ReadResult]) -> str:
    """The verdict on a sentence from those on its fair readings, the formula's own first.

    Not checkable if its own reading is not. Among readings of printed numbers, and among those by our count, the best
    one counts: a slip must be one in every fair reading. Where printed numbers bear a sentence out and our count does
    not, it differs under our count.
    """
    if readings[0].verdict == NOT_CHECKABLE:
        return NOT_CHECKABLE
    printed = [one for one in readings if not one.counted and one.verdict != NOT_CHECKABLE]
    counted = [one for one in readings if one.counted]
    best = [
        min((one.verdict for one in group), key=BEST_FIRST.index) for group in (printed, counted) if group
    ]
    if len(best) == 1:
        return best[0]
    if best[1] != DIFFERS:
        return min(best, key=BEST_FIRST.index)
    return CONTRADICTED if best[0] == CONTRADICTED else DIFFERS


def _compatible(counted: ReadResult, printed: ReadResult) -> bool:
    """Whether a count that misses the stated number lies within what the printed numbers that give it leave open."""
    ours, theirs = counted.value, printed.value
    if counted.verdict != DIFFERS or printed.counted or printed.verdict not in (HOLDS, WITHIN):
        return False
    both = isinstance(ours, Quantity) and isinstance(theirs, Quantity)
    return both and ours.overlaps(theirs.low, theirs.high)


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
    try:
        named = tuple(
            dict.fromkeys(name for pattern in conflict.numbers for name in numbers.matching(pattern))
        )
    except FormulaError as error:
        raise ClaimError(f"conflict {conflict.id}: numbers: {error}") from None
    return ConflictResult(conflict, tuple(sentences), tuple({**used, **dict.fromkeys(named)}), named)


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
