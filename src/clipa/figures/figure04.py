"""Figure 4, the inverse scaling law on image tokens: drop in accuracy against token length, per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import image_points, over_runs, provenance_line, style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLDS = (1, 2)  # points; §4.1 and §4.2 speak of both
TALL = 15.0  # points on the axis from which one label serves all thresholds
DODGE = 1.025  # error bars of neighbouring models stand apart by this factor of the token length


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a point: drop in points at an image token length (the paper's), per model and reduction.

    The full-length baseline, whose drop is 0, is a point of every reduction.
    """
    import pandas

    points = image_points(frame)
    reduced = points[points.image_reduction != "none"]
    table = over_runs(
        reduced,
        ["source", "scale", "image_reduction", "model", "image_size", "patches", "image_tokens"],
        "drop",
        "drop_standard_error",
    )
    baselines = table.drop_duplicates(["source", "scale", "image_reduction", "model"]).assign(
        image_size=224,
        patches=196,
        image_tokens=197,
        drop=0.0,
        low=float("nan"),
        high=float("nan"),
        interval="",
    )
    table = pandas.concat([table, baselines])
    order = {name: rank for rank, name in enumerate([*style.REDUCTIONS, *style.MODEL_COLOURS])}
    ranks = table[["image_reduction", "model"]].map(order.get)
    table = table.assign(_reduction=ranks.image_reduction, _model=ranks.model, _length=-table.image_tokens)
    return table.sort_values(["_reduction", "_model", "_length"]).drop(
        columns=["_reduction", "_model", "_length"]
    )


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """One panel per image reduction in `frame`; `published` drops, if given, dashed behind measured ones."""
    table = data(frame)
    behind = data(published) if published is not None else None
    reductions = [name for name in style.REDUCTIONS if name in set(table.image_reduction)]
    columns = min(2, len(reductions))
    rows = -(-len(reductions) // columns)
    figure, axes = style.panels(rows, columns)
    flat = [panel for row in axes for panel in row]
    tables = [table] if behind is None else [table, behind[behind.image_reduction.isin(reductions)]]
    top = max(float(part[["drop", "high"]].max().max()) for part in tables)
    bottom = min(float(part[["drop", "low"]].min().min()) for part in tables)
    for panel, reduction in zip(flat, reductions, strict=False):
        _frame_panel(panel, style.REDUCTIONS[reduction], min(-0.5, 1.08 * bottom), 1.08 * top)
        if behind is not None:
            _published_lines(panel, behind[behind.image_reduction == reduction])
        _lines(panel, table[table.image_reduction == reduction])
        if reduction == "grid":
            panel.annotate("no run below 50 tokens (§4.1)", (0.98, 0.56), **style.remark())
    for panel in flat[len(reductions) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("Drop (percentage points)")
    for panel in flat[max(0, len(reductions) - columns) : len(reductions)]:
        panel.set_xlabel("Image tokens in pre-training")
        panel.tick_params(labelbottom=True)
    note = "" if behind is None else "\nDashed: published drops (Table 11) at the paper's scale"
    style.heading(figure, "Drop from the full-length baseline", provenance_line(frame) + note)
    return figure


def _frame_panel(panel: Axes, title: str, bottom: float, top: float) -> None:
    """Axes, thresholds and title; everything but the data."""
    panel.set_title(title, loc="left")
    panel.set_xscale("log", base=2)
    panel.set_xlim(
        215, 12.4
    )  # long sequences left: reading on means cutting more; room for names at the right
    panel.set_xticks(list(style.TOKEN_TICKS), list(style.TOKEN_TICKS.values()))
    panel.set_ylim(bottom, top)
    # One label for all thresholds where drops are so large that the labels would lie on each other.
    labels = {threshold: f"{threshold} %" for threshold in THRESHOLDS}
    if top - bottom > TALL:
        labels = {max(THRESHOLDS): ", ".join(labels.values())}
    for threshold in THRESHOLDS:
        panel.axhline(threshold, color=style.FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    for threshold, label in labels.items():
        panel.annotate(
            label,
            (205, threshold),
            xytext=(0, 1.5),
            textcoords="offset points",
            fontsize=style.SMALL - 0.5,
            color=style.FAINT,
            va="bottom",
        )
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)


def _lines(panel: Axes, table: pandas.DataFrame) -> None:
    ends = []
    models = [name for name in style.MODEL_COLOURS if name in set(table.model)]
    for rank, model in enumerate(models):
        own = table[table.model == model].sort_values("image_tokens", ascending=False)
        colour = style.MODEL_COLOURS[model]
        # The baseline's drop is 0 by definition, without an interval: its points may coincide.
        x = own.image_tokens * (DODGE ** ((len(models) - 1) / 2 - rank)) ** own.low.notna()
        panel.plot(x, own["drop"], color=colour, marker=style.MODEL_MARKERS[model], clip_on=False)
        bars = [own["drop"] - own.low, own.high - own["drop"]]
        if own.low.notna().any():
            panel.errorbar(x, own["drop"], yerr=bars, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8)
        ends.append((own.image_tokens.iloc[-1] / DODGE, own["drop"].iloc[-1], model, colour))
    style.label_ends(panel, ends)


def _published_lines(panel: Axes, table: pandas.DataFrame) -> None:
    for model, own in table.groupby("model"):
        own = own.sort_values("image_tokens", ascending=False)
        panel.plot(
            own.image_tokens,
            own["drop"],
            color=style.MODEL_COLOURS[model],
            linestyle=(0, (4, 2)),
            linewidth=0.9,
            alpha=0.55,
            zorder=1,
        )
