"""Figure 7, the inverse scaling law on text tokens: drop in accuracy against text length, per model (§4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import drops, style
from clipa.figures.points import provenance_line, text_points

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a point: drop in points at a text length, per model and text reduction; images of 112 pixels.

    A drop is from the same reduction at 32 tokens, whose own drop is 0.
    """
    points = text_points(frame)
    by = ["source", "scale", "text_reduction", "model", "text_tokens"]
    table = drops.mean_drops(points[points.text_tokens < 32], by, {"text_tokens": 32})
    orders = {"text_reduction": style.TEXT_REDUCTIONS, "model": style.MODEL_COLOURS}
    return drops.in_order(table, orders, "text_tokens")


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """One panel per text reduction in `frame`; `published` drops, if given, dashed behind measured ones."""
    table = data(frame)
    behind = data(published) if published is not None else None
    reductions = [name for name in style.TEXT_REDUCTIONS if name in set(table.text_reduction)]
    columns = min(2, len(reductions))
    figure, axes = style.panels(-(-len(reductions) // columns), columns)
    flat = [panel for row in axes for panel in row]
    tables = [table] if behind is None else [table, behind[behind.text_reduction.isin(reductions)]]
    for panel, reduction in zip(flat, reductions, strict=False):
        drops.frame_panel(panel, style.TEXT_REDUCTIONS[reduction], drops.TEXT, *drops.limits(tables))
        if behind is not None:
            drops.published_lines(panel, behind[behind.text_reduction == reduction], drops.TEXT)
        drops.lines(panel, table[table.text_reduction == reduction], drops.TEXT)
    style.finish(axes, len(reductions), drops.TEXT.label, "Drop (percentage points)")
    note = "" if behind is None else "\nDashed: published drops (Table 12) at the paper's scale"
    said = provenance_line(
        text_points(frame),
        "Published numbers (Table 12): zero-shot top-1 on ImageNet-1k after fine-tuning; 112-pixel images",
    )
    style.heading(figure, "Drop from the same text reduction at 32 tokens", said + note)
    return figure
