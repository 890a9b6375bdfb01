"""Tables 1 to 15 as records against a second reading of the paper: its tables' own text, by a parser."""

import json
import re

import pytest

from clipa.records import frame_of, record_id
from clipa.schema import SCHEMA_VERSION
from clipa.study import MODELS, parse_run
from paper_layouts import TABLES, stages_in
from second_reading import COORDINATES, KEYS, PUBLISHED, differences, stored

# Records and, of these, those without a value.
COUNTS = {
    1: (99, 0),
    2: (99, 0),
    3: (72, 0),
    4: (50, 0),
    5: (12, 0),
    6: (5, 0),
    7: (12 + 5, 0),
    8: (16, 0),
    9: (12, 0),
    10: (12, 0),
    11: (102, 15),
    12: (120, 0),
    13: (40, 4),
    14: (16 + 8, 2),
    15: (420, 0),
}
UNITS = {
    "gpu_hours": "GPU hours",
    "flops": "GFLOPs",
    "data_source": "text",
    "samples": "samples",
    "embed_dim": "count",
    "layers": "count",
    "width": "count",
    "heads": "count",
    "parameters": "M",
    "optimizer": "text",
    "optimizer_momentum": "rate",
    "batch_size": "count",
    "base_lr": "rate",
    "minimal_lr": "rate",
    "warmup_steps": "count",
    "schedule": "text",
    "weight_decay": "rate",
    "random_crop_area": "rate",
    "resize_method": "text",
    "color_jitter": "rate",
    "temperature_init": "rate",
    "acc1": "percent",
    "acc1_gain": "points",
    "image_retrieval_recall@1": "percent",
    "text_retrieval_recall@1": "percent",
}
COMPUTE = {2: "1e12 GFLOPs", 3: "1e12 GFLOPs", 8: "1e11 GFLOPs"}

# --------------------------------------------------------------------------------------------------- two readings


@pytest.mark.parametrize("number", TABLES)
def test_every_cell_is_that_of_the_text(number):
    assert not differences(number, stored(number))


@pytest.mark.parametrize("number", TABLES)
def test_as_many_cells_as_the_paper_has(number):
    records = stored(number)
    assert (len(records), sum(record["value"] is None for record in records)) == COUNTS[number]
    assert all(record["note"] for record in records if record["value"] is None)


def test_eleven_hundred_cells():
    assert sum(len(stored(number)) for number in TABLES) == 1100


def test_a_value_that_is_not_what_is_printed_says_so():
    percents = [r for number in TABLES for r in stored(number) if r["unit"] == "percent"]
    odd = [r for r in percents if r["value"] is not None and float(r["printed"]) != r["value"]]
    assert [record["id"] for record in odd] == ["table12.S16-resize112-random6.pretrain.imagenet1k.acc1"]
    assert odd[0]["printed"] == "299" and odd[0]["value"] == 29.9 and "29.9" in odd[0]["note"]


def test_by_meaning_where_label_and_numbers_disagree():
    """Table 3's third row and Table 15's retrieval headings: `row` and `column` keep what is printed."""
    third = [record for record in stored(3) if record["row"].endswith("12.8B+512M")]
    assert len(third) == 18
    assert {record["case"] for record in third} == {"H14-resize84-truncation8-laion2b-12.8B-128M"}
    assert all("12.8B+512M" in record["note"] for record in third)
    # The recall printed under "image" is the smaller one in every row of Tables 1 and 2; so is I-to-T in Table 15.
    pairs = 0
    for number in (1, 2, 15):
        by_id = {record["id"]: record for record in stored(number)}
        for identity, record in by_id.items():
            if record["metric"] == "image_retrieval_recall@1":
                other = by_id[identity.replace("image_retrieval", "text_retrieval")]
                assert record["value"] < other["value"]
                headings = {15: ("I-to-T", "T-to-I")}.get(number, ("image", "text"))
                assert (record["column"].split()[-1], other["column"].split()[-1]) == headings
                assert number != 15 or (record["note"] and other["note"])
                pairs += 1
    assert pairs == 9 * 2 + 9 * 2 + 60


# ------------------------------------------------------------------------------------------- fields of the records


@pytest.mark.parametrize("number", TABLES)
def test_the_file_is_one_record_to_a_line(number):
    lines = (PUBLISHED / f"table{number}.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) == COUNTS[number][0] + 2
    assert [json.loads(line.rstrip(","))["id"] for line in lines[1:-1]] == [r["id"] for r in stored(number)]


@pytest.mark.parametrize("number", TABLES)
def test_fields_are_complete_and_the_id_follows_from_them(number):
    for record in stored(number):
        assert list(record) == KEYS
        assert record["id"] == record_id(record)
        assert [record[key] for key in KEYS[1:6]] == [SCHEMA_VERSION, "published", "paper", number, None]
        metric = record["metric"].split(".")[-1]
        assert record["unit"] == (COMPUTE[number] if metric == "compute" else UNITS[metric])
        assert (record["benchmark"] is None) == (record["unit"] not in ("percent", "points"))


@pytest.mark.parametrize("number", TABLES)
def test_coordinates_follow_from_the_run(number):
    sixteen = {224: 196, 160: 100, 112: 49, 96: 36, 64: 16}
    for record in stored(number):
        coordinates = [record[key] for key in COORDINATES]
        if record["run"] is None:  # other people's models, Tables 4 and 5
            assert coordinates == [None, 224 if record["benchmark"] or number < 4 else None, *[None] * 4]
            assert record["case"] == (record["model"] and record["model"].replace("/", ""))
            continue
        model, image, reduction, tokens = re.fullmatch(
            r"(.+)-([a-z]+\d*)-([a-z]+?)(\d+)", record["run"]
        ).groups()
        assert record["model"] in MODELS and record["model"].replace("/", "") == model
        kind, setting = re.fullmatch(r"([a-z]+)(\d*)", image).groups()
        size, kept = 224, int(setting or 0)
        if kind in ("none", "resize"):
            size = int(setting or 224)
            kept = 36 if size == 84 else sixteen[size]  # 84 pixels: patches of 14
        patches = None if model.startswith("ConvNeXt") else kept
        wanted = [kind, size, patches, patches and patches + 1, reduction, int(tokens)]
        assert coordinates == wanted, record["id"]
        run = parse_run(record["run"])
        assert (run.slug, run.model) == (record["run"], record["model"])
        said = [
            run.image_reduction,
            run.image_size,
            patches and run.patches,
            run.text_reduction,
            run.text_tokens,
        ]
        assert said == wanted[:3] + wanted[4:], record["id"]


def amount(text: str) -> float:
    """`12.8B`, `128M`, `7k` (batches come in powers of two) as a number."""
    return round(float(text[:-1]) * {"B": 1e9, "M": 1e6, "k": 1024}[text[-1]])


# Table 3 leaves out FLIP's fine-tuning, which Table 2 prints, and its third row's label is a slip.
TABLE3_SAMPLES = {"12.8B+512M": "12.8B+128M", "25.6B": "25.6B+128M"}


def data_of(record: dict) -> tuple[str, str]:
    """Data source and samples of all stages as the record's table prints them, in its row or its caption."""
    parts = record["row"].split(" | ")
    if record["table"] == 1:
        return "LAION-400M", parts[1]  # caption
    if record["table"] == 2:
        return parts[1], parts[2]
    if record["table"] == 3:
        return "LAION-2B", TABLE3_SAMPLES.get(parts[1], parts[1])  # caption
    if record["table"] == 8:
        row = {other["metric"]: other["printed"] for other in stored(8) if other["case"] == record["case"]}
        return row["data_source"], row["samples"]
    return "LAION-2B", f"12.8B+{parts[3]}"  # Table 10 goes on from Table 8's last row (§B.2)


@pytest.mark.parametrize("number", [1, 2, 3, 8, 10])
def test_factors_are_the_data_and_samples_of_the_row(number):
    for record in stored(number):
        factors, name = record["factors"], record["id"]
        source, samples = data_of(record)
        (pretrain, _), *finetunes = stages_in(samples)
        assert factors["pretrain_samples"] == amount(pretrain), name
        assert factors.get("finetune_samples", []) == [amount(samples) for samples, _ in finetunes], name
        if number in (1, 2):
            assert factors.get("finetune_image_size", []) == [size for _, size in finetunes], name
        # Table 1 does not say what OpenAI's models were trained on.
        assert factors.get("data_source") == (None if record["row"].startswith("OpenAI") else source), name
        assert (factors.get("recipe") == "CLIPA") == (record["run"] is not None), name


def test_factors_of_the_fine_tuning_schedule_are_those_of_the_row():
    for record in stored(10):
        _, masks, sizes, _ = record["row"].split(" | ")
        assert record["factors"]["finetune_image_size"] == [
            int(size) for size in re.findall(r"(\d+)²", sizes)
        ]
        ratios = [int(ratio) / 100 for ratio in re.findall(r"(\d+)%", masks)]
        assert record["factors"].get("finetune_mask_ratio", [0]) == ratios


def test_factors_of_the_fine_tuning_tables():
    for record in stored(6):
        assert record["factors"]["finetune_batch_size"] == amount(record["column"])
    for record in stored(7):
        gap, jitter, pytorch, batch = record["row"].split(" | ")[-4:]
        factors = {"pooling": "gap" if gap == "✓" else "cls", "color_jitter": jitter == "✓"}
        factors |= {
            "implementation": "pytorch" if pytorch == "✓" else "jax",
            "finetune_batch_size": amount(batch),
        }
        assert factors.items() <= record["factors"].items(), record["id"]
    for record in stored(9):
        ratio = int(record["row"].removesuffix("%")) / 100
        factors = {"finetune_mask": record["column"], "finetune_mask_ratio": [ratio]}
        factors |= {"finetune_patches": [256 * (1 - ratio)]}  # 16 × 16 patches of 14 pixels
        assert factors.items() <= record["factors"].items(), record["id"]


# ------------------------------------------------------------------------------------------------ what they are for


def test_drops_of_the_frame_are_those_of_section_4_1():
    frame = frame_of(stored(11))
    drop = frame[frame.stage == "finetune"].set_index(["image_reduction", "image_tokens", "model"])["drop"]
    assert [drop["resize", 17, model] for model in ("S/16", "B/16", "L/16")] == [6.2, 4.3, 3.0]
    assert drop["block", 99, "L/16"] == -0.3
    assert drop["resize", 50, "L/16"] == 0.3  # §4.2
    assert drop["random", 99, "B/16"] <= 2 < drop["random", 50, "B/16"]


def test_a_guessable_id_finds_its_number():
    by_id = {record["id"]: record for number in TABLES for record in stored(number)}
    for identity, value in {
        "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1": 66.2,
        "table11.S16-none-truncation32.pretrain.imagenet1k.acc1": 56.7,
        "table1.OpenCLIP-B16.gpu_hours": 10700,
        "table2.G14-resize84-truncation8-datacomp1b-12.8B-512M-128M.finetune.imagenet1k.acc1": 83.0,
        "table4.L16.vision.layers": 24,
        "table5.pretrain.base_lr": 8e-6,
        "table10.224px-128M.flops": 177.0,
        "table14.B16-resize112-truncation16.negclip.aro/coco_order.acc1_gain": 48.3,
        "table15.S16-resize112-random16.finetune.mscoco_captions.image_retrieval_recall@1": 30.3,
    }.items():
        assert by_id[identity]["value"] == value
    missing = by_id["table11.S16-none-truncation32.finetune.imagenet1k.acc1"]
    assert (
        missing["value"] is None
        and "table11.S16-none-truncation32.pretrain.imagenet1k.acc1" in missing["note"]
    )
