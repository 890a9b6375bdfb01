"""What the paper prints more than once: the repeats agree, and `same_as` names exactly these."""

from collections import Counter
from functools import cache
from itertools import combinations

import pytest

from clipa.records import published_records

ACCURACY = "finetune.imagenet1k.acc1"
# One 1e12 GFLOPs of Tables 2 and 3 are ten 1e11 GFLOPs of Table 8.
IN_GFLOPS = {"1e12 GFLOPs": 1e12, "1e11 GFLOPs": 1e11}
H14 = "H14-resize84-truncation8"
H14_SHORT, H14_LONG = f"{H14}-laion2b-12.8B-128M", f"{H14}-laion2b-12.8B-512M-128M"
# Repeats that do not agree, with the reason. The paper has none between its tables.
DISAGREE: dict[tuple[str, str], str] = {}
# Pairs of records of one quantity, by where it is printed; a quantity printed n times counts n (n - 1) / 2 pairs.
PAIRS = {
    (1, 7): 1,
    (1, 8): 1,
    (2, 3): 8,
    (2, 8): 2,
    (2, 9): 3,
    (2, 10): 2,
    (3, 8): 2,
    (3, 9): 3,
    (3, 10): 2,
    (6, 7): 1,
    (8, 9): 3,
    (8, 10): 1,
    (9, 9): 3,
    (9, 10): 3,
    (11, 12): 6,
    (11, 13): 18,
    (11, 15): 3,
    (12, 13): 4,
    (12, 15): 60,
    (13, 15): 2,
    ("figure5", 15): 6,
    ("figure6", 15): 12,
}


@cache
def records() -> dict[str, dict]:
    return {record["id"]: record for record in published_records()}


def repeats() -> list[set[str]]:
    """Groups of ids of one quantity each, from what the tables are about."""
    links: list[set[str]] = []
    # Table 15's ImageNet-1k columns are Table 12's fine-tuned models.
    for reduction in ("truncation", "random", "block", "syntax"):
        for model in ("S16", "B16", "L16"):
            for tokens in (32, 16, 8, 6, 4):
                run = f"{model}-resize112-{reduction}{tokens}"
                links.append({f"table12.{run}.{ACCURACY}", f"table15.{run}.{ACCURACY}"})
    # Images of 112 pixels with whole texts stand in Tables 11 and 12.
    for model in ("S16", "B16", "L16"):
        for stage in ("pretrain", "finetune"):
            run = f"{model}-resize112-truncation32.{stage}.imagenet1k.acc1"
            links.append({f"table11.{run}", f"table12.{run}"})
        # Figures 5 and 6 show the runs of Table 11; Table 15 prints the one of them that it has.
        for figure, names in {
            5: ["mscoco_captions.image_retrieval_recall@1", "mscoco_captions.text_retrieval_recall@1"],
            6: [f"{name}.acc1" for name in ("imagenetv2", "imagenet-r", "imagenet-a", "imagenet_sketch")],
        }.items():
            for name in names:
                run = f"{model}-resize112-truncation32.finetune.{name}"
                links.append({f"figure{figure}.{run}", f"table15.{run}"})
    # The ViT columns of Table 13 are Table 11's resized runs and its baseline, which has one stage.
    for model in ("S16", "B16"):
        runs = [
            f"resize{size}-truncation32.{stage}"
            for size in (160, 112, 96, 64)
            for stage in ("pretrain", "finetune")
        ]
        for run in ["none-truncation32.pretrain", *runs]:
            links.append({f"table{number}.{model}-{run}.imagenet1k.acc1" for number in (11, 13)})
    # CLIPA-L/16: Table 1's two models in Tables 7 and 8, Table 6's largest batch in Table 7.
    links.append(
        {f"table1.L16-resize64-truncation16.{ACCURACY}", f"table7.gap-jitter-pytorch-batch7k.{ACCURACY}"}
    )
    links.append(
        {
            f"table1.L16-resize96-truncation8.{ACCURACY}",
            f"table8.L16-resize96-truncation8-laion400m-2.56B-128M.{ACCURACY}",
        }
    )
    links.append({f"table6.batch32k.{ACCURACY}", f"table7.gap-jitter.{ACCURACY}"})
    # Tables 2 and 3: the same models.
    for case in ("FLIP-H14", "OpenCLIP-H14", H14_SHORT, H14_LONG):
        stage = "finetune." if case.startswith(H14) else ""
        for name in ("compute", f"{stage}imagenet1k.acc1"):
            links.append({f"table{number}.{case}.{name}" for number in (2, 3)})
    # CLIPA-H/14 after 12.8B samples is the last row of Table 8 and the start of Tables 9 and 10; whole images at 0 %.
    links.append({f"table{number}.{H14_SHORT}.compute" for number in (2, 8)})
    links.append(
        {f"table{number}.{H14_SHORT}.{ACCURACY}" for number in (2, 8)}
        | {f"table9.{mask}0.{ACCURACY}" for mask in ("random", "block", "grid")}
        | {f"table10.224px-128M.{ACCURACY}"}
    )
    links.append({f"table2.{H14_LONG}.{ACCURACY}", f"table10.224px-mask30-512M-336px-mask40-128M.{ACCURACY}"})
    groups: list[set[str]] = []
    for link in links:
        joined = [group for group in groups if group & link]
        groups = [group for group in groups if not group & link] + [link.union(*joined)]
    return groups


def amount(record: dict) -> float:
    return round(record["value"] * IN_GFLOPS.get(record["unit"], 1), 6)


def disagreements(by_id: dict[str, dict]) -> set[tuple[str, str]]:
    """Pairs of repeats that print different values."""
    pairs = [pair for group in repeats() for pair in combinations(sorted(group), 2)]
    return {(one, other) for one, other in pairs if amount(by_id[one]) != amount(by_id[other])}


def test_repeats_agree():
    assert disagreements(records()) == set(DISAGREE)


def test_there_are_as_many_repeats_as_the_tables_have_in_common():
    def place(identity: str) -> int | str:
        return records()[identity]["table"] or identity.split(".")[0]

    pairs = Counter(
        tuple(sorted(map(place, pair), key=lambda place: (isinstance(place, int), place)))
        for group in repeats()
        for pair in combinations(group, 2)
    )
    assert pairs == PAIRS


def test_same_as_names_the_repeats_and_nothing_else():
    wanted = {identity: group - {identity} for group in repeats() for identity in group}
    for identity, record in records().items():
        assert set(record["same_as"]) == wanted.get(identity, set()), identity
        assert len(record["same_as"]) == len(set(record["same_as"]))
    for identity, record in records().items():
        for other in record["same_as"]:
            assert identity in records()[other]["same_as"], f"{other} does not name {identity}"


def test_a_repeat_that_is_changed_no_longer_agrees():
    by_id = records()
    for identity in set().union(*repeats()):
        changed = by_id[identity] | {"value": by_id[identity]["value"] + 0.1}
        assert disagreements(by_id | {identity: changed}), identity


# ---------------------------------------------------------------------------------------- sums and differences


GAINS = {
    7: lambda identity: "table7.baseline.finetune.imagenet1k.acc1",
    14: lambda identity: identity.replace("16.negclip", "16.finetune" if ".B16-" in identity else "16"),
}


@pytest.mark.parametrize(("number", "count"), [(7, 5), (14, 7)])
def test_bracketed_gains_are_differences(number, count):
    by_id = {identity: record for identity, record in records().items() if record["table"] == number}
    gains = [r for r in by_id.values() if r["metric"].endswith("_gain") and r["value"] is not None]
    assert len(gains) == count
    for gain in gains:
        level = by_id[gain["id"].removesuffix("_gain")]
        before = by_id[GAINS[number](level["id"])]
        assert round(level["value"] - before["value"], 1) == gain["value"], gain["id"]
        assert gain["printed"] == f"(+{gain['value']})" and gain["unit"] == "points"


def test_towers_add_up_to_the_printed_totals_or_the_note_says_not():
    """Table 4: the totals of B/16, L/16 and H/14 are 2 million above the sum of the towers as printed."""
    excess = {}
    for model in ("S16", "B16", "L16", "H14", "G14"):
        vision, text, total = (
            records()[f"table4.{model}.{part}.parameters"] for part in ("vision", "text", "total")
        )
        excess[model] = total["value"] - vision["value"] - text["value"]
        summed = f"{vision['value'] + text['value']:g}"
        assert (summed in (total["note"] or "")) == (excess[model] != 0), model
    assert excess == {"S16": 0, "B16": 2, "L16": 2, "H14": 2, "G14": 0}


def test_two_phases_cost_the_mean_of_each_by_its_samples():
    """Table 10, case (5): 512M samples of case (2) and 128M of case (4)."""
    small, large, both = (
        records()[f"table10.{case}.flops"]["value"]
        for case in ("224px-mask30-512M", "336px-mask40-640M", "224px-mask30-512M-336px-mask40-128M")
    )
    assert round((512 * small + 128 * large) / 640, 1) == both
