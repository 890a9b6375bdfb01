"""Numbers that follow from the paper's own and that it does not print: drops, their slopes, cost ratios, least lengths.

Each is a record of its own species (source "derived") with an id, a formula in the language of claims and the ids of
the cells that it rests on. Nothing is typed: values are evaluated from the published records, with what the rounding
of the printed cells leaves open (:class:`clipa.published.quantities.Quantity`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clipa.published.formulas import evaluate
from clipa.published.quantities import FormulaError, Published, Quantity, describe
from clipa.schema import DerivedRecord, Record
from clipa.stats import MINIMAL_MODELS, slope_weights
from clipa.study import FULL_TEXT_TOKENS, Run, model_slug, parse_run

THRESHOLDS = ("1", "1.5", "2")
"""Drops, in points, within which a length is short enough (§1 has 1, §4.3 has 1.5)."""
LENGTHS = {11: "image_tokens", 12: "text_tokens", 13: "image_size"}
"""Tables that vary a length, and the field of a record that has it."""
COSTS = ("gpu_hours", "compute")
OTHERS = ("OpenCLIP-", "OpenAI-", "FLIP-")
"""How the cases of models begin that are not the paper's own."""
_SETTING = (
    "image_reduction",
    "image_size",
    "patches",
    "image_tokens",
    "text_reduction",
    "text_tokens",
)


def derived_records(published: Sequence[Record], kinds: Sequence[str] = ()) -> list[DerivedRecord]:
    """Every number of these `kinds` (names of :data:`KINDS`; none: all) that the published records allow."""
    numbers = Published(published)
    return [record for kind in kinds or KINDS for record in KINDS[kind](numbers)]


def _record(
    numbers: Published,
    like: Mapping[str, Any],
    identity: str,
    formula: str,
    also: Sequence[str] = (),
    **fields: Any,
) -> DerivedRecord | None:
    """A derived record with the coordinates of a published one, but for `fields`; None where a cell has no number.

    `also`: ids of cells whose numbers are in the formula as factors.
    """
    try:
        value, rests_on = evaluate(formula, numbers)
    except FormulaError:
        return None
    assert isinstance(value, Quantity)
    names = ("table", "model", "run", "stage", *_SETTING, "benchmark")
    return {
        "id": identity,
        "source": "derived",
        "scale": "paper",
        "figure": None,
        **{name: like[name] for name in names},
        "value": float(value.value),
        "bounds": [float(value.low), float(value.high)],
        "text": describe(value),
        "formula": formula,
        "rests_on": [*rests_on, *also],
        "case": None,
        "note": None,
        **fields,
    }


# ------------------------------------------------------------------------------------------------------------ drops


def _cells(numbers: Published) -> Iterator[tuple[Record, Run]]:
    """Cells that have a drop: of reduced runs at their last stage, in tables that have the run's baseline too.

    A cell that several tables print alike is taken from the first.
    """
    taken: set[str] = set()
    for record in numbers.records.values():
        if record["unit"] != "percent" or record["case"] or not record["run"] or record["table"] is None:
            continue
        run = parse_run(record["run"])
        cell = ".".join((run.baseline.final_stage, record["benchmark"], record["metric"]))
        full = f"table{record['table']}.{run.baseline.slug}.{cell}"
        if run == run.baseline or record["stage"] != run.final_stage or full not in numbers.records:
            continue
        if taken.isdisjoint(record["same_as"]):
            yield record, run
        taken.add(record["id"])


def _drop_formula(record: Mapping[str, Any], run: str) -> str:
    """`drop(11, "L16-resize64-truncation32")`; benchmark and metric where they are not ImageNet-1k's accuracy."""
    names = [run, record["benchmark"], record["metric"]]
    if names[1:] == ["imagenet1k", "acc1"]:
        names = [run]
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"drop({record['table']}, {quoted})"


def _drops(numbers: Published) -> Iterator[DerivedRecord]:
    for record, run in _cells(numbers):
        found = _record(
            numbers,
            record,
            f"derived.{record['id']}_drop",
            _drop_formula(record, run.slug),
            metric=f"{record['metric']}_drop",
            unit="points",
        )
        if found is not None:
            yield found


def _slopes(numbers: Published) -> Iterator[DerivedRecord]:
    """Least-squares slopes of the drop on log10 of Table 4's parameters, over the models of one setting.

    The law says that they are negative. Table 4's parameters are taken as exact.
    """
    groups: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record, run in _cells(numbers):
        parameters = f"table4.{model_slug(run.model)}.total.parameters"
        if parameters in numbers.records and record["value"] is not None:
            setting = run.slug.removeprefix(f"{model_slug(run.model)}-")
            key = (record["table"], setting, record["stage"], record["benchmark"], record["metric"])
            groups.setdefault(key, {})[parameters] = record
    for (table, *rest, metric), cells in groups.items():
        if len(cells) < MINIMAL_MODELS:
            continue
        weights = slope_weights([numbers.records[parameters]["value"] for parameters in cells])
        terms = [
            f"({weight:.6f}) * {_drop_formula(record, record['run'])}"
            for weight, record in zip(weights, cells.values(), strict=True)
        ]
        found = _record(
            numbers,
            next(iter(cells.values())),
            f"derived.table{table}.{'.'.join(rest)}.{metric}_drop_slope",
            " + ".join(terms),
            also=list(cells),
            metric=f"{metric}_drop_slope",
            unit="points per tenfold parameters",
            model=None,
            run=None,
            note=f"Slope of a straight line through {len(cells)} models. The factors are the least-squares weights "
            "of log10 of Table 4's parameters.",
        )
        if found is not None:
            yield found


# --------------------------------------------------------------------------------------------- lengths and costs


def _least_lengths(numbers: Published) -> Iterator[DerivedRecord]:
    """The shortest lengths with a drop of at most a threshold, of each model and reduction (Figure 1's numbers)."""
    for table, length in LENGTHS.items():
        seen: dict[tuple[str, str], Record] = {}
        for record, run in _cells(numbers):
            if record["table"] == table and record["benchmark"] == "imagenet1k":
                reduction = run.text_reduction if table == 12 else run.image_reduction
                if table != 12 or run.text_tokens < FULL_TEXT_TOKENS:
                    seen.setdefault((model_slug(run.model), reduction), record)
        for (model, reduction), record in seen.items():
            for threshold in THRESHOLDS:
                own = "text" if table == 12 else "image"
                setting = {name: None for name in _SETTING if name.startswith(own) or name == "patches"}
                found = _record(
                    numbers,
                    record,
                    f"derived.table{table}.{model}-{reduction}.imagenet1k.acc1_within{threshold}_minimal_{length}",
                    f'tokens_needed({table}, "{model}", "{reduction}", {threshold})',
                    metric=f"acc1_within{threshold}_minimal_{length}",
                    unit="pixels" if table == 13 else "tokens",
                    run=None,
                    **{**setting, f"{own}_reduction": reduction},
                )
                if found is not None:
                    yield found


def _ratios(numbers: Published) -> Iterator[DerivedRecord]:
    """How many times the cost of the paper's own models those of others take, in one table."""
    for metric in COSTS:
        cells = [r for r in numbers.records.values() if r["metric"] == metric and r["value"] is not None]
        for other in cells:
            for own in cells:
                subjects = [record["case"] or record["run"] for record in (other, own)]
                if other["table"] != own["table"] or None in subjects:
                    continue
                if not subjects[0].startswith(OTHERS) or subjects[1].startswith(OTHERS):
                    continue
                found = _record(
                    numbers,
                    own,
                    f"derived.table{own['table']}.{subjects[0]}-over-{subjects[1]}.{metric}_ratio",
                    f'v("{other["id"]}") / v("{own["id"]}")',
                    metric=f"{metric}_ratio",
                    unit="times",
                    benchmark=None,
                    case=f"{subjects[0]}-over-{subjects[1]}",
                    run=None,
                )
                if found is not None:
                    yield found


KINDS: dict[str, Callable[[Published], Iterator[DerivedRecord]]] = {
    "drop": _drops,
    "slope": _slopes,
    "ratio": _ratios,
    "minimal": _least_lengths,
}
"""What can be derived, by the word that asks for it."""
