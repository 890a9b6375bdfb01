"""The rows of docs/numbers.html, and what its script knows of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clipa.files import gzipped
from clipa.plan import filling
from clipa.published import citation
from clipa.published.derived import derived_records
from clipa.published.errata import CLAIM, Erratum, errata_behind, notes_behind
from clipa.published.flat import COLUMNS, flat_row
from clipa.published.measured import Mean, means
from clipa.published.search import benchmark_of, entries_of, species
from clipa.published.search_data import search_data
from clipa.records import run_name
from clipa.schema import Record

STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning", "negclip": "NegCLIP", "none": "no stage"}


@dataclass
class Row:
    """One number of the page. `keys`: what the page's filters compare (place, model, benchmark, stage, source).

    `counterparts`: (id, scale) of measured means in the same coordinates, whose numbers are never shown beside the
    paper's; `same_as`: (id, place) of the same number in other tables; `errata`: (id, words).
    """

    record: Record
    value: str
    unit: str
    keys: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    counterparts: list[tuple[str, str]] = field(default_factory=list)
    same_as: list[tuple[str, str]] = field(default_factory=list)
    errata: list[tuple[str, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.record["id"]


@dataclass
class Rows:
    """Rows by species; `plotted`: published ones without a number that could be cited."""

    published: list[Row]
    plotted: list[Row]
    derived: list[Row]
    means: list[Row]
    seeds: list[Row]
    by_id: Mapping[str, Record]
    errata: Sequence[Erratum]

    @cached_property
    def all(self) -> list[Row]:
        """In the order in which `clipa cite` searches them: published ones as their files have them."""
        of_paper = {row.id: row for row in (*self.published, *self.plotted)}
        return [*(of_paper[name] for name in self.by_id), *self.derived, *self.means, *self.seeds]

    def search_data(self, scales: Sequence[str]) -> dict[str, Any]:
        """The search's data, and in the same order keys, values (for sorting), units and citations of all rows."""
        keys = list(dict.fromkeys(row.keys for row in self.all))
        values = [row.record["value"] for row in self.all]
        return {
            "search": search_data(entries_of(row.record for row in self.all), scales),
            "keys": keys,
            "keysOf": [keys.index(row.keys) for row in self.all],
            "values": [value if isinstance(value, (int, float)) else None for value in values],
            "units": [row.record.get("unit") or "percent" for row in self.all],
            "citations": [citation.citation(row.record) for row in self.all],
        }

    def flat(self) -> dict[str, Any]:
        """All numbers as :func:`clipa.published.flat.flat_table` has them, by column: it packs better."""
        table = [flat_row(row.record, self.by_id, self.errata) for row in self.all]
        return {
            "columns": {name: meaning for name, (_, meaning) in COLUMNS.items()},
            "values": {name: [row[name] for row in table] for name in COLUMNS},
        }


def rows_of(
    published: Sequence[Record], measured: Mapping[str, Sequence[Record]], found: Sequence[Erratum]
) -> Rows:
    """The rows of published records, of what follows from them, and of the accepted records of every scale."""
    single = [record for records in measured.values() for record in records]
    averaged = means(single)
    by_id = {record["id"]: record for record in published}
    of_paper = [_published_row(record, averaged, by_id, found) for record in published]
    citable = [row.record["value"] is not None or row.record["table"] is not None for row in of_paper]
    return Rows(
        published=[row for row, there in zip(of_paper, citable, strict=True) if there],
        plotted=[row for row, there in zip(of_paper, citable, strict=True) if not there],
        derived=[_derived_row(record, by_id, found) for record in derived_records(published)],
        means=[_row(one.record) for one in averaged],
        seeds=[_row(record) for record in single],
        by_id=by_id,
        errata=found,
    )


def pack(content: Any) -> str:
    """Content as JSON, gzipped, in base64. The same content gives the same text, with one zlib."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzipped(text.encode())).decode()


def _published_row(
    record: Record, averaged: Sequence[Mean], by_id: Mapping[str, Record], found: Iterable[Erratum]
) -> Row:
    row = _row(record)
    row.counterparts = [
        (one.id, one.records[0]["scale"]) for one in averaged if _same_coordinates(record, one.records[0])
    ]
    row.same_as = [(other, citation.place(by_id[other])) for other in record["same_as"] if other in by_id]
    row.notes = notes_behind(record, by_id)
    row.errata = [(one.id, _label(one)) for one in errata_behind(record, by_id, found)]
    return row


def _derived_row(record: Record, by_id: Mapping[str, Record], found: Iterable[Erratum]) -> Row:
    """With the notes and the errata of the cells that it rests on."""
    row = _row(record)
    row.notes = notes_behind(record, by_id)
    row.errata = [(one.id, _label(one)) for one in errata_behind(record, by_id, found)]
    return row


def _label(erratum: Erratum) -> str:
    if erratum.kind == CLAIM:
        return f"erratum: {erratum.places[0]}"
    return f"conflict: {erratum.title[:1].lower()}{erratum.title[1:]}"


def _row(record: Record) -> Row:
    place = f"table{record['table']}" if record["table"] is not None else f"figure{record['figure']}"
    keys = (
        "" if record["source"] == "measured" else place,
        record["model"] or "",
        benchmark_of(record) or "",
        record["stage"] or "none",
        "measured, single seeds" if species(record) == "seed" else record["source"],
    )
    return Row(record, *citation.value_and_unit(record), keys)


def _same_coordinates(published: Record, measured: Record) -> bool:
    """Whether a measured mean has a published number's coordinates: a run that fills its cell, and the stage."""
    fitting = filling(published) or [published["run"]]
    if published["run"] is None or run_name(measured) not in fitting:
        return False
    return all(published[name] == measured[name] for name in ("stage", "benchmark", "metric"))
