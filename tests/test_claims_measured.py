"""No cell that a claim uses is idle; and what measured records say of the paper's signs and orders."""

import json
from fractions import Fraction

import pytest

from claim_mutations import unnoticed
from clipa.published.citation import sample, value_text
from clipa.published.claims import Claim, Evaluation, check
from clipa.published.measured import OneSeed, ScaleRecords, means, needed_keys, trainings_behind
from clipa.published.quantities import Published
from clipa.records import RecordError, published_records

GOOD = {"id": "s1-a", "place": "§1", "quote": "q", "formula": "1 < 2"}


@pytest.fixture(scope="module")
def numbers():
    return Published(published_records())


# -------------------------------------------------------------------------------------------------------- mutation


def test_no_cell_that_a_claim_uses_can_change_by_5_points_unnoticed():
    records = published_records()
    results = Evaluation(records).results
    assert len({identity for result in results for identity in result.rests_on}) > 500
    assert unnoticed(records, results) == []


def test_an_idle_cell_is_found(tmp_path):
    path = tmp_path / "claims.yaml"
    cell = "table11.S16-none-truncation32.pretrain.imagenet1k.acc1"
    formula = f'min(v("{cell}"), 10) == 10'
    path.write_text(json.dumps({"claims": [{**GOOD, "formula": formula}]}), encoding="utf-8")
    records = published_records()
    assert unnoticed(records, Evaluation(records, path).results) == [cell]


# -------------------------------------------------------------------------------------------------------- measured

PAIR = 'drop(11, "S16-resize64-truncation32") > drop(11, "L16-resize64-truncation32")'


def measured(drops, numbers, formula=PAIR):
    """The verdict on a claim where S/16 and L/16 drop by these points, a pair for each seed."""
    records = [
        {"run": f"{model}-{image}-truncation32", "stage": stage, "value": value, "seed": seed}
        | {"benchmark": "imagenet1k", "metric": "acc1"}
        for seed, pair in enumerate(drops)
        for model, drop in zip(("S16", "L16"), pair, strict=False)
        for image, stage, value in (("none", "pretrain", 60.0), ("resize64", "finetune", 60.0 - drop))
    ]
    claim = Claim(**{**GOOD, "formula": formula, "scale_free": True})
    return ScaleRecords("micro-v1", records, numbers).verdict(check(claim, numbers))


@pytest.mark.parametrize(
    ("drops", "verdict"),
    [
        ([(6, 3), (6.5, 3), (6, 3.4)], "reproduced"),
        ([(3, 6), (3, 6.5), (3.4, 6)], "contradicted"),
        ([(6, 3), (9, 1), (4, 3.9)], "consistent"),
        ([(6, 3), (9, 1), (4, 4.1)], "inconclusive"),
        ([(6, 3), (6.5, 3)], "not attempted"),
        ([(6, 3), (6.5, 3), (6,)], "not attempted"),
    ],
)
def test_measured_verdicts(drops, verdict, numbers):
    assert measured(drops, numbers).verdict == verdict


def test_the_interval_is_the_one_of_the_law(numbers):
    tightest = measured([(6, 3), (6.5, 3), (6, 3.4)], numbers).tightest
    # margins 3, 3.5, 2.6: mean 3.0333, s 0.45092, t(0.975, 2) = 4.30265
    assert tightest.mean == pytest.approx(9.1 / 3)
    assert tightest.high - tightest.mean == pytest.approx(4.30265 * 0.450925 / 3**0.5, rel=1e-4)


def test_and_needs_every_comparison_or_needs_one(numbers):
    drops = [(6, 3), (6.5, 3), (6, 3.4)]
    opposite = PAIR.replace(">", "<")
    assert measured(drops, numbers, f"{PAIR} and {opposite}").verdict == "contradicted"
    assert measured(drops, numbers, f"{PAIR} or {opposite}").verdict == "reproduced"
    assert measured(drops, numbers, f"not ({opposite})").verdict == "reproduced"


def test_what_is_missing_is_named(numbers):
    found = measured([(6, 3), (6.5, 3), (6,)], numbers)
    assert found.missing == (
        "L16-none-truncation32 in 1 of 3 seeds",
        "L16-resize64-truncation32 in 1 of 3 seeds",
    )
    external = f'{PAIR} and acc(1, "OpenCLIP-B16", "") > acc(1, "OpenAI-B16", "")'
    external = measured([(6, 3)] * 3, numbers, external)
    assert external.verdict == "not attempted"
    assert "OpenCLIP-B16 (not a measurement of this artifact)" in external.missing


def test_a_drop_that_only_prose_gives_is_measured_as_a_difference(numbers):
    identity = "figure5.S16-random16-truncation32.finetune.mscoco_captions.image_retrieval_recall@1_drop"
    keys = needed_keys(numbers.record(identity))
    assert [key[:2] for key in keys] == [
        ("S16-none-truncation32", "pretrain"),
        ("S16-random16-truncation32", "finetune"),
    ]
    seed = OneSeed(numbers, dict(zip(keys, (30.0, 22.5), strict=True)))
    assert seed.value(identity).value == Fraction("7.5")


def test_numbers_of_another_recipe_are_not_taken_for_the_runs_own(numbers):
    case = numbers.record("table6.batch8k.finetune.imagenet1k.acc1")
    run = "L16-resize64-truncation16-clipa-batch8k"
    assert needed_keys(case) == ((run, "finetune", "imagenet1k", "acc1"),)


NEGCLIP = "B16-resize112-truncation16"
HELPS = f'acc(14, "{NEGCLIP}", "negclip", "aro/vg_relation") > acc(14, "{NEGCLIP}", "finetune", "aro/vg_relation")'


def of_aro(numbers, macro):
    """The verdict on "NegCLIP helps on relations": over items it never does, over groups as `macro` says."""
    records = []
    ids = [f"table14.{NEGCLIP}.{stage}.aro/vg_relation.acc1" for stage in ("finetune", "negclip")]
    published = [numbers.record(identity) for identity in ids]
    for seed in range(3):
        for record in published:
            ((run, stage, benchmark, metric),) = needed_keys(record)
            assert metric == "acc1_macro"
            helped = stage == "negclip"
            plain = {"run": run, "stage": stage, "benchmark": benchmark, "metric": "acc1", "seed": seed}
            records.append(plain | {"value": 50.0 - 5 * helped + seed / 10 * helped})
            if macro:
                value = 50.0 + 5 * helped + seed / 10 * helped
                records.append(plain | {"metric": metric, "value": value})
    claim = Claim(**{**GOOD, "formula": HELPS, "scale_free": True})
    return ScaleRecords("mini", records, numbers).verdict(check(claim, numbers))


def test_claims_about_aros_relations_are_judged_by_means_over_groups(numbers):
    """As Table 14's numbers are; the other mean is named. Where no group was measured items decide, and it is said."""
    judged, items = of_aro(numbers, macro=True), of_aro(numbers, macro=False)
    assert judged.verdict == "reproduced"
    assert judged.text.endswith("; mean over groups of items, as the paper's (over items: contradicted)")
    assert items.verdict == "contradicted"
    assert items.text.endswith("; mean over items, where the paper's is over groups of them")


def test_aros_order_sets_are_shares_of_items(numbers):
    record = numbers.record(f"table14.{NEGCLIP}.negclip.aro/coco_order.acc1")
    assert [key[3] for key in needed_keys(record)] == ["acc1"]


def test_only_scale_free_claims_are_asked_of_measured_records(numbers):
    with pytest.raises(ValueError, match="not scale-free"):
        ScaleRecords("micro-v1", [], numbers).verdict(check(Claim(**GOOD), numbers))


def test_a_ratio_to_nothing_gives_no_verdict_and_no_error(numbers):
    ratio = 'drop(11, "S16-resize64-truncation32") / acc(11, "S16-resize64-truncation32") < 1'
    found = measured([(6, 3), (60, 3), (6, 3)], numbers, ratio)
    assert found.verdict == "not attempted"
    assert "may be zero" in found.text


def test_recorded_numbers_of_two_values_are_refused(numbers):
    record = {
        "run": "S16-none-truncation32",
        "stage": "pretrain",
        "benchmark": "imagenet1k",
        "metric": "acc1",
    }
    with pytest.raises(RecordError, match=r"two accepted values of S16-none.* with seed 0"):
        ScaleRecords("micro-v1", [{**record, "seed": 0, "value": value} for value in (1.0, 2.0)], numbers)


def test_stand_ins_that_the_paper_has_not_have_no_stage_at_its_scale(numbers):
    from fabricated_law import FULL, law_records

    scale = ScaleRecords("micro", law_records({FULL: lambda model, seed: 50.0}), numbers)
    assert {run for values in scale.seeds.values() for run, *_ in values} > {"Ti16-none-truncation32"}
    stages = trainings_behind(r for r in published_records() if r["run"] == "S16-none-truncation32").stages
    assert scale.seconds_of(stages) == 12.5


# ----------------------------------------------------------------------------------------------------------- means


def test_one_seed_is_printed_with_its_error_over_items_and_three_with_theirs_over_seeds():
    record = {
        "id": "micro-v1.S16-none-truncation32.pretrain.imagenet1k.acc1.seed0",
        "scale": "micro-v1",
        "run": "S16-none-truncation32",
        "standard_error": 0.75,
        "source": "measured",
        "dataset": {"name": "pictograms/v1/plain", "split": "test", "n": 4000, "fingerprint": "0" * 12},
    }
    (alone,) = means([{**record, "seed": 0, "value": 17.35}])
    assert (value_text(alone.record), sample(alone.record)) == ("17.4 ± 0.8 %", "n = 4000, 1 seed")
    (mean,) = means([{**record, "seed": seed, "value": 16.0 + seed} for seed in range(3)])
    assert (value_text(mean.record), sample(mean.record)) == ("17.0 ± 0.6 %", "n = 4000, 3 seeds")
    assert mean.id == "micro-v1.S16-none-truncation32.pretrain.imagenet1k.acc1"
