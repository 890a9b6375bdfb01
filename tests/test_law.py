"""The statistic of the law against results known by hand, from tables, and by brute force."""

import math

import numpy
import pytest

from clipa import law
from clipa.law.verdicts import sign
from clipa.records import (
    RecordError,
    correct_items,
    encode_outcomes,
    paired_drop,
    percent_and_error,
    record_id,
    write_records,
)
from fabricated import MODELS, SIZES, measured_grid
from fabricated_grid import image_grid, text_grid


def test_three_seeds_give_students_interval_and_a_sign():
    records = measured_grid({"resize64": (10, 7, 3), "resize112": (3, 5, 8)}, seeds=(0, 1, 2, 3))
    summary = law.summarise(reversed(records))
    assert summary.models == list(MODELS) and [length.label for length in summary.lengths] == [
        "resize 112",
        "resize 64",
    ]
    opposite, as_the_law = summary.lengths
    assert (sign(opposite), sign(as_the_law)) == ("against the law", "as the law says")
    assert (opposite.ordered, as_the_law.ordered) == (0, 4)

    slopes = []
    by_id = {record["id"]: record for record in records}
    for seed in range(4):
        drops = []
        for model in MODELS:
            name = model.replace("/", "")
            full = by_id[f"micro-v1.{name}-none-truncation32.pretrain.imagenet1k.acc1.seed{seed}"]
            short = by_id[f"micro-v1.{name}-resize64-truncation32.finetune.imagenet1k.acc1.seed{seed}"]
            drops.append(full["value"] - short["value"])
        slopes.append(numpy.polyfit(numpy.log10([SIZES[m][2] for m in MODELS]), drops, 1)[0])
    half = 3.182446 * numpy.std(slopes, ddof=1) / 2
    slope = as_the_law.slope
    assert (slope.mean, slope.low, slope.high) == pytest.approx(
        (numpy.mean(slopes), numpy.mean(slopes) - half, numpy.mean(slopes) + half)
    )
    assert slope.over == "seeds" and slope.seeds == 4


def test_no_slope_no_sign():
    flat = law.summarise(measured_grid({"resize64": (6, 6, 6)}))
    assert sign(flat.lengths[0]) == "not clear"
    assert flat.lengths[0].slope.low < 0 < flat.lengths[0].slope.high


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_seeds_give_intervals_over_items_and_no_sign(seeds):
    found = law.examine(measured_grid({"resize64": (15, 8, 1)}, seeds=seeds))
    length = found.summary.lengths[0]
    assert length.slope.high < 0  # far from zero, and yet
    assert sign(length) == "not clear" and length.slope.over == "items"
    text = law.report(found)
    assert "without a verdict" in text and "other seeds may differ" in text and "reproduced" not in text


def test_one_seeds_drop_interval_is_the_paired_one():
    records = measured_grid({"resize64": (10, 7, 3)}, seeds=(4,))
    drop, error = paired_drop(*(correct_items(records[index]) for index in (0, 2)))
    found = law.summarise(records).lengths[0].drops["S/16"]
    assert (found.mean, found.standard_error) == pytest.approx((drop, error))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=1e-4)


def test_two_seeds_on_the_same_items_are_not_twice_the_items():
    records = measured_grid({"resize64": (10, 7, 3)}, seeds=(4,))
    twin = [record | {"seed": 5} for record in records]
    twin = [record | {"id": record_id(record)} for record in twin]
    one, two = (law.summarise(some).lengths[0].drops["S/16"] for some in (records, records + twin))
    assert two.seeds == 2 and two.standard_error == pytest.approx(one.standard_error)


def test_two_models_are_not_enough_for_a_sign():
    records = [record for record in measured_grid({"resize64": (10, 7, 3)}) if record["model"] != "L/16"]
    length = law.summarise(records).lengths[0]
    assert length.slope is not None and sign(length) == "not clear"


def test_an_incomplete_seed_is_left_out_and_said():
    records = measured_grid({"resize64": (10, 7, 3)}, seeds=(0, 1, 2, 3))
    lacking = [
        r for r in records if r["id"] != "micro-v1.L16-resize64-truncation32.finetune.imagenet1k.acc1.seed2"
    ]
    found = law.examine(lacking)
    assert found.summary.lengths[0].seeds == (0, 1, 3) and found.summary.lengths[0].left_out == (2,)
    assert "runs are missing: resize 64: seed 2" in law.report(found)


def test_a_short_text_drops_from_the_same_reduction_at_32_tokens():
    """Table 12 has four baselines (B.3); a mask and a reduction of the text may share a name and a number."""
    drops = {"block": {16: 9.0, 4: 30.0}, "syntax": {8: -6.0}}
    images = image_grid("imagenet1k", "acc1", {"block": {16: 3.0}})
    texts = text_grid(drops)
    summary = law.summarise([*images, *texts])
    assert [length.label for length in summary.lengths] == ["block 16"]
    assert [length.label for length in summary.text_lengths] == [
        "text block 16",
        "text block 4",
        "text syntax 8",
    ]
    signs = ["as the law says", "as the law says", "against the law"]
    assert [sign(length) for length in summary.text_lengths] == signs
    assert summary.lengths[0].drops["S/16"].mean == pytest.approx(3.0, abs=1.5)
    assert summary.text_lengths[1].drops["S/16"].mean == pytest.approx(30.0, abs=2.5)
    by_id = {record["id"]: record for record in texts}
    pair = [by_id[f"micro-v1.S16-resize112-block{n}.finetune.imagenet1k.acc1.seed1"] for n in (32, 4)]
    assert float(law.item_drops(*pair).mean()) == pytest.approx(paired_drop(*map(correct_items, pair))[0])
    text = law.report(law.examine([*images, *texts]))
    assert "Drop from the same reduction at 32" in text and "text block 16, 4" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


def test_runs_of_recipes_are_left_out(tmp_path):
    records = measured_grid({"resize64": (10, 7, 3)})
    other = [record | {"recipe": "gap", "value": 1.0} for record in records if record["stage"] == "finetune"]
    other = [record | {"id": record_id(record)} for record in other]
    for name, some in (("study", records), ("gap", other)):
        write_records(tmp_path / f"{name}.json", some)
    both, one = (law.main_report(sorted(tmp_path.glob(glob))) for glob in ("*.json", "study.json"))
    assert both == one


def test_recipes_are_compared_with_the_study_seed_by_seed(tmp_path):
    records = measured_grid({"resize64": (10, 7, 3)}, seeds=(0, 1, 2))
    study = [r for r in records if r["run"] == "S16-resize64-truncation32" and r["stage"] == "finetune"]
    better = []
    for record in study:
        correct = correct_items(record).copy()
        correct[numpy.flatnonzero(~correct)[: 20 + 10 * record["seed"]]] = True
        changes = {
            "recipe": "gap",
            "outcomes": encode_outcomes(correct),
            "value": 100 * float(correct.mean()),
        }
        better.append(record | changes | {"standard_error": percent_and_error(correct)[1]})
    better = [record | {"id": record_id(record)} for record in better]
    n = study[0]["dataset"]["n"]
    first, second = law.compare([*records, *better])
    assert (first.recipe, second.recipe, first.difference) == ("study", "gap", None)
    assert second.difference.mean == pytest.approx(100 * 30 / n)
    assert second.difference.standard_error == pytest.approx(100 * 10 / n / math.sqrt(3))
    assert second.accuracy.mean == pytest.approx(first.accuracy.mean + 100 * 30 / n)

    (one,) = [c for c in law.compare([*records, better[0]]) if c.recipe == "gap"]
    assert one.difference.over == "items" and one.difference.mean == pytest.approx(100 * 20 / n)
    write_records(tmp_path / "records.json", [*records, *better])
    text = law.comparison_report([tmp_path / "records.json"])
    assert "S16-resize64-truncation32  study" in text and "3 seeds" in text
    with pytest.raises(RecordError, match="trained by more than one recipe"):
        law.compare(records)


def test_another_family_of_models_is_left_out():
    """ConvNeXt (Table 13) has no patches; the law's slope is over the ViTs."""
    records = measured_grid({"resize64": (10, 7, 3)})
    before = law.report(law.examine(records))
    convnext = {"model": "ConvNeXt-T", "patches": None, "image_tokens": None}
    others = [
        record | convnext | {"run": record["run"].replace("S16", "ConvNeXt-T")}
        for record in records
        if record["model"] == "S/16"
    ]
    assert law.report(law.examine(records + others)) == before


def test_a_length_of_one_seed_stands_beside_those_of_three():
    records = measured_grid({"resize64": (10, 7, 3)})
    single = measured_grid({"resize112": (3, 2, 1)}, seeds=(0,))
    records += [record for record in single if record["image_reduction"] != "none"]
    text = law.report(law.examine(records))
    assert "1 to 3 seeds" in text and "over seeds or, below three seeds, test items" in text
    assert max(map(len, text.splitlines())) <= 100
    row = [line for line in text.splitlines() if "resize 112" in line][2]
    assert "not clear" in row and "of 1" in row and "Left out" not in text


def test_mixtures_and_missing_baselines_are_refused():
    records = measured_grid({"resize64": (10, 7, 3)})
    with pytest.raises(RecordError, match="no measured full-length baseline"):
        law.summarise(record for record in records if record["image_reduction"] != "none")
    records[3] = records[3] | {"protocol": "deadbeef"}
    with pytest.raises(RecordError, match="mix evaluation protocols"):
        law.summarise(records)


def test_the_report_fits_a_terminal_and_says_what_the_numbers_say(tmp_path):
    records = measured_grid({"resize64": (10, 7, 3), "resize112": (3, 3, 3)})
    for seed in range(3):
        write_records(tmp_path / f"{seed}.json", [record for record in records if record["seed"] == seed])
    text = law.main_report(sorted(tmp_path.glob("*.json")))
    sentences = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert "3 seeds" in text and "pictograms/v1/plain (n = 4000)" in text
    assert "without a verdict: as the law says at resize 64; not clear at resize 112." in sentences
    assert (
        "P1 resize 112: no verdict (3 of 4 models; 3 of 8 complete seeds; the gate was not measured)." in text
    )
    only_full = [record for record in records if record["image_reduction"] == "none"]
    assert "nothing can be said" in law.report(law.examine(only_full))
