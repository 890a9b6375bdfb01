"""Measured records made up for tests: plausible in form, drawn from a seed, never stored under results/."""

import numpy

from clipa.records import encode_outcomes, percent_and_error, record_id
from clipa.schema import Record

MODELS = ("S/16", "B/16", "L/16")
SIZES = {"S/16": (48, 3, 150_000), "B/16": (96, 3, 500_000), "L/16": (192, 4, 1_900_000)}
LENGTHS = {"none": (224, 196, 64), "resize112": (112, 49, 16), "resize64": (64, 16, 4)}


def measured_record(
    model: str, image: str, stage: str, seed: int, correct: numpy.ndarray, **changes
) -> Record:
    """One valid record of the micro-v1 scale whose value and error follow from `correct` (bool [n])."""
    size, patches, _ = LENGTHS[image]
    width, layers, parameters = SIZES[model]
    value, error = percent_and_error(correct)
    seen = LENGTHS["none"] if stage == "finetune" else LENGTHS[image]
    record = {
        "id": "",
        "schema_version": 1,
        "source": "measured",
        "scale": "micro-v1",
        "table": None,
        "figure": None,
        "column": None,
        "model": model,
        "run": f"{model.replace('/', '')}-{image}-truncation32",
        "stage": stage,
        "image_reduction": "none" if image == "none" else "resize",
        "image_size": size,
        "patches": patches,
        "image_tokens": patches + 1,
        "text_reduction": "truncation",
        "text_tokens": 32,
        "benchmark": "imagenet1k",
        "metric": "acc1",
        "value": value,
        "dataset": {
            "name": "pictograms/v1/plain",
            "split": "test",
            "n": len(correct),
            "fingerprint": "3f2a9c1b",
        },
        "standard_error": error,
        "seed": seed,
        "stage_fingerprint": "0123456789ab" if stage == "pretrain" else "ba9876543210",
        "actual": {
            "image_size": {64: 48, 16: 24, 4: 12}[seen[2]],
            "patches": seen[2],
            "text_tokens": 32,
            "width": width,
            "layers": layers,
            "parameters": parameters,
            "samples": 80_000 if stage == "pretrain" else 16_000,
        },
        "protocol": "5eed5eed",
        "outcomes": encode_outcomes(correct),
        "provenance": {
            "commit": "0" * 40,
            "dirty": False,
            "packages": {"torch": "2.13.0"},
            "data_fingerprint": "5fb77c2ea1a7",
            "hardware": "2 CPU cores, x86_64",
            "seconds": 12.5,
            "samples_seen": 80_000,
            "evaluator": "CLIP_benchmark 1.6.2",
            "created": "2026-01-02T03:04:05Z",
        },
    } | changes
    record["id"] = record_id(record)
    return record


def measured_grid(
    drops: dict[str, tuple[float, float, float]],
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    baselines: tuple[float, float, float] = (20.0, 30.0, 36.0),
    n: int = 4000,
) -> list[Record]:
    """Records of three models: full length, and per entry of `drops` (image -> points for S, B, L) both stages.

    Items have a difficulty that all runs share, so that outcomes are paired as real ones are.
    """
    records = []
    for seed in seeds:
        random = numpy.random.default_rng([2026, seed])
        difficulty = random.random(n)
        for index, model in enumerate(MODELS):

            def correct(percent: float, difficulty=difficulty, random=random) -> numpy.ndarray:
                return difficulty + 0.05 * random.standard_normal(len(difficulty)) < percent / 100

            records.append(measured_record(model, "none", "pretrain", seed, correct(baselines[index])))
            for image, points in drops.items():
                final = baselines[index] - points[index]
                records.append(measured_record(model, image, "pretrain", seed, correct(max(3.0, final - 4))))
                records.append(measured_record(model, image, "finetune", seed, correct(final)))
    return records
