"""Panels of drop in accuracy against token length, one line a model: what Figures 4, 5, 6 and 7 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipa.figures import style
from clipa.figures.points import over_runs

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

THRESHOLDS = (1, 2)  # points; §4.1 and §4.2 speak of both
TALL = 15.0  # points on the axis from which one label serves all thresholds
DODGE = 1.025  # error bars of neighbouring models stand apart by this factor of the token length


@dataclass(frozen=True)
class Lengths:
    """A token length as the horizontal axis: long sequences left, because reading on means cutting more."""

    column: str
    full: int
    ticks: dict[int, str]
    limits: tuple[float, float]  # room for names at the right
    label: str
    names_thresholds: bool = True


IMAGE = Lengths("image_tokens", 197, style.TOKEN_TICKS, (215, 12.4), "Image tokens in pre-training")
TEXT = Lengths(
    "text_tokens", 32, {n: str(n) for n in (32, 16, 8, 6, 4)}, (35, 2.9), "Text tokens in pre-training"
)


def mean_drops(reduced: pandas.DataFrame, by: Sequence[str], full: dict[str, float]) -> pandas.DataFrame:
    """Mean drop of each combination of `by` (first the panel's columns, then model and lengths), longest first.

    The baseline, whose drop is 0 by definition, becomes a point of each line, with the lengths in `full`.
    """
    import pandas

    fixed = [name for name in by if name not in full]
    table = over_runs(reduced, by, "drop", "drop_standard_error")
    nothing = {"drop": 0.0, "low": float("nan"), "high": float("nan"), "interval": ""}
    baselines = table.drop_duplicates(fixed).assign(**full, **nothing)
    return pandas.concat([table, baselines])


def in_order(table: pandas.DataFrame, orders: dict[str, Sequence[str]], length: str) -> pandas.DataFrame:
    """Rows sorted by the given orders of columns, then from the longest sequence to the shortest."""
    keys = {f"_{name}": table[name].map(list(order).index) for name, order in orders.items()}
    keys["_length"] = -table[length]
    return table.assign(**keys).sort_values(list(keys)).drop(columns=list(keys))


def limits(tables: Sequence[pandas.DataFrame]) -> tuple[float, float]:
    """Bottom and top of the drop axis, for all panels of a figure: they compare."""
    top = max(float(part[["drop", "high"]].max().max()) for part in tables)
    bottom = min(float(part[["drop", "low"]].min().min()) for part in tables)
    return min(-0.5, bottom - 0.2, 1.08 * bottom), 1.08 * top


def frame_panel(panel: Axes, title: str, lengths: Lengths, bottom: float, top: float) -> None:
    """Axes, thresholds and title; everything but the data."""
    panel.set_title(title, loc="left")
    panel.set_xscale("log", base=2)
    panel.set_xlim(*lengths.limits)
    panel.set_xticks(list(lengths.ticks), list(lengths.ticks.values()))
    panel.set_ylim(bottom, top)
    # One label for all thresholds where drops are so large that the labels would lie on each other.
    labels = {threshold: f"{threshold} %" for threshold in THRESHOLDS}
    if top - bottom > TALL:
        labels = {max(THRESHOLDS): ", ".join(labels.values())}
    for threshold in THRESHOLDS:
        panel.axhline(threshold, color=style.FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    for threshold, label in labels.items() if lengths.names_thresholds else ():
        panel.annotate(
            label,
            (lengths.limits[0] * 205 / 215, threshold),
            xytext=(0, 1.5),
            textcoords="offset points",
            fontsize=style.SMALL - 0.5,
            color=style.FAINT,
            va="bottom",
        )
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)


def lines(panel: Axes, table: pandas.DataFrame, lengths: Lengths) -> None:
    """One line a model, with intervals where there are any, and its name at the short end."""
    ends = []
    models = [name for name in style.MODEL_COLOURS if name in set(table.model)]
    for rank, model in enumerate(models):
        own = table[table.model == model].sort_values(lengths.column, ascending=False)
        colour = style.MODEL_COLOURS[model]
        # The baseline's drop is 0 by definition, without an interval: its points may coincide.
        x = own[lengths.column] * (DODGE ** ((len(models) - 1) / 2 - rank)) ** own.low.notna()
        panel.plot(x, own["drop"], color=colour, marker=style.MODEL_MARKERS[model], clip_on=False)
        bars = [own["drop"] - own.low, own.high - own["drop"]]
        if own.low.notna().any():
            panel.errorbar(x, own["drop"], yerr=bars, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8)
        ends.append((own[lengths.column].iloc[-1] / DODGE, own["drop"].iloc[-1], model, colour))
    style.label_ends(panel, ends)


def published_lines(panel: Axes, table: pandas.DataFrame, lengths: Lengths) -> None:
    """Published drops, dashed, behind measured ones."""
    for model, own in table.groupby("model"):
        own = own.sort_values(lengths.column, ascending=False)
        panel.plot(
            own[lengths.column],
            own["drop"],
            color=style.MODEL_COLOURS[model],
            linestyle=(0, (4, 2)),
            linewidth=0.9,
            alpha=0.55,
            zorder=1,
        )
