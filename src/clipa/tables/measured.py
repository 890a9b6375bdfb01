"""Measured records in the places of published ones: mean ± standard error of each cell, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clipa.grid import filling
from clipa.records import Record, run_name
from clipa.tables.latex import TableError, escape


@dataclass
class Measured:
    """`cells`: LaTeX by id of the published record. The rest is for the caption: LaTeX, too."""

    cells: dict[str, str]
    scale: str
    datasets: str
    seeds: str
    over: str


def measured_cells(number: int, published: Sequence[Record], measured: Iterable[Record]) -> Measured:
    """The cells of a table that `measured` fills: by its runs (`clipa.grid.filling`), stage, benchmark and metric.

    Raises TableError, in one line, if there is none, or if records of several scales or data sets mix.
    """
    by_place: dict[tuple, list[Record]] = {}
    for record in measured:
        if record["source"] == "measured":
            by_place.setdefault(_place(run_name(record), record), []).append(record)
    # A dash in the paper says that there is no such number: the full-length baseline has one stage.
    filled: dict[str, list[Record]] = {}
    for record in published:
        places = [_place(run, record) for run in filling(record)]
        own = [found for place in places for found in by_place.get(place, ())]
        if own and (record["value"] is not None or record["printed"] != "-"):
            filled[record["id"]] = own
    if not filled:
        raise TableError(f"table {number}: none of its cells was measured by the records given")
    found = [record for own in filled.values() for record in own]
    _check_one_experiment(number, found)
    seeds = sorted({len(own) for own in filled.values()})
    sets = dict.fromkeys(f"{escape(r['dataset']['name'])} ($n = {r['dataset']['n']}$)" for r in found)
    return Measured(
        cells={identity: _mean_and_error(own) for identity, own in filled.items()},
        scale=escape(found[0]["scale"]),
        datasets=", ".join(sets),
        seeds="/".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds"),
        over=_over_what(seeds),
    )


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


def _over_what(seeds: Sequence[int]) -> str:
    from clipa.law import over_what

    return over_what(seeds)


def _minimal_seeds() -> int:
    from clipa.law import MINIMAL_SEEDS

    return MINIMAL_SEEDS


def _mean_and_error(records: Sequence[Record]) -> str:
    """`mean ± standard error` over seeds, or over test items where seeds are too few for it."""
    values = [record["value"] for record in records]
    if len(values) >= _minimal_seeds():
        from clipa.law import over_seeds

        found = over_seeds(values)
        mean, error = found.mean, found.standard_error
    else:  # the test items are common to the seeds: their errors do not average out
        mean = sum(values) / len(values)
        error = math.sqrt(sum(record["standard_error"] ** 2 for record in records) / len(records))
    return f"${mean:.1f} \\pm {error:.1f}$"
