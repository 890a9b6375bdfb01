"""docs/numbers.html: every number on one static page that sorts, filters and can be linked to.

Published numbers, the measured ones in a table of their own, the claims with their verdicts, the errata. One file
without anything from elsewhere: style and script are in it, and it reads as plain tables where scripts do not run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from clipa import __version__
from clipa.estimate import calibrated
from clipa.files import write_text_atomically
from clipa.plan import filling
from clipa.published import citation, errata
from clipa.published.claims import Evaluation, Result
from clipa.published.errata import CLAIM, COUNT, READING, ROUNDING, Erratum
from clipa.published.measured import (
    NOT_ATTEMPTED,
    Mean,
    Measured,
    ScaleRecords,
    a100_hours,
    means,
    recorded,
    trainings_behind,
)
from clipa.published.search import AROUND_AN_ID, LIKE_AN_ID, REWRITES, SILENT, benchmark_of, record_terms
from clipa.records import published_records, recorded_scales, run_name
from clipa.schema import Record
from clipa.stats import over_what

HERE = Path(__file__).parent
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning", "negclip": "NegCLIP", "none": "no stage"}
KINDS = {
    CLAIM: "Sentences that the paper's own numbers contradict",
    COUNT: "Costs that differ under our count",
    READING: "Sentences that are true in one fair reading",
    "setting": "Settings",
    "label": "Labels and words",
    "cell": "Cells",
    "compute": "Compute",
    "unknown": "What cannot be known",
}


@dataclass
class Row:
    """One number of the page. `terms`: what a search finds it by; `keys`: what the page's filters compare.

    `counterparts`: (id, scale) of measured means in the same coordinates, whose numbers are never shown beside the
    paper's; `same_as`: (id, place) of the same number in other tables.
    """

    id: str
    value: str
    unit: str
    record: Record
    terms: str
    keys: str
    anchors: list[str] = field(default_factory=list)
    counterparts: list[tuple[str, str]] = field(default_factory=list)
    same_as: list[tuple[str, str]] = field(default_factory=list)
    note: str | None = None
    errata: list[tuple[str, str]] = field(default_factory=list)


def write(out: Path) -> Path:
    """Write the page of all numbers to `out`; the same records give the same bytes."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = {scale: recorded(scale) for scale in recorded_scales()}
    write_text_atomically(out, render(published_records(), measured))
    return out


@dataclass(frozen=True)
class ClaimEntry:
    """A claim with its verdict; `measured`: verdicts at the scales where it was attempted; `cost` of measuring it."""

    result: Result
    measured: list[Measured]
    cost: str

    @property
    def ground(self) -> str:
        return errata.ground(self.result)

    @property
    def anchor(self) -> str:
        return f"claim-{self.result.claim.id}"

    @property
    def disputed(self) -> bool:
        """Whether the page has an erratum for it."""
        return errata.kind_of(self.result) not in (None, ROUNDING)

    @property
    def readings(self) -> list[str]:
        """Its readings with their verdicts, where there are several."""
        several = self.result.all_readings
        return [errata.reading_text(one) for one in several] if len(several) > 1 else []


def claim_entries(evaluation: Evaluation, scales: Mapping[str, ScaleRecords]) -> list[ClaimEntry]:
    """Every claim, with the verdicts of the `scales` on those that are scale-free."""
    entries = []
    for result in evaluation.results:
        verdicts = [scale.verdict(result) for scale in scales.values()] if result.claim.scale_free else []
        attempted = [one for one in verdicts if one.verdict != NOT_ATTEMPTED]
        entries.append(ClaimEntry(result, attempted, _cost(evaluation, result, scales)))
    return entries


def _cost(evaluation: Evaluation, result: Result, scales: Mapping[str, ScaleRecords]) -> str:
    """Trainings, compute, A100 hours, and recorded minutes at the scales, for one seed; "" if nothing is trained."""
    trainings = trainings_behind(evaluation.records(result.rests_on))
    if not trainings.stages:
        return ""
    hours = a100_hours(trainings, evaluation.numbers.records)
    parts = [
        f"{trainings.pretrainings} pre-training{'s' if trainings.pretrainings > 1 else ''}"
        f" + {trainings.finetunings} fine-tuning{'s' if trainings.finetunings != 1 else ''}",
        f"{trainings.multiply_adds:.2g} × 10¹² GFLOPs",
        f"{round(hours, 2 - len(f'{hours:.0f}')):,.0f} A100 hours",
    ]
    for name, scale in scales.items():
        seconds = scale.seconds_of(trainings.stages)
        parts.append(
            f"at {name} {'not recorded' if seconds is None else f'{seconds / 60:.0f} min on one core'}"
        )
    return ", ".join(parts)


def render(published: Sequence[Record], measured: Mapping[str, Sequence[Record]]) -> str:
    """The page as HTML; `measured` are the accepted records of every scale."""
    import jinja2

    evaluation = Evaluation(published)
    scales = {name: ScaleRecords(name, records, evaluation.numbers) for name, records in measured.items()}
    found = [erratum for erratum in errata.errata_of(evaluation) if erratum.kind != ROUNDING]
    averaged = means(record for records in measured.values() for record in records)
    known = [record for record in published if record["value"] is not None or record["table"] is not None]
    places = {record["id"]: citation.place(record) for record in known}
    rows = [_published_row(record, averaged, places, found) for record in known]
    measured_rows = [_measured_row(one) for one in averaged]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    vocabulary = _coded([*rows, *measured_rows])
    environment.filters |= {"thousands": "{:,}".format, "anchor": anchor}
    return environment.get_template("numbers_page.html.j2").render(
        rows=rows,
        measured_rows=measured_rows,
        claims=claim_entries(evaluation, scales),
        counts=[(verdict, count) for verdict, count in evaluation.counts.items() if count],
        not_claims=evaluation.content.not_claims,
        rate=calibrated(evaluation.numbers.records),
        errata={
            heading: [erratum for erratum in found if erratum.kind == kind] for kind, heading in KINDS.items()
        },
        listed_at_most=errata.ABOUT_ROWS,
        left_out=len(published) - len(known),
        in_tables=sum(record["table"] is not None for record in known),
        in_figures=sum(record["table"] is None for record in known),
        without_value=sum(record["value"] is None for record in known),
        means=len(averaged),
        over=over_what(len(one.records) for one in averaged),
        measured=sum(map(len, measured.values())),
        scales=list(measured),
        choices=_choices([*rows, *measured_rows]),
        script=_script(vocabulary),
        citation=citation,
        version=__version__,
    )


def _published_row(
    record: Record, averaged: Sequence[Mean], places: Mapping[str, str], found: Iterable[Erratum]
) -> Row:
    row = _row(record, *citation.value_and_unit(record))
    row.counterparts = [
        (one.id, one.records[0]["scale"]) for one in averaged if _same_coordinates(record, one.records[0])
    ]
    row.same_as = [(other, places[other]) for other in record["same_as"] if other in places]
    row.note = record["note"]
    row.errata = [(anchor(one), _label(one)) for one in errata.about(record, found)]
    return row


def anchor(erratum: Erratum) -> str:
    """Where an erratum stands on the page."""
    return f"erratum-{erratum.id}"


def _label(erratum: Erratum) -> str:
    if erratum.kind == CLAIM:
        return f"erratum: {erratum.places[0]}"
    return f"conflict: {erratum.title[:1].lower()}{erratum.title[1:]}"


def _measured_row(one: Mean) -> Row:
    row = _row(one.record, *citation.value_and_unit(one.record))
    row.anchors = [single["id"] for single in one.records]
    return row


def _row(record: Record, value: str, unit: str) -> Row:
    place = f"table{record['table']}" if record["table"] is not None else f"figure{record['figure']}"
    keys = (
        "" if record["source"] == "measured" else place,
        record["model"] or "",
        benchmark_of(record) or "",
        record["stage"] or "none",
        record["source"],
    )
    return Row(record["id"], value, unit, record, " ".join(sorted(record_terms(record))), "|".join(keys))


def _same_coordinates(published: Record, measured: Record) -> bool:
    """Whether a measured mean has a published number's coordinates: a run that fills its cell, and the stage."""
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
        ("benchmark", "Benchmark", [(key, citation.BENCHMARKS.get(key, key)) for key in seen[2]]),
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
        "aroundAnId": AROUND_AN_ID,
        "paper": citation.PAPER,
        "artifact": citation.ARTIFACT,
    }
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
