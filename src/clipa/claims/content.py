"""What stands in `results/published/claims.yaml`: claims, conflicts, numbers that are no claim; typed and checked."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipa.claims.numbers import FormulaError
from clipa.claims.verdicts import stated
from clipa.records import PUBLISHED_DIRECTORY, ROOT

CLAIMS_FILE = ROOT / PUBLISHED_DIRECTORY / "claims.yaml"
LONGEST_QUOTE = 240


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
