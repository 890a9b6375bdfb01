"""Figure 4, the inverse scaling law on image tokens: drop in accuracy against token length, per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import drops, style
from clipa.figures.points import image_points, provenance_line

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a point: drop in points at an image token length (the paper's), per model and reduction.

    The full-length baseline, whose drop is 0, is a point of every reduction.
    """
    points = image_points(frame)
    reduced = points[points.image_reduction != "none"]
    by = ["source", "scale", "image_reduction", "model", "image_size", "patches", "image_tokens"]
    table = drops.mean_drops(reduced, by, {"image_size": 224, "patches": 196, "image_tokens": 197})
    orders = {"image_reduction": style.REDUCTIONS, "model": style.MODEL_COLOURS}
    return drops.in_order(table, orders, "image_tokens")


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """One panel per image reduction in `frame`; `published` drops, if given, dashed behind measured ones."""
    table = data(frame)
    behind = data(published) if published is not None else None
    reductions = [name for name in style.REDUCTIONS if name in set(table.image_reduction)]
    columns = min(2, len(reductions))
    figure, axes = style.panels(-(-len(reductions) // columns), columns)
    flat = [panel for row in axes for panel in row]
    tables = [table] if behind is None else [table, behind[behind.image_reduction.isin(reductions)]]
    for panel, reduction in zip(flat, reductions, strict=False):
        drops.frame_panel(panel, style.REDUCTIONS[reduction], drops.IMAGE, *drops.limits(tables))
        if behind is not None:
            drops.published_lines(panel, behind[behind.image_reduction == reduction], drops.IMAGE)
        drops.lines(panel, table[table.image_reduction == reduction], drops.IMAGE)
        if reduction == "grid":
            panel.annotate("no run below 50 tokens (§4.1)", (0.98, 0.93), **style.remark())
    style.finish(axes, len(reductions), drops.IMAGE.label, "Drop (percentage points)")
    note = "" if behind is None else "\nDashed: published drops (Table 11) at the paper's scale"
    style.heading(figure, "Drop from the full-length baseline", provenance_line(image_points(frame)) + note)
    return figure
