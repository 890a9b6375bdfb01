"""Recipes against the study: what another way of training the same run does to accuracy, paired by seed and item."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipa.law.statistics import Estimate, estimate, item_drops, over_what
from clipa.recipes import STUDY
from clipa.records import Record, RecordError, correct_items, load_records


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

    The last stage counts: fine-tuning, or the one stage of a full-length baseline. Intervals as in docs/law.md: over
    seeds from three on, else over test items. RecordError if nothing can be compared.
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
    accuracy = estimate([100.0 * correct_items(own[seed]) for seed in sorted(own)])
    both = sorted(own.keys() & study.keys())
    difference = None
    if recipe != STUDY and both:
        difference = estimate([-item_drops(study[seed], own[seed]) for seed in both])
    return Comparison(coordinates, recipe, accuracy, difference)


def comparison_report(paths: Iterable[str | Path]) -> str:
    """`compare` on the records in these files, for a terminal. Raises RecordError."""
    found = compare(load_records(paths))
    over = over_what({one.accuracy.seeds for one in found})
    lines = [
        "Recipes against the study: accuracy of the last stage, %, and the difference from the study's, points",
        f"(± standard error, 95 % interval, over {over}; paired by seed and test item)",
    ]
    coordinates = ""
    for one in found:
        if one.coordinates != coordinates:
            coordinates = one.coordinates
            lines += ["", f"  {coordinates}"]
        seeds = f"{one.accuracy.seeds} seed{'' if one.accuracy.seeds == 1 else 's'}"
        accuracy = f"{one.accuracy.mean:.1f} ± {one.accuracy.standard_error:.1f}"
        said = ""
        if one.difference is not None:
            value = one.difference
            said = f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]"
        lines.append(f"    {one.recipe:<26}{accuracy:>14}{said:>26}   {seeds}".rstrip())
    return "\n".join(lines) + "\n"
