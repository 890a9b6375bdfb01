"""Figures 5 and 6 as records: what the paper states in words or in Table 15, and nothing read off a plot."""

import json

import pytest

from clipa.records import read_records, record_id
from second_reading import COORDINATES, KEYS, PUBLISHED, stored

MEASURES = {
    5: [("mscoco_captions", f"{side}_retrieval_recall@1") for side in ("image", "text")],
    6: [(name, "acc1") for name in ("imagenetv2", "imagenet-r", "imagenet-a", "imagenet_sketch")],
}
MODELS = ("S16", "B16", "L16")
# §4.1: "random masking strategy that reduces the token length from 197 to 17": drops of image and text retrieval.
PROSE = {
    f"figure5.{model}-random16-truncation32.finetune.mscoco_captions.{side}_retrieval_recall@1_drop": printed
    for model, drops in {"S16": ("6.6%", "7.1%"), "B16": ("5.8%", "5.9%"), "L16": ("4.6%", "4.1%")}.items()
    for side, printed in zip(("image", "text"), drops, strict=True)
}
UNKNOWN = "only in the plot; not read off it"
BOTH = pytest.mark.parametrize("figure", MEASURES)


def figure_records(figure: int) -> list[dict]:
    return read_records(PUBLISHED / f"figure{figure}.json")


def runs() -> dict[str, str]:
    """{run: its last stage} of Table 11; grid masking with larger ratios was not run, so no figure has it."""
    found = {r["run"]: r for r in stored(11) if r["printed"] not in ("-", "N/A")}
    assert len(found) == 3 * 15
    return {run: "pretrain" if "-none-" in run else "finetune" for run in found}


@BOTH
def test_a_level_for_every_point_and_a_drop_for_every_shorter_one(figure):
    wanted = set()
    for run, stage in runs().items():
        for benchmark, metric in MEASURES[figure]:
            point = f"figure{figure}.{run}.{stage}.{benchmark}.{metric}"
            wanted |= {point} if stage == "pretrain" else {point, f"{point}_drop"}
    records = figure_records(figure)
    assert {record["id"] for record in records} == wanted
    assert len(records) == {5: 174, 6: 348}[figure]
    assert sum(record["value"] is not None for record in records) == 12


@BOTH
def test_nothing_is_invented(figure):
    """Every number is Table 15's (112 pixels, whole texts) or a sentence's of §4.1; the rest is null and says why."""
    printed = {record["id"]: record for record in stored(15)}
    known = {"prose": 0, "table15": 0}
    for record in figure_records(figure):
        if record["id"] in PROSE:
            known["prose"] += 1
            assert (record["printed"], record["unit"]) == (PROSE[record["id"]], "points")
            assert record["value"] == float(record["printed"].removesuffix("%"))
            assert "4.1" in record["note"] and record["same_as"] == []
        elif record["run"].endswith("-resize112-truncation32") and not record["metric"].endswith("_drop"):
            known["table15"] += 1
            source = printed[record["id"].replace(f"figure{figure}", "table15")]
            for key in (
                "value",
                "printed",
                "unit",
                "model",
                "run",
                "stage",
                "benchmark",
                "metric",
                "image_tokens",
            ):
                assert record[key] == source[key], record["id"]
            assert record["same_as"] == [source["id"]] and "Table 15" in record["note"]
        else:
            assert (record["value"], record["printed"], record["same_as"]) == (None, None, [])
            assert record["note"] == UNKNOWN
    assert known == {5: {"prose": 6, "table15": 6}, 6: {"prose": 0, "table15": 12}}[figure]


@BOTH
def test_fields_are_those_of_table_11(figure):
    """A point of a figure has the coordinates of its run in Table 11."""
    table = {(record["run"], record["stage"]): record for record in stored(11)}
    for record in figure_records(figure):
        assert [key for key in record if key != "section"] == KEYS and record["id"] == record_id(record)
        stated = (record["note"] or "").startswith("Section 4.1 states it")
        assert record.get("section") == ("4.1" if stated else None)
        assert (record["table"], record["figure"], record["row"], record["column"]) == (
            None,
            figure,
            None,
            None,
        )
        of_run = table[record["run"], record["stage"]]
        for key in ("source", "scale", "model", "case", *COORDINATES, "factors"):
            assert record[key] == of_run[key], f"{record['id']}: {key}"
        assert record["unit"] == ("points" if record["metric"].endswith("_drop") else "percent")


@BOTH
def test_the_file_is_one_record_to_a_line(figure):
    lines = (PUBLISHED / f"figure{figure}.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["id"] for line in lines[1:-1]] == [
        r["id"] for r in figure_records(figure)
    ]


def test_larger_models_lose_less_as_section_4_1_says():
    by_id = {record["id"]: record["value"] for record in figure_records(5)}
    for side in ("image", "text"):
        name = f"-random16-truncation32.finetune.mscoco_captions.{side}_retrieval_recall@1_drop"
        drops = [by_id[f"figure5.{model}{name}"] for model in MODELS]
        assert drops == sorted(drops, reverse=True) and len(set(drops)) == 3
