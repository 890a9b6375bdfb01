"""Tables for a terminal: released checkpoints beside the paper's numbers, protocols side by side, pairs of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from clipa.config import CONFIG_DIRECTORY
from clipa.published.search import benchmark_of
from clipa.records import (
    ROOT,
    RecordError,
    correct_items,
    paired_drop,
    published_records,
    read_records,
)
from clipa.released import TABLES, Released, load_released
from clipa.schema import CheckpointRecord, Record

if TYPE_CHECKING:
    import numpy

ROUNDING, FRAMEWORK = 0.05, 0.10
"""What a published number may differ by, in points: it has one digit after the point, and other libraries, processors
and precisions change the answer on some items of 50,000. Together 0.15."""


# ------------------------------------------------------------------------------------------- the released checkpoints


def released_report(files: Sequence[Path] = ()) -> str:
    """Every row of Tables 1 to 3 with its checkpoint, then numbers side by side: the paper's, the card's, and those of
    ``files``. Without files, ImageNet-1k alone. RecordError for a file that holds other records.
    """
    rows, measured = (
        load_released(ROOT / CONFIG_DIRECTORY),
        [record for path in files for record in _of_checkpoints(path)],
    )
    table = [
        (name, row.tag or "-", row.hub or f"none: {row.why}", row.licence or "", row.gigabytes or "")
        for name, row in rows.items()
    ]
    head = ("row", "OpenCLIP name/tag", "on the hub", "licence", "GB")
    numbers = tabulate(
        _numbers(rows, measured),
        ("row", "benchmark", "metric", "paper", "card", "measured", "protocol", "verdict"),
        "plain",
        disable_numparse=True,
    )
    note = (
        f"agrees: within {ROUNDING + FRAMEWORK:.2f} points of the paper's number (rounding {ROUNDING}, libraries "
        f"{FRAMEWORK:.2f}). A number measured on another data set than the benchmark has no verdict."
    )
    lines = [
        *tabulate(table, head, "plain", maxcolwidths=[None, None, 60]).splitlines(),
        "",
        *numbers.splitlines(),
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", note])


def _of_checkpoints(path: Path) -> list[CheckpointRecord]:
    records = read_records(path)
    if wrong := [record["id"] for record in records if "checkpoint" not in record]:
        raise RecordError(
            f"{path}: record {wrong[0]} is of no checkpoint; `clipa evaluate --model` measures them"
        )
    return records


def _numbers(rows: Mapping[str, Released], measured: Sequence[CheckpointRecord]) -> list[tuple[str, ...]]:
    published = {
        (record["case"] or record["run"], record["benchmark"], record["metric"]): record["value"]
        for record in published_records()
        if record["table"] in TABLES and isinstance(record["value"], float | int)
    }
    found: dict[tuple[str, str, str], list[CheckpointRecord]] = {}
    for record in measured:
        found.setdefault((record["case"], record["benchmark"], record["metric"]), []).append(record)
    lines = []
    keys = [key for key in published if key[0] in rows and key[1] is not None]
    for key in [*keys, *(key for key in found if key not in published)]:
        if key in found or (not measured and key[1] == "imagenet1k"):
            card = rows[key[0]].card.get(f"{key[1]}.{key[2]}") if key[0] in rows else None
            for record in found.get(key, [None]):
                lines.append(
                    (
                        *key,
                        _text(published.get(key), 1),
                        _text(card, 2),
                        *_measured(published.get(key), record),
                    )
                )
    return lines


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _measured(published: float | None, record: CheckpointRecord | None) -> tuple[str, str, str]:
    """The measured number with its error over items, its protocol, and whether it is the paper's."""
    if record is None:
        return "-", "", ""
    shown = f"{record['value']:.2f} ± {record['standard_error']:.2f}"
    if benchmark_of(record) != record["benchmark"]:
        verdict = f"on {record['dataset']['name']}"
    elif published is None:
        verdict = "no number in the paper"
    else:
        difference = record["value"] - published
        verdict = (
            "agrees" if abs(difference) <= ROUNDING + FRAMEWORK + 1e-9 else f"differs by {difference:+.2f}"
        )
    return shown, record["protocol_name"], verdict


# ------------------------------------------------------------------------------------------------- side by side


def protocols_table(files: Iterable[Path]) -> str:
    """What protocols change: a line for each number, a column for each file, with the paired change from the first."""
    sets = [_by_place(read_records(path)) for path in files]
    names = [next(iter(one.values())).get("protocol_name", "study") for one in sets]
    first, lines = sets[0], []
    for place in dict.fromkeys(place for one in sets for place in one):
        cells = []
        for one in sets:
            record = one.get(place)
            cell = "-" if record is None else f"{record['value']:.2f}"
            if record is not None and one is not first and place in first:
                change, error = paired_drop(correct_items(record), correct_items(first[place]))
                cell += f" ({change:+.2f} ± {error:.2f})"
            cells.append(cell)
        lines.append((*place[:2], *cells))
    text = tabulate(lines, ("benchmark", "metric", *names), "plain", disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


RESAMPLES, BOOTSTRAP_SEED = 9_999, 2305
"""Of the paired bootstrap. The seed is this report's own, so that the same files give the same interval."""


def paired_report(one: Path, other: Path) -> str:
    """Two models on the same items: the difference of their numbers, paired, with the right test of each.

    Of accuracies McNemar's exact test. Of retrieval a 95 % interval of the difference by the paired bootstrap
    (percentiles): captions, or images, are drawn again, each with the outcomes of both models. Captions are drawn one
    by one, also those of one image: records do not say which those are. Numbers are matched by benchmark, metric and
    data set. No correction for their number is made. RecordError where nothing matches.
    """
    a, b = _by_place(read_records(one)), _by_place(read_records(other))
    lines = []
    for place in (place for place in a if place in b):
        right_a, right_b = correct_items(a[place]), correct_items(b[place])
        change, error = paired_drop(right_b, right_a)
        only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        values = f"{a[place]['value']:.2f}", f"{b[place]['value']:.2f}", f"{change:+.2f} ± {error:.2f}"
        if "retrieval" in place[1]:
            test = "-", _bootstrap_interval(right_a, right_b)
        else:
            test = _mcnemar(only_a, only_b), "-"
        lines.append((*place[:2], len(right_a), *values, only_a, only_b, *test))
    if not lines:
        raise RecordError(f"{one} and {other}: no number of the same benchmark, metric and data set in both")
    head = ("benchmark", "metric", "n", "A", "B", "B - A", "only A right", "only B right")
    table = tabulate(lines, (*head, "McNemar's p", "95 % of B - A"), "plain", disable_numparse=True)
    notes = []
    if any(line[-1] != "-" for line in lines):
        notes = [f"95 %: paired bootstrap over items, {RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}"]
    lines = (f"A: {one}", f"B: {other}", *table.splitlines(), *notes)
    return "\n".join(line.rstrip() for line in lines)


def _mcnemar(only_a: int, only_b: int) -> str:
    """McNemar's exact test is the binomial test of the items that one of the two gets right."""
    from scipy.stats import binomtest

    return f"{binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0:.2g}"


def _bootstrap_interval(right_a: numpy.ndarray, right_b: numpy.ndarray) -> str:
    """The interval of B - A in points over items (bool [n] twice) that are drawn again with their two outcomes."""
    import numpy
    from scipy.stats import bootstrap

    difference = 100 * (right_b.astype(float) - right_a.astype(float))
    if not difference.any():
        return "0.00 to 0.00"  # SciPy warns of data that do not vary
    interval = bootstrap(
        (difference,),
        numpy.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // len(difference)),  # 80 MB of drawn items at a time
        method="percentile",
        rng=numpy.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return f"{interval.low:+.2f} to {interval.high:+.2f}"


Place = tuple[str, str, str]
"""Benchmark, metric, digest of the data set."""


def _by_place(records: Iterable[Record]) -> dict[Place, Record]:
    """Measured records by place; of a run those of its last stage. Means over groups of items are no items' own."""
    measured = [record for record in records if record["source"] == "measured" and "groups" not in record]
    last = measured[-1]["stage"] if measured else None
    return {
        (record["benchmark"], record["metric"], record["dataset"]["fingerprint"]): record
        for record in measured
        if record["stage"] == last
    }
