"""Drops on other benchmarks than ImageNet-1k, by image reduction: retrieval on COCO (Figure 5), robustness (6), §4.1.

The paper gives these as plots only. Published, they show what its prose and Table 15 print, and say what is missing;
measured, they are complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from clipa.render.figures import FigureError, drops, style
from clipa.render.figures.points import (
    image_points,
    in_order,
    models_of,
    over_seeds,
    provenance_line,
    reductions_of,
)
from clipa.stats import fixed
from clipa.study import FULL_PATCHES, IMAGE_REDUCTIONS, TABLE4_PARAMETERS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Four panels beside each other: fewer numbers on the axis, more room for names at the right.
NARROW = drops.Lengths(
    "image_tokens",
    drops.FULL_IMAGE,
    {197: "197", 50: "50", 17: "17"},
    (235, 7.4),
    "Image tokens",
    names_thresholds=False,
)
NARROW_HEIGHT, LOW_HEIGHT = 1.6, 1.45


class Measure(NamedTuple):
    """A benchmark, the metric read on it, and its name in the figure."""

    benchmark: str
    metric: str
    name: str

    def of(self, table: pandas.DataFrame) -> pandas.DataFrame:
        """The rows of this measure."""
        return table[(table.benchmark == self.benchmark) & (table.metric == self.metric)]


@dataclass(frozen=True)
class Benchmarks:
    """A figure with one row of panels a measure. `level`: the axis of accuracies; `instead_of`: the paper's data."""

    number: int
    name: str
    level: str
    instead_of: str
    measures: tuple[Measure, ...]

    def data(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """One row a run of Table 11 and measure: `level` in percent and `drop` in points, empty where not in print.

        The full-length baseline, whose drop is 0, is a row of every reduction. Raises FigureError if `frame` has none
        of the measures.
        """
        import pandas

        found = []
        for measure in self.measures:
            if len(measure.of(frame)):
                points = image_points(frame, measure.benchmark, measure.metric, figure=self.number)
                found.append(in_order(_with_levels(points), "image_reduction", "model", "-image_tokens"))
        if not found:
            names = ", ".join(dict.fromkeys(measure.benchmark for measure in self.measures))
            raise FigureError(
                f"figure {self.number}: no record of {names}; evaluate the runs of Table 11 on them"
            )
        return pandas.concat(found, ignore_index=True)

    def draw(self, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
        """Measured drops with the printed ones as open marks; published alone, what is in print of this figure."""
        table = self.data(frame)
        if (table.source == "published").all():
            return self._draw_printed(table)
        behind = None if published is None else self.data(published)
        printed = behind is not None and bool(_reduced(behind)["drop"].notna().any())
        figure = self._draw_measured(table, behind if printed else None)
        shown = frame[frame.benchmark.isin([measure.benchmark for measure in self.measures])]
        note = "" if behind is None else "\nThe paper has this as a plot only: no drop of it is in print"
        if printed:
            note = "\nLarge open marks: drops in the paper's text, at its scale; the rest of its figure is a plot only"
        if table.image_reduction.nunique() > 1:
            note = f"\n{drops.DOTTED}" + note.replace("\n", ". ")
        said = provenance_line(shown, instead_of=self.instead_of)
        style.heading(figure, f"{self.name}: drop from the full-length baseline", said + note)
        return figure

    def _draw_measured(self, table: pandas.DataFrame, behind: pandas.DataFrame | None) -> Figure:
        """Rows of measures, columns of reductions; of one reduction, measures side by side."""
        shown = [measure for measure in self.measures if len(measure.of(table))]
        reductions = reductions_of(table)
        cells = [(measure, name) for measure in shown for name in reductions]
        several = len(reductions) > 1
        matrix = several and not style.in_column()
        columns = len(reductions) if matrix else min(2, len(cells))
        lengths, height = (NARROW, NARROW_HEIGHT) if columns > 2 else (drops.IMAGE, style.PANEL_HEIGHT)
        if len(cells) > 8 and style.in_column():  # rows that still fit a page
            height = LOW_HEIGHT
        figure, axes = style.panels(-(-len(cells) // columns), columns, height=height)
        flat = [panel for row in axes for panel in row]
        span = drops.limits([table] if behind is None else [table, behind])
        for rank, (panel, (measure, name)) in enumerate(zip(flat, cells, strict=False)):
            label = IMAGE_REDUCTIONS[name].label
            title = f"{measure.name}\n{label.lower()}" if several else measure.name
            if matrix:  # measures are named at the left
                title = "" if rank >= columns else label
            drops.frame_panel(panel, title, lengths, *span)
            if behind is not None:
                _rings(panel, measure.of(behind[behind.image_reduction == name]))
            drops.lines(panel, measure.of(table[table.image_reduction == name]), lengths)
        style.finish(axes, len(cells), lengths.label, drops.DROP)
        if matrix:
            for row, measure in zip(axes, shown, strict=True):
                row[0].set_ylabel(f"{measure.name}\nDrop (points)")
        return figure

    def _draw_printed(self, table: pandas.DataFrame) -> Figure:
        """Against model size: the drops that are in print, and the levels, of whose baselines none is."""
        reduced = _reduced(table)
        runs = table.assign(
            image_reduction=table.image_reduction.where(table.index.isin(reduced.index), "none")
        )
        runs = runs.drop_duplicates(["benchmark", "metric", "model", "image_reduction", "patches"])
        shown = [("drop", reduced, drops.DROP[0]), ("level", runs, self.level)]
        shown = [(column, rows, label) for column, rows, label in shown if rows[column].notna().any()]
        if not shown:
            raise FigureError(f"figure {self.number}: no number of it is in the published records")
        columns = 1 if style.in_column() else len(shown)
        figure, axes = style.panels(len(shown) // columns, columns, share_x=False, share_y=False)
        flat = [panel for row in axes for panel in row]
        for panel, (column, rows, label) in zip(flat, shown, strict=True):
            known = rows[rows[column].notna()]
            where = " and ".join(
                f"{IMAGE_REDUCTIONS[reduction].label.lower()}, {tokens} tokens"
                for reduction, tokens in known[["image_reduction", "image_tokens"]]
                .drop_duplicates()
                .to_numpy()
            )
            panel.set_title(f"{column.capitalize()}: {where}", loc="left")
            panel.set_ylabel(label)
            panel.set_xlabel(style.BOTH_TOWERS[0])
            self._lines_over_models(panel, known, column)
            rest = len(rows) - len(known)
            panel.annotate(
                f"{len(known)} of {len(rows)} {column}s are in print;\nthe other {rest} only runs can fill",
                (0.98, 0.02),
                **style.remark(),
            )
        places = (
            "§4.1 and in Table 15"
            if shown[0][0] == "drop"
            else "Table 15; no drop, for no baseline is in print"
        )
        said = f"The paper has it as a plot. Numbers of it are in {places}. Nothing is read off the plot."
        style.heading(figure, f"{self.name}: what is in print of Figure {self.number}", said)
        return figure

    def _lines_over_models(self, panel: Axes, known: pandas.DataFrame, column: str) -> None:
        """One grey line a measure; marks have their model's colour and shape."""
        models = models_of(known)
        size = {name: 1e6 * TABLE4_PARAMETERS[name] for name in models}
        sizes = list(size.values())
        span = style.model_axis(panel, size, size)
        panel.set_xlim(sizes[0] / span**1.5, sizes[-1] * span**7)
        top = float(known[column].max())
        panel.set_ylim(0, 1.15 * top)
        style.round_steps(panel)
        # Measures stand beside one another, where their marks would cover each other.
        values = known.sort_values(["model", column])
        crowded = bool((values.groupby("model")[column].diff() < 0.04 * top).any())
        ends = []
        for rank, measure in enumerate(self.measures):
            own = measure.of(known).set_index("model")[column].reindex(models)
            aside = span ** (0.25 * (rank - (len(self.measures) - 1) / 2)) if crowded else 1.0
            places = {name: place * aside for name, place in size.items()}
            panel.plot(list(places.values()), own, color=style.PALE, zorder=1)
            for name, value in own.items():
                panel.plot(places[name], value, color=style.colour(name), marker=style.marker(name))
                others = known[(known.model == name) & (known[column] > value)][column]
                _write_value(panel, places[name], value, below=bool((others < value + 0.12 * top).any()))
            ends.append((sizes[-1] * aside, own.iloc[-1], measure.name, style.INK))
        style.clean(panel)
        style.label_ends(panel, ends, offset=9)


RETRIEVAL = Benchmarks(
    5,
    "COCO retrieval, recall@1",
    "Recall@1 (%)",
    "COCO",
    (
        Measure("mscoco_captions", "image_retrieval_recall@1", "Image retrieval"),
        Measure("mscoco_captions", "text_retrieval_recall@1", "Text retrieval"),
    ),
)
ROBUSTNESS = Benchmarks(
    6,
    "Robustness",
    style.TOP1[0],
    "ImageNet's variants",
    (
        Measure("imagenetv2", "acc1", "ImageNet-V2"),
        Measure("imagenet-r", "acc1", "ImageNet-R"),
        Measure("imagenet-a", "acc1", "ImageNet-A"),
        Measure("imagenet_sketch", "acc1", "ImageNet-Sketch"),
    ),
)


def _write_value(panel: Axes, x: float, value: float, below: bool) -> None:
    """The number at a mark: above it, or below where another mark is close above."""
    panel.annotate(
        fixed(value),
        (x, value),
        xytext=(0, -4 if below else 4),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        fontsize=style.SMALL,
    )


def _with_levels(points: pandas.DataFrame) -> pandas.DataFrame:
    full = drops.FULL_IMAGE
    by = ["source", "scale", "benchmark", "metric", "image_reduction", "model", *full]
    table = drops.mean_drops(points[points.image_reduction != "none"], by, full)
    place = ["model", "patches", "image_reduction"]
    levels = over_seeds(points, by, "value", "standard_error").set_index(place).value
    keys = [
        (row.model, row.patches, "none" if row.patches == FULL_PATCHES else row.image_reduction)
        for row in table.itertuples()
    ]
    table.insert(table.columns.get_loc("drop"), "level", [levels.get(key) for key in keys])
    return table


def _reduced(table: pandas.DataFrame) -> pandas.DataFrame:
    return table[table.patches < FULL_PATCHES]


def _rings(panel: Axes, printed: pandas.DataFrame) -> None:
    """Published drops, open, behind measured ones."""
    known = _reduced(printed)
    for row in known[known["drop"].notna()].itertuples():
        panel.plot(
            row.image_tokens,
            row.drop,
            linestyle="none",
            marker=style.marker(row.model),
            markerfacecolor="none",
            markeredgecolor=style.colour(row.model),
            markersize=6.5,
            alpha=0.8,
        )
