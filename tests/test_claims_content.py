"""The content of claims.yaml: every number of the text is quoted where it stands, and verdicts are what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clipa.claims import CONTRADICTED, NOT_CHECKABLE, WITHIN, evaluate_all, load, settle
from clipa.claims.numbers import Published
from clipa.records import published_records

PAPER_NUMBERS: dict[str, list[str]] = yaml.safe_load(
    (Path(__file__).parent / "paper_numbers.yaml").read_text(encoding="utf-8")
)

# What contains digits but is a name, a reference, or the number of an item.
NAMES = re.compile(
    r"\[[\d, ]+\]|https?://\S+|ImageNet-(?:1k|lk|V2)|top-1|\bViT-[SB]/16|\b[SBLHG]/1[46]|\b[BL]/(?:32|14)"
    r"|LAION-(?:400M|5B|2B)|DataComp-1B|A100|TPU-V3|T-5|Flickr30k|\((?:IX|TY)[^)]*\)|\bT5X"
    r"|\b(?:Fig|Tab)s?\. ?\d+(?: and \d+)?|\b(?:Table|Section|Sec\.|Figure) ?\d+(?:\.\d+)?|(?<![\w.])\d\)|case \(5\)"
    r"|Recall@1|1e12"
)
NUMBER = re.compile(
    r"\d[\d,]*\.?\d*(?:e-?\d+)?"
    r"|\b(?:two|three|four|five|eight|halving|double|tens of thousands|order of magnitude)\b",
    re.IGNORECASE,
)
LONGEST_QUOTE = 180

# Statements that the paper's own tables contradict; each is named in docs/errata.md with what was probably meant.
EXPECTED_CONTRADICTED = {
    "s1-text-tokens-with-one-strategy",
    "s2-up-to-25-times",
    "s3.1-epochs-of-finetuning",
    "s4.1-drop-smaller-at-every-step",
    "s4.2-below-1-percent-at-8",
    "s4.3-ConvNeXt-B-needs-96",
    "s5-L16-17-tokens-over-B16",
    "s5-H14-25-times",
    "table2-compute-is-macs-times-samples-CLIPA-G14",
    "table2-compute-is-macs-times-samples-OpenCLIP-G14",
    "s6-finetuning-schedule-baseline",
    "sB.3-block17-gain-L16",
}
EXPECTED_WITHIN_ROUNDING = {
    "s4-vision-parameters-B16",
    "s4-vision-parameters-L16",
    "s4.1-resize-needs-37",
    "s4.2-truncation4-drop-L16",
    "s4.2-random4-drop-L16",
    "s4.2-retrieval-almost-no-drop-at-16",
    "sB.2-random-is-the-best-mask",
}
KNOWN_CONFLICTS = {
    "setting": {"epochs-and-samples", "base-lr-of-finetuning", "pooling-of-the-image", "augmentation"},
    "label": {
        "tokens-with-and-without-class-token",
        "label-of-table-3",
        "headings-of-table-15",
        "samples-called-epochs",
    },
    "cell": {"totals-of-table-4", "missing-decimal-point-in-table-12", "parameters-of-the-towers"},
    "compute": {"unit-of-25-times", "compute-of-OpenCLIP-G14", "30-percent-masking-in-table-10"},
    "unknown": {
        "values-of-figures-5-and-6",
        "lost-cell-of-table-14",
        "block-masking-of-images",
        "NegCLIP-training",
    },
}


def numbers_in(text: str) -> list[str]:
    """The numbers of a piece of prose, in order: "6.2% at 224×224" has 6.2, 224, 224."""
    return [number.rstrip(".,") for number in NUMBER.findall(NAMES.sub(" ", text))]


def occurrences(part: list[str], whole: list[str]) -> list[int]:
    """Where `part` stands in `whole`, in one piece."""
    return [start for start in range(len(whole) - len(part) + 1) if whole[start : start + len(part)] == part]


def unquoted(census: list[str], quotes: set[str]) -> list[str]:
    """Numbers of the census that no quote has. Each quote stands for one place of the text, the longest first."""
    found = [False] * len(census)
    for part in sorted((numbers_in(quote) for quote in sorted(quotes)), key=len, reverse=True):
        places = occurrences(part, census)
        if part and places:
            best = min(places, key=lambda start: (sum(found[start : start + len(part)]), start))
            found[best : best + len(part)] = [True] * len(part)
    return [number for number, quoted in zip(census, found, strict=True) if not quoted]


@pytest.fixture(scope="module")
def content():
    return load()


@pytest.fixture(scope="module")
def results():
    return {result.claim.id: result for result in evaluate_all()}


def quotes_at(content, place: str) -> set[str]:
    return {entry.quote for entry in (*content.claims, *content.not_claims) if entry.place == place}


@pytest.mark.parametrize("place", PAPER_NUMBERS)
def test_every_number_of_the_text_is_quoted(content, place):
    assert unquoted(PAPER_NUMBERS[place], quotes_at(content, place)) == []


def test_a_number_that_is_left_out_is_noticed(content):
    quotes = {quote for quote in quotes_at(content, "§B.3") if "18.6" not in quote}
    assert "18.6" in unquoted(PAPER_NUMBERS["§B.3"], quotes)
    assert unquoted(["17", "4", "17"], {"17 tokens"}) == ["4", "17"]


def test_quotes_have_the_numbers_of_their_place(content):
    for entry in (*content.claims, *content.not_claims):
        assert entry.place in PAPER_NUMBERS, entry
        assert occurrences(numbers_in(entry.quote), PAPER_NUMBERS[entry.place]), entry


def test_quotes_are_short(content):
    for entry in (*content.claims, *content.not_claims):
        assert len(entry.quote) <= LONGEST_QUOTE, entry
        assert "\n" not in entry.quote, entry


def test_what_a_claim_states_stands_in_its_quote(content):
    for claim in content.claims:
        if claim.states is not None and "double" not in claim.quote:
            written = [number.replace(",", "") for number in numbers_in(claim.quote)]
            assert claim.states.lstrip("~") in written, claim


def test_about_is_said_only_where_the_text_says_it(content):
    hedges = ("~", "approximately", "nearly", "128M epochs", "4000 steps")
    for claim in content.claims:
        if (claim.states or "").startswith("~"):
            assert any(hedge in claim.quote for hedge in hedges), claim


def test_ids_begin_with_the_place(content):
    for claim in content.claims:
        place = claim.place
        if place.startswith("§"):
            start = f"s{place[1:]}-"
        else:
            start = (
                place.removesuffix(" caption").replace("Fig. ", "fig").replace("Table ", "table").lower()
                + "-"
            )
        assert claim.id.startswith(start), claim


def test_there_are_well_over_150_claims(content):
    assert len(content.claims) >= 200
    assert len({claim.id for claim in content.claims}) == len(content.claims)


def test_the_contradicted_statements_are_these(results):
    assert {
        name for name, result in results.items() if result.verdict == CONTRADICTED
    } == EXPECTED_CONTRADICTED


def test_the_statements_that_rounding_saves_are_these(results):
    assert {name for name, result in results.items() if result.verdict == WITHIN} == EXPECTED_WITHIN_ROUNDING


def test_every_slip_says_what_was_probably_meant(results):
    for result in results.values():
        if result.verdict == CONTRADICTED:
            assert result.claim.meant, result.claim


def test_most_claims_can_be_checked(results):
    assert sum(result.verdict == NOT_CHECKABLE for result in results.values()) <= len(results) / 10


def test_scale_free_formulas_ask_only_for_what_is_measured(content):
    for claim in content.claims:
        if claim.scale_free:
            assert not re.search(r"\b(?:tokens_needed|macs|training_macs|text)\(", claim.formula), claim
            assert re.search(r"\b(?:acc|drop|gain|v)\(", claim.formula), claim


def test_known_conflicts_are_named_with_their_kind(content):
    kinds = {conflict.id: conflict.kind for conflict in content.conflicts}
    for kind, names in KNOWN_CONFLICTS.items():
        assert {kinds.get(name) for name in names} == {kind}, names


def test_evidence_is_computed(content):
    numbers = Published(published_records())
    settled = {conflict.id: " ".join(settle(conflict, numbers).evidence) for conflict in content.conflicts}
    assert "12.6 times" in settled["unit-of-25-times"]
    assert "16.1 times, or 9.7 times" in settled["compute-of-OpenCLIP-G14"]
    assert "difference of -0.5" in settled["which-FLIP-H14"]
    for conflict in content.conflicts:
        if conflict.kind in ("cell", "compute"):
            assert settled[conflict.id], conflict.id


def test_conflicts_with_the_released_code_say_so(content):
    marked = {
        conflict.id for conflict in content.conflicts if any("released" in line for line in conflict.says)
    }
    assert {"evaluation-protocol", "text-tower", "text-reduction-of-table-1", "recipe-of-G14"} <= marked
