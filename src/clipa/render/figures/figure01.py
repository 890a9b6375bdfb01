"""Figure 1, the inverse scaling law at a glance: the fewest tokens that cost a model no more than a threshold.

Computed, not drawn by hand: the smallest length in Table 11 (images) or 12 (texts) such that it and every longer one
of the same reduction drop by no more than the threshold. Shown for the reductions that §8 finds best, resizing and
syntax masking; the numbers behind the plot have all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipa.render.figures import NothingToDraw, style
from clipa.render.figures.drops import IMAGES, TEXTS, THRESHOLDS
from clipa.render.figures.points import (
    has_bar,
    image_points,
    models_of,
    of_items,
    provenance_line,
    text_points,
)
from clipa.study import TABLE4_PARAMETERS, model_order

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = {"image": "resize", "text": "syntax"}
# §1: "101/16" for S/16 and "50/6" for L/16, within 1 %.
STATED = {"image": {"S/16": 101, "L/16": 50}, "text": {"S/16": 16, "L/16": 6}}
TICKS = {"image": {n: str(n) for n in (197, 101, 50, 37, 17)}, "text": {n: str(n) for n in (32, 16, 8, 6, 4)}}
DROPS = {"image": IMAGES, "text": TEXTS}
LIMITS = {"image": (11.5, 340), "text": (2.6, 42)}
HEIGHT = 2.2
ASIDE = 0.3  # of a tenth of the axis: how far a threshold's marks stand from the model's place
_ROUNDING = 1e-9  # drops are differences of numbers with one decimal


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a sequence (image, text), reduction, threshold and model: the fewest tokens within the threshold.

    Raises NothingToDraw if `frame` has neither image nor text reductions, FigureError if baselines are missing.
    """
    import pandas

    parts, reasons = [], []
    for sequence, drawing in DROPS.items():
        try:
            table = drawing.data(frame)
        except NothingToDraw as error:
            reasons.append(str(error))
            continue
        parts.append(_fewest(sequence, table))
    if not parts:
        raise NothingToDraw("; ".join(reasons))
    return pandas.concat(parts, ignore_index=True)


def _fewest(sequence: str, table: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    reduction, tokens = f"{sequence}_reduction", f"{sequence}_tokens"
    rows = []
    for threshold in THRESHOLDS:
        for (source, scale, name, model), own in table.groupby(
            ["source", "scale", reduction, "model"], sort=False
        ):
            own = own.set_index(tokens)
            fewest = smallest_within(own["drop"].to_dict(), threshold)
            low, high = possible(own, threshold) if source == "measured" else (math.nan, math.nan)
            rows.append(
                {
                    "source": source,
                    "scale": scale,
                    "sequence": sequence,
                    "reduction": name,
                    "threshold": threshold,
                    "model": model,
                    "paper_parameters": 1e6 * TABLE4_PARAMETERS.get(model, math.nan),
                    "tokens": fewest,
                    "low": low,
                    "high": high,
                    "one_seed": bool(of_items(own[own.index >= first_over(own, fewest)]).any()),
                    "drop": own["drop"][fewest],
                    "shortest_measured": own.index.min(),
                }
            )
    return pandas.DataFrame(rows)


def smallest_within(drops: dict[int, float], threshold: float) -> int:
    """The smallest length of `drops` (length → drop in points) that, with all longer ones, drops by ≤ threshold.

    The full length, whose drop is 0, must be among them.
    """
    within = max(drops)
    for length in sorted(drops, reverse=True):
        if drops[length] > threshold + _ROUNDING:
            break
        within = length
    return int(within)


def first_over(drops: pandas.DataFrame, fewest: int) -> int:
    """The longest length shorter than `fewest` (the first over the threshold), or `fewest` if it is the shortest."""
    shorter = [length for length in drops.index if length < fewest]
    return max(shorter, default=fewest)


def possible(drops: pandas.DataFrame, threshold: float) -> tuple[int, int]:
    """The fewest and the most tokens that :func:`smallest_within` could give, with drops anywhere in their intervals.

    `drops`: by length. A drop without an interval over seeds may be on either side of the threshold.
    """
    unknown = of_items(drops)
    ends = [
        drops[end].where(has_bar(drops), drops["drop"]).mask(unknown, beyond)
        for end, beyond in (("low", -math.inf), ("high", math.inf))
    ]
    low, high = (smallest_within(end.to_dict(), threshold) for end in ends)
    return low, high


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """Images left, texts right, as far as there are records of them; `published` dashed behind measured ones."""
    table = data(frame)
    behind = data(published) if published is not None else None
    panels: list[tuple[str, str]] = []
    for sequence, preferred in SHOWN.items():
        there = table[table.sequence == sequence].reduction
        if len(there):
            panels.append((sequence, preferred if (there == preferred).any() else there.iloc[0]))
    columns = 1 if style.in_column() else len(panels)
    figure, axes = style.panels(len(panels) // columns, columns, share_x=False, share_y=False, height=HEIGHT)
    flat = [panel for row in axes for panel in row]
    places = _places({*table.model, *(() if behind is None else behind.model)})
    for panel, (sequence, reduction) in zip(flat, panels, strict=True):
        name = DROPS[sequence].registry[reduction].label
        _frame(panel, sequence, f"{sequence.capitalize()} tokens: {name.lower()}")
        if behind is not None:
            _steps(panel, _of(behind, sequence, reduction), places, dashed=True)
        _steps(panel, _of(table, sequence, reduction), places, dashed=False)
        if (table.source == "published").all():
            _stated(panel, table, places, sequence, reduction)
    _heading(figure, frame, table, behind is not None)
    return figure


def _places(models: set[str]) -> dict[str, float]:
    """Where models stand on the axis: at the paper's sizes, or at even distances if one is not the paper's."""
    ordered = sorted(models, key=model_order)
    if models <= TABLE4_PARAMETERS.keys():
        return {model: 1e6 * TABLE4_PARAMETERS[model] for model in ordered}
    return {model: 10.0**rank for rank, model in enumerate(ordered)}


def _of(table: pandas.DataFrame, sequence: str, reduction: str) -> pandas.DataFrame:
    return table[(table.sequence == sequence) & (table.reduction == reduction)]


def _frame(panel: Axes, sequence: str, title: str) -> None:
    panel.set_title(title, loc="left")
    panel.set_ylabel(f"Fewest {sequence} tokens")
    panel.set_yscale("log", base=2)
    panel.set_ylim(*LIMITS[sequence])
    panel.set_yticks(list(TICKS[sequence]), list(TICKS[sequence].values()))
    style.clean(panel)


def _steps(panel: Axes, table: pandas.DataFrame, places: Mapping[str, float], dashed: bool) -> None:
    """One line a threshold, with its marks and their numbers: large for the first threshold, small for the second,
    which stands a little to the right, so that no mark hides another."""
    own_places = {model: places[model] for model in models_of(table)}
    ours = (table.source == "measured").all()  # of other sizes than the paper's models of these names
    span = style.model_axis(panel, own_places, None if ours else own_places)
    panel.set_xlabel("Model" if ours else style.fitting(style.BOTH_TOWERS))
    panel.set_xlim(min(own_places.values()) / span**1.6, max(own_places.values()) * span**5)
    ends = []
    for threshold, own in table.groupby("threshold"):
        first = threshold == THRESHOLDS[0]
        aside = 1 / _aside(places) if first else _aside(places)
        x = own.model.map(places) * aside
        look = {"color": style.PALE, "linewidth": 1.4 if first else 0.8, "zorder": 1}
        panel.plot(x, own.tokens, **look, **({"linestyle": (0, (4, 2))} if dashed else {}))
        if not dashed:
            elsewhere = table[table.threshold != threshold].set_index("model").tokens
            for row in own.itertuples():
                number = first or row.tokens != elsewhere[row.model]
                _mark(panel, places[row.model] * aside, row, first, number)
            unit = "point" if threshold == 1 else "points"
            ends.append(
                (max(own_places.values()), own.tokens.iloc[-1], f"within {threshold:g} {unit}", style.INK)
            )
    style.label_ends(panel, ends[::-1], offset=15)  # where both end at one point: the first threshold above


def _aside(places: Mapping[str, float]) -> float:
    """The factor by which the second threshold's marks stand right of a model's place, and the first's left."""
    return (max(places.values()) / min(places.values())) ** (0.1 * ASIDE)


def _mark(panel: Axes, x: float, row: Any, first: bool, number: bool) -> None:
    """A mark, hollow where it rests on a drop without an interval over seeds, with a bar over what is possible."""
    colour = style.colour(row.model)
    if row.source == "measured":
        panel.plot(
            [x, x], [row.low, row.high], color=colour, linewidth=0.9, marker="_", markersize=4, zorder=2
        )
    panel.plot(
        x,
        row.tokens,
        color=colour,
        marker=style.marker(row.model),
        markerfacecolor="white" if row.one_seed else colour,
        markersize=5.5 if first else 3.5,
        zorder=3,
    )
    panel.annotate(
        f"{row.tokens}" if number else "",
        (x, row.tokens),
        xytext=(-1, 7) if first else (1, -6),
        textcoords="offset points",
        ha="right"
        if row.source == "measured" and first
        else "left"
        if row.source == "measured"
        else "center",
        va="bottom" if first else "top",
        fontsize=style.SMALL,
    )


def _stated(
    panel: Axes, table: pandas.DataFrame, places: Mapping[str, float], sequence: str, shown: str
) -> None:
    """Rings around what §1 states, and a word where it is not what was computed: §1 shortens image and text at once."""
    within = table[(table.sequence == sequence) & (table.threshold == THRESHOLDS[0])]
    for model, tokens in STATED[sequence].items():
        size = 1e6 * TABLE4_PARAMETERS[model] / _aside(places)
        panel.plot(
            size,
            tokens,
            linestyle="none",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=style.FAINT,
            markeredgewidth=0.8,
        )
        if tokens not in within[(within.model == model) & (within.reduction == shown)].tokens.to_list():
            images = STATED["image"][model]
            panel.annotate(
                f"§1 states {tokens}, with {images} image tokens:\nno table has both",
                (size, tokens),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=style.SMALL,
                color=style.FAINT,
            )


def _heading(figure: Figure, frame: pandas.DataFrame, table: pandas.DataFrame, beside: bool) -> None:
    one, two = THRESHOLDS
    meaning = (
        f"Smallest length that, like every longer one, drops by at most {one:g} point (large marks) or {two:g} points "
        "(small)"
    )
    if (table.source == "published").all():
        said = (
            f"{meaning} on ImageNet-1k. Computed from the published Tables 11 and 12; rings: what §1 states"
        )
    else:
        points = image_points(frame) if (table.sequence == "image").any() else text_points(frame)
        said = (
            f"{provenance_line(points).split(', bars')[0].split(', hollow')[0]}\n{meaning}, by mean drops. Bars: every "
            "length that the 95 % intervals over seeds leave possible; drops of fewer than three seeds exclude none. "
            "Hollow: rests on such a drop"
        )
    note = "\nDashed: published (Tables 11 and 12) at the paper's scale" if beside else ""
    style.heading(figure, "How few tokens a model needs in pre-training", said + note)
