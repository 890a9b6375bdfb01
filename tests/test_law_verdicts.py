"""Version 2 of the law's statistic: two primary hypotheses, Holm's correction, the convergence gate, power."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from clipa import law
from clipa.config import ConfigError
from clipa.law.power import WORST_LEVEL, pilot_report, power, published_slope
from clipa.law.printed import verdict_line
from clipa.law.statistic import slope_over_seeds
from clipa.law.verdicts import FINETUNED_TWICE, LEVEL, PRETRAINED_TWICE, PRIMARIES, TRAININGS
from clipa.recipes import chain
from clipa.records import record_id, write_records
from clipa.render.figures import NothingToDraw, trainings
from clipa.render.figures.trainings import make_trainings
from clipa.stats import estimate, holm, model_weights, slope_weights
from fabricated_law import FULL, PARAMETERS, RESIZED, SYNTAX, converged, law_records

SIZES = list(PARAMETERS.values())
DECADES = {model: math.log10(size / SIZES[0]) for model, size in PARAMETERS.items()}
NOISE = numpy.random.default_rng(7).standard_normal((9, 4))


def study(slope: float, text_slope: float, noise: float = 0.3, full: float = 40.0) -> dict:
    """Accuracies whose drops, 12 points for the smallest model, have these slopes, with noise over seeds."""
    places = {model: place for place, model in enumerate(PARAMETERS)}

    def short(steepness):
        return lambda m, s: full - 12 - steepness * DECADES[m] + noise * NOISE[s, places[m]]

    whole = lambda m, s: full  # noqa: E731
    return {FULL: whole, RESIZED: short(slope), SYNTAX[32]: whole, SYNTAX[8]: short(text_slope)}


def outcomes(accuracies: dict, **changes):
    records = law_records(accuracies, **changes) + converged(accuracies)
    return law.examine(records).outcomes


# ------------------------------------------------------------------------------------------------------ the statistic


@settings(max_examples=25, deadline=None)
@given(some.floats(-5, 5), some.floats(0.05, 3), some.integers(8, 20), some.integers(0, 2**32 - 1))
def test_a_known_slope_is_recovered(slope, noise, seeds, draw):
    """Without noise exactly, with noise within six of its standard errors; the order of seeds changes nothing."""
    line = 5 + slope * numpy.log10(SIZES)
    assert slope_over_seeds(numpy.tile(line, (seeds, 1)), SIZES).mean == pytest.approx(slope, abs=1e-9)
    drops = line + noise * numpy.random.default_rng(draw).standard_normal((seeds, 4))
    found = slope_over_seeds(drops, SIZES)
    assert (
        abs(found.mean - slope) < 6 * noise * numpy.linalg.norm(slope_weights(SIZES)) / math.sqrt(seeds) * 2
    )
    again = slope_over_seeds(drops[::-1], SIZES)
    assert (again.mean, again.high) == pytest.approx((found.mean, found.high))


@given(some.lists(some.floats(0, 100), min_size=2, max_size=7))
def test_no_model_weighs_more_than_models_plus_one_times_another(variances):
    weights = model_weights(variances)
    assert weights.max() <= (len(variances) + 1) * weights.min() * (1 + 1e-9)
    order = numpy.argsort(variances, kind="stable")
    assert (numpy.diff(weights[order]) <= 1e-12 * weights.max()).all()


def test_weighted_slopes_are_those_of_a_weighted_fit():
    drops, weights = numpy.array([5.0, 4.5, 2.0, 2.5]), numpy.array([1.0, 4.0, 2.0, 0.5])
    expected = numpy.polyfit(numpy.log10(SIZES), drops, 1, w=numpy.sqrt(weights))[0]
    assert slope_weights(SIZES, weights) @ drops == pytest.approx(expected)


def test_below_eight_seeds_all_models_weigh_the_same():
    drops = numpy.random.default_rng(1).normal(5, [4, 1, 1, 0.1], (7, 4))
    plain = estimate((drops @ slope_weights(SIZES)).tolist(), [])
    assert slope_over_seeds(drops, SIZES) == plain and plain.degrees == 6
    eight = slope_over_seeds(numpy.vstack([drops, drops[:1]]), SIZES)
    assert eight.degrees == 6 and eight.mean != pytest.approx(plain.mean, abs=1e-3)


def test_the_log_ratio_of_a_constant_share_of_more_errors_is_flat():
    """Near a ceiling drops shrink although every model makes a tenth more errors; the log ratio says so."""
    full = {"Ti/16": 20.0, "S/16": 50.0, "B/16": 80.0, "L/16": 90.0}
    accuracies = {FULL: lambda m, s: full[m], RESIZED: lambda m, s: 100 - 1.1 * (100 - full[m])}
    length = law.summarise(law_records(accuracies)).length("resize 112")
    assert length.slope.mean < -3
    assert length.log_ratio.mean == pytest.approx(0, abs=1e-9)
    one = law.summarise(law_records(accuracies, seeds=(0,))).length("resize 112").log_ratio
    assert one.over == "items" and one.mean == pytest.approx(0, abs=1e-9) and one.standard_error > 0
    perfect = {FULL: lambda m, s: 100.0, RESIZED: lambda m, s: 90.0}
    ratio = law.summarise(law_records(perfect)).length("resize 112").log_ratio
    assert math.isfinite(ratio.mean)


DEVIATIONS = [(1, 1, 1, 1), (3, 2, 1, 0.5), (1, 0.2, 0.2, 1)]


@pytest.mark.parametrize("deviations", DEVIATIONS, ids=str)
@pytest.mark.parametrize("seeds", [8, 12])
def test_intervals_cover_and_permuted_sizes_give_few_verdicts(deviations, seeds):
    """4000 experiments without a law, models in random places: 5 % of intervals miss 0 (standard error 0.34 %)."""
    random = numpy.random.default_rng([seeds, *(int(10 * one) for one in deviations)])
    wrong = 0
    for drops in random.standard_normal((4000, seeds, 4)) * deviations:
        found = slope_over_seeds(drops, random.permutation(SIZES))
        assert (found.p_value < LEVEL) == (found.low > 0 or found.high < 0)
        wrong += found.p_value < LEVEL
    assert 0.035 < wrong / 4000 < 0.0575


def test_two_hypotheses_together_are_wrong_in_five_percent():
    random = numpy.random.default_rng(3)
    drops = random.standard_normal((4000, 2, 8, 4)) * (2, 1, 1, 0.5)
    wrong = 0
    for pair in drops:
        values = [slope_over_seeds(own, random.permutation(SIZES)).p_value for own in pair]
        wrong += min(holm(values)) < LEVEL
    assert 0.03 < wrong / 4000 < 0.06


# ----------------------------------------------------------------------------------------------------------- verdicts


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04]) == pytest.approx([0.02, 0.04])
    assert holm([0.03, 0.04]) == pytest.approx([0.06, 0.06])  # the second is not below its own step's first
    assert holm([0.04, 1.0]) == pytest.approx([0.08, 1.0])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(some.lists(some.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_the_steps_reject(values):
    adjusted, ordered = holm(values), sorted(values)
    rejected = 0
    while rejected < len(values) and ordered[rejected] * (len(values) - rejected) < LEVEL:
        rejected += 1
    assert sum(value < LEVEL for value in adjusted) == rejected
    assert all(own <= new <= 1 for own, new in zip(values, adjusted, strict=True))


def test_both_hypotheses_get_their_verdicts():
    images, texts = outcomes(study(-3.0, +3.0))
    assert (images.verdict, texts.verdict) == ("reproduced", "contradicted")
    assert images.adjusted == pytest.approx(min(1, 2 * min(images.p, texts.p)), rel=1) and images.p < 0.001
    assert images.length.slope.mean == pytest.approx(-3, abs=0.3)
    flat, _ = outcomes(study(0.0, +3.0, noise=1.0))
    assert flat.verdict == "inconclusive" and flat.adjusted > LEVEL


def test_a_p_between_both_steps_needs_the_other_hypothesis(monkeypatch):
    """p = 0.03 alone is not enough; beside a hypothesis that is rejected, it is."""
    noise = next(x for x in numpy.linspace(0.2, 9, 300) if 0.027 < outcomes(study(-1.5, 0, x))[0].p < 0.045)
    alone, _ = outcomes(study(-1.5, 0.0, noise))
    accuracies = study(-1.5, 0.0, noise) | {
        k: v for k, v in study(0, -6, 0.1).items() if k in SYNTAX.values()
    }
    beside, other = outcomes(accuracies)
    assert alone.p == pytest.approx(beside.p) and other.verdict == "reproduced"
    assert (alone.verdict, beside.verdict) == ("inconclusive", "reproduced")


def test_a_hypothesis_without_a_verdict_still_counts_in_the_correction():
    accuracies = {name: own for name, own in study(-3, -3, 1.0).items() if name in (FULL, RESIZED)}
    images, texts = outcomes(accuracies)
    assert texts.verdict == "no verdict" and texts.lacks == ("it was not measured",)
    assert images.adjusted == pytest.approx(2 * images.p)


def test_a_smaller_drop_near_the_ceiling_is_said_in_the_line_of_the_verdict():
    full = {"Ti/16": 40.0, "S/16": 60.0, "B/16": 80.0, "L/16": 90.0}
    places = {model: place for place, model in enumerate(PARAMETERS)}
    accuracies = {
        FULL: lambda m, s: full[m],
        RESIZED: lambda m, s: 100 - (1.2 - 0.006 * DECADES[m] + 0.02 * NOISE[s, places[m]]) * (100 - full[m]),
    }
    images, _ = outcomes(accuracies)
    assert images.length.log_ratio.mean < 0 < images.length.log_ratio.high
    assert images.verdict == "reproduced" and not images.ratio_agrees
    assert "reproduced, but" in verdict_line(images) and "ceiling" in verdict_line(images)
    _, agreeing = outcomes(study(-3, -3))
    assert agreeing.ratio_agrees and verdict_line(agreeing) == "P2 text syntax 8: reproduced."


def test_without_enough_seeds_or_models_there_is_no_verdict():
    seven, _ = outcomes(study(-3, -3), seeds=range(7))
    three, _ = outcomes(study(-3, -3), models=("S/16", "B/16", "L/16"))
    assert seven.lacks == ("7 of 8 complete seeds",) and three.lacks == ("3 of 4 models",)
    assert seven.verdict == three.verdict == "no verdict" and math.isnan(seven.p)


def test_a_missing_seed_is_left_out_and_named():
    records = [
        record
        for record in law_records(study(-3, -3), seeds=range(9))
        if (record["run"], record["seed"]) != ("Ti16-resize112-truncation32", 4)
    ]
    found = law.examine(records + converged(study(-3, -3)))
    images = found.outcomes[0]
    assert images.length.seeds == (0, 1, 2, 3, 5, 6, 7, 8) and images.length.left_out == (4,)
    assert images.verdict == "reproduced"
    assert "runs are missing: resize 112: seed 4" in law.report(found)


def test_a_model_without_any_short_run_is_no_reason_to_leave_it_out_of_a_primary_test():
    accuracies = study(-3, -3)
    records = law_records(accuracies) + converged(accuracies)
    fifth = [
        r | {"model": "H/14", "run": "H14-none-truncation32"} for r in records if r["run"][:9] == "L16-none-"
    ]
    fifth = [r | {"actual": r["actual"] | {"parameters": 3_000_000}} for r in fifth]
    images, _ = law.examine(records + fifth).outcomes
    assert images.length.models == tuple(PARAMETERS) and "no run of H/14" in images.lacks


# --------------------------------------------------------------------------------------------------------- the gate


def test_the_gate_refuses_what_has_not_converged():
    accuracies = study(-3, -3)
    records = law_records(accuracies)
    unmeasured, _ = law.examine(records).outcomes
    assert unmeasured.verdict == "no verdict" and unmeasured.lacks == ("the gate was not measured",)
    for moved, lacks in [(0.9, ()), (-0.9, ()), (1.1, "shut"), (-1.1, "shut")]:
        images, texts = law.examine(records + converged(accuracies, moved)).outcomes
        for one in (images, texts):
            assert bool(one.lacks) == bool(lacks) and all(str(lacks or "") in lack for lack in one.lacks)
    shut = law.examine(records + converged(accuracies, 2.5))
    text = law.report(shut)
    assert "+2.5 !" in text and "the gate is shut: Ti/16, S/16, B/16, L/16 not converged" in " ".join(
        text.split()
    )
    assert "sign, exploratory" in text and "primary, see below" in text and "as the law says" not in text


def test_the_gate_needs_every_model_and_seed_0():
    accuracies = study(-3, -3)
    records, gate = law_records(accuracies), converged(accuracies)
    without = [r for r in gate if r["run"] != "Ti16-resize112-truncation32"]
    images, texts = law.examine(records + without).outcomes
    assert images.lacks == ("the gate was not measured",) and texts.verdict == "reproduced"
    later, _ = law.examine(records + converged(accuracies, seeds=(1, 2))).outcomes
    assert later.lacks == ("the gate was not measured",)


def test_more_seeds_of_the_gate_are_averaged():
    accuracies = study(-3, -3)
    gate = converged(accuracies, 1.6, seeds=(0,)) + converged(accuracies, -0.4, seeds=(1, 2))
    images, _ = law.examine(law_records(accuracies) + gate).outcomes
    assert [check.moved.mean for check in images.checks] == pytest.approx([0.8 / 3] * 8, abs=0.05)
    assert images.verdict == "reproduced"


def test_the_recipes_of_the_gate_double_what_they_say():
    (pretrain,), (before, finetune) = chain(PRETRAINED_TWICE), chain(FINETUNED_TWICE)
    assert (pretrain.samples, pretrain.warmup_steps) == (5_120_000_000, 3200)
    assert before == chain("study")[0] and (finetune.samples, finetune.warmup_steps) == (262_144_000, 1600)
    assert chain("samples-double")[0] == pretrain


# ------------------------------------------------------------------------------------------------- power, the report


def test_power_is_a_little_less_than_simulation_finds():
    random, deviations, effect = numpy.random.default_rng(11), (2.0, 1.5, 1.0, 1.0), -2.0
    line = effect * numpy.log10(SIZES)
    found = [
        slope_over_seeds(line + drops, SIZES) for drops in random.standard_normal((4000, 8, 4)) * deviations
    ]
    share = sum(one.mean < 0 and one.p_value < WORST_LEVEL for one in found) / len(found)
    assert share - 0.05 < power(effect, deviations, SIZES, 8) < share + 0.02
    assert 0.006 < power(0, deviations, SIZES, 8) < WORST_LEVEL / 2
    assert power(2 * effect, deviations, SIZES, 8) > power(effect, deviations, SIZES, 8)
    assert power(effect, deviations, SIZES, 16) > power(effect, deviations, SIZES, 8)


def test_the_papers_effects_are_those_of_its_tables():
    images, texts = map(published_slope, PRIMARIES)
    assert images == pytest.approx(slope_weights([55, 141, 414]) @ [2.0, 1.3, 0.3])
    assert texts == pytest.approx(slope_weights([55, 141, 414]) @ [0.3, -0.3, -0.7])


def test_a_file_of_pilot_deviations_gives_the_table(tmp_path):
    path = tmp_path / "pilot.yaml"
    own = "{Ti/16: 1.5, S/16: 1.2, B/16: 1, L/16: 0.8}"
    sizes = "parameters: {Ti/16: 30000, S/16: 60000, B/16: 140000, L/16: 500000}\n"
    path.write_text(f"{sizes}drop_deviations: {{resize 112: {own}}}\n", encoding="utf-8")
    text = pilot_report(path)
    share = 100 * power(published_slope(PRIMARIES[0]), [1.5, 1.2, 1, 0.8], [30000, 60000, 140000, 500000], 8)
    assert "-1.94 (the paper's)" in text and f"{share:.0f} %" in text and "P2" not in text
    for wrong, told in [
        (f"{sizes}drop_deviations: {{resize 64: {own}}}", "not a primary length"),
        (f"{sizes}drop_deviations: {{resize 112: {{S/16: 1}}}}", "its models are not those of parameters"),
        (f"{sizes}deviations: {{}}", "unknown key"),
        (
            "parameters: {Ti/16: 5, S/16: 5}\ndrop_deviations: {resize 112: {Ti/16: 1, S/16: 1}}",
            "two sizes",
        ),
    ]:
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError, match=told) as refused:
            pilot_report(path)
        assert len(str(refused.value).splitlines()) == 1


def test_the_report_has_gate_power_verdicts_and_fits_a_terminal(tmp_path):
    accuracies = study(-3, -3, 0.8)
    write_records(tmp_path / "law.json", law_records(accuracies) + converged(accuracies, 0.4))
    text = law.main_report([tmp_path / "law.json"])
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "Convergence gate",
        "Power to find",
        "Primary hypotheses",
        "P1 resize 112: reproduced;",
        "P2 text syntax 8: reproduced.",
    ):
        assert part in text
    assert text.index("Convergence gate") < text.index("Power to find") < text.index("Primary hypotheses")
    assert all(text.count(f"{model} (0.") + text.count(f"{model} (1.") for model in PARAMETERS)


def test_the_law_over_training_and_another_scale_stand_beside_it(tmp_path):
    accuracies = {name: own for name, own in study(-3, -3).items() if name in (FULL, RESIZED)}
    shorter = {name: own for name, own in study(+4, +4).items() if name in (FULL, RESIZED)}
    records = law_records(accuracies)
    records += law_records({FULL: shorter[FULL]}, seeds=(0, 1, 2), recipe="samples-eighth-pretrain")
    records += law_records({RESIZED: shorter[RESIZED]}, seeds=(0, 1, 2), recipe="samples-eighth")
    other = [r | {"scale": "another"} for r in law_records(shorter, seeds=(0, 1, 2))]
    other = [r | {"id": r["id"].replace(r["id"].split(".")[0], "another", 1)} for r in other]
    for name, own in (("one", records), ("other", other)):
        write_records(tmp_path / f"{name}.json", own)
    text = law.main_report([tmp_path / "one.json"], beside=[tmp_path / "other.json"])
    assert set(TRAININGS) >= law.examine(records).trainings.keys() == {"samples-eighth"}
    over = text.partition("The law over training")[2].partition("\n\n")[0].splitlines()
    assert "1/8" in over[2] and "against the law" in over[2] and "3 seeds" in over[2]
    assert over[3].split()[0] == "1" and "8 seeds" in over[3]
    beside = text.partition("Scale another beside")[2].partition("\n\n")[0]
    assert "another" in beside and "against the law" in beside
    assert max(map(len, text.splitlines())) <= 100


def test_the_law_over_finetuning_pairs_each_recipe_with_the_other_half_of_the_study():
    accuracies = {name: own for name, own in study(-3, -3).items() if name in (FULL, RESIZED)}
    records = law_records(accuracies)

    def moved(name: str, points: float, recipe: str) -> list:
        return law_records(
            {name: lambda model, seed: accuracies[name](model, seed) + points}, seeds=(0, 1, 2), recipe=recipe
        )

    records += moved(RESIZED, -2, "finetune-tenth")
    pretrained = moved(FULL, 0, "baseline-finetuned")  # its two stages have a record each
    records += pretrained
    tuned = [r | {"stage": "finetune"} for r in moved(FULL, 1, "baseline-finetuned")]
    records += [r | {"id": record_id(r)} for r in tuned]
    found = law.examine(records)
    assert list(found.by_finetuning) == ["1/10", "1", "1, baseline too"]
    drops = {words: own.length("resize 112").drops for words, own in found.by_finetuning.items()}
    for model in PARAMETERS:
        usual = drops["1"][model].mean
        assert drops["1/10"][model].mean == pytest.approx(usual + 2, abs=0.3)
        assert drops["1, baseline too"][model].mean == pytest.approx(usual + 1, abs=0.3)
    said = law.report(found).partition("The law over fine-tuning")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in said[2:]] == ["resize", "1", "1,"] and "1/10" in said[2]
    assert [outcome.length.drops for outcome in found.outcomes[:1]] == [drops["1"]]


@pytest.mark.parametrize("slope", [-2, 2])
def test_a_verdict_that_extra_samples_may_explain_says_so(slope):
    accuracies = study(slope, slope, 0.8)
    records = law_records(accuracies) + converged(accuracies, 0.3)
    images, texts = law.examine(records).outcomes
    assert images.verdict == texts.verdict == ("reproduced" if slope < 0 else "contradicted")
    assert "a baseline that is fine-tuned, too, was not measured" in verdict_line(images)
    assert "fine-tuned" not in verdict_line(texts)  # its baseline is fine-tuned in the study

    def finetuned(per_decade: float) -> list:
        gain = {FULL: lambda model, seed: accuracies[FULL](model, seed) + per_decade * DECADES[model]}
        tuned = [r | {"stage": "finetune"} for r in law_records(gain, recipe="baseline-finetuned")]
        return [r | {"id": record_id(r)} for r in tuned]

    # The larger a model, the more its fine-tuned baseline gains: so its drop grows, and the slope is taken back.
    for per_decade, explained in ((0.0, False), (-slope, True)):
        found = law.examine(records + finetuned(per_decade))
        said = verdict_line(found.outcomes[0])
        assert found.outcomes[0].verdict == images.verdict
        assert ("it may be due to the extra samples alone" in said) == explained
        assert "was not measured" not in said and found.outcomes[1].equal is None


def test_the_law_over_training_is_drawn_with_bars_over_seeds_alone(tmp_path):
    accuracies = {name: own for name, own in study(-3, -3).items() if name in (FULL, RESIZED)}
    records = law_records(accuracies)
    for recipe, seeds in (("samples-eighth", (0, 1, 2)), ("samples-double", (0, 1))):
        records += law_records({FULL: accuracies[FULL]}, seeds=seeds, recipe=f"{recipe}-pretrain")
        records += law_records({RESIZED: accuracies[RESIZED]}, seeds=seeds, recipe=recipe)
    write_records(tmp_path / "law.json", records)
    written = make_trainings([tmp_path / "law.json"], tmp_path / "law.pdf")
    assert [path.suffix for path in written] == [".pdf", ".svg", ".png"] and all(
        path.stat().st_size for path in written
    )
    above, below = trainings.draw(law.examine(records).by_share).axes
    assert [text.get_text() for text in below.get_xticklabels()] == ["1/8", "1", "2"]
    # Four models and one slope: of three shares two have three seeds or more, and bars; the third has a hollow mark.
    for panel, count in ((above, 4), (below, 1)):
        assert [len(one.lines[2][0].get_segments()) for one in panel.containers] == [2] * count
        hollow = [one for one in panel.lines if one.get_markerfacecolor() == "white"]
        assert [len(one.get_xdata()) for one in hollow] == [1] * count
        assert all(one.get_xdata()[0] == pytest.approx(2, rel=0.05) for one in hollow)


def test_one_number_of_samples_is_no_law_over_training(tmp_path):
    write_records(tmp_path / "law.json", law_records(study(-3, -3)))
    with pytest.raises(NothingToDraw, match="run the experiment over-training"):
        make_trainings([tmp_path / "law.json"], tmp_path / "law.pdf")
    assert not list(tmp_path.glob("law.*[fg]"))
