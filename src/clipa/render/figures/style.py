"""The look of all figures: colours, markers, names, sizes. No other file of the figures sets any of these."""

from __future__ import annotations

import itertools
import math
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.5  # inches: the text width of the paper's format; one column of a two-column page stays readable
TITLE_HEIGHT = 0.62
PANEL_HEIGHT = 1.95
FONT_SIZE = 7.5
SMALL = 6.5

INK = "#222222"
FAINT = "#8a8a8a"

# From seaborn's palette "colorblind" (after Okabe and Ito), larger models darker, so that the order
# survives grey print and every common colour blindness; markers differ as well.
MODEL_LOOKS = {
    "S/16": ("#de8f05", "o"),
    "B/16": ("#029e73", "s"),
    "L/16": ("#0173b2", "D"),
    "H/14": ("#7b3f8c", "^"),
    "G/14": ("#222222", "v"),
}
OTHER_COLOURS = ("#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#949494")
OTHER_MARKERS = ("P", "X", "p", "h", "<", ">", "*")
LENGTH_MARKERS = ("o", "s", "D", "^", "v", "P")


def colour(model: str) -> str:
    """The colour of a model in every figure; one that the paper has not gets one by its name."""
    return _look(model)[0]


def marker(model: str) -> str:
    """The marker of a model, likewise."""
    return _look(model)[1]


def _look(model: str) -> tuple[str, str]:
    number = zlib.crc32(model.encode())  # the same in every process, unlike hash()
    other = OTHER_COLOURS[number % len(OTHER_COLOURS)], OTHER_MARKERS[number % len(OTHER_MARKERS)]
    return MODEL_LOOKS.get(model, other)


def settings() -> dict[str, Any]:
    """matplotlib's rc parameters for every figure; use as `with matplotlib.rc_context(settings())`."""
    import seaborn

    return {
        **seaborn.axes_style("ticks"),
        "font.family": ["DejaVu Sans"],
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "axes.labelsize": FONT_SIZE,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 0,
        "lines.linewidth": 1.3,
        "lines.markersize": 3.8,
        "pdf.fonttype": 42,
        "svg.hashsalt": "clipa",
        "figure.dpi": 100,
    }


def length_colours(count: int) -> list[Any]:
    """Colours of a sequence of token lengths, from long (light) to short (dark)."""
    import seaborn

    return list(seaborn.color_palette("flare", count))


def length_looks(lengths: Sequence[int]) -> dict[int, tuple[Any, str]]:
    """Colour and marker of each token length, given from long to short."""
    colours = length_colours(len(lengths))
    return dict(zip(lengths, zip(colours, itertools.cycle(LENGTH_MARKERS), strict=False), strict=True))


def line(
    panel: Axes, x: Any, table: pandas.DataFrame, column: str, colour: Any, marker: str, **how: Any
) -> None:
    """One line of `table[column]` over `x`, with intervals (columns low, high) where there are any."""
    panel.plot(x, table[column], color=colour, marker=marker, **how)
    if table.low.notna().any():
        bars = [table[column] - table.low, table.high - table[column]]
        panel.errorbar(x, table[column], yerr=bars, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8)


def model_axis(
    panel: Axes, places: Mapping[str, float], parameters: Mapping[str, float] | None = None
) -> float:
    """Models on a logarithmic axis, by place, smallest first, with their `parameters` if given.

    Returns a tenth of the axis between the outermost models, as a factor.
    """
    names, values = zip(*places.items(), strict=True)
    if parameters is not None:
        names = [f"{name}\n{millions(parameters[name])}" for name in names]
    panel.set_xscale("log")
    panel.set_xticks(values, names)
    panel.minorticks_off()
    return (values[-1] / values[0]) ** 0.1


def panels(
    rows: int,
    columns: int,
    *,
    share_x: bool | str = True,
    share_y: bool | str = True,
    height: float = PANEL_HEIGHT,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of the standard width with `rows` × `columns` panels that share axes as asked."""
    width = WIDTH if columns > 1 else 0.66 * WIDTH
    height = TITLE_HEIGHT + height * rows * (1.0 if columns > 1 else 1.3)
    figure = _page(width, height)
    axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
    return figure, [list(row) for row in axes]


def stacked(upper: float, lower: float) -> tuple[Figure, Axes, Axes]:
    """A figure of the standard width with one panel above another; heights in inches."""
    figure = _page(WIDTH, TITLE_HEIGHT + upper + lower)
    return figure, *figure.subplots(2, 1, height_ratios=(upper, lower))


def _page(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.04, wspace=0.02, hspace=0.03)
    return figure


def finish(axes: Sequence[Sequence[Axes]], used: int, x: str, y: str) -> None:
    """Remove the panels after the first `used`, and name the outer axes."""
    columns = len(axes[0])
    flat = [panel for row in axes for panel in row]
    for panel in flat[used:]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel(y)
    for panel in flat[max(0, used - columns) : used]:
        panel.set_xlabel(x)
        panel.tick_params(labelbottom=True)


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Title and, under it in grey, what was measured on what: scale, data, seeds."""
    width, height = figure.get_size_inches()
    fitting = int(72 * width / (0.58 * SMALL))
    subtitle = "\n".join(line for part in subtitle.split("\n") for line in textwrap.wrap(part, fitting))
    lines = subtitle.count("\n") + 1
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (0.22 + 0.13 * lines) / height))
    figure.text(0.012, 1 - 0.07 / height, title, fontsize=FONT_SIZE + 1, fontweight="bold", va="top")
    figure.text(0.012, 1 - 0.23 / height, subtitle, fontsize=SMALL, color=FAINT, va="top", linespacing=1.35)


def millions(count: float) -> str:
    """`55 M`, `0.15 M`: a number of parameters, to two digits below ten million."""
    return f"{count / 1e6:.0f} M" if count >= 10e6 else f"{count / 1e6:#.2g} M"


def billions(count: float) -> str:
    """`500 B`, `2 M`: a number of tokens."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g} {letter}"
    return f"{count:g}"


def thousands(number: float) -> str:
    """`0.05`, `20`, `3,000`: a round number of an axis."""
    return f"{number:,.0f}" if number >= 1 else f"{number:g}"


def round_numbers(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis from `low` to `high`, with a little more room at both ends."""
    spans = ((8, (1, 1.5, 2, 3, 5, 7)), (100, (1, 2, 5)), (1000, (1, 3)), (math.inf, (1,)))
    digits = next(chosen for span, chosen in spans if high < span * low)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    numbers = [digit * 10.0**decade for decade in decades for digit in digits]
    return [number for number in numbers if low / 1.1 <= number <= high * 1.1]


def remark() -> dict[str, Any]:
    """How a remark inside a panel looks; its position is a fraction of the axes."""
    return {
        "xycoords": "axes fraction",
        "fontsize": SMALL - 0.5,
        "color": FAINT,
        "ha": "right",
        "va": "bottom",
    }


def clean(axes: Axes) -> None:
    """Two axis lines instead of four."""
    import seaborn

    seaborn.despine(ax=axes)


def label_ends(
    axes: Axes,
    ends: Sequence[tuple[float, float, str, Any]],
    *,
    offset: float = 5,
    left: bool = False,
    leaders: bool = False,
) -> None:
    """Write each line's name beside its end, moved apart where they would collide.

    `ends`: (x, y, text, colour) in data coordinates; for axes that have their limits. `offset`: points. `leaders`: a
    thin line from each end to its name.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import offset_copy

    halo = withStroke(linewidth=2, foreground="white")  # readable where it crosses a line
    logarithmic = axes.get_yscale() == "log"
    low, high = map(math.log, axes.get_ylim()) if logarithmic else axes.get_ylim()
    # Constrained layout has not run yet; a panel's plotted height is about two thirds of its share.
    rows = axes.get_subplotspec().get_gridspec().nrows
    points = 0.66 * 72 * (axes.figure.get_size_inches()[1] - TITLE_HEIGHT) / rows
    gap = (SMALL + 1.5) / points * (high - low)
    placed = spread([math.log(y) if logarithmic else y for _, y, _, _ in ends], gap)
    for rank, index in enumerate(sorted(range(len(placed)), key=placed.__getitem__)):
        placed[index] = max(placed[index], low + (rank + 0.5) * gap)  # clear of the axis below
    for (x, end, text, colour), y in zip(ends, placed, strict=True):
        y = math.exp(y) if logarithmic else y
        if leaders:
            at = offset_copy(axes.transData, axes.figure, x=offset - 1, units="points")
            look = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x, end), (x, y), textcoords=at, arrowprops=look, annotation_clip=False)
        axes.annotate(
            text,
            (x, y),
            xytext=(-offset if left else offset, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=colour,
            fontsize=SMALL,
            fontweight="bold",
            annotation_clip=False,
            path_effects=[halo],
        )


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved as little as possible (least squares) so that neighbours are at least `gap` apart."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, list[int]]] = []  # (sum of wanted starts, members), merged while they overlap
    for index in order:
        total, members = positions[index], [index]
        while blocks:
            before_total, before = blocks[-1]
            start, before_start = total / len(members), before_total / len(before)
            if before_start + gap * len(before) <= start:
                break
            # As one block, the members after the first want to start earlier by their offset inside it.
            total = before_total + total - gap * len(before) * len(members)
            members = before + members
            blocks.pop()
        blocks.append((total, members))
    placed = [0.0] * len(positions)
    for total, members in blocks:
        for rank, index in enumerate(members):
            placed[index] = total / len(members) + gap * rank
    return placed
