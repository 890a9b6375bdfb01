"""docs/numbers.html: every number on one page that searches, sorts, filters and can be linked to.

One file without anything from elsewhere: style and script are in it. Where scripts do not run it reads as plain tables
of the paper's numbers and of the measured means, with the claims and the errata. All else (derived numbers, single
seeds, points that the paper only plots, tables as printed, the search's data, the files to download) is packed: gzip in
base64, a twelfth of its size, which the browser inflates itself (DecompressionStream), also from a local file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipa import __version__
from clipa.estimate import calibrated
from clipa.published import citation, errata
from clipa.published.claims import Evaluation, Result
from clipa.published.errata import CLAIM, COUNT, READING, ROUNDING
from clipa.published.flat import COLUMNS
from clipa.published.measured import (
    NOT_ATTEMPTED,
    Measured,
    ScaleRecords,
    a100_hours,
    trainings_behind,
)
from clipa.render import tables
from clipa.render.numbers_rows import STAGES, Rows, pack, rows_of
from clipa.render.pages import write_page
from clipa.schema import Record
from clipa.stats import over_what

HERE = Path(__file__).parent
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


def write(out: Path) -> Path:
    """Write the page of all numbers to `out`; the same records give the same bytes."""
    return write_page(out, render)


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
    rows = rows_of(published, measured, found)
    claims = claim_entries(evaluation, scales)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"thousands": "{:,}".format}
    environment.globals |= {"citation": citation}
    in_tables = [row.record for row in rows.published if row.record["table"] is not None]
    return environment.get_template("numbers_page.html.j2").render(
        rows=rows,
        packed=_packed(rows, published, list(measured), environment, _rested_on(rows, claims, found)),
        claims=claims,
        counts=[(verdict, count) for verdict, count in evaluation.counts.items() if count],
        not_claims=evaluation.content.not_claims,
        rate=calibrated(evaluation.numbers.records),
        errata={
            heading: [erratum for erratum in found if erratum.kind == kind] for kind, heading in KINDS.items()
        },
        listed_at_most=errata.ABOUT_ROWS,
        in_tables=len(in_tables),
        without_value=sum(record["value"] is None for record in in_tables),
        over=over_what(len(row.record["seeds"]) for row in rows.means),
        scales=list(measured),
        choices=_choices(rows),
        columns=COLUMNS,
        version=__version__,
    )


def _packed(
    rows: Rows, published: Sequence[Record], scales: Sequence[str], environment, rested: dict[str, list[int]]
) -> dict[str, str]:
    """What the page's script inflates, each as base64 text: what it shows, and what it offers for download."""
    macros = environment.get_template("numbers_rows.html.j2").module
    shown = {
        "plotted": "".join(map(macros.published, rows.plotted)),
        "derived": "".join(map(macros.derived, rows.derived)),
        "seeds": "".join(map(macros.measured, rows.seeds)),
        "printed": [tables.render_html(number, published) for number in tables.NUMBERS],
        "restsOn": rested,
    }
    return {"shown": pack(shown | rows.search_data(scales)), "numbers": pack(rows.flat())}


def _rested_on(
    rows: Rows, claims: Sequence[ClaimEntry], found: Sequence[errata.Erratum]
) -> dict[str, list[int]]:
    """The numbers that claims and errata rest on: positions among all rows, by anchor."""
    position = {row.id: number for number, row in enumerate(rows.all)}
    rested = {entry.anchor: entry.result.rests_on for entry in claims}
    rested |= {one.id: one.rests_on for one in found if len(one.rests_on) <= errata.ABOUT_ROWS}
    return {anchor: [position[name] for name in names] for anchor, names in rested.items() if names}


def _choices(rows: Rows) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the selects of the page offer: (name, label, [(key, text)]), in the order in which the records come."""
    columns = list(zip(*(row.keys for row in rows.all), strict=True))
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
