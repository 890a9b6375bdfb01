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
from clipa.render.figures.points import image_points, models_of, provenance_line, text_points
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
            fewest = smallest_within(dict(zip(own[tokens], own["drop"], strict=True)), threshold)
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
                    "drop": own.set_index(tokens)["drop"][fewest],
                    "shortest_measured": own[tokens].min(),
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


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """Images left, texts right, as far as there are records of them; `published` dashed behind measured ones."""
    table = data(frame)
    behind = data(published) if published is not None else None
    panels: list[tuple[str, str]] = []
    for sequence, preferred in SHOWN.items():
        there = table[table.sequence == sequence].reduction
        if len(there):
            panels.append((sequence, preferred if (there == preferred).any() else there.iloc[0]))
    figure, axes = style.panels(1, len(panels), share_y=False, height=HEIGHT)
    places = _places({*table.model, *(() if behind is None else behind.model)})
    for panel, (sequence, reduction) in zip(axes[0], panels, strict=True):
        name = DROPS[sequence].registry[reduction].label
        _frame(panel, sequence, f"{sequence.capitalize()} tokens: {name.lower()}")
        if behind is not None:
            _steps(panel, _of(behind, sequence, reduction), places, dashed=True)
        _steps(panel, _of(table, sequence, reduction), places, dashed=False)
        if (table.source == "published").all():
            _stated(panel, table, sequence, reduction)
    axes[0][0].set_ylabel("Fewest tokens")
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
    panel.set_yscale("log", base=2)
    panel.set_ylim(*LIMITS[sequence])
    panel.set_yticks(list(TICKS[sequence]), list(TICKS[sequence].values()))
    style.clean(panel)


def _steps(panel: Axes, table: pandas.DataFrame, places: Mapping[str, float], dashed: bool) -> None:
    """One line a threshold; marks with their numbers, filled for the first threshold and open for the other."""
    own_places = {model: places[model] for model in models_of(table)}
    ours = (table.source == "measured").all()  # of other sizes than the paper's models of these names
    span = style.model_axis(panel, own_places, None if ours else own_places)
    panel.set_xlabel("Model" if ours else "Model (parameters of both towers)")
    panel.set_xlim(min(own_places.values()) / span**1.6, max(own_places.values()) * span**5)
    ends = []
    for threshold, own in table.groupby("threshold"):
        x = own.model.map(places)
        first = threshold == THRESHOLDS[0]
        look = {"color": style.FAINT, "linewidth": 1.4 if first else 0.8, "zorder": 1}
        panel.plot(x, own.tokens, **look, **({"linestyle": (0, (4, 2))} if dashed else {}))
        if not dashed:
            elsewhere = table[table.threshold != threshold].set_index("model").tokens
            for row in own.itertuples():
                number = first or row.tokens != elsewhere[row.model]
                _mark(panel, places[row.model], row, first, number)
            ends.append((x.iloc[-1], own.tokens.iloc[-1], f"within {threshold:g} %", style.INK))
    style.label_ends(panel, ends[::-1], offset=15)  # where both end at one point: the first threshold above


def _mark(panel: Axes, x: float, row: Any, first: bool, number: bool) -> None:
    colour = style.colour(row.model)
    panel.plot(
        x,
        row.tokens,
        color=colour,
        marker=style.marker(row.model),
        markerfacecolor=colour if first else "white",
        markersize=5 if first else 4,
        zorder=3 if first else 2,
    )
    panel.annotate(
        f"{row.tokens}" if number else "",
        (x, row.tokens),
        xytext=(0, 7 if first else -7),
        textcoords="offset points",
        ha="center",
        va="bottom" if first else "top",
        fontsize=style.SMALL,
    )


def _stated(panel: Axes, table: pandas.DataFrame, sequence: str, shown: str) -> None:
    """Rings around what §1 states; where it is not what was computed, for which reduction it would be."""
    within = table[(table.sequence == sequence) & (table.threshold == THRESHOLDS[0])]
    for model, tokens in STATED[sequence].items():
        size = 1e6 * TABLE4_PARAMETERS[model]
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
        same = within[(within.model == model) & (within.tokens == tokens)].reduction.to_list()
        if shown not in same:
            fits = (
                " or ".join(DROPS[sequence].registry[name].label.lower() for name in same) or "no reduction"
            )
            panel.annotate(
                f"§1 states {tokens}, as for {fits}",
                (size, tokens),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=style.SMALL - 0.5,
                color=style.FAINT,
            )


def _heading(figure: Figure, frame: pandas.DataFrame, table: pandas.DataFrame, beside: bool) -> None:
    meaning = (
        f"Smallest length that, like every longer one, drops by at most {THRESHOLDS[0]:g} point (filled) or "
        f"{THRESHOLDS[1]:g} (open)"
    )
    if (table.source == "published").all():
        said = f"{meaning} on ImageNet-1k. Computed from the published Tables 11 and 12; rings: what §1 states for 1 %"
    else:
        points = image_points(frame) if (table.sequence == "image").any() else text_points(frame)
        where = provenance_line(points).split(", bars")[0]
        said = f"{where}\n{meaning}; means over seeds"
    note = "\nDashed: published (Tables 11 and 12) at the paper's scale" if beside else ""
    style.heading(figure, "How few tokens a model needs in pre-training", said + note)
