"""The statistic of the inverse scaling law: does the drop shrink as the model grows? (docs/law.md states it.)

Accuracies are in percent, drops in percentage points, slopes in points per tenfold number of parameters.
NumPy only, so that it runs in the reader environment.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from clipa.outcomes import correct_items
from clipa.results import Record, RecordError, load_records, of_the_study, parameters_of

LEVEL = 0.95
MINIMAL_SEEDS = 3
MINIMAL_MODELS = 3
RESAMPLES = 10_000
BOOTSTRAP_STREAM = "law/bootstrap"
WIDTH = 96


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95 % interval, and what the interval is over: "seeds" or "items"."""

    mean: float
    standard_error: float
    low: float
    high: float
    seeds: int
    over: str


@dataclass(frozen=True)
class Length:
    """What was found at one reduced length. `drops` by model; `ordered` of `seeds` seeds have S > B > L."""

    image_reduction: str
    image_size: int
    patches: int
    drops: dict[str, Estimate]
    slope: Estimate | None
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    ordered: int
    verdict: str

    @property
    def label(self) -> str:
        """`resize 64`: the paper's pixels, or the patches kept by a mask."""
        return (
            f"{self.image_reduction} {self.image_size if self.image_reduction == 'resize' else self.patches}"
        )


@dataclass(frozen=True)
class Summary:
    """Everything that the report prints. `models` are sorted by size; `accuracies` by (model, length label)."""

    scale: str
    dataset: str
    n: int
    parameters: dict[str, float]
    accuracies: dict[tuple[str, str], Estimate]
    lengths: list[Length] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return list(self.parameters)


# ------------------------------------------------------------------------------------------------- statistics


def t_cdf(t: float, degrees: int) -> float:
    """Student's distribution function, exactly, by its finite series for whole degrees of freedom.

    Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(degrees))
    cosine2, term, total = math.cos(theta) ** 2, 1.0, 0.0
    if degrees % 2:
        term = math.cos(theta)
        for k in range(1, degrees, 2):
            total += term
            term *= cosine2 * (k + 1) / (k + 2)
        inside = (theta + math.sin(theta) * total) * 2 / math.pi
    else:
        for k in range(1, degrees, 2):
            total += term
            term *= cosine2 * k / (k + 1)
        inside = math.sin(theta) * total
    return 0.5 + inside / 2


def t_quantile(probability: float, degrees: int) -> float:
    """Student's quantile for 0.5 <= probability < 1 and degrees >= 1, by bisection to double precision."""
    if degrees < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"t quantile: needs degrees >= 1 and 0.5 <= p < 1, got {degrees} and {probability}")
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with Student's interval; needs at least two values."""
    array = numpy.asarray(values, float)
    mean, error = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))
    half = t_quantile(0.5 + LEVEL / 2, len(array) - 1) * error
    return Estimate(mean, error, mean - half, mean + half, len(array), "seeds")


def estimate(items: Sequence[numpy.ndarray]) -> Estimate:
    """Mean, over seeds, of the mean over test items. `items`: per seed, points of each item, [n].

    Student's interval over three seeds or more; else the normal one over items, each item's values averaged
    over the seeds first (the items are the same for all seeds, so their errors do not average out).
    """
    if len(items) >= MINIMAL_SEEDS:
        return over_seeds([float(values.mean()) for values in items])
    pooled = numpy.mean(items, axis=0)
    mean, error = float(pooled.mean()), float(pooled.std()) / math.sqrt(len(pooled))
    half = 1.959964 * error
    return Estimate(mean, error, mean - half, mean + half, len(items), "items")


def over_what(seeds: Iterable[int]) -> str:
    """What the intervals of numbers with these counts of seeds are over, in words."""
    enough = {count >= MINIMAL_SEEDS for count in seeds}
    if enough == {True}:
        return "seeds"
    return "seeds or, below three seeds, test items" if True in enough else "test items"


def item_drops(baseline: Record, reduced: Record) -> numpy.ndarray:
    """Paired drop of each test item in points, [n]: 100, 0 or -100."""
    full, short = correct_items(baseline), correct_items(reduced)
    if len(full) != len(short):
        raise RecordError(f"law: {reduced['id']} and its baseline have {len(short)} and {len(full)} outcomes")
    return 100.0 * (full.astype(float) - short.astype(float))


def slope_weights(parameters: Sequence[float]) -> numpy.ndarray:
    """Weights [models] whose product with the drops is their least-squares slope on log10(parameters)."""
    x = numpy.log10(numpy.asarray(parameters, float))
    centred = x - x.mean()
    return centred / (centred**2).sum()


def bootstrap_mean(values: numpy.ndarray) -> tuple[float, float, float]:
    """Standard error and 95 % percentile limits of the mean of `values` [items] under resampling of items.

    A slope is a mean over items of a weighted sum of their paired differences, which takes few distinct
    values: drawing how often each value occurs is the same bootstrap, thousands of times cheaper.
    """
    distinct, counts = numpy.unique(values.round(12), return_counts=True)
    random = numpy.random.default_rng(list(BOOTSTRAP_STREAM.encode()))
    draws = random.multinomial(len(values), counts / len(values), size=RESAMPLES)
    means = draws @ distinct / len(values)
    low, high = numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(means.std(ddof=1)), float(low), float(high)


# ---------------------------------------------------------------------------------------------------- summary


def summarise(records: Iterable[Record], benchmark: str = "imagenet1k", metric: str = "acc1") -> Summary:
    """The law's statistic for the measured image reductions among `records`, one scale and data set.

    Raises RecordError if there is no full-length baseline, or if scales, data sets or evaluation protocols mix.
    """
    kept = [
        record
        for record in records
        if (record["source"], record["benchmark"], record["metric"]) == ("measured", benchmark, metric)
        and (record["text_reduction"], record["text_tokens"]) == ("truncation", 32)
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
    reduced: dict[tuple[str, int, int], dict[tuple[str, int], Record]] = {}
    for record in kept:
        if record["image_reduction"] != "none" and record["stage"] == "finetune":
            place = (record["image_reduction"], record["patches"], record["image_size"])
            reduced.setdefault(place, {})[record["model"], record["seed"]] = record
    summary = Summary(first["scale"], first["dataset"]["name"], first["dataset"]["n"], sizes, {})
    _add_accuracies(summary, "full", baselines)
    for place in sorted(reduced, key=lambda place: (place[0], -place[1])):
        length = _length(place, sizes, baselines, reduced[place])
        summary.lengths.append(length)
        _add_accuracies(summary, length.label, reduced[place])
    return summary


def _is_baseline(record: Record) -> bool:
    return record["image_reduction"] == "none" and record["stage"] == "pretrain"


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


def _add_accuracies(summary: Summary, label: str, records: dict[tuple[str, int], Record]) -> None:
    for model in summary.models:
        own = [record for (name, _), record in sorted(records.items()) if name == model]
        if own:
            summary.accuracies[model, label] = estimate([100.0 * correct_items(record) for record in own])


def _length(
    place: tuple[str, int, int],
    sizes: dict[str, float],
    baselines: dict[tuple[str, int], Record],
    reduced: dict[tuple[str, int], Record],
) -> Length:
    """Drops, slope, order and verdict at one reduced length; seeds that lack a model give drops but no slope."""
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
    reduction, patches, image_size = place
    return Length(
        image_reduction=reduction,
        image_size=image_size,
        patches=patches,
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


# ----------------------------------------------------------------------------------------------------- report


def report(summary: Summary) -> str:
    """The summary as plain text for a terminal, at most 100 columns wide for three models."""
    counts = {value.seeds for value in summary.accuracies.values()}
    seeds = _count(max(counts), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    lines = [
        f"The inverse scaling law at scale {summary.scale}: {summary.dataset} (n = {summary.n}), {seeds}",
        "",
        *_accuracy_lines(summary),
        "",
        *_drop_lines(summary),
        "",
        *_slope_lines(summary),
        "",
        *conclusion(summary),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _accuracy_lines(summary: Summary) -> list[str]:
    named = over_what(value.seeds for value in summary.accuracies.values())
    sizes = [f"{model} ({summary.parameters[model] / 1e6:.2f} M)" for model in summary.models]
    lines = [f"Zero-shot accuracy, % (± standard error over {named})", _row("", sizes, 18)]
    for label in ["full", *(length.label for length in summary.lengths)]:
        cells = [summary.accuracies.get((model, label)) for model in summary.models]
        texts = [f"{cell.mean:.1f} ± {cell.standard_error:.1f}" if cell else "–" for cell in cells]
        lines.append(_row(label, texts, 18))
    return lines


def _drop_lines(summary: Summary) -> list[str]:
    lines = ["Drop from full length, points (95 % interval)", _row("", summary.models, 24)]
    for length in summary.lengths:
        lines.append(_row(length.label, [_interval(length.drops.get(model)) for model in summary.models], 24))
    return lines


def _row(label: str, cells: Sequence[str], width: int) -> str:
    return f"  {label:<12}" + "".join(f"{cell:>{width}}" for cell in cells)


def _slope_lines(summary: Summary) -> list[str]:
    lines = ["Slope of the drop, points per tenfold parameters (95 % interval); the law says: below 0"]
    for length in summary.lengths:
        text = _interval(length.slope)
        order = (
            f"order {' > '.join(summary.models)} in {length.ordered} of {_count(len(length.seeds), 'seed')}"
        )
        lines.append(f"  {length.label:<12}{text:>24}   {length.verdict:<14} {order}")
        if length.left_out:
            lines.append(f"  {'':<12}left out, incomplete: seed {', '.join(map(str, length.left_out))}")
    return lines


def _interval(value: Estimate | None) -> str:
    return f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]" if value else "–"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def conclusion(summary: Summary) -> list[str]:
    """What the slopes say about the law at this scale, in plain sentences, and no more."""
    by_verdict: dict[str, list[str]] = {}
    for length in summary.lengths:
        by_verdict.setdefault(length.verdict, []).append(length.label)
    said = {
        "reproduced": "the larger the model, the smaller the drop: the law's sign is reproduced at {}.",
        "contradicted": "the larger the model, the larger the drop: the law's sign is contradicted at {}.",
        "inconclusive": "the slope's interval holds zero, so nothing is decided at {}.",
        "not attempted": "no verdict is given on the law at {}: that takes 3 seeds of 3 models or more.",
    }
    sentences = [
        f"At scale {summary.scale}, {sentence.format(' and '.join(by_verdict[name]))}"
        for name, sentence in said.items()
        if name in by_verdict
    ] or ["No reduced length was measured: nothing can be said on the law."]
    over = {length.slope.over for length in summary.lengths if length.slope}
    if "items" in over:
        which = "Intervals here" if over == {"items"} else "Intervals of lengths with fewer than three seeds"
        sentences.append(f"{which} are over test items only; other seeds may differ by more.")
    sentences.append("This is about this scale alone; accuracies are not comparable with the paper's.")
    return [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")]


def main_report(paths: Iterable[str | Path]) -> str:
    """The report on the records in these files. Raises RecordError."""
    return report(summarise(of_the_study(load_records(paths))))
