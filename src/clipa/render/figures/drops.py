"""Drop in accuracy against token length, one line a model and one panel a reduction: Figures 4 and 7.

Figure 4 is the inverse scaling law on image tokens (§4.1), Figure 7 on text tokens (§4.2). Their panels serve Figures 5
and 6 as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipa.render.figures import style
from clipa.render.figures.points import (
    chance,
    has_bar,
    image_points,
    in_order,
    models_of,
    over_seeds,
    provenance_line,
    reductions_of,
    text_points,
)
from clipa.study import (
    FULL_IMAGE_SIZE,
    FULL_PATCHES,
    FULL_TEXT_TOKENS,
    IMAGE_REDUCTIONS,
    TEXT_LENGTHS,
    TEXT_REDUCTIONS,
    TEXT_STUDY_IMAGE_SIZE,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLDS = (1, 2)  # points; §4.1 and §4.2 speak of both
TALL = 15.0  # points on the axis from which labels of the thresholds would lie on the lines
DOTTED = f"Dotted: {THRESHOLDS[0]} and {THRESHOLDS[1]} points"  # what is said instead
LOST = "Dash-dotted: a model's whole accuracy above chance"
DROP = ("Drop (percentage points)", "Drop (points)")
DODGE = 1.025  # error bars of neighbouring models stand apart by this factor of the token length


@dataclass(frozen=True)
class Lengths:
    """A token length as the horizontal axis: long sequences left, because reading on means cutting more.

    `full`: the columns that say a length, at full length; `column` is the one on the axis.
    """

    column: str
    full: Mapping[str, int]
    ticks: Mapping[int, str]
    limits: tuple[float, float]  # room for names at the right
    label: style.Names
    names_thresholds: bool = True


FULL_IMAGE = {"image_size": FULL_IMAGE_SIZE, "patches": FULL_PATCHES, "image_tokens": FULL_PATCHES + 1}
IMAGE = Lengths(
    "image_tokens",
    FULL_IMAGE,
    {197: "197", 99: "≈100", 50: "50", 37: "37", 17: "17"},  # 99 (masks) and 101 (160 px) share one tick
    (215, 12.4),
    ("Image tokens in pre-training", "Image tokens"),
)
TEXT = Lengths(
    "text_tokens",
    {"text_tokens": FULL_TEXT_TOKENS},
    {length: str(length) for length in TEXT_LENGTHS},
    (35, 2.9),
    ("Text tokens in pre-training", "Text tokens"),
)


@dataclass(frozen=True)
class Drops:
    """A figure with one panel a reduction (`reduction` names the column). `table`: where published drops are from."""

    lengths: Lengths
    reduction: str
    registry: Mapping[str, Any]
    points: Callable[[pandas.DataFrame], pandas.DataFrame]
    table: int
    title: str
    published: str
    remarks: Mapping[str, str] = field(default_factory=dict)

    def data(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """One row a point: drop in points at a token length (the paper's), per model and reduction.

        The baseline, whose drop is 0, is a point of every line.
        """
        points = self.points(frame)
        reduced = points[points[self.lengths.column] < self.lengths.full[self.lengths.column]]
        by = ["source", "scale", self.reduction, "model", *self.lengths.full]
        table = mean_drops(reduced, by, self.lengths.full)
        return in_order(table, self.reduction, "model", f"-{self.lengths.column}")

    def draw(self, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
        """One panel per reduction in `frame`; `published` drops, if given, dashed behind measured ones."""
        table, points = self.data(frame), self.points(frame)
        tables, notes = [table], []
        reductions = reductions_of(table, self.reduction)
        if published is not None:
            behind = self.data(published)
            tables.append(behind[behind[self.reduction].isin(reductions)])
            notes = [f"Dashed: published drops (Table {self.table}) at the paper's scale"]
        lost = self.above_chance(points, reductions)
        span = limits(tables, lost.values())
        if not labels_thresholds(self.lengths, *span):
            notes.insert(0, DOTTED)
        if lost:
            notes.append(LOST)
        columns = min(2, len(reductions))
        figure, axes = style.panels(-(-len(reductions) // columns), columns)
        flat = [panel for row in axes for panel in row]
        for panel, name in zip(flat, reductions, strict=False):
            frame_panel(panel, self.registry[name].label, self.lengths, *span)
            for behind in tables[1:]:
                published_lines(panel, behind[behind[self.reduction] == name], self.lengths)
            for model in models_of(table):
                if (name, model) in lost:
                    style.bound(panel, lost[name, model], style.colour(model))
            lines(panel, table[table[self.reduction] == name], self.lengths)
            if name in self.remarks:
                remark = style.fitting((self.remarks[name], self.remarks[name].replace(" tokens ", "\n")))
                panel.annotate(remark, (0.98, 0.97), **(style.remark() | {"va": "top"}))
        style.finish(axes, len(reductions), self.lengths.label, DROP)
        said = [provenance_line(points, self.published), ". ".join(notes)]
        style.heading(figure, self.title, "\n".join(filter(None, said)))
        return figure

    def above_chance(
        self, points: pandas.DataFrame, reductions: Sequence[str]
    ) -> dict[tuple[str, str], float]:
        """Points by (reduction, model): what the baseline has above chance, the most that a drop can be but for luck.
        Empty for published points, which are far from it."""
        least, found = chance(points), {}
        full = points[points[self.lengths.column] == self.lengths.full[self.lengths.column]]
        for name in reductions if least is not None else ():
            own = full if self.reduction == "image_reduction" else full[full[self.reduction] == name]
            found |= {
                (name, model): value - least for model, value in own.groupby("model").value.mean().items()
            }
        return found


IMAGES = Drops(
    IMAGE,
    "image_reduction",
    IMAGE_REDUCTIONS,
    image_points,
    11,
    "Drop from the full-length baseline",
    "Published numbers (Table 11): zero-shot top-1 on ImageNet-1k after fine-tuning, one run a point",
    {"grid": "none below 50 tokens (§4.1)"},
)
TEXTS = Drops(
    TEXT,
    "text_reduction",
    TEXT_REDUCTIONS,
    text_points,
    12,
    f"Drop from the same text reduction at {FULL_TEXT_TOKENS} tokens",
    "Published numbers (Table 12): zero-shot top-1 on ImageNet-1k after fine-tuning; "
    f"{TEXT_STUDY_IMAGE_SIZE}-pixel images",
)


def mean_drops(reduced: pandas.DataFrame, by: Sequence[str], full: Mapping[str, int]) -> pandas.DataFrame:
    """Mean drop of each combination of `by` over seeds, and the baseline of each line: drop 0 at the lengths `full`."""
    import pandas

    table = over_seeds(reduced, by, "drop", "drop_standard_error")
    nothing = {"drop": 0.0, "low": float("nan"), "high": float("nan"), "interval": ""}
    of_lines = [name for name in by if name not in full]
    return pandas.concat([table, table.drop_duplicates(of_lines).assign(**full, **nothing)])


def limits(tables: Sequence[pandas.DataFrame], lost: Iterable[float] = ()) -> tuple[float, float]:
    """Bottom and top of the drop axis, for all panels of a figure: they compare."""
    bars = [part[has_bar(part)] for part in tables]
    top = max(
        [
            *lost,
            *(float(part["drop"].max()) for part in tables),
            *(own.high.max() for own in bars if len(own)),
        ]
    )
    bottom = min(
        [*(float(part["drop"].min()) for part in tables), *(own.low.min() for own in bars if len(own))]
    )
    margin = 0.04 * (top - bottom)
    return min(-0.5, bottom - margin), top + margin


def labels_thresholds(lengths: Lengths, bottom: float, top: float) -> bool:
    """Whether panels say beside each dotted line what it is; otherwise :data:`DOTTED` does, above all panels."""
    return lengths.names_thresholds and top - bottom <= TALL and not style.in_column()


def frame_panel(panel: Axes, title: str, lengths: Lengths, bottom: float, top: float) -> None:
    """Axes, thresholds and title; everything but the data."""
    panel.set_title(title, loc="left")
    panel.set_xscale("log", base=2)
    panel.set_xlim(*lengths.limits)
    crowded = {37} if style.in_column() else set()
    panel.set_xticks(list(lengths.ticks), ["" if n in crowded else name for n, name in lengths.ticks.items()])
    style.round_steps(panel)
    panel.set_ylim(bottom, top)
    for threshold in THRESHOLDS:
        panel.axhline(threshold, color=style.PALE, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    for threshold in THRESHOLDS if labels_thresholds(lengths, bottom, top) else ():
        panel.annotate(
            f"{threshold} point{'s' if threshold > 1 else ''}",
            (0.01, threshold),
            xycoords=panel.get_yaxis_transform(),
            xytext=(0, 1.5),
            textcoords="offset points",
            fontsize=style.SMALL,
            color=style.FAINT,
            va="bottom",
        )
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)


def lines(panel: Axes, table: pandas.DataFrame, lengths: Lengths) -> None:
    """One line a model, with intervals where there are any, and its name at the short end."""
    ends = []
    models = models_of(table)
    for rank, model in enumerate(models):
        own = table[table.model == model].sort_values(lengths.column, ascending=False)
        # The baseline's drop is 0 by definition, without an interval: its points may coincide.
        x = own[lengths.column] * (DODGE ** ((len(models) - 1) / 2 - rank)) ** own.seeds.where(
            own.interval != "", 0
        ).gt(0)
        style.line(panel, x, own, "drop", style.colour(model), style.marker(model))
        ends.append((own[lengths.column].iloc[-1] / DODGE, own["drop"].iloc[-1], model, style.colour(model)))
    style.label_ends(panel, ends)


def published_lines(panel: Axes, table: pandas.DataFrame, lengths: Lengths) -> None:
    """Published drops, dashed, behind measured ones."""
    for model, own in table.groupby("model"):
        own = own.sort_values(lengths.column, ascending=False)
        dashed = {"linestyle": (0, (4, 2)), "linewidth": 0.9, "alpha": 0.55, "zorder": 1}
        panel.plot(own[lengths.column], own["drop"], color=style.colour(model), **dashed)
