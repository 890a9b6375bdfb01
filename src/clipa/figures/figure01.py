"""Figure 1, the inverse scaling law at a glance: the fewest tokens that cost a model no more than a threshold.

Computed, not drawn by hand: the smallest length in Table 11 (images) or 12 (texts) such that it and every longer one
of the same reduction drop by no more than the threshold. Shown for the reductions that §8 finds best, resizing and
syntax masking; the numbers behind the plot have all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipa.figures import NothingToDraw, figure04, figure07, style
from clipa.figures.points import image_points, provenance_line, text_points
from clipa.records import TABLE4_PARAMETERS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLDS = (1.0, 2.0)
SHOWN = {"image": "resize", "text": "syntax"}
# §1: "101/16" for S/16 and "50/6" for L/16, within 1 %.
STATED = {"image": {"S/16": 101, "L/16": 50}, "text": {"S/16": 16, "L/16": 6}}
TICKS = {"image": {n: str(n) for n in (197, 101, 50, 37, 17)}, "text": {n: str(n) for n in (32, 16, 8, 6, 4)}}
LIMITS = {"image": (11.5, 340), "text": (2.6, 42)}
HEIGHT = 2.2
_ROUNDING = 1e-9  # drops are differences of numbers with one decimal


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a sequence (image, text), reduction, threshold and model: the fewest tokens within the threshold.

    Raises NothingToDraw if `frame` has neither image nor text reductions, FigureError if baselines are missing.
    """
    import pandas

    parts, reasons = [], []
    for sequence, drops_of in (("image", figure04.data), ("text", figure07.data)):
        try:
            table = drops_of(frame)
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
                    "paper_parameters": 1e6 * TABLE4_PARAMETERS[model],
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
    for panel, (sequence, reduction) in zip(axes[0], panels, strict=True):
        names = style.REDUCTIONS if sequence == "image" else style.TEXT_REDUCTIONS
        _frame(panel, sequence, f"{sequence.capitalize()} tokens: {names[reduction].lower()}")
        if behind is not None:
            _steps(panel, _of(behind, sequence, reduction), dashed=True)
        _steps(panel, _of(table, sequence, reduction), dashed=False)
        if (table.source == "published").all():
            _stated(panel, table, sequence, reduction)
    axes[0][0].set_ylabel("Fewest tokens")
    _heading(figure, frame, table, behind is not None)
    return figure


def _of(table: pandas.DataFrame, sequence: str, reduction: str) -> pandas.DataFrame:
    return table[(table.sequence == sequence) & (table.reduction == reduction)]


def _frame(panel: Axes, sequence: str, title: str) -> None:
    panel.set_title(title, loc="left")
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.set_ylim(*LIMITS[sequence])
    panel.set_yticks(list(TICKS[sequence]), list(TICKS[sequence].values()))
    panel.minorticks_off()
    style.clean(panel)


def _steps(panel: Axes, table: pandas.DataFrame, dashed: bool) -> None:
    """One line a threshold; marks with their numbers, filled for the first threshold and open for the other."""
    models = [name for name in style.MODEL_COLOURS if name in set(table.model)]
    sizes = [1e6 * TABLE4_PARAMETERS[name] for name in models]
    span = (sizes[-1] / sizes[0]) ** 0.1
    ours = (table.source == "measured").all()  # of other sizes than the paper's models of these names
    names = (
        models
        if ours
        else [f"{name}\n{style.millions(size)}" for name, size in zip(models, sizes, strict=True)]
    )
    panel.set_xticks(sizes, names)
    panel.set_xlabel("Model" if ours else "Model (parameters of both towers)")
    panel.set_xlim(sizes[0] / span**1.6, sizes[-1] * span**5)
    ends = []
    for threshold, own in table.groupby("threshold"):
        own = own.sort_values("paper_parameters")
        first = threshold == THRESHOLDS[0]
        line = {"linestyle": (0, (4, 2))} if dashed else {}
        panel.plot(
            own.paper_parameters,
            own.tokens,
            color=style.FAINT,
            linewidth=1.4 if first else 0.8,
            zorder=1,
            **line,
        )
        if not dashed:
            elsewhere = table[table.threshold != threshold].set_index("model").tokens
            for row in own.itertuples():
                _mark(panel, row, first, number=first or row.tokens != elsewhere[row.model])
            ends.append(
                (own.paper_parameters.iloc[-1], own.tokens.iloc[-1], f"within {threshold:g} %", style.INK)
            )
    style.label_ends(panel, ends[::-1], offset=15)  # where both end at one point: the first threshold above


def _mark(panel: Axes, row: Any, first: bool, number: bool) -> None:
    colour = style.MODEL_COLOURS[row.model]
    panel.plot(
        row.paper_parameters,
        row.tokens,
        color=colour,
        marker=style.MODEL_MARKERS[row.model],
        markerfacecolor=colour if first else "white",
        markersize=5 if first else 4,
        zorder=3 if first else 2,
    )
    panel.annotate(
        f"{row.tokens}" if number else "",
        (row.paper_parameters, row.tokens),
        xytext=(0, 7 if first else -7),
        textcoords="offset points",
        ha="center",
        va="bottom" if first else "top",
        fontsize=style.SMALL,
    )


def _stated(panel: Axes, table: pandas.DataFrame, sequence: str, shown: str) -> None:
    """Rings around what §1 states; where it is not what was computed, for which reduction it would be."""
    names = style.REDUCTIONS if sequence == "image" else style.TEXT_REDUCTIONS
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
            fits = " or ".join(names[name].lower() for name in same) or "no reduction"
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
