"""Made-up measured records of masks, short texts and other benchmarks, for tests of the figures that show them."""

import numpy

from clipa.records import frame_of
from clipa.schema import Record
from fabricated import MODELS, measured_grid, measured_record

COCO = [("mscoco_captions", f"{what}_retrieval_recall@1") for what in ("image", "text")]
VARIANTS = [(name, "acc1") for name in ("imagenetv2", "imagenet-r", "imagenet-a", "imagenet_sketch")]
PIXELS = {100: 160, 49: 112, 36: 96, 16: 64}
SEEDS = (0, 1, 2)
IMAGE_DROPS = {
    "random": {98: 2, 49: 5, 36: 6, 16: 9},
    "grid": {98: 2, 49: 5},
    "block": {98: 1, 49: 3, 36: 5, 16: 9},
    "resize": {100: 1, 49: 2, 36: 4, 16: 7},
}
TEXT_DROPS = {"truncation": {16: 0, 8: 2, 4: 6}, "syntax": {16: -1, 8: 0, 6: 1.5, 4: 4}}
ITEMS = 600


def image_grid(
    benchmark: str, metric: str, reductions: dict[str, dict[int, float]], seeds: tuple[int, ...] = SEEDS
) -> list[Record]:
    """Final records of three models: the baseline at 50 %, and per reduction and patches kept a drop for S/16.

    B/16 drops by two thirds of it, L/16 by a third.
    """
    records = []
    test_set = "plain" if benchmark == "imagenet1k" else f"of-{benchmark}"
    dataset = {"name": f"pictograms/v1/{test_set}", "split": "test", "n": ITEMS, "fingerprint": "3f2a9c1b"}
    fields = {"benchmark": benchmark, "metric": metric, "dataset": dataset}
    for seed, rank, model, share in _models(seeds):
        drawn = _outcomes(seed, rank)
        records.append(measured_record(model, "none", "pretrain", seed, drawn(50), **fields))
        for reduction, drops in reductions.items():
            for patches, drop in drops.items():
                size = PIXELS[patches] if reduction == "resize" else 224
                setting = size if reduction == "resize" else patches
                changes = {
                    "run": f"{model.replace('/', '')}-{reduction}{setting}-truncation32",
                    "image_reduction": reduction,
                    "image_size": size,
                    "patches": patches,
                    "image_tokens": patches + 1,
                }
                correct = drawn(50 - drop * share)
                records.append(
                    measured_record(model, "resize64", "finetune", seed, correct, **fields, **changes)
                )
    return records


def text_grid(reductions: dict[str, dict[int, float]], seeds: tuple[int, ...] = SEEDS) -> list[Record]:
    """Fine-tuned records at 112 pixels: per text reduction 32 tokens at 40 %, and drops as in `image_grid`."""
    records = []
    for seed, rank, model, share in _models(seeds):
        drawn = _outcomes(seed, rank)
        for reduction, drops in reductions.items():
            for tokens, drop in ({32: 0.0} | drops).items():
                run = f"{model.replace('/', '')}-resize112-{reduction}{tokens}"
                fields = {"run": run, "text_reduction": reduction, "text_tokens": tokens}
                correct = drawn(40 - drop * share)
                records.append(measured_record(model, "resize112", "finetune", seed, correct, **fields))
    return records


def frames(seeds: tuple[int, ...] = SEEDS) -> dict:
    """A frame of measured records for each figure that shows any, by number."""
    suites = [*COCO, *VARIANTS]
    everywhere = frame_of([r for measure in suites for r in image_grid(*measure, IMAGE_DROPS, seeds)])
    image = image_grid("imagenet1k", "acc1", IMAGE_DROPS, seeds)
    small = measured_grid({"resize112": (3, 3, 2), "resize64": (9, 7, 5)}, seeds=seeds)
    both_stages = frame_of([_micro_towers(record) for record in small])
    return {
        1: frame_of(image + text_grid({"syntax": TEXT_DROPS["syntax"]}, seeds)),
        4: frame_of(image),
        5: everywhere,
        6: everywhere,
        7: frame_of(text_grid(TEXT_DROPS, seeds)),
        8: both_stages,
        9: frame_of(image),
        10: both_stages,
    }


def _micro_towers(record: Record) -> Record:
    """The record as if the micro-v1 scale's own models had run."""
    width = {"S/16": 24, "B/16": 48, "L/16": 96}[record["model"]]
    return record | {"actual": record["actual"] | {"width": width, "layers": 3}}


def _models(seeds):
    return [(seed, rank, model, (3 - rank) / 3) for seed in seeds for rank, model in enumerate(MODELS)]


def _outcomes(seed: int, rank: int):
    """Draws outcomes with a given percentage correct; items have a difficulty that all runs of a seed share."""
    difficulty = numpy.random.default_rng([7, seed]).random(ITEMS)
    noise = numpy.random.default_rng([8, seed, rank])
    return lambda percent: difficulty + 0.03 * noise.standard_normal(ITEMS) < percent / 100
