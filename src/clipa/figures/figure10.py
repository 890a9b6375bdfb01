"""Figure 10: total number of pre-training tokens against accuracy (Appendix B.1).

The paper does not say which tokens it counts. Here: image tokens (class token included) and text tokens
(padding included) of one sample, times the samples seen in pre-training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.cost import PRETRAIN_SAMPLES
from clipa.figures import style
from clipa.figures.points import image_points, over_runs, pretraining, provenance_line

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a point: accuracy in percent against pre-training tokens, per model and reduction.

    The full-length baseline is a point of every reduction.
    """
    import pandas

    points = image_points(frame)
    points = points.assign(pretraining_tokens=_tokens(points, frame))
    by = [
        "source",
        "scale",
        "image_reduction",
        "model",
        "image_size",
        "patches",
        "image_tokens",
        "pretraining_tokens",
    ]
    table = over_runs(points, by, "value", "standard_error")
    full = table[table.image_reduction == "none"]
    reduced = table[table.image_reduction != "none"]
    present = [name for name in style.REDUCTIONS if name in set(reduced.image_reduction)]
    parts = []
    for name in present:
        own = reduced[reduced.image_reduction == name]
        shared = full[full.model.isin(own.model)].assign(image_reduction=name)
        part = pandas.concat([own, shared])
        order = {model: rank for rank, model in enumerate(style.MODEL_COLOURS)}
        part = part.assign(_order=part.model.map(order)).sort_values(["_order", "pretraining_tokens"])
        parts.append(part.drop(columns="_order"))
    return pandas.concat(parts, ignore_index=True)


def _tokens(points: pandas.DataFrame, frame: pandas.DataFrame) -> list[float]:
    """Pre-training tokens of each point. Measured ones count what ran: the run's pre-train stage tells."""
    tokens = []
    for row in points.itertuples():
        if row.source == "published":
            tokens.append((row.image_tokens + row.text_tokens) * PRETRAIN_SAMPLES)
        else:
            ran = pretraining(row, frame)
            tokens.append((ran.actual_patches + 1 + ran.actual_text_tokens) * ran.actual_samples)
    return tokens


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """One panel per reduction. With `published`, a second panel beside each, on an accuracy axis of its own:
    accuracies of different scales are not compared."""
    table = data(frame)
    reductions = [name for name in style.REDUCTIONS if name in set(table.image_reduction)]
    chosen = [(table, name, style.REDUCTIONS[name]) for name in reductions]
    columns = min(2, len(reductions))
    if published is not None:
        columns, beside = 2, data(published)
        scale = table.scale.iloc[0]
        chosen = [
            (part, name, f"{style.REDUCTIONS[name]}, {source}")
            for name in reductions
            for part, source in ((table, f"measured ({scale})"), (beside, "published (paper)"))
        ]
    figure, axes = style.panels(
        -(-len(chosen) // columns), columns, share_x="col", share_y=True if published is None else "col"
    )
    flat = [panel for row in axes for panel in row]
    for panel, (part, name, title) in zip(flat, chosen, strict=False):
        panel.set_title(title, loc="left")
        _lines(panel, part[part.image_reduction == name])
    for panel, (part, name, _) in zip(flat, chosen, strict=False):
        _limits(panel, part)
        _names(panel, part[part.image_reduction == name])
    style.finish(
        axes, len(chosen), "Image and text tokens seen in pre-training", "Zero-shot top-1 accuracy (%)"
    )
    note = "Right end of each line: full length."
    if published is not None:
        note += " Panels have accuracy axes of their own: the scales do not compare."
    style.heading(
        figure, "Pre-training tokens against accuracy", f"{provenance_line(image_points(frame))}\n{note}"
    )
    return figure


def _lines(panel: Axes, table: pandas.DataFrame) -> None:
    panel.set_xscale("log")
    models = [name for name in style.MODEL_COLOURS if name in set(table.model)]
    for model in models:
        own = table[table.model == model]
        colour = style.MODEL_COLOURS[model]
        panel.plot(
            own.pretraining_tokens,
            own["value"],
            color=colour,
            marker=style.MODEL_MARKERS[model],
            clip_on=False,
        )
        if own.low.notna().any():
            bars = [own["value"] - own.low, own.high - own["value"]]
            panel.errorbar(
                own.pretraining_tokens,
                own["value"],
                yerr=bars,
                fmt="none",
                ecolor=colour,
                elinewidth=0.9,
                capsize=1.8,
            )
    style.clean(panel)


def _limits(panel: Axes, part: pandas.DataFrame) -> None:
    """Limits from everything of one source, so that its panels compare; ticks 1, 2, 5 of each decade."""
    low, high = part.pretraining_tokens.min(), part.pretraining_tokens.max()
    panel.set_xlim(low / 1.15, high * (high / low) ** 0.27)
    ticks = style.round_numbers(low, high)
    panel.set_xticks(ticks, [style.billions(tick) for tick in ticks])
    panel.minorticks_off()
    bottom, top = float(part[["value", "low"]].min().min()), float(part[["value", "high"]].max().max())
    margin = 0.06 * (top - bottom)
    panel.set_ylim(bottom - margin, top + margin)


def _names(panel: Axes, table: pandas.DataFrame) -> None:
    ends = []
    for model, own in table.groupby("model"):
        last = own.sort_values("pretraining_tokens").iloc[-1]
        ends.append((last.pretraining_tokens, last["value"], model, style.MODEL_COLOURS[model]))
    style.label_ends(panel, ends, offset=6)
