"""What an erratum says is "taken here" is what configuration, records and code take: one check for each of them.

Configuration is the paper's scale; a check of a training looks at the stages that the workflow would train.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clipa.config import load_scale
from clipa.cost import CONFIGURATIONS, FINETUNE_SAMPLES, PRETRAIN_SAMPLES
from clipa.plan import filling
from clipa.published.claims import NOT_CHECKABLE, Evaluation
from clipa.records import published_records
from clipa.stages import Stage, stages_of
from clipa.study import FULL_TEXT_TOKENS, IMAGE_REDUCTIONS, TEXT_REDUCTIONS, parse_run

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "clipa"
RECORDS = {record["id"]: record for record in published_records()}
H14 = "H14-resize84-truncation8-"
G14 = "G14-resize84-truncation8-datacomp1b-12.8B-512M-128M"


def stages(run: str) -> list[Stage]:
    """The stages of a run at the paper's scale, in the order of training."""
    return stages_of(parse_run(run), load_scale("paper"), seed=0)


def cell_stages(identity: str) -> list[Stage]:
    """The stages of the run that fills a published number's cell."""
    return stages(filling(RECORDS[identity])[-1])


def of_table_1(case: str) -> list[Stage]:
    return cell_stages(f"table1.{case}.finetune.imagenet1k.acc1")


def printed(*cells: tuple[str, float]) -> bool:
    """Whether cells are recorded with the values that are printed."""
    return all(
        RECORDS[name]["value"] == value == float(RECORDS[name]["printed"].rstrip("G"))
        for name, value in cells
    )


def noted(pattern: str, words: str) -> bool:
    """Whether every record whose id begins so has a note with these words."""
    found = [
        record for name, record in RECORDS.items() if name.startswith(pattern) and record["value"] is not None
    ]
    return bool(found) and all(words in (record["note"] or "") for record in found)


def empty(*starts: str) -> bool:
    """Whether all records whose ids begin so have neither value nor print."""
    found = [record for name, record in RECORDS.items() if name.startswith(starts)]
    return bool(found) and all(record["value"] is None for record in found)


def text(path: str) -> str:
    return " ".join((SOURCE / path).read_text(encoding="utf-8").split())


def page(path: str) -> str:
    return " ".join((ROOT / "docs" / path).read_text(encoding="utf-8").split())


def scale() -> dict:
    return load_scale("paper").model_dump()


def vision(stage: Stage) -> dict:
    return stage.model_config["vision_cfg"]


def averages(stage: Stage) -> bool:
    return vision(stage).get("pool_type") == "avg"


def crops_only(stage: Stage) -> bool:
    return not (stage.augmentation.color_jitter or stage.augmentation.grayscale_probability)


STUDY = "L16-resize64-truncation32"
CLIPA_ROWS = ("B16-resize112-truncation16", "L16-resize64-truncation16", "L16-resize96-truncation8")

CHECKS: dict[str, Callable[[], bool]] = {
    # ----------------------------------------------------------------------------------------------- settings
    "epochs-and-samples": lambda: (
        [stage.schedule.samples for stage in stages(STUDY)]
        == [2_560_000_000, 131_072_000]
        == [PRETRAIN_SAMPLES, FINETUNE_SAMPLES]
    ),
    "base-lr-of-finetuning": lambda: (
        {model: load_scale("paper").base_lr(model, "finetune") for model in ("S/16", "B/16", "L/16")}
        == {"S/16": 8e-7, "B/16": 8e-7, "L/16": 4e-7}
    ),
    "meaning-of-base-lr": lambda: all(
        stage.peak_lr == pytest.approx(stage.base_lr * stage.schedule.batch_size / 256)
        for stage in stages(STUDY)
    ),
    "pooling-of-the-image": lambda: (
        not any(map(averages, stages(STUDY)))
        and all(averages(stage) for case in CLIPA_ROWS for stage in of_table_1(case))
        and all(map(averages, stages(G14)))
    ),
    "augmentation": lambda: (
        all(map(crops_only, stages(STUDY)))
        and not any(crops_only(s) for case in CLIPA_ROWS for s in of_table_1(case)[:1])
    ),
    "evaluation-protocol": lambda: (
        "clip_benchmark" in text("evaluate/tasks.py").lower()
        and all(stage.pixels[1:3] == ("shorter", stage.image_size) for stage in stages(STUDY))
        and all(stage.pixels.mode == "squash" for stage in stages(G14))
    ),
    "text-tower": lambda: all(
        stage.model_config["text_cfg"]["no_causal_mask"]
        and stage.model_config["text_cfg"]["pool_type"] == "last"
        for case in CLIPA_ROWS
        for stage in of_table_1(case)
    ),
    "reading-of-the-text": lambda: stages(STUDY)[0].model_config["text_cfg"]["pool_type"] == "last",
    "text-reduction-of-table-1": lambda: all(
        of_table_1(case)[0].text_reduction == "truncation" for case in CLIPA_ROWS
    ),
    "text-length-in-finetuning-of-table-1": lambda: all(
        of_table_1(case)[-1].text_tokens == FULL_TEXT_TOKENS == 32 for case in CLIPA_ROWS
    ),
    "recipe-of-CLIPA-B16": lambda: (
        of_table_1("B16-resize112-truncation16")[-1].run.slug.endswith("-clipa-batch8k")
        and of_table_1("B16-resize112-truncation16")[0].schedule.batch_size == 32768
        and of_table_1("B16-resize112-truncation16")[-1].schedule.batch_size == 8192
    ),
    "syntax-masking": lambda: (
        stages("L16-resize112-syntax8")[0].text_recipe == "paper" and TEXT_REDUCTIONS["syntax"].tags
    ),
    "random-and-block-text-masking": lambda: all(
        stages(f"L16-resize112-{name}8")[0].text_recipe == "paper" for name in ("random", "block")
    ),
    "recipe-of-G14": lambda: (
        [(s.run.image_size, s.base_lr, s.schedule.batch_size) for s in stages(G14)[:2]]
        == [(84, 8e-6, 65536), (84, 4e-7, 32768)]
        and stages(G14)[1].kept_patches == 179
    ),
    "fine-tuning-of-the-81.5-model": lambda: (
        stages(f"{H14}datacomp1b-12.8B-128M")[-1].schedule.samples == 131_072_000
        and [s.schedule.samples for s in stages(f"{H14}datacomp1b-12.8B-512M-128M")[1:]]
        == [524_288_000, 131_072_000]
    ),
    # ------------------------------------------------------------------------------------------------- labels
    "tokens-with-and-without-class-token": lambda: all(
        record["image_tokens"] == record["patches"] + 1 for record in RECORDS.values() if record["patches"]
    ),
    "17-image-and-8-text-tokens": lambda: (
        not any((record["image_tokens"], record["text_tokens"]) == (17, 8) for record in RECORDS.values())
    ),
    "samples-called-epochs": lambda: all(
        0 <= 131_072_000 - of_table_1(case)[-1].schedule.samples < of_table_1(case)[-1].schedule.batch_size
        for case in CLIPA_ROWS
    ),
    "label-of-table-3": lambda: noted(f"table3.{H14}laion2b-12.8B-128M.", "12.8B+512M"),
    "headings-of-table-15": lambda: all(
        ("I-to-T" in record["column"]) == record["metric"].startswith("image_retrieval")
        for record in RECORDS.values()
        if record["table"] == 15 and record["metric"].endswith("recall@1")
    ),
    "text-encoders-of-ConvNeXt": lambda: all(
        _text_tower(f"ConvNeXt-{size}") == _text_tower(model)
        for size, model in (("T", "S/16"), ("B", "B/16"))
    ),
    "small-labels": lambda: (
        noted("table1.L16-resize96-", "stroke")
        and RECORDS[f"table11.{STUDY}.finetune.imagenet1k.acc1"]["model"] == "L/16"
        and RECORDS[f"table11.{STUDY}.finetune.imagenet1k.acc1"]["image_reduction"] == "resize"
    ),
    "which-FLIP-H14": lambda: (
        {
            result.verdict
            for result in Evaluation().results
            if result.claim.id in ("sB.2-over-FLIP", "sB.2-third-of-FLIP-budget")
        }
        == {NOT_CHECKABLE}
    ),
    "full-token-lengths-though-masked": lambda: (
        [stage.kept_patches for stage in stages(G14)[1:]] == [179, 345]
    ),
    "slightly-in-section-7": lambda: "acc(14" in _formula("s7-OpenCLIP-slightly-better"),
    "all-these-models-on-8-A100": lambda: (
        {name.split(".")[0] for name, record in RECORDS.items() if record["unit"] == "GPU hours"}
        == {"table1"}
    ),
    "table-13-is-not-like-for-like": lambda: (
        not crops_only(stages("ConvNeXt-T-resize64-truncation32")[0])
        and crops_only(stages("S16-resize64-truncation32")[0])
    ),
    # -------------------------------------------------------------------------------------------------- cells
    "totals-of-table-4": lambda: all(
        "add up to" in RECORDS[f"table4.{model}.total.parameters"]["note"] for model in ("B16", "L16", "H14")
    ),
    "parameters-of-the-towers": lambda: printed(
        ("table4.B16.vision.parameters", 86), ("table4.L16.vision.parameters", 303)
    ),
    "gpu-hours-of-OpenAI": lambda: printed(
        ("table1.OpenAI-B32.gpu_hours", 4600),
        ("table1.OpenAI-B16.gpu_hours", 10700),
        ("table1.OpenAI-L14.gpu_hours", 50800),
    ),
    "missing-decimal-point-in-table-12": lambda: (
        (cell := RECORDS["table12.S16-resize112-random6.pretrain.imagenet1k.acc1"])["value"] == 29.9
        and cell["printed"] == "299"
    ),
    "two-decimals": lambda: printed(
        ("table11.B16-random49-truncation32.pretrain.imagenet1k.acc1", 58.51),
        ("table15.B16-resize112-random16.finetune.imagenet_sketch.acc1", 48.60),
    ),
    "objectnet-of-H14-at-336": lambda: printed(
        (f"table2.{H14}laion2b-12.8B-512M-128M.finetune.objectnet.acc1", 69.9)
    ),
    "repeated-cells": lambda: printed(
        ("table11.L16-grid98-truncation32.pretrain.imagenet1k.acc1", 68.3),
        ("table12.L16-resize112-syntax4.pretrain.imagenet1k.acc1", 39.6),
        ("table12.L16-resize112-random4.finetune.imagenet1k.acc1", 63.6),
    ),
    # ------------------------------------------------------------------------------------------------ compute
    "unit-of-25-times": lambda: CONFIGURATIONS["H/14"].macs(256, 32) / 1e9 == pytest.approx(177.0, abs=0.05),
    "compute-of-OpenCLIP-G14": lambda: (
        printed(("table2.OpenCLIP-G14.compute", 29.8)) and ".compute" in _formula("abstract-G14-33-times")
    ),
    "compute-of-CLIPA-G14": lambda: printed((f"table2.{G14}.compute", 0.9)),
    "compute-of-table-8": lambda: printed((f"table8.{H14}laion2b-12.8B-128M.compute", 4)),
    "30-percent-masking-in-table-10": lambda: (
        printed(("table10.224px-mask30-128M.flops", 135.9)) and ".flops" in _formula("sB.2-mask30-1.3-times")
    ),
    # ------------------------------------------------------------------------------------------------ unknown
    "values-of-figures-5-and-6": lambda: all(
        record["value"] is None for record in RECORDS.values() if "not read off" in (record["note"] or "")
    ),
    "lost-cell-of-table-14": lambda: empty("table14.OpenCLIP-B16.negclip.aro/vg_relation."),
    "stages-of-the-full-length-baseline": lambda: (
        [stage.kind for stage in stages("L16-none-truncation32")] == ["pretrain"]
        and [stage.kind for stage in stages("L16-none-truncation32-baseline-finetuned")]
        == ["pretrain", "finetune"]
    ),
    "evaluation-of-pretrain-columns": lambda: (
        "they have the size of pre-training" in page("method.md") and stages(STUDY)[0].image_size == 64
    ),
    "bold-type": lambda: not any("bold" in name for record in RECORDS.values() for name in record),
    "block-masking-of-images": lambda: (
        IMAGE_REDUCTIONS["block"].readings[0] == "keep-one"
        and len(IMAGE_REDUCTIONS["block"].readings) > 1
        and stages("L16-block49-truncation32")[0].reading is None
    ),
    "grid-masking-at-half": lambda: (
        IMAGE_REDUCTIONS["grid"].readings[0] == "diagonal"
        and len(IMAGE_REDUCTIONS["grid"].readings) > 1
        and stages("L16-grid98-truncation32")[0].reading is None
    ),
    "data": lambda: "laion/relaion400m" in str(scale()["data"]) and "relaion" in page("data.md"),
    "NegCLIP-training": lambda: (
        scale()["negclip"]["batch_size"] == 256
        and stages("B16-resize112-truncation16-negclip")[-1].base_lr == 1e-6
    ),
    "models-of-table-14": lambda: noted("table14.B16-", "Table 1"),
    "augmentations-of-ConvNeXt": lambda: (
        stages("ConvNeXt-B-resize64-truncation32")[0].augmentation.color_jitter
        == of_table_1("L16-resize64-truncation16")[0].augmentation.color_jitter
        == 0.32
    ),
    "spread-between-runs": lambda: _measured_have("seed", "standard_error"),
    "text-positions-in-finetuning": lambda: "interpolated linearly along the length" in page("method.md"),
    "gpu-days-of-OpenCLIP-H14": lambda: "table2.OpenCLIP-H14.gpu_hours" not in RECORDS,
}


def _text_tower(model: str) -> dict:
    """Width, depth and heads of a model's text tower."""
    name = load_scale("paper").models[model].config
    config = json.loads((SOURCE / "model_configs" / f"{name}.json").read_text(encoding="utf-8"))["text_cfg"]
    return {key: config[key] for key in ("width", "layers", "heads")}


def _formula(claim: str) -> str:
    return next(c.formula for c in Evaluation().content.claims if c.id == claim)


def _measured_have(*fields: str) -> bool:
    file = next((ROOT / "results" / "recorded").glob("*/*/*.json"))
    content = json.loads(file.read_text(encoding="utf-8"))
    records = content if isinstance(content, list) else content["records"]
    return bool(records) and all(field in record for record in records for field in fields)


def test_every_erratum_that_takes_something_has_a_check():
    assert set(CHECKS) == {conflict.id for conflict in Evaluation().content.conflicts}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_taken_is_taken(name):
    assert CHECKS[name](), name
