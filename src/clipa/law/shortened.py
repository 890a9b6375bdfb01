"""Shortened trainings beside the full length, on any test set: accuracies, and drops paired by seed and test item.

For data of one's own (docs/own-data.md), where there is one model or two and so no law to examine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from clipa.law.layout import columns, counted, interval
from clipa.law.statistic import item_drops, value_and_error
from clipa.records import RecordError, load_records
from clipa.schema import Record
from clipa.stats import Estimate, estimate, of_items, over_what
from clipa.study import FULL_IMAGE_SIZE, FULL_TEXT_TOKENS, STAGE_KINDS, Run, parse_run, run_order

Key = tuple[str, str, Run, str]
"""Benchmark, metric, run and kind of stage."""


@dataclass(frozen=True)
class Row:
    """One stage of a run on one test set: accuracy in percent, and points lost against the full length.

    ``drop`` is None for the full length itself, and where no seed has both.
    """

    benchmark: str
    metric: str
    run: Run
    stage: str
    items: int
    accuracy: Estimate
    drop: Estimate | None

    @property
    def label(self) -> str:
        """What was shortened, and whether it has been fine-tuned at full length since."""
        if self.run.is_full_length:
            return "full length"
        words = self.run.coordinates.partition("-")[2].replace("none-", "").replace("-", ", ")
        return f"{words}: {'before' if self.stage == 'pretrain' else 'after'} fine-tuning"


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Every stage of every run of ``records`` beside its model's full length, test set by test set.

    Intervals as in docs/law.md: over seeds from three on, else over test items. RecordError where the records are of
    several scales, or a run's full length is not among them.
    """
    found: dict[Key, dict[int, Record]] = {}
    scales: set[str] = set()
    for record in records:
        if record["source"] == "measured":
            scales.add(record["scale"])
            run = replace(parse_run(record["run"]), recipe=record.get("recipe", "study"))
            key = record["benchmark"], record["metric"], run, record["stage"]
            found.setdefault(key, {})[record["seed"]] = record
    if len(scales) != 1:
        raise RecordError(
            f"drop: records of {counted(len(scales), 'scale')} ({', '.join(sorted(scales))}); give one's"
        )
    ordered = sorted(found, key=lambda key: (key[:2], run_order(key[2]), STAGE_KINDS.index(key[3])))
    return [_row(key, found) for key in ordered]


def _row(key: Key, found: dict[Key, dict[int, Record]]) -> Row:
    benchmark, metric, run, _ = key
    own = found[key]
    full: dict[int, Record] = {}
    if not run.is_full_length:
        whole = replace(
            run,
            image_reduction="none",
            image_size=FULL_IMAGE_SIZE,
            kept_patches=None,
            text_tokens=FULL_TEXT_TOKENS,
        )
        full = found.get((benchmark, metric, whole, whole.final_stage), {})
        if not full:
            raise RecordError(
                f"drop: no records of {whole.slug} on {benchmark}, from which {run.slug} drops; add them"
            )
    drops = [of_items(item_drops(full[seed], own[seed])) for seed in sorted(own.keys() & full.keys())]
    return Row(
        *key,
        items=next(iter(own.values()))["dataset"]["n"],
        accuracy=estimate(*zip(*map(value_and_error, own.values()), strict=True)),
        drop=estimate(*zip(*drops, strict=True)) if drops else None,
    )


def shortened_report(paths: Iterable[str | Path]) -> str:
    """:func:`rows_of` the records in these files, for a terminal. Raises RecordError."""
    rows = rows_of(load_records(paths))
    lines = [
        "Accuracy of each stage, %, and its drop from the same model at full length, points (above 0: worse)",
        f"(± standard error, 95 % interval, over {over_what(row.accuracy.seeds for row in rows)}; paired)",
    ]
    for test in dict.fromkeys((row.benchmark, row.metric, row.items) for row in rows):
        own = [row for row in rows if (row.benchmark, row.metric, row.items) == test]
        table = [
            [
                row.run.model,
                row.label,
                row.accuracy.text,
                interval(row.drop),
                counted(row.accuracy.seeds, "seed"),
            ]
            for row in own
        ]
        lines += ["", f"{test[0]}, {test[1]} (n = {test[2]})"]
        lines += columns(table, ["model", "trained", "accuracy", "drop", ""], "llrrl")
    return "\n".join(lines) + "\n"
