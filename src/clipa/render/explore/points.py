"""The points of docs/law.html: accuracies and drops of the study's runs, of the paper or of one scale, and their names.

Which records are points, their means and intervals over seeds, their tokens and compute are those of Figures 4, 7, 8
and 10: their code is called. A point of fewer than three seeds has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipa.published import citation
from clipa.published.derived import derived_records
from clipa.published.measured import means
from clipa.records import frame_of, of_the_study
from clipa.render.figures import NothingToDraw
from clipa.render.figures.drops import IMAGES, TEXTS, Drops
from clipa.render.figures.figure08 import training_gflops
from clipa.render.figures.points import chance, in_order
from clipa.render.figures.sizes import tokens_seen
from clipa.render.figures.style import billions
from clipa.schema import Record
from clipa.stats import SEEDS, Estimate, estimate, fixed
from clipa.study import model_order

if TYPE_CHECKING:
    import pandas

SEQUENCES: dict[str, Drops] = {"image": IMAGES, "text": TEXTS}
PUBLISHED = "published"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
DIGITS = 6
"""Significant digits of the page's coordinates: more would differ between processors."""


@dataclass(frozen=True)
class Point:
    """A run of one model at its last stage. `id`: of its accuracy; `drop_ids`: of its drop, or of the two accuracies
    whose difference that is. Intervals are None where there are too few seeds, and of published numbers."""

    reduction: str
    record: Record
    length: int
    full: bool
    parameters: float
    tokens: float
    gflops: float
    seeds: int
    accuracy: Estimate
    drop: Estimate
    drop_ids: tuple[str, ...]

    @property
    def measured(self) -> bool:
        return self.record["source"] == "measured"

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def hollow(self) -> bool:
        """Whether it has too few seeds for an interval over seeds."""
        return self.measured and self.accuracy.over != SEEDS

    @property
    def accuracy_text(self) -> str:
        """``66.2 %``: without the error over test items that a citation has below three seeds."""
        return f"{fixed(self.accuracy.mean)} %" if self.measured else citation.value_text(self.record)

    @property
    def drop_text(self) -> str:
        """``3.0 points``."""
        return "0 by definition" if self.full else f"{fixed(self.drop.mean)} points".replace("-", "−")

    @property
    def accuracy_interval(self) -> str:
        """``[23.6, 54.6]``, 95 % over seeds, within 0 and 100; empty where there is none."""
        return _interval(self.accuracy, 0.0, 100.0) if self.measured else ""

    @property
    def drop_interval(self) -> str:
        """Likewise, of the drop in points."""
        return _interval(self.drop, -100.0, 100.0) if self.measured else ""

    @property
    def trained(self) -> str:
        """``L/16``; of measured points ``L/16 stand-in, 0.5 M``."""
        return citation.model_text(self.record)

    @property
    def setting(self) -> str:
        """Image and text lengths in the paper's coordinates."""
        return ", ".join(citation.lengths(self.record))

    @property
    def tokens_text(self) -> str:
        """``126 B``: tokens seen in pre-training."""
        return billions(float(f"{self.tokens:.3g}"))

    @property
    def gflops_text(self) -> str:
        """``5.3 × 10⁹``, ``136``: compute of the training."""
        return scientific(self.gflops)

    @property
    def cells(self) -> str:
        """Where the numbers are from: table, row and column; or scale, data set, stand-in, n and seeds."""
        if self.measured:
            return citation.cell(self.record)
        return f"{citation.place(self.record)}, {citation.cell(self.record)}"


@dataclass(frozen=True)
class Source:
    """The paper, or a scale with accepted records. `chance`: percent, None if unknown or of published numbers. `cited`:
    what the points are cited as, by id."""

    name: str
    points: tuple[Point, ...]
    chance: float | None
    cited: Mapping[str, Record]

    @property
    def measured(self) -> bool:
        return self.name != PUBLISHED

    @property
    def models(self) -> list[str]:
        """In the study's order."""
        return sorted({point.record["model"] for point in self.points}, key=model_order)

    @property
    def reductions(self) -> list[str]:
        """In the order of the paper's figures, images first: ``image-random``, ``text-syntax``."""
        return list(dict.fromkeys(point.reduction for point in self.points))


def _interval(found: Estimate, least: float, most: float) -> str:
    if found.over != SEEDS:
        return ""
    return f"[{fixed(max(least, found.low))}, {fixed(min(most, found.high))}]".replace("-", "−")


def scientific(number: float) -> str:
    """Two digits and a power of ten; small numbers to the unit."""
    if number < 1e5:
        return f"{number:,.0f}"
    digits, power = f"{number:.1e}".split("e")
    return f"{digits.removesuffix('.0')} × 10{str(int(power)).translate(SUPERSCRIPTS)}"


def source_of(name: str, records: Sequence[Record]) -> Source:
    """The points of published records, or of the accepted ones of the scale `name`; FigureError without a baseline."""
    records = of_the_study(records)
    frame = frame_of(records)
    named = _named(name, records)
    points, levels = [], set()
    for sequence, drawing in SEQUENCES.items():
        try:
            rows = drawing.points(frame)
        except NothingToDraw:
            continue
        rows = rows[rows.patches.notna()].astype({"image_tokens": int, "text_tokens": int})
        levels.add(chance(rows))
        points += _points(sequence, drawing, rows, frame, named)
    [level] = levels if len(levels) == 1 else [None]
    return Source(name, tuple(points), level, named)


def _named(name: str, records: Sequence[Record]) -> dict[str, Record]:
    """What points are cited as, by id: published cells and the drops derived from them, or means over seeds."""
    if name == PUBLISHED:
        return {record["id"]: record for record in [*records, *derived_records(records, ["drop"])]}
    return {one.id: one.record for one in means(records)}


def _points(
    sequence: str,
    drawing: Drops,
    rows: pandas.DataFrame,
    frame: pandas.DataFrame,
    named: Mapping[str, Record],
) -> Iterator[Point]:
    """Points of one sequence, reduction by reduction; the full-length baseline is a point of each."""
    column, full = drawing.lengths.column, drawing.lengths.full[drawing.lengths.column]
    # Towers of one model differ a little between lengths (position table): the largest names the model.
    rows = rows.assign(
        parameters=rows.groupby("model").parameters.transform("max"),
        tokens=tokens_seen(rows, frame),
        gflops=[training_gflops(row, frame) for row in rows.assign(recipe="").itertuples()],
    )
    shorter = rows[rows[column] < full]
    for reduction in dict.fromkeys(in_order(shorter, drawing.reduction)[drawing.reduction]):
        own = shorter[shorter[drawing.reduction] == reduction]
        whole = rows[(rows[column] == full) & rows.model.isin(own.model)]
        if sequence == "text":
            whole = whole[whole.text_reduction == reduction]
        for model in sorted(set(own.model), key=model_order):
            baseline, *_ = whole[whole.model == model].id.str.replace(r"\.seed\d+$", "", regex=True)
            for part, is_full in ((whole, True), (own, False)):
                part = part[part.model == model].sort_values(column, ascending=False, kind="stable")
                for _, group in part.groupby("run", sort=False):
                    first = group.iloc[0]
                    yield _point(
                        f"{sequence}-{reduction}", int(first[column]), is_full, group, baseline, named
                    )


def _point(
    reduction: str,
    length: int,
    full: bool,
    group: pandas.DataFrame,
    baseline: str,
    named: Mapping[str, Record],
) -> Point:
    """The mean over the seeds of one run; `baseline`: the id of the accuracy that its drop is from."""
    first: Any = group.iloc[0]
    accuracy = estimate(group.value.tolist(), group.standard_error.tolist())
    drop = estimate(group["drop"].tolist(), group.drop_standard_error.tolist())
    identity = first.id.rpartition(".seed")[0] if first.source == "measured" else first.id
    if full:
        drop, drop_ids = Estimate(0.0, math.nan, math.nan, math.nan, len(group), ""), (identity,)
    elif first.source == "measured":
        drop_ids = (baseline, identity)
    else:
        drop_ids = (f"derived.{identity}_drop",)
    return Point(
        reduction,
        named[identity],
        length,
        full,
        *(float(f"{first[name]:.{DIGITS}g}") for name in ("parameters", "tokens", "gflops")),
        len(group),
        accuracy,
        drop,
        drop_ids,
    )
