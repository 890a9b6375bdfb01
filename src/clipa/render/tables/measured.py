"""Measured records in the places of published ones: mean ± standard error of each cell, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clipa.plan import filling
from clipa.published.search import benchmark_of
from clipa.records import MEANS_OVER_GROUPS, run_name
from clipa.render.tables.latex import TableError, escape, shown
from clipa.schema import Record
from clipa.stats import estimate, over_what


@dataclass
class Measured:
    """`cells`: LaTeX by id of the published record. The rest is for the caption: LaTeX, too.

    `beside`: whether cells have the paper's number in brackets; `sizes`: millions of parameters of stand-ins, empty
    for the paper's own models; `plain`: benchmarks whose cells are means over items, where the paper's are over groups.
    """

    cells: dict[str, str]
    scale: str
    datasets: str
    seeds: str
    over: str
    beside: bool
    sizes: str
    plain: str


def measured_cells(number: int, published: Sequence[Record], measured: Iterable[Record]) -> Measured:
    """The cells of a table that `measured` fills: by its runs (`clipa.plan.filling`), stage, benchmark and metric.

    Raises TableError, in one line, if there is none, or if records of several scales or data sets mix.
    """
    by_place: dict[tuple, list[Record]] = {}
    for record in measured:
        if record["source"] == "measured":
            by_place.setdefault(_place(record.get("case") or run_name(record), record), []).append(record)
    filled: dict[str, list[Record]] = {}
    for record in published:
        # Nothing is measured where the paper prints a dash: we take the full-length baseline to have one stage.
        own = _standing_for(record, by_place)
        if own and (record["value"] is not None or record["printed"] != "-"):
            filled[record["id"]] = own
    if not filled:
        raise TableError(f"table {number}: none of its cells was measured by the records given")
    found = [record for own in filled.values() for record in own]
    _check_one_experiment(number, found)
    seeds = sorted({len(own) for own in filled.values()})
    sets = dict.fromkeys(f"{escape(r['dataset']['name'])} ($n = {r['dataset']['n']}$)" for r in found)
    return Measured(
        cells={
            record["id"]: _text(filled[record["id"]]) + _bracket(record, filled[record["id"]])
            for record in published
            if record["id"] in filled
        },
        scale=escape(found[0]["scale"]),
        datasets=", ".join(sets),
        seeds="/".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds"),
        over=over_what(seeds),
        beside=any(map(_same_benchmark, found)),
        sizes=_sizes(found),
        plain=" and ".join(
            dict.fromkeys(escape(record["benchmark"]) for record in found if _is_plain(record))
        ),
    )


def _standing_for(published: Record, by_place: dict[tuple[Any, ...], list[Record]]) -> list[Record]:
    """The measured records in a cell. Where the paper's number is a mean over groups so are they, if all have one."""
    cells = [(run, published["stage"]) for run in filling(published)]
    # A released checkpoint is called after the row whose model it is (config/released.yaml).
    cells.append((published.get("case") or published["run"], None))
    benchmark, metric = published["benchmark"], published["metric"]
    plain, grouped = (
        [found for cell in cells for found in by_place.get((*cell, benchmark, name), ())]
        for name in (metric, f"{metric}_macro")
    )
    return grouped if benchmark in MEANS_OVER_GROUPS and len(grouped) >= max(len(plain), 1) else plain


def _is_plain(record: Record) -> bool:
    """Whether a measured record is a mean over items where the paper's number is one over groups of them."""
    return record["benchmark"] in MEANS_OVER_GROUPS and "groups" not in record


def _place(run: str | None, record: Record) -> tuple[Any, ...]:
    """What must agree between a cell and what fills it."""
    return run, record["stage"], record["benchmark"], record["metric"]


def _check_one_experiment(number: int, records: Sequence[Record]) -> None:
    scales = {record["scale"] for record in records}
    if len(scales) > 1:
        raise TableError(f"table {number}: the records mix scales ({', '.join(sorted(scales))}); give one")
    sets: dict[str, set[str]] = {}
    for record in records:
        sets.setdefault(record["benchmark"], set()).add(record["dataset"]["fingerprint"])
    for benchmark, fingerprints in sets.items():
        if len(fingerprints) > 1:
            raise TableError(
                f"table {number}: the records mix test sets that stand for {benchmark}; give one"
            )


def _text(records: Sequence[Record]) -> str:
    """`mean ± standard error` over the seeds of one cell, as LaTeX."""
    found = estimate(
        [record["value"] for record in records], [record["standard_error"] for record in records]
    )
    return "$" + found.text.replace("±", r"\pm") + "$"


def _bracket(published: Record, own: Sequence[Record]) -> str:
    """The paper's number in brackets where the measured one is the same mean on the same benchmark, nowhere else."""
    if published["value"] is None or not all(map(_same_benchmark, own)) or any(map(_is_plain, own)):
        return ""
    return f" {{\\scriptsize ({shown(published)})}}"


def _same_benchmark(record: Record) -> bool:
    return benchmark_of(record) == record["benchmark"]


def _sizes(records: Sequence[Record]) -> str:
    """Smallest and largest of the models that ran in the place of the paper's, in millions of parameters."""
    sizes = [
        record["actual"]["parameters"] / 1e6
        for record in records
        if record["scale"] not in ("paper", "released")
    ]
    ends = dict.fromkeys(f"{size:.2g}" for size in (min(sizes), max(sizes))) if sizes else ()
    return " to ".join(ends)
