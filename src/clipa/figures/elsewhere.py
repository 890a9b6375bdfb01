"""Drops on other benchmarks than ImageNet-1k, by image reduction: Figures 5 and 6.

The paper gives these as plots only. Published, they show what its prose and Table 15 print, and say what is missing;
measured, they are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipa.figures import FigureError, drops, style
from clipa.figures.points import image_points, over_runs, provenance_line
from clipa.records import TABLE4_PARAMETERS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL = {"image_size": 224, "patches": 196, "image_tokens": 197}
# Four panels beside each other: fewer numbers on the axis, more room for names at the right.
NARROW = drops.Lengths(
    "image_tokens", 197, {197: "197", 50: "50", 17: "17"}, (235, 7.4), "Image tokens", names_thresholds=False
)
NARROW_HEIGHT = 1.6


class Measure(NamedTuple):
    """A benchmark and the metric read on it."""

    benchmark: str
    metric: str


def data(frame: pandas.DataFrame, figure: int, measures: Sequence[Measure]) -> pandas.DataFrame:
    """One row a run of Table 11: `level` in percent and `drop` in points, empty where the paper prints none.

    The full-length baseline, whose drop is 0, is a row of every reduction. Raises FigureError if `frame` has none of
    `measures`.
    """
    import pandas

    found = []
    for measure in measures:
        if ((frame.benchmark == measure.benchmark) & (frame.metric == measure.metric)).any():
            points = image_points(frame, *measure, figure=figure)
            found.append(_with_levels(points, measure))
    if not found:
        names = ", ".join(dict.fromkeys(measure.benchmark for measure in measures))
        raise FigureError(f"figure {figure}: no record of {names}; evaluate the runs of Table 11 on them")
    table = pandas.concat(found, ignore_index=True)
    orders = {
        "benchmark": list(dict.fromkeys(measure.benchmark for measure in measures)),
        "metric": list(dict.fromkeys(measure.metric for measure in measures)),
        "image_reduction": style.REDUCTIONS,
        "model": style.MODEL_COLOURS,
    }
    return drops.in_order(table, orders, "image_tokens")


def _with_levels(points: pandas.DataFrame, measure: Measure) -> pandas.DataFrame:
    by = ["source", "scale", "benchmark", "metric", "image_reduction", "model", *FULL]
    reduced = points[points.image_reduction != "none"]
    table = drops.mean_drops(reduced, by, FULL)
    levels = over_runs(points, by, "value", "standard_error").set_index(
        ["model", "patches", "image_reduction"]
    )
    keys = [
        (row.model, row.patches, "none" if row.patches == FULL["patches"] else row.image_reduction)
        for row in table.itertuples()
    ]
    table.insert(table.columns.get_loc("drop"), "level", [levels.value.get(key) for key in keys])
    return table


def draw(
    figure_number: int,
    name: str,
    frame: pandas.DataFrame,
    published: pandas.DataFrame | None,
    measures: Sequence[Measure],
) -> Figure:
    """Measured: drops by reduction and measure. Published: what is in print, with a statement of what is not."""
    table = data(frame, figure_number, measures)
    if (table.source == "published").all():
        return _draw_printed(figure_number, name, table, measures)
    behind = None if published is None else data(published, figure_number, measures)
    printed = behind is not None and bool(_reduced(behind)["drop"].notna().any())
    figure = _draw_grid(table, behind if printed else None, measures)
    shown = frame[frame.benchmark.isin([measure.benchmark for measure in measures])]
    note = "" if behind is None else "\nThe paper has this as a plot only: no drop of it is in print"
    if printed:
        note = "\nOpen marks: the drops that the paper prints, at its scale; the rest of its figure is a plot only"
    instead_of = "COCO" if name.startswith("COCO") else "ImageNet's variants"
    said = provenance_line(shown, instead_of=instead_of)
    if table.image_reduction.nunique() > 1:
        note = "\nDotted: 1 % and 2 %" + note.replace("\n", ". ")
    style.heading(figure, f"{name}: drop from the full-length baseline", said + note)
    return figure


# ---------------------------------------------------------------------------------------------------- measured


def _draw_grid(
    table: pandas.DataFrame, behind: pandas.DataFrame | None, measures: Sequence[Measure]
) -> Figure:
    """Rows of measures, columns of reductions; of one reduction, measures side by side."""
    shown = [measure for measure in measures if len(_of(table, measure))]
    reductions = [name for name in style.REDUCTIONS if name in set(table.image_reduction)]
    cells = [(measure, name) for measure in shown for name in reductions]
    several = len(reductions) > 1
    columns = len(reductions) if several else min(2, len(shown))
    lengths, height = (NARROW, NARROW_HEIGHT) if columns > 2 else (drops.IMAGE, style.PANEL_HEIGHT)
    figure, axes = style.panels(-(-len(cells) // columns), columns, height=height)
    flat = [panel for row in axes for panel in row]
    span = drops.limits([table] if behind is None else [table, behind])
    for rank, (panel, (measure, name)) in enumerate(zip(flat, cells, strict=False)):
        title = "" if several and rank >= columns else style.REDUCTIONS[name]
        drops.frame_panel(panel, title if several else style.MEASURES[measure], lengths, *span)
        if behind is not None:
            _rings(panel, _of(behind, measure, name))
        drops.lines(panel, _of(table, measure, name), lengths)
    style.finish(axes, len(cells), lengths.label, "Drop (percentage points)")
    if several:
        for row, measure in zip(axes, shown, strict=True):
            row[0].set_ylabel(f"{style.MEASURES[measure]}\nDrop (points)")
    return figure


def _of(table: pandas.DataFrame, measure: Measure, reduction: str | None = None) -> pandas.DataFrame:
    chosen = (table.benchmark == measure.benchmark) & (table.metric == measure.metric)
    return table[chosen & (table.image_reduction == reduction)] if reduction else table[chosen]


def _reduced(table: pandas.DataFrame) -> pandas.DataFrame:
    return table[table.patches < FULL["patches"]]


def _rings(panel: Axes, printed: pandas.DataFrame) -> None:
    """Published drops, open, behind measured ones."""
    known = _reduced(printed)
    for row in known[known["drop"].notna()].itertuples():
        panel.plot(
            row.image_tokens,
            row.drop,
            linestyle="none",
            marker=style.MODEL_MARKERS[row.model],
            markerfacecolor="none",
            markeredgecolor=style.MODEL_COLOURS[row.model],
            alpha=0.7,
        )


# --------------------------------------------------------------------------------------------------- published


def _draw_printed(number: int, name: str, table: pandas.DataFrame, measures: Sequence[Measure]) -> Figure:
    """Against model size: the drops that are in print, and the levels, of whose baselines none is."""
    reduced = _reduced(table)
    runs = table.assign(image_reduction=table.image_reduction.where(table.index.isin(reduced.index), "none"))
    runs = runs.drop_duplicates(["benchmark", "metric", "model", "image_reduction", "patches"])
    level = "Zero-shot top-1 accuracy (%)" if measures[0].metric == "acc1" else "Recall@1 (%)"
    shown = [("drop", reduced, "Drop (percentage points)"), ("level", runs, level)]
    shown = [(column, rows, label) for column, rows, label in shown if rows[column].notna().any()]
    if not shown:
        raise FigureError(f"figure {number}: no number of it is in the published records")
    figure, axes = style.panels(1, len(shown), share_y=False)
    for panel, (column, rows, label) in zip(axes[0], shown, strict=True):
        known = rows[rows[column].notna()]
        where = " and ".join(
            f"{style.REDUCTIONS[reduction].lower()}, {tokens} tokens"
            for reduction, tokens in known[["image_reduction", "image_tokens"]].drop_duplicates().to_numpy()
        )
        panel.set_title(f"{column.capitalize()}: {where}", loc="left")
        panel.set_ylabel(label)
        panel.set_xlabel("Model (parameters of both towers)")
        _lines_over_models(panel, known, column, measures)
        rest = len(rows) - len(known)
        panel.annotate(
            f"{len(known)} of {len(rows)} {column}s are in print;\nthe other {rest} only runs can fill",
            (0.98, 0.02),
            **style.remark(),
        )
    places = (
        "§4.1 and in Table 15" if shown[0][0] == "drop" else "Table 15; no drop, for no baseline is in print"
    )
    said = f"The paper has it as a plot. Numbers of it are in {places}. Nothing is read off the plot."
    style.heading(figure, f"{name}: what is in print of Figure {number}", said)
    return figure


def _lines_over_models(
    panel: Axes, known: pandas.DataFrame, column: str, measures: Sequence[Measure]
) -> None:
    """One grey line a measure; marks have their model's colour and shape, as everywhere."""
    models = [name for name in style.MODEL_COLOURS if name in set(known.model)]
    size = {name: 1e6 * TABLE4_PARAMETERS[name] for name in models}
    sizes = list(size.values())
    span = (sizes[-1] / sizes[0]) ** 0.1
    panel.set_xscale("log")
    panel.set_xticks(sizes, [f"{name}\n{style.millions(size[name])}" for name in models])
    panel.minorticks_off()
    panel.set_xlim(sizes[0] / span**1.5, sizes[-1] * span**8)
    top = float(known[column].max())
    panel.set_ylim(0, 1.12 * top)
    ends = []
    for measure in measures:
        own = _of(known, measure).set_index("model")[column].reindex(models)
        panel.plot(sizes, own, color=style.FAINT, zorder=1)
        for name, value in own.items():
            panel.plot(size[name], value, color=style.MODEL_COLOURS[name], marker=style.MODEL_MARKERS[name])
            others = known[(known.model == name) & (known[column] > value)][column]
            below = bool((others < value + 0.12 * top).any())
            panel.annotate(
                f"{value:.1f}",
                (size[name], value),
                xytext=(0, -4 if below else 4),
                textcoords="offset points",
                ha="center",
                va="top" if below else "bottom",
                fontsize=style.SMALL - 0.5,
            )
        ends.append((sizes[-1], own.iloc[-1], style.MEASURES[measure], style.INK))
    style.clean(panel)
    style.label_ends(panel, ends, offset=9)
