"""The inverse scaling law as a statistic: does the drop shrink as the model grows? (docs/law.md states it.)

Accuracies are in percent, drops in percentage points, slopes in points per tenfold number of parameters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from clipa.records import RecordError, correct_items, load_records, of_the_study, parameters_of
from clipa.schema import Record
from clipa.stats import (
    MINIMAL_MODELS,
    MINIMAL_SEEDS,
    Estimate,
    bootstrap,
    estimate,
    of_items,
    over_what,
    slope_weights,
)
from clipa.study import (
    FULL_TEXT_TOKENS,
    IMAGE_REDUCTIONS,
    STUDY,
    TEXT_REDUCTIONS,
    TEXT_STUDY_IMAGE_SIZE,
    Run,
    order_of,
    parse_run,
)

WIDTH = 96
FULL = "full"
Finals = dict[tuple[Run, int], Record]
"""Records of the final stage, by run and seed."""


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
    """Everything that the report prints. `parameters` are sorted by size; `accuracies` by (model, length label).

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


# --------------------------------------------------------------------------------------------------------- statistic


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
    finals: Finals = {}
    for record in kept:
        run = parse_run(record["run"])
        if record["stage"] == run.final_stage:
            finals[run, record["seed"]] = record
    baselines = {key: record for key, record in finals.items() if key[0] == Run(key[0].model)}
    if not baselines:
        raise RecordError(
            "law: no measured full-length baseline among the records; evaluate a *-none-* run first"
        )
    _check_one_experiment(kept)
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
        own = [_value_and_error(record) for (run, _), record in runs.items() if run.model == model]
        if own:
            summary.accuracies[model, label] = estimate(*zip(*own, strict=True))


def _value_and_error(record: Record) -> tuple[float, float]:
    return record["value"], record["standard_error"]


def _length(label: str, sizes: dict[str, float], reduced: Finals, finals: Finals) -> Length:
    """Drops from the same model's and seed's baseline, slope, order and verdict at one reduced length.

    Seeds that lack a model give drops but no slope.
    """
    items = {
        (run.model, seed): item_drops(finals[run.baseline, seed], record)
        for (run, seed), record in reduced.items()
        if (run.baseline, seed) in finals
    }
    drops = {}
    for model in sizes:
        own = [of_items(points) for (name, _), points in items.items() if name == model]
        if own:
            drops[model] = estimate(*zip(*own, strict=True))
    seeds = sorted({seed for _, seed in reduced})
    complete = tuple(seed for seed in seeds if all((model, seed) in items for model in sizes))
    slope, ordered = None, 0
    if len(sizes) >= 2 and complete:
        slope, ordered = _slope(sizes, items, complete)
    left_out = tuple(seed for seed in seeds if seed not in complete)
    return Length(label, drops, slope, complete, left_out, ordered, verdict(slope, len(sizes)))


def item_drops(baseline: Record, reduced: Record) -> numpy.ndarray:
    """Paired drop of each test item in points, [n]: 100, 0 or -100."""
    full, short = correct_items(baseline), correct_items(reduced)
    if len(full) != len(short):
        raise RecordError(f"law: {reduced['id']} and its baseline have {len(short)} and {len(full)} outcomes")
    return 100.0 * (full.astype(float) - short.astype(float))


def _slope(
    sizes: dict[str, float], items: dict[tuple[str, int], numpy.ndarray], seeds: tuple[int, ...]
) -> tuple[Estimate, int]:
    """Slope over the complete seeds, and in how many of them the drop falls from each model to the next."""
    weights = slope_weights(list(sizes.values()))
    per_seed, ordered = [], 0
    for seed in seeds:
        differences = numpy.stack([items[model, seed] for model in sizes])  # [models, items]
        ordered += bool((numpy.diff(differences.mean(axis=1)) < 0).all())
        per_seed.append(weights @ differences)  # [items]
    if len(seeds) >= MINIMAL_SEEDS:
        return estimate(*zip(*map(of_items, per_seed), strict=True)), ordered
    return bootstrap(numpy.mean(per_seed, axis=0), len(seeds)), ordered


def verdict(slope: Estimate | None, models: int) -> str:
    """The verdict of docs/law.md on one reduced length."""
    if slope is None or slope.seeds < MINIMAL_SEEDS or models < MINIMAL_MODELS:
        return "not attempted"
    if slope.high < 0:
        return "reproduced"
    return "contradicted" if slope.low > 0 else "inconclusive"


# ------------------------------------------------------------------------------------------------------------ report


def main_report(paths: Iterable[str | Path]) -> str:
    """The report on the records in these files. Raises RecordError."""
    return report(summarise(of_the_study(load_records(paths))))


def report(summary: Summary) -> str:
    """The summary as plain text for a terminal, at most 100 columns wide for three models."""
    counts = {value.seeds for value in summary.accuracies.values()}
    seeds = _count(max(counts), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    lines = [
        f"The inverse scaling law at scale {summary.scale}: {summary.dataset} (n = {summary.n}), {seeds}"
    ]
    lines += ["", *_part(summary, summary.lengths, [FULL], "full length")]
    if summary.text_lengths:
        words = dict.fromkeys(length.label.rpartition(" ")[0] for length in summary.text_lengths)
        own = [f"{word} {FULL_TEXT_TOKENS}" for word in words]
        heading = (
            f"Text tokens, at images resized to {TEXT_STUDY_IMAGE_SIZE}; "
            f"each reduction against itself at {FULL_TEXT_TOKENS} tokens"
        )
        against = f"the same reduction at {FULL_TEXT_TOKENS}"
        lines += ["", heading, "", *_part(summary, summary.text_lengths, own, against)]
    return "\n".join([*lines, "", *conclusion(summary)]) + "\n"


def _part(summary: Summary, lengths: Sequence[Length], full: Sequence[str], against: str) -> list[str]:
    """Accuracies, drops and slopes of image or of text lengths; `full`: labels of what drops are taken from."""
    labels = [*full, *(length.label for length in lengths)]
    words = list(dict.fromkeys(label.rpartition(" ")[0] for label in labels))
    # Each reduction's full length stands before its shorter ones.
    labels.sort(key=lambda label: words.index(label.rpartition(" ")[0]))
    shown = {key: value for key, value in summary.accuracies.items() if key[1] in labels}
    over = over_what(value.seeds for value in shown.values())
    sizes = [f"{model} ({summary.parameters[model] / 1e6:.2f} M)" for model in summary.models]
    accuracies = [
        [label, *(shown[key].text if (key := (model, label)) in shown else "–" for model in summary.models)]
        for label in labels
    ]
    drops = [[one.label, *(_interval(one.drops.get(model)) for model in summary.models)] for one in lengths]
    slopes = [[one.label, _interval(one.slope), one.verdict, _order_in(one)] for one in lengths]
    order = f"order {' > '.join(summary.models)} in"
    return [
        f"Zero-shot accuracy, % (± standard error over {over})",
        *_columns(accuracies, ["", *sizes]),
        "",
        f"Drop from {against}, points (95 % interval)",
        *_columns(drops, ["", *summary.models]),
        "",
        "Slope of the drop, points per tenfold parameters (95 % interval); the law says: below 0",
        *_columns(slopes, ["", "slope", "verdict", order], "lrll"),
    ]


def _columns(rows: Sequence[Sequence[str]], heads: Sequence[str], align: str = "") -> list[str]:
    """Lines of an indented table; `align`: l or r of each column, by default the first to the left."""
    from tabulate import tabulate

    names = {"l": "left", "r": "right"}
    sides = [names[side] for side in align or "l" + "r" * (len(heads) - 1)]
    table = tabulate(rows, heads, tablefmt="plain", colalign=sides if rows else None, disable_numparse=True)
    return [f"  {line}".rstrip() for line in table.splitlines()]


def _order_in(length: Length) -> str:
    left_out = f"; left out: seed {', '.join(map(str, length.left_out))}" if length.left_out else ""
    return f"{length.ordered} of {_count(len(length.seeds), 'seed')}{left_out}"


def _interval(value: Estimate | None) -> str:
    return value.interval_text if value else "–"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def conclusion(summary: Summary) -> list[str]:
    """What the slopes say about the law at this scale, in plain sentences, and no more."""
    by_verdict: dict[str, list[str]] = {}
    lengths = [*summary.lengths, *summary.text_lengths]
    for length in lengths:
        by_verdict.setdefault(length.verdict, []).append(length.label)
    said = {
        "reproduced": "the larger the model, the smaller the drop: the law's sign is reproduced at {}.",
        "contradicted": "the larger the model, the larger the drop: the law's sign is contradicted at {}.",
        "inconclusive": "the slope's interval holds zero, so nothing is decided at {}.",
        "not attempted": "no verdict is given on the law at {}: that takes 3 seeds of 3 models or more.",
    }
    sentences = [
        f"At scale {summary.scale}, {sentence.format(_listed(by_verdict[name]))}"
        for name, sentence in said.items()
        if name in by_verdict
    ] or ["No reduced length was measured: nothing can be said on the law."]
    over = {length.slope.over for length in lengths if length.slope}
    if "items" in over:
        which = "Intervals here" if over == {"items"} else "Intervals of lengths with fewer than three seeds"
        sentences.append(f"{which} are over test items only; other seeds may differ by more.")
    sentences.append("This is about this scale alone; accuracies are not comparable with the paper's.")
    return [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")]


def _listed(labels: Sequence[str]) -> str:
    """`resize 160, 96 and block 49`: each reduction is named once."""
    by_word: dict[str, list[str]] = {}
    for label in labels:
        word, _, length = label.rpartition(" ")
        by_word.setdefault(word, []).append(length)
    parts = [f"{word} {', '.join(own)}" for word, own in by_word.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# -------------------------------------------------------------------------------------------- comparison of recipes


@dataclass(frozen=True)
class Comparison:
    """A run's last stage under one recipe: accuracy in percent, and the difference from the study's in points."""

    coordinates: str
    recipe: str
    accuracy: Estimate
    difference: Estimate | None  # none: of the study itself, or no seed that both have


def compare(
    records: Iterable[Record], benchmark: str = "imagenet1k", metric: str = "acc1"
) -> list[Comparison]:
    """Runs that were trained by several recipes, each recipe beside the study, in the order of their names.

    The last stage counts: fine-tuning, or the one stage of a full-length baseline. Differences are paired by seed and
    test item; intervals as in docs/law.md. RecordError if nothing can be compared.
    """
    final: dict[str, dict[str, dict[int, Record]]] = {}
    for record in records:
        if (record["source"], record["benchmark"], record["metric"]) == ("measured", benchmark, metric):
            own = final.setdefault(record["run"], {}).setdefault(record.get("recipe", STUDY), {})
            if record["stage"] != "pretrain" or record["seed"] not in own:
                own[record["seed"]] = record
    found = []
    for coordinates, recipes in sorted(final.items()):
        if len(recipes) > 1:
            study = recipes.get(STUDY, {})
            order = sorted(recipes, key=lambda name: (name != STUDY, name))
            found += [_compared(coordinates, name, recipes[name], study) for name in order]
    if not found:
        raise RecordError(
            "compare: no run among the records was trained by more than one recipe (clipa recipes)"
        )
    return found


def _compared(coordinates: str, recipe: str, own: dict[int, Record], study: dict[int, Record]) -> Comparison:
    accuracy = estimate(*zip(*map(_value_and_error, own.values()), strict=True))
    both = own.keys() & study.keys() if recipe != STUDY else ()
    gains = [of_items(-item_drops(study[seed], own[seed])) for seed in both]
    difference = estimate(*zip(*gains, strict=True)) if gains else None
    return Comparison(coordinates, recipe, accuracy, difference)


def comparison_report(paths: Iterable[str | Path]) -> str:
    """`compare` on the records in these files, for a terminal. Raises RecordError."""
    found = compare(load_records(paths))
    rows = []
    for before, one in zip([None, *found], found, strict=False):
        first = before is None or before.coordinates != one.coordinates
        difference = "" if one.difference is None else one.difference.interval_text
        seeds = _count(one.accuracy.seeds, "seed")
        rows.append([one.coordinates if first else "", one.recipe, one.accuracy.text, difference, seeds])
    lines = [
        "Recipes against the study: accuracy of the last stage, %, and the difference from the study's, points",
        f"(± standard error, 95 % interval, over {over_what(one.accuracy.seeds for one in found)}; "
        "paired by seed and test item)",
        "",
        *_columns(rows, ["run", "recipe", "accuracy", "difference", ""], "llrrl"),
    ]
    return "\n".join(lines) + "\n"
