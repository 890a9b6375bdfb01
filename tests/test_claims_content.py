"""The content of claims.yaml: every number of the text is quoted where it stands, and verdicts are what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clipa.published.claims import CONTRADICTED, DIFFERS, NOT_CHECKABLE, WITHIN, Evaluation
from clipa.published.errata import about, errata_of

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
    "s3.1-epochs-of-finetuning",
    "s4.3-ConvNeXt-B-needs-96",
    "s5-L16-17-tokens-over-B16",
    "s6-finetuning-schedule-baseline",
    "sB.3-block17-gain-L16",
}
EXPECTED_WITHIN_ROUNDING = {
    "s4.2-truncation4-drop-L16",
    "s4.2-random4-drop-L16",
    "sB.2-random-is-the-best-mask",
}
# Our count of costs gives another number, whether no table has the cost (25) or the printed cells give the stated one.
EXPECTED_TO_DIFFER = {
    "abstract-G14-33-times",
    "s1-G14-33-times",
    "s2-up-to-25-times",
    "s5-H14-25-times",
    "table2-compute-is-macs-times-samples-CLIPA-G14",
    "table2-compute-is-macs-times-samples-OpenCLIP-G14",
    "s6-G14-33-times",
    "sB.2-mask30-1.3-times",
    "sB.2-progressive-1.5-times",
}
# True in one fair reading, not in another.
EXPECTED_TO_DEPEND = {
    "s4-vision-parameters-B16",
    "s4-vision-parameters-L16",
    "s4.1-drop-smaller-from-S-to-L",
    "s4.1-resize-needs-37",
    "s4.2-below-1-percent-at-8",
    "s4.2-retrieval-almost-no-drop-at-16",
}
# Claims on printed costs that our count has no say in.
NOT_COUNTED = {
    "sB.2-schedule-cost-factor": "the sentence is about samples; Table 8's cells are compared for themselves",
    "table10-case-5": "whether one printed cell is the mean of two others",
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
def evaluation():
    return Evaluation()


@pytest.fixture(scope="module")
def content(evaluation):
    return evaluation.content


@pytest.fixture(scope="module")
def results(evaluation):
    return {result.claim.id: result for result in evaluation.results}


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


def test_what_differs_under_our_count_is_these(results):
    assert {name for name, result in results.items() if result.verdict == DIFFERS} == EXPECTED_TO_DIFFER


def test_what_depends_on_the_reading_is_these(results):
    assert {name for name, result in results.items() if result.depends_on_the_reading} == EXPECTED_TO_DEPEND


def test_printed_costs_and_our_count_are_judged_by_one_rule(content, results):
    """A claim on printed costs has a reading by our count, too; without that, agreeing cells alone would decide."""
    for claim in content.claims:
        if claim.formula and re.search(r"\.(?:compute|flops)\"", claim.formula):
            counted = any(one.counted for one in results[claim.id].all_readings)
            assert counted != (claim.id in NOT_COUNTED), claim.id


def test_nothing_contradicted_rests_on_our_count(results):
    for result in results.values():
        if result.verdict == CONTRADICTED:
            assert not any(one.counted for one in result.all_readings), result.claim.id
            assert len(result.others) >= 1, f"{result.claim.id}: which other reading would be fair?"


def test_50_and_6_tokens_are_the_joint_minimum_of_L16(results):
    """§1 compares with the full token resolution: 69.2, not the 68.3 of 50 image tokens."""
    joint = results["s1-L16-text-tokens"]
    assert joint.verdict == "holds" and joint.own_verdict == "holds"
    assert "table11.L16-none-truncation32.pretrain.imagenet1k.acc1" in joint.rests_on
    assert results["s1-S16-text-tokens"].verdict == NOT_CHECKABLE


def test_every_erratum_lists_its_numbers(evaluation):
    for erratum in errata_of(evaluation):
        assert erratum.rests_on or not erratum.result.rests_on, erratum.id
        assert erratum.result is not None or erratum.rests_on, erratum.id


@pytest.mark.parametrize(
    ("number", "erratum"),
    [
        (
            "table2.G14-resize84-truncation8-datacomp1b-12.8B-512M-128M.finetune.imagenet1k.acc1",
            "recipe-of-G14",
        ),
        ("table1.L16-resize64-truncation16.finetune.imagenet1k.acc1", "text-reduction-of-table-1"),
        ("table1.L16-resize96-truncation8.finetune.imagenet1k.acc1", "text-reduction-of-table-1"),
        (
            "table2.H14-resize84-truncation8-datacomp1b-12.8B-128M.finetune.imagenet1k.acc1",
            "fine-tuning-of-the-81.5-model",
        ),
        (
            "table2.H14-resize84-truncation8-laion2b-12.8B-512M-128M.finetune.objectnet.acc1",
            "objectnet-of-H14-at-336",
        ),
        ("table11.L16-none-truncation32.pretrain.imagenet1k.acc1", "stages-of-the-full-length-baseline"),
        ("table2.OpenCLIP-G14.compute", "compute-of-OpenCLIP-G14"),
    ],
)
def test_a_number_is_cited_with_what_is_known_of_it(evaluation, number, erratum):
    known = about(evaluation.numbers.record(number), errata_of(evaluation))
    assert erratum in {one.id for one in known}


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


def test_evidence_is_computed(evaluation):
    evidence = {found.conflict.id: " ".join(found.evidence) for found in evaluation.conflicts}
    assert "12.6 times" in evidence["unit-of-25-times"]
    assert "16.1 times, or 9.7 times" in evidence["compute-of-OpenCLIP-G14"]
    assert "difference of -0.5" in evidence["which-FLIP-H14"]
    for conflict in evaluation.content.conflicts:
        if conflict.kind in ("cell", "compute"):
            assert evidence[conflict.id], conflict.id


def test_conflicts_with_the_released_code_say_so(content):
    marked = {
        conflict.id for conflict in content.conflicts if any("released" in line for line in conflict.says)
    }
    assert {"evaluation-protocol", "text-tower", "text-reduction-of-table-1", "recipe-of-G14"} <= marked
