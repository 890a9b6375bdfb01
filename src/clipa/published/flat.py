"""Every number as one flat table, for spreadsheets and data frames: published, derived and measured ones.

A measured row has no column in which it could stand for one of the paper's: what was trained and what was evaluated
are named as such, with scale, n and seeds. `run` and `stage` are the paper's coordinates in all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipa.published import citation
from clipa.published.claims import Evaluation
from clipa.published.derived import derived_records
from clipa.published.errata import ROUNDING, Erratum, errata_behind, errata_of
from clipa.published.measured import means
from clipa.published.search import benchmark_of, species
from clipa.schema import Record

COLUMNS: dict[str, tuple[type, str]] = {
    "id": (str, "The record's name; unique."),
    "source": (
        str,
        "published: the paper prints it; derived: computed from what it prints; measured: by this artifact.",
    ),
    "species": (str, "published; drop, slope, ratio, minimal (derived); mean (over seeds), seed (measured)."),
    "value": (float, "In the row's unit; empty where there is no number, or where it is words (see text)."),
    "unit": (str, "percent, points, GPU hours, GFLOPs, M (millions of parameters), count, …"),
    "text": (str, "The value in words, with unit and uncertainty."),
    "standard_error": (
        float,
        "Of measured numbers, points: of a mean over seeds, of one seed over test items.",
    ),
    "low": (float, "Of derived numbers: the least value that the rounding of the printed cells allows."),
    "high": (float, "Of derived numbers: the greatest such value."),
    "quantity": (str, "What the number is of, in words: data set and metric."),
    "evaluated_on": (
        str,
        "The data set: for measured numbers the one that was evaluated, else the paper's benchmark.",
    ),
    "metric": (str, "acc1, image_retrieval_recall@1, gpu_hours, acc1_drop, …"),
    "model": (
        str,
        "Of measured numbers the stand-in that was trained, with its size; else the paper's model.",
    ),
    "scale": (str, "paper, or the small scale at which it was measured."),
    "n": (int, "Of measured numbers: items of the test set."),
    "seeds": (str, "Of measured numbers: the seeds, separated by spaces."),
    "dataset_fingerprint": (str, "Of measured numbers: digest of the test set."),
    "run": (str, "The training in the paper's coordinates: model, image reduction, text reduction."),
    "recipe": (str, "Of measured numbers: the recipe, where it is not the study's."),
    "case": (str, "What else names the experiment where several numbers share a run."),
    "stage": (str, "pretrain, finetune or negclip: after which training."),
    "image_reduction": (str, "none, resize, random, grid, block."),
    "image_size": (int, "Pixels, in the paper's coordinates."),
    "image_tokens": (int, "Patches kept and one class token, in the paper's coordinates."),
    "text_reduction": (str, "truncation, random, block, syntax."),
    "text_tokens": (int, "Length of the text, [CLS] included, in the paper's coordinates."),
    "place": (
        str,
        "Where the paper prints it, what it was derived from, or the scale at which it was measured.",
    ),
    "table": (int, "Of published numbers: the paper's table."),
    "figure": (int, "Of published numbers: the paper's figure."),
    "row": (str, "Of published numbers: the heading of the row, as printed."),
    "column": (str, "Of published numbers: the heading of the column, as printed."),
    "printed": (str, "Of published numbers: the cell exactly as printed."),
    "formula": (str, "Of derived numbers: how they are computed."),
    "rests_on": (str, "Of derived numbers: ids of the cells, separated by spaces."),
    "same_as": (str, "Ids of the same number in other tables, separated by spaces."),
    "errata": (str, "Entries of docs/errata.md that concern it or its cells, separated by spaces."),
    "note": (str, "What to know before using it."),
    "stands_for": (str, "Of measured numbers: the paper's benchmark that the id has in its place."),
}
"""Name, type and meaning of every column."""


def flat_table(published: Sequence[Record], measured: Iterable[Record]) -> list[dict[str, Any]]:
    """All published numbers, what is derived from them, means over seeds, single seeds: a row each, in this order."""
    measured = list(measured)
    found = errata_of(Evaluation(published))
    derived = derived_records(published)
    records = [*published, *derived, *(one.record for one in means(measured)), *measured]
    by_id = {record["id"]: record for record in published}
    return [flat_row(record, by_id, found) for record in records]


def flat_row(record: Record, published: Mapping[str, Record], found: Iterable[Erratum]) -> dict[str, Any]:
    """A record as a row of :data:`COLUMNS`; `published`: by id; `found`: the errata. Unknown or absent is None."""
    measured, derived = record["source"] == "measured", record["source"] == "derived"
    value = record["value"]
    own: dict[str, Any] = {
        "species": species(record),
        "value": float(value) if isinstance(value, (int, float)) else None,
        "unit": record.get("unit") or "percent",
        "text": citation.value_text(record),
        "quantity": citation.quantity(record),
        "evaluated_on": benchmark_of(record),
        "model": citation.model_text(record) or None,
        "place": f"derived from {citation.place(record)}" if derived else citation.place(record),
        "errata": _ids(one.id for one in errata_behind(record, published, found) if one.kind != ROUNDING),
        "rests_on": _ids(record.get("rests_on") or ()),
        "same_as": _ids(record.get("same_as") or ()),
        "stands_for": record["benchmark"] if measured and citation.stands_for(record) else None,
        "table": None if derived else record["table"],
    }
    if derived:
        own["low"], own["high"] = record["bounds"]
    if measured:
        seeds = record.get("seeds", [record.get("seed")])
        own |= {"n": record["dataset"]["n"], "seeds": " ".join(map(str, seeds))}
        own["dataset_fingerprint"] = record["dataset"]["fingerprint"]
    return {name: own.get(name, record.get(name)) for name in COLUMNS}


def _ids(identities: Iterable[str]) -> str | None:
    return " ".join(identities) or None
