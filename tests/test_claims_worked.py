"""A claim worked out: an author of the paper can check it by hand, and `clipa claims ID` prints it."""

import re

import pytest

from clipa.cli import main
from clipa.law import examine, signs_by_strategy
from clipa.published.claims import CONTRADICTED, DIFFERS, HOLDS, WITHIN, Claim, Evaluation, check
from clipa.published.errata import kind_of
from clipa.published.measured import recorded
from clipa.published.quantities import Quantity
from clipa.published.worked import turning_point, worked
from clipa.render.law_signs import signs_of
from clipa.render.one_claim import one_claim_report
from clipa.render.terminal import claims_report

CALLS = re.compile(r"\b(?:v|acc|drop|gain|macs|training_macs|parameters|tokens_needed)\(")


@pytest.fixture(scope="module")
def evaluation():
    return Evaluation()


@pytest.fixture(scope="module")
def results(evaluation):
    return {result.claim.id: result for result in evaluation.results}


def test_every_reading_of_every_claim_has_its_numbers_put_in(evaluation):
    for result in evaluation.results:
        for one in worked(result, evaluation.numbers):
            assert one.why or (one.arithmetic and one.bound), (result.claim.id, one.name)
            assert not any(CALLS.search(text) for text in one.arithmetic), (result.claim.id, one.arithmetic)


def test_cells_are_shown_once_with_what_rounding_leaves_open(evaluation, results):
    first, second, third = worked(results["s5-L16-17-tokens-over-B16"], evaluation.numbers)
    assert dict(first.cells) == {
        "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1": "66.2 ± 0.05",
        "table11.B16-none-truncation32.pretrain.imagenet1k.acc1": "64.2 ± 0.05",
    }
    assert first.arithmetic == ("66.2 - 64.2 = 2.0 ± 0.1",)
    assert first.bound == "“2.5” stands for 2.45 to 2.55; the cells leave 1.9 to 2.1 open"
    assert second.cells == () and [name for name, _ in third.cells] == [
        "table7.baseline.finetune.imagenet1k.acc1"
    ]


def test_a_cost_is_multiply_adds_of_a_pair_times_pairs_and_says_what_it_assumes(evaluation, results):
    first = worked(results["s5-H14-25-times"], evaluation.numbers)[0]
    (text,) = first.arithmetic
    assert text == "((87.663 * 12.8) / 1000) / ((25.839 * 2.56 + 177.01 * 0.128) / 1000) = 12.64"
    assert eval(text.partition(" = ")[0]) == pytest.approx(12.64, abs=0.005)
    assert "OpenCLIP-L/14: 24 layers of width 1024 for images, 12 of 768 for texts" in first.assumed


def test_a_tokens_needed_shows_every_drop(evaluation, results):
    first = worked(results["s4.3-ConvNeXt-B-needs-96"], evaluation.numbers)[0]
    assert first.arithmetic == (
        "shortest of (160: 0.4, 112: 0.9, 96: 1.8, 64: 4.0) with a drop within 1.5 = 112",
    )


# --------------------------------------------------------------------------------------------------- turning points

GAIN = 'acc(11, "L16-block16-truncation32") - acc(11, "L16-block16-truncation32", "pretrain")'
AFTER = "table11.L16-block16-truncation32.finetune.imagenet1k.acc1"


def claim(formula, states):
    return Claim(id="s1-x", place="§1", quote="q", formula=formula, states=states)


@pytest.mark.parametrize(
    ("states", "verdict", "turn"),
    [
        ("18.6", CONTRADICTED, f"{AFTER} at 68.1 instead of 62.9 (holds within rounding)"),  # far away
        ("13.3", HOLDS, f"{AFTER} at 62.8 instead of 62.9 (holds within rounding)"),
    ],
)
def test_the_nearest_cell_that_changes_a_verdict_is_named(evaluation, states, verdict, turn):
    result = check(claim(GAIN, states), evaluation.numbers)
    assert result.verdict == verdict
    assert turn in turning_point(result, evaluation.numbers)


def test_a_turning_point_is_one_and_a_unit_less_is_none(evaluation):
    numbers = evaluation.numbers
    stated = claim(GAIN, "18.6")
    for value, verdict in ((68.0, CONTRADICTED), (68.1, WITHIN)):
        now = numbers.value(AFTER)
        moved = Quantity(now.value + round((value - 62.9) * 10) * (now.half_width * 2), now.terms)
        assert check(stated, numbers.with_value(AFTER, moved)).verdict == verdict


def test_what_differs_under_our_count_turns_on_the_way_of_counting(evaluation, results):
    for result in results.values():
        if result.verdict == DIFFERS:
            assert "way of counting" in turning_point(result, evaluation.numbers)


# --------------------------------------------------------------------------------------------------------- the verb


@pytest.mark.parametrize(
    "name", ["s5-H14-25-times", "s5-L16-17-tokens-over-B16", "s1-L16-text-tokens", "s1-S16-text-tokens"]
)
def test_the_command_works_a_claim_out_in_100_columns(results, name, capsys):
    assert main(["claims", name]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    flat = " ".join(text.split())
    assert f"“{results[name].claim.quote}”" in flat
    assert f"Verdict: {results[name].verdict}." in flat
    for reading in results[name].all_readings:
        assert f"{reading.reading.name[1:]}: {reading.verdict}" in flat


def test_the_command_shows_an_erratum_and_names_the_nearest_id():
    assert "Taken here: As printed" in " ".join(one_claim_report(["compute-of-CLIPA-G14"]).split())
    with pytest.raises(ValueError, match=r"'s5-H14-25-time' is the id of no claim.*nearest: s5-H14-25-times"):
        one_claim_report(["s5-H14-25-time"])


def test_the_page_of_errata_has_every_kind(results):
    kinds = [kind_of(result) for result in results.values()]
    assert {"claim", "count", "reading", "rounding", None} == set(kinds)


# ---------------------------------------------------------------------------------------------- one story with the law


def test_signs_beside_measured_claims_are_those_of_the_law():
    signs = signs_by_strategy(examine(recorded("micro-v1")).summary)
    assert signs["text syntax"]["8"] == "as the law says"
    assert dict(signs_of("micro-v1"))["text syntax"] == "16: not clear; 8, 6, 4: as the law says"
    text = claims_report("micro-v1", None, False)
    assert "text syntax       16: not clear; 8, 6, 4: as the law says" in text
    assert "Two questions." in text
