"""The law's statistic over records: accuracies, drops, slopes and verdicts at every reduced length (docs/law.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy

from clipa.cost import FULL_TEXT_TOKENS
from clipa.law.statistics import (
    MINIMAL_MODELS,
    MINIMAL_SEEDS,
    Estimate,
    bootstrap_mean,
    estimate,
    item_drops,
    over_seeds,
    slope_weights,
)
from clipa.records import Record, RecordError, correct_items, parameters_of

TEXT_REDUCTIONS = ("truncation", "random", "block", "syntax")
Runs = dict[tuple[str, int], Record]
"""Records by model and seed."""


@dataclass(frozen=True)
class Length:
    """What was found at one reduced length, `resize 64` or `text syntax 8`.

    `drops` by model; in `ordered` of `seeds` seeds they fall from each model to the next larger one.
    """

    label: str
    drops: dict[str, Estimate]
    slope: Estimate | None
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    ordered: int
    verdict: str


@dataclass(frozen=True)
class Summary:
    """Everything that the report prints. `models` are sorted by size; `accuracies` by (model, length label).

    `lengths` are of the image sequence, `text_lengths` of the text, at images of one reduced size.
    """

    scale: str
    dataset: str
    n: int
    parameters: dict[str, float]
    accuracies: dict[tuple[str, str], Estimate]
    lengths: list[Length] = field(default_factory=list)
    text_lengths: list[Length] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return list(self.parameters)


def summarise(records: Iterable[Record], benchmark: str = "imagenet1k", metric: str = "acc1") -> Summary:
    """The law's statistic for the measured runs among `records`, one scale and data set.

    Raises RecordError if there is no full-length baseline, or if scales, data sets or evaluation protocols mix.
    """
    kept = [
        record
        for record in records
        if (record["source"], record["benchmark"], record["metric"]) == ("measured", benchmark, metric)
        and record["patches"] is not None  # one family of models; ConvNeXt is Table 13's
    ]
    baselines = {(r["model"], r["seed"]): r for r in kept if _is_baseline(r)}
    if not baselines:
        raise RecordError(
            "law: no measured full-length baseline among the records; evaluate a *-none-* run first"
        )
    _check_one_experiment(kept)
    sizes = {model: parameters_of(record) for (model, _), record in baselines.items()}
    sizes = dict(sorted(sizes.items(), key=lambda item: item[1]))
    first = next(iter(baselines.values()))
    summary = Summary(first["scale"], first["dataset"]["name"], first["dataset"]["n"], sizes, {})
    _add_accuracies(summary, "full", baselines)
    reduced = _images(kept)
    for place in sorted(reduced, key=lambda place: (place[0], -place[1])):
        summary.lengths.append(_length(_image_label(*place), sizes, baselines, reduced[place]))
        _add_accuracies(summary, summary.lengths[-1].label, reduced[place])
    texts = _texts(kept)
    for reduction, tokens in sorted(texts, key=lambda place: (TEXT_REDUCTIONS.index(place[0]), -place[1])):
        own, label = texts[reduction, tokens], f"text {reduction} {tokens}"
        _add_accuracies(summary, label, own)
        if tokens < FULL_TEXT_TOKENS and (full := texts.get((reduction, FULL_TEXT_TOKENS))):
            summary.text_lengths.append(_length(label, sizes, full, own))
    return summary


def _images(records: Sequence[Record]) -> dict[tuple[str, int, int], Runs]:
    """Fine-tuned runs of reduced images and the full text, by reduction, patches and pixels."""
    found: dict[tuple[str, int, int], Runs] = {}
    for record in records:
        whole_text = (record["text_reduction"], record["text_tokens"]) == ("truncation", FULL_TEXT_TOKENS)
        if whole_text and record["image_reduction"] != "none" and record["stage"] == "finetune":
            place = (record["image_reduction"], record["patches"], record["image_size"])
            found.setdefault(place, {})[record["model"], record["seed"]] = record
    return found


def _image_label(reduction: str, patches: int, pixels: int) -> str:
    """`resize 64`: the paper's pixels, or the patches kept by a mask."""
    return f"{reduction} {pixels if reduction == 'resize' else patches}"


def _texts(records: Sequence[Record]) -> dict[tuple[str, int], Runs]:
    """Fine-tuned runs of Table 12 (images resized to 112), by text reduction and tokens, the 32 of each included."""
    found: dict[tuple[str, int], Runs] = {}
    for record in records:
        if (record["image_reduction"], record["image_size"], record["stage"]) == ("resize", 112, "finetune"):
            place = (record["text_reduction"], record["text_tokens"])
            found.setdefault(place, {})[record["model"], record["seed"]] = record
    return found


def _is_baseline(record: Record) -> bool:
    full = ("none", "pretrain", "truncation", FULL_TEXT_TOKENS)
    return tuple(record[k] for k in ("image_reduction", "stage", "text_reduction", "text_tokens")) == full


def _check_one_experiment(records: Sequence[Record]) -> None:
    parts = {
        "scales": {record["scale"] for record in records},
        "test sets": {record["dataset"]["fingerprint"] for record in records},
        "evaluation protocols": {record["protocol"] for record in records},
    }
    for name, found in parts.items():
        if len(found) > 1:
            raise RecordError(
                f"law: the records mix {name} ({', '.join(sorted(found))}); give those of one only"
            )


def _add_accuracies(summary: Summary, label: str, records: Runs) -> None:
    for model in summary.models:
        own = [record for (name, _), record in sorted(records.items()) if name == model]
        if own:
            summary.accuracies[model, label] = estimate([100.0 * correct_items(record) for record in own])


def _length(
    label: str,
    sizes: dict[str, float],
    baselines: Runs,
    reduced: Runs,
) -> Length:
    """Drops from the same model's and seed's baseline, slope, order and verdict at one reduced length.

    Seeds that lack a model give drops but no slope.
    """
    pairs = {key: (baselines[key], record) for key, record in reduced.items() if key in baselines}
    drops = {}
    for model in sizes:
        own = [item_drops(*pair) for key, pair in sorted(pairs.items()) if key[0] == model]
        if own:
            drops[model] = estimate(own)
    seeds = sorted({seed for _, seed in reduced})
    complete = tuple(seed for seed in seeds if all((model, seed) in pairs for model in sizes))
    slope, ordered = None, 0
    if len(sizes) >= 2 and complete:
        slope, ordered = _slope(sizes, pairs, complete)
    return Length(
        label=label,
        drops=drops,
        slope=slope,
        seeds=complete,
        left_out=tuple(seed for seed in seeds if seed not in complete),
        ordered=ordered,
        verdict=verdict(slope, len(sizes)),
    )


def _slope(
    sizes: dict[str, float], pairs: dict[tuple[str, int], tuple[Record, Record]], seeds: tuple[int, ...]
) -> tuple[Estimate, int]:
    """Slope over the complete seeds, and in how many of them the drop falls from each model to the next."""
    weights = slope_weights(list(sizes.values()))
    per_seed, ordered = [], 0
    for seed in seeds:
        differences = numpy.stack([item_drops(*pairs[model, seed]) for model in sizes])  # [models, items]
        ordered += bool((numpy.diff(differences.mean(axis=1)) < 0).all())
        per_seed.append(weights @ differences)  # [items]
    if len(seeds) >= MINIMAL_SEEDS:
        return over_seeds([float(items.mean()) for items in per_seed]), ordered
    items = numpy.mean(per_seed, axis=0)
    error, low, high = bootstrap_mean(items)
    return Estimate(float(items.mean()), error, low, high, len(seeds), "items"), ordered


def verdict(slope: Estimate | None, models: int) -> str:
    """The verdict of docs/law.md on one reduced length."""
    if slope is None or slope.seeds < MINIMAL_SEEDS or models < MINIMAL_MODELS:
        return "not attempted"
    if slope.high < 0:
        return "reproduced"
    return "contradicted" if slope.low > 0 else "inconclusive"
