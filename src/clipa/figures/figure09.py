"""Figure 9: model size against drop in accuracy, one line for each number of image tokens (Appendix B.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import style
from clipa.figures.points import image_points, over_runs, provenance_line

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a point: drop in points of a model (parameters: both towers) at an image token length."""
    points = image_points(frame)
    reduced = points[points.image_reduction != "none"]
    table = over_runs(
        # Towers of one model differ a little between lengths (position table): the largest names the model.
        reduced.assign(parameters=points.groupby(["source", "model"]).parameters.transform("max")),
        [
            "source",
            "scale",
            "image_reduction",
            "image_size",
            "patches",
            "image_tokens",
            "model",
            "parameters",
        ],
        "drop",
        "drop_standard_error",
    )
    order = {name: rank for rank, name in enumerate(style.REDUCTIONS)}
    table = table.assign(_order=table.image_reduction.map(order), _length=-table.image_tokens)
    return table.sort_values(["_order", "_length", "parameters"]).drop(columns=["_order", "_length"])


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """One panel per reduction; with `published`, a second one beside each (its models have other sizes)."""
    table = data(frame)
    reductions = [name for name in style.REDUCTIONS if name in set(table.image_reduction)]
    if published is None:
        columns = min(2, len(reductions))
        chosen = [(table, name, style.REDUCTIONS[name]) for name in reductions]
    else:
        columns, beside = 2, data(published)
        own, theirs = f"measured ({table.scale.iloc[0]})", "published (paper)"
        both = [((table, own), (beside, theirs)) for _ in reductions]
        chosen = [
            (part, name, f"{style.REDUCTIONS[name]}, {source}")
            for name, pair in zip(reductions, both, strict=True)
            for part, source in pair
        ]
    figure, axes = style.panels(-(-len(chosen) // columns), columns, share_x="col")
    flat = [panel for row in axes for panel in row]
    lengths = sorted({_bucket(tokens) for tokens in table.image_tokens}, reverse=True)
    if published is not None:
        lengths = sorted({*lengths, *(_bucket(tokens) for tokens in beside.image_tokens)}, reverse=True)
    looks = dict(
        zip(lengths, zip(style.length_colours(len(lengths)), style.LENGTH_MARKERS, strict=False), strict=True)
    )
    for panel, (part, name, title) in zip(flat, chosen, strict=False):
        panel.set_title(title, loc="left")
        _lines(panel, part[part.image_reduction == name], looks)
    _limits(flat[: len(chosen)], [part[part.image_reduction == name] for part, name, _ in chosen])
    for panel, (part, name, _) in zip(flat, chosen, strict=False):
        _names(panel, part[part.image_reduction == name], looks)
    style.finish(axes, len(chosen), "Model (parameters of both towers)", "Drop (percentage points)")
    style.heading(
        figure,
        "Model size against drop, for each number of image tokens",
        provenance_line(image_points(frame)),
    )
    return figure


def _bucket(tokens: int) -> int:
    """99 (masks) and 101 (160 px) are one line: half of the tokens."""
    return 99 if tokens == 101 else int(tokens)


def _lines(panel: Axes, table: pandas.DataFrame, looks: dict[int, tuple]) -> None:
    panel.set_xscale("log")
    models = table.drop_duplicates("model").sort_values("parameters")
    panel.set_xticks(
        models.parameters.to_list(),
        [
            f"{name}\n{style.millions(size)}"
            for name, size in zip(models.model, models.parameters, strict=True)
        ],
    )
    panel.minorticks_off()
    span = (models.parameters.max() / models.parameters.min()) ** 0.1
    panel.set_xlim(models.parameters.min() / span, models.parameters.max() * span**3.2)
    lengths = sorted(table.image_tokens.unique(), reverse=True)
    for rank, tokens in enumerate(lengths):
        own = table[table.image_tokens == tokens].sort_values("parameters")
        colour, marker = looks[_bucket(tokens)]
        x = own.parameters * span ** (0.18 * (rank - (len(lengths) - 1) / 2) * own.low.notna())
        panel.plot(x, own["drop"], color=colour, marker=marker, clip_on=False)
        if own.low.notna().any():
            bars = [own["drop"] - own.low, own.high - own["drop"]]
            panel.errorbar(x, own["drop"], yerr=bars, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8)
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)


def _limits(panels: list[Axes], tables: list[pandas.DataFrame]) -> None:
    top = max(float(table[["drop", "high"]].max().max()) for table in tables)
    bottom = min(float(table[["drop", "low"]].min().min()) for table in tables)
    for panel in panels:
        panel.set_ylim(min(-0.5, 1.08 * bottom), 1.08 * top)


def _names(panel: Axes, table: pandas.DataFrame, looks: dict[int, tuple]) -> None:
    """Token numbers at the right ends; called when the limits stand."""
    ends = []
    for tokens in sorted(table.image_tokens.unique()):
        unit = "" if ends else " tokens"  # said once, at the shortest length
        last = table[table.image_tokens == tokens].sort_values("parameters").iloc[-1]
        ends.append((last.parameters, last["drop"], f"{tokens}{unit}", looks[_bucket(tokens)][0]))
    style.label_ends(panel, ends, offset=7)
