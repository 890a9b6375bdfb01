"""Recipes beside the study: accuracies of a run's last stage, and their differences, paired by seed and test item."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipa.law.layout import columns, counted
from clipa.law.statistic import item_drops, value_and_error
from clipa.records import RecordError, load_records
from clipa.schema import Record
from clipa.stats import Estimate, estimate, of_items, over_what
from clipa.study import STUDY


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
    accuracy = estimate(*zip(*map(value_and_error, own.values()), strict=True))
    both = own.keys() & study.keys() if recipe != STUDY else ()
    gains = [of_items(-item_drops(study[seed], own[seed])) for seed in both]
    difference = estimate(*zip(*gains, strict=True)) if gains else None
    return Comparison(coordinates, recipe, accuracy, difference)


def comparison_report(paths: Iterable[str | Path]) -> str:
    """`compare` on the records in these files, for a terminal. Raises RecordError."""
    records = load_records(paths)
    found = compare(records)
    rows = []
    for before, one in zip([None, *found], found, strict=False):
        first = before is None or before.coordinates != one.coordinates
        difference = "" if one.difference is None else one.difference.interval_text
        seeds = counted(one.accuracy.seeds, "seed")
        rows.append([one.coordinates if first else "", one.recipe, one.accuracy.text, difference, seeds])
    lines = [
        "Recipes against the study: accuracy of the last stage, %, and the difference from the study's, points",
        f"(measured at scale {_where(records)};",
        f"± standard error, 95 % interval, over {over_what(one.accuracy.seeds for one in found)}; "
        "paired by seed and test item)",
        "",
        *columns(rows, ["run", "recipe", "accuracy", "difference", ""], "llrrl"),
    ]
    return "\n".join(lines) + "\n"


def _where(records: Iterable[Record], benchmark: str = "imagenet1k") -> str:
    """`micro-v1 on pictograms/v1/plain, n = 4000, by stand-ins for the paper's models`."""
    own = [r for r in records if (r["source"], r["benchmark"]) == ("measured", benchmark)]
    sets = [f"{r['scale']} on {r['dataset']['name']}, n = {r['dataset']['n']}" for r in own]
    stand_ins = any(r["scale"] != "paper" for r in own)
    return "; ".join(dict.fromkeys(sets)) + (", by stand-ins for the paper's models" if stand_ins else "")
