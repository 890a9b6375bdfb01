"""Drops, logarithms of error ratios, and their slopes over the models, at every reduced length (docs/law.md).

Accuracies are in percent, drops in percentage points, slopes of drops in points per tenfold number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy

from clipa.records import RecordError, correct_items, parameters_of
from clipa.schema import Record
from clipa.stats import (
    MINIMAL_SEEDS,
    SPENT_ON_WEIGHTS,
    WEIGHED_SEEDS,
    Estimate,
    bootstrap,
    estimate,
    model_weights,
    of_items,
    slope_weights,
)
from clipa.study import (
    FULL_TEXT_TOKENS,
    IMAGE_REDUCTIONS,
    TEXT_REDUCTIONS,
    TEXT_STUDY_IMAGE_SIZE,
    Run,
    order_of,
    parse_run,
)

FULL = "full"
BASELINE_FINETUNED = "baseline-finetuned"
"""The recipe of a full-length baseline that is fine-tuned as short runs are."""
Finals = dict[tuple[Run, int], Record]
"""Records of the final stage, by run and seed."""
Items = dict[tuple[str, int], numpy.ndarray]
"""A quantity of each test item [n], by model and seed; its mean is the quantity."""


@dataclass(frozen=True)
class Length:
    """What was found at one reduced length, `resize 64` or `text syntax 8`, on the `models` that were measured there.

    `drops` by model; in `ordered` of `seeds` seeds they fall from each model to the next larger one. `slope` of the
    drop; `log_ratio`: slope of the natural logarithm of error (short) / error (full). `deviations`: of a model's drop
    over the seeds, points; empty below three seeds.
    """

    label: str
    models: tuple[str, ...]
    drops: dict[str, Estimate]
    slope: Estimate | None
    log_ratio: Estimate | None
    deviations: dict[str, float]
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    ordered: int


@dataclass(frozen=True)
class Summary:
    """Every length of one scale. `parameters` are sorted by size; `accuracies` by (model, length label).

    `lengths` are of the image sequence, `text_lengths` of the text, at images of one reduced size.
    """

    scale: str
    dataset: str
    n: int
    parameters: dict[str, float]
    accuracies: dict[tuple[str, str], Estimate] = field(default_factory=dict)
    lengths: list[Length] = field(default_factory=list)
    text_lengths: list[Length] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return list(self.parameters)

    def length(self, label: str) -> Length | None:
        """What was found at the length of this label, if it was measured."""
        return next((one for one in (*self.lengths, *self.text_lengths) if one.label == label), None)


def summarise(records: Iterable[Record], benchmark: str = "imagenet1k", metric: str = "acc1") -> Summary:
    """Drops and slopes of the measured runs among `records`, one scale and data set; recipes are not told apart.

    Raises RecordError if there is no full-length baseline, or if scales, data sets or evaluation protocols mix.
    """
    kept = measured(records, benchmark, metric)
    finals = finals_of(kept)
    baselines = {key: record for key, record in finals.items() if key[0] == Run(key[0].model)}
    if not baselines:
        raise RecordError(
            "law: no measured full-length baseline among the records; evaluate a *-none-* run first"
        )
    check_one_experiment(kept)
    sizes = {run.model: parameters_of(record) for (run, _), record in baselines.items()}
    first = kept[0]
    summary = Summary(
        first["scale"],
        first["dataset"]["name"],
        first["dataset"]["n"],
        dict(sorted(sizes.items(), key=lambda item: item[1])),
    )
    _add_accuracies(summary, FULL, baselines)
    for label, own in _images(finals).items():
        _add_accuracies(summary, label, own)
        summary.lengths.append(_length(label, summary.parameters, own, finals))
    for label, own in _texts(finals).items():
        _add_accuracies(summary, label, own)
        if any(run.text_tokens < FULL_TEXT_TOKENS and (run.baseline, seed) in finals for run, seed in own):
            summary.text_lengths.append(_length(label, summary.parameters, own, finals))
    return summary


def measured(records: Iterable[Record], benchmark: str = "imagenet1k", metric: str = "acc1") -> list[Record]:
    """The records that the law is about: of one benchmark, and of one family of models (ConvNeXt is Table 13's)."""
    return [
        record
        for record in records
        if (record["source"], record["benchmark"], record["metric"]) == ("measured", benchmark, metric)
        and record["patches"] is not None
    ]


def finals_of(records: Iterable[Record]) -> Finals:
    """Those of the stage whose accuracy counts, by coordinates (without the recipe) and seed."""
    found: Finals = {}
    for record in records:
        run = parse_run(record["run"])
        last = "finetune" if record.get("recipe") == BASELINE_FINETUNED else run.final_stage
        if record["stage"] == last:
            found[run, record["seed"]] = record
    return found


def check_one_experiment(records: Sequence[Record]) -> None:
    """RecordError if scales, test sets or evaluation protocols mix."""
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


def _images(finals: Finals) -> dict[str, Finals]:
    """Runs of reduced images and the full text by label: the paper's pixels, or the patches that a mask keeps."""
    found: dict[tuple, Finals] = {}
    for (run, seed), record in finals.items():
        if run.image_reduction != "none" and run.baseline == Run(run.model):
            mask = IMAGE_REDUCTIONS[run.image_reduction].mask
            label = f"{run.image_reduction} {run.patches if mask else run.image_size}"
            found.setdefault((run.image_reduction, -run.patches, label), {})[run, seed] = record
    return {place[-1]: found[place] for place in sorted(found)}


def _texts(finals: Finals) -> dict[str, Finals]:
    """Runs of Table 12 by label, those of 32 tokens included."""
    found: dict[tuple, Finals] = {}
    for (run, seed), record in finals.items():
        if (run.image_reduction, run.image_size) == ("resize", TEXT_STUDY_IMAGE_SIZE):
            label = f"text {run.text_reduction} {run.text_tokens}"
            place = (order_of(TEXT_REDUCTIONS, run.text_reduction), -run.text_tokens, label)
            found.setdefault(place, {})[run, seed] = record
    return {place[-1]: found[place] for place in sorted(found)}


def _add_accuracies(summary: Summary, label: str, runs: Finals) -> None:
    for model in summary.models:
        own = [value_and_error(record) for (run, _), record in runs.items() if run.model == model]
        if own:
            summary.accuracies[model, label] = estimate(*zip(*own, strict=True))


def value_and_error(record: Record) -> tuple[float, float]:
    """An accuracy and its standard error over test items."""
    return record["value"], record["standard_error"]


# ------------------------------------------------------------------------------------------------------- one length


def _length(label: str, sizes: dict[str, float], reduced: Finals, finals: Finals) -> Length:
    """Drops from the same model's and seed's baseline, slopes and order at one reduced length.

    Models without a run there are left out. Seeds that lack one of the others give drops but no slope.
    """

    def items(of_pair: Callable[[Record, Record], numpy.ndarray]) -> Items:
        return {
            (run.model, seed): of_pair(finals[run.baseline, seed], record)
            for (run, seed), record in reduced.items()
            if (run.baseline, seed) in finals
        }

    points = items(item_drops)
    models = tuple(model for model in sizes if any(name == model for name, _ in points))
    drops = {}
    for model in models:
        own = [of_items(values) for (name, _), values in points.items() if name == model]
        drops[model] = estimate(*zip(*own, strict=True))
    seeds = sorted({seed for _, seed in reduced})
    complete = tuple(seed for seed in seeds if all((model, seed) in points for model in models))
    slope, log_ratio, deviations, ordered = None, None, {}, 0
    if len(models) >= 2 and complete:
        parameters = [sizes[model] for model in models]
        by_seed = _by_seed(points, models, complete)
        slope = _slope(by_seed, parameters)
        log_ratio = _slope(_by_seed(items(item_log_ratios), models, complete), parameters)
        means = by_seed.mean(axis=2)
        ordered = int((numpy.diff(means, axis=1) < 0).all(axis=1).sum())
        if len(complete) >= MINIMAL_SEEDS:
            deviations = dict(zip(models, means.std(axis=0, ddof=1).tolist(), strict=True))
    left_out = tuple(seed for seed in seeds if seed not in complete)
    return Length(label, models, drops, slope, log_ratio, deviations, complete, left_out, ordered)


def item_drops(baseline: Record, reduced: Record) -> numpy.ndarray:
    """Paired drop of each test item in points, [n]: 100, 0 or -100."""
    full, short = _paired(baseline, reduced)
    return 100.0 * (full - short)


def item_log_ratios(baseline: Record, reduced: Record) -> numpy.ndarray:
    """ln(error short / error full) as a mean over test items, [n]: its value, and to first order its item error.

    Error: 100 - accuracy. A run without any error counts as one with half an item wrong.
    """
    full, short = (1 - correct for correct in _paired(baseline, reduced))
    errors = [max(float(wrong.mean()), 0.5 / len(wrong)) for wrong in (short, full)]
    linear = (short - short.mean()) / errors[0] - (full - full.mean()) / errors[1]
    return numpy.log(errors[0] / errors[1]) + linear


def _paired(baseline: Record, reduced: Record) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Which items (0 or 1, float [n]) each of two runs got right."""
    full, short = correct_items(baseline), correct_items(reduced)
    if len(full) != len(short):
        raise RecordError(f"law: {reduced['id']} and its baseline have {len(short)} and {len(full)} outcomes")
    return full.astype(float), short.astype(float)


def _by_seed(items: Items, models: Sequence[str], seeds: Sequence[int]) -> numpy.ndarray:
    """[seeds, models, n]"""
    return numpy.stack([[items[model, seed] for model in models] for seed in seeds])


def _slope(items: numpy.ndarray, parameters: Sequence[float]) -> Estimate:
    """Slope on log10(parameters) of the means of ``items`` [seeds, models, n]; over items below three seeds."""
    if len(items) >= MINIMAL_SEEDS:
        return slope_over_seeds(items.mean(axis=2), parameters)
    per_item = numpy.tensordot(slope_weights(parameters), items.mean(axis=0), axes=1)
    return bootstrap(per_item, len(items))


def slope_over_seeds(values: numpy.ndarray, parameters: Sequence[float]) -> Estimate:
    """Weighted slope on log10(parameters) of ``values`` [seeds, models], one a seed, and Student's interval over them.

    From WEIGHED_SEEDS seeds on, the models have the weights of :func:`clipa.stats.model_weights`, the same for all
    seeds; the interval has one degree of freedom less for them. With fewer seeds all models weigh the same.
    """
    weights, spent = None, 0
    if len(values) >= WEIGHED_SEEDS:
        weights, spent = model_weights(values.var(axis=0, ddof=1)), SPENT_ON_WEIGHTS
    slopes = values @ slope_weights(parameters, weights)
    return estimate(slopes.tolist(), [], spent)
