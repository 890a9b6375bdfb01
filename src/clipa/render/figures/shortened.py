"""Shortened trainings beside the full length on one's own test sets: one panel a test set, one line a stage.

No figure of the paper: it is for data of one's own (docs/own-data.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.law.shortened import Row, rows_of
from clipa.records import load_records
from clipa.render.figures import save, style
from clipa.stats import MINIMAL_SEEDS, over_what

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST_AXIS = 4.0  # points
_ROW, _MARGIN = 0.3, 0.75  # inches of a line, and of a panel's title and axis


def make_shortened(records: Iterable[Path], out: Path) -> list[Path]:
    """Draw the records as PDF (``out``), SVG and PNG; returns the files. Raises RecordError."""
    import matplotlib

    matplotlib.use("Agg")
    loaded = load_records(records)
    rows = rows_of(loaded)
    with matplotlib.rc_context(style.settings()):
        return save(draw(rows, loaded[0]["scale"]), Path(out))


def draw(rows: Sequence[Row], scale: str) -> Figure:
    """Accuracy on the axis; beside each mark its drop with the interval. Hollow: fewer than three seeds, no bar."""
    tests = list(dict.fromkeys((row.benchmark, row.metric) for row in rows))
    heights = [_MARGIN + _ROW * sum((row.benchmark, row.metric) == test for row in rows) for test in tests]
    figure = style.page(sum(heights))
    panels = figure.subplots(len(tests), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, test in zip(panels, tests, strict=True):
        _panel(panel, [row for row in rows if (row.benchmark, row.metric) == test])
    seeds = {row.accuracy.seeds for row in rows}
    most = f"{max(seeds)} seed{'s' if max(seeds) > 1 else ''}"
    marks = "" if min(seeds) >= MINIMAL_SEEDS else f"; hollow: fewer than {MINIMAL_SEEDS} seeds, so no bar"
    style.heading(
        figure,
        "Shortened pre-training beside the full length",
        f"Measured at {scale} scale, {most}{marks}. At the right: the drop from the full length in points, with its "
        f"95 % interval over {over_what(seeds)}, paired by seed and test item",
    )
    return figure


def _panel(panel: Axes, rows: Sequence[Row]) -> None:
    models = dict.fromkeys(row.run.model for row in rows)
    places = range(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        colour, known = style.colour(row.run.model), row.accuracy.seeds >= MINIMAL_SEEDS
        half = row.accuracy.high - row.accuracy.mean if known else None
        panel.errorbar(
            row.accuracy.mean,
            place,
            xerr=half,
            fmt=style.marker(row.run.model),
            color=colour,
            markerfacecolor=colour if known else "white",
            linewidth=1.0,
        )
        if row.drop is not None:
            panel.text(
                1.02,
                place,
                row.drop.interval_text,
                transform=panel.get_yaxis_transform(),
                va="center",
                fontsize=style.SMALL,
            )
    names = [row.label if len(models) == 1 else f"{row.run.model}  {row.label}" for row in rows]
    panel.set_yticks(list(places), names)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    title = f"{rows[0].benchmark} (n = {rows[0].items})"
    panel.set_title(title if len(models) > 1 else f"{next(iter(models))} on {title}")
    panel.text(
        1.02,
        len(rows) - 0.35,
        "drop",
        transform=panel.get_yaxis_transform(),
        fontsize=style.SMALL,
        color=style.FAINT,
    )
    metric = "top-1 accuracy" if rows[0].metric == "acc1" else rows[0].metric.replace("_", " ")
    panel.set_xlabel(f"Zero-shot {metric} (%)")
    panel.grid(axis="x", linewidth=0.4)
    low, high = panel.get_xlim()
    room = max(0.0, _LEAST_AXIS - (high - low)) / 2  # or equal accuracies would seem to differ
    panel.set_xlim(low - room, high + room)
    style.clean(panel)
