"""docs/numbers.html: every number on one static page that sorts, filters and can be linked to.

Published numbers with the measured ones beside them, the claims with their verdicts, the errata. One file without
anything from elsewhere: style and script are in it, and it reads as a plain table where scripts do not run.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from clipa import __version__
from clipa.cite import telling
from clipa.cite.words import LIKE_AN_ID, REWRITES, SILENT, record_terms
from clipa.claims.measured import recorded, recorded_scales
from clipa.files import write_text_atomically
from clipa.grid import filling
from clipa.numbers.claims import KINDS, Checked, anchor, checked
from clipa.records import published_records, run_name

Record = Mapping[str, Any]
HERE = Path(__file__).parent
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning", "negclip": "NegCLIP", "none": "no stage"}


@dataclass
class Measured:
    """The mean over seeds of one quantity at one scale; `error` is the standard error over seeds, None for one seed."""

    record: Record
    ids: list[str]
    mean: float
    error: float | None

    @property
    def text(self) -> str:
        """``15.6 ± 1.9``, or the mean alone; percent."""
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.mean:.1f}{error}"

    @property
    def id(self) -> str:
        """The records' id without the seed."""
        return self.record["id"].rpartition(".seed")[0]

    @property
    def seeds(self) -> str:
        """``micro, 3 seeds``."""
        return f"{self.record['scale']}, {len(self.ids)} seed{'s' if len(self.ids) > 1 else ''}"


@dataclass
class Row:
    """One number of the page."""

    id: str
    value: str
    unit: str
    order: float | None
    record: Record
    terms: str
    keys: str
    lengths: list[str]
    details: str
    stage: str
    quantity: str
    place: str
    printed: str | None = None
    seeds: str = ""
    anchors: list[str] = field(default_factory=list)
    beside: list[Measured] = field(default_factory=list)
    also: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errata: list[tuple[str, str]] = field(default_factory=list)


def write(out: Path) -> Path:
    """Write the page of all numbers to `out`; the same records give the same bytes."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = {scale: recorded(scale) for scale in recorded_scales()}
    write_text_atomically(out, render(published_records(), measured))
    return out


def over_seeds(records: Iterable[Record]) -> list[Measured]:
    """Measured records as means over their seeds, in the order of the first of each."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        key = tuple(record.get(name) for name in ("scale", "run", "recipe", "stage", "benchmark", "metric"))
        groups.setdefault(key, []).append(record)
    measured = []
    for group in groups.values():
        values = [record["value"] for record in group]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        measured.append(
            Measured(group[0], [record["id"] for record in group], statistics.fmean(values), error)
        )
    return measured


def render(published: Sequence[Record], measured: Mapping[str, Sequence[Record]]) -> str:
    """The page as HTML; `measured` are the accepted records of every scale."""
    import jinja2

    claims = checked(published, measured)
    means = over_seeds(record for of_scale in measured.values() for record in of_scale)
    known = [record for record in published if record["value"] is not None or record["table"] is not None]
    places = {record["id"]: telling.place(record) for record in known}
    rows = [_published_row(record, means, places, claims) for record in known] + [
        _measured_row(one) for one in means
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    vocabulary = _coded(rows)
    environment.filters |= {"thousands": "{:,}".format, "anchor": anchor}
    return environment.get_template("page.html.j2").render(
        rows=rows,
        claims=claims,
        kinds=KINDS,
        left_out=len(published) - len(known),
        in_tables=sum(record["table"] is not None for record in known),
        in_figures=sum(record["table"] is None for record in known),
        without_value=sum(record["value"] is None for record in known),
        means=len(means),
        measured=sum(map(len, measured.values())),
        scales=list(measured),
        choices=_choices(rows),
        script=_script(vocabulary),
        paper=telling.PAPER,
        version=__version__,
        bibtex=telling.bibtex(),
    )


def _published_row(
    record: Record, means: Sequence[Measured], places: Mapping[str, str], claims: Checked
) -> Row:
    number, unit = telling.value_and_unit(record)
    row = _row(record, number, unit, record["value"])
    row.place = telling.place(record)
    row.printed = record["printed"] if telling.printed_differently(record) else None
    row.beside = [one for one in means if _same_quantity(record, one.record)]
    row.also = [(other, places[other]) for other in record["same_as"] if other in places]
    row.notes = [record["note"]] if record["note"] else []
    row.errata = claims.about(record)
    return row


def _measured_row(one: Measured) -> Row:
    record = {**one.record, "id": one.id, "value": one.mean}
    row = _row(record, one.text, "%", one.mean)
    row.place = f"scale {record['scale']}"
    row.seeds = one.seeds
    row.anchors = one.ids
    row.notes = [f"On {record['dataset']['name']} ({record['dataset']['n']} items)."]
    return row


def _row(record: Record, value: str, unit: str, order: Any) -> Row:
    place = f"table{record['table']}" if record["table"] is not None else f"figure{record['figure']}"
    keys = (
        "" if record["source"] == "measured" else place,
        record["model"] or "",
        record["benchmark"] or "",
        record["stage"] or "none",
        record["source"],
    )
    return Row(
        id=record["id"],
        value=value,
        unit=unit,
        order=order if isinstance(order, (int, float)) else None,
        record=record,
        terms=" ".join(sorted(record_terms(record))),
        keys="|".join(keys),
        lengths=telling.lengths(record),
        details=", ".join(telling.details(record)),
        stage=telling.stage_text(record),
        quantity=telling.quantity(record),
        place="",
    )


def _same_quantity(published: Record, measured: Record) -> bool:
    """Whether a measured mean belongs beside a published number: of a run that fills its cell, and the same stage."""
    fitting = filling(published) or [published["run"]]
    if published["run"] is None or run_name(measured) not in fitting:
        return False
    return all(published[name] == measured[name] for name in ("stage", "benchmark", "metric"))


def _choices(rows: Sequence[Row]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the selects of the page offer: (name, label, [(key, text)]), in the order in which the records come."""
    columns = list(zip(*(row.keys.split("|") for row in rows), strict=True))
    seen = [[key for key in dict.fromkeys(column) if key] for column in columns]

    def place(key: str) -> str:
        kind = key.rstrip("0123456789")
        return f"{kind.capitalize()} {key.removeprefix(kind)}"

    return [
        ("place", "Table", [(key, place(key)) for key in seen[0]]),
        ("model", "Model", [(key, key) for key in sorted(seen[1])]),
        ("benchmark", "Benchmark", [(key, telling.BENCHMARKS.get(key, key)) for key in seen[2]]),
        ("stage", "Stage", [(key, STAGES[key]) for key in seen[3]]),
        ("source", "Source", [(key, key) for key in seen[4]]),
    ]


def _coded(rows: Sequence[Row]) -> list[str]:
    """Every term once, the most frequent first; rows then hold the numbers (base 36) of theirs, a third of it."""
    counts = Counter(term for row in rows for term in row.terms.split())
    vocabulary = sorted(counts, key=lambda term: (-counts[term], term))
    numbers = {term: numpy.base_repr(number, 36).lower() for number, term in enumerate(vocabulary)}
    for row in rows:
        row.terms = " ".join(numbers[term] for term in row.terms.split())
    return vocabulary


def _script(vocabulary: Sequence[str]) -> str:
    """The vocabulary of `clipa cite` as JSON, harmless inside a script element."""
    content = {
        "terms": vocabulary,
        "rewrites": REWRITES,
        "silent": SILENT,
        "likeAnId": LIKE_AN_ID,
        "paper": telling.PAPER,
        "artifact": telling.ARTIFACT,
    }
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
