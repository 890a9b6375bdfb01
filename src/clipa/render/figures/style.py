"""The look of all figures: colours, markers, names, sizes. No other file of the figures sets any of these."""

from __future__ import annotations

import itertools
import math
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipa.render.figures.points import has_bar, of_items

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, as printed: the text of a page, and one of two columns. No letter is smaller than 6 points there.
PAGE, COLUMN = 6.75, 3.25
FONT_SIZES = {PAGE: 8.0, COLUMN: 7.25}
PANEL_HEIGHT = 1.95  # on a page
IN_COLUMN = 0.7  # heights in a column, over those on a page
SMALL = "small"  # the smallest size of letters, of two: 0.833 times the font size

INK = "#222222"
FAINT = "#666666"  # of text and thin lines
PALE = "#9a9a9a"  # of lines alone: too light for text

# Dark enough for text on white (4.5 : 1), larger models darker, so that the order survives grey print. Orange, green
# and blue stay apart in the common colour blindnesses; markers differ as well.
MODEL_LOOKS = {
    "Ti/16": ("#d03a84", "P"),
    "S/16": ("#b85c00", "o"),
    "B/16": ("#007352", "s"),
    "L/16": ("#005a96", "D"),
    "H/14": ("#6a2c7d", "^"),
    "G/14": ("#222222", "v"),
}
OTHER_COLOURS = ("#b3261e", "#a3327f", "#7a5230", "#2b6f8f", "#5f5f5f")
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


def settings(width: float = PAGE) -> dict[str, Any]:
    """matplotlib's rc parameters for a figure of `width` inches (PAGE, COLUMN), which also sets the width that figures
    are drawn with; use as `with matplotlib.rc_context(settings())`."""
    import seaborn

    return {
        **seaborn.axes_style("ticks"),
        "font.family": ["DejaVu Sans"],
        "font.size": FONT_SIZES[width],
        "figure.figsize": (width, width),
        "axes.titlesize": "medium",
        "axes.labelsize": "medium" if width == PAGE else SMALL,
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
        "axes.titlepad": 4,
        "axes.labelpad": 3,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 0,
        "lines.linewidth": 1.3 if width == PAGE else 1.0,
        "lines.markersize": 4.2 if width == PAGE else 3.4,
        "lines.markeredgewidth": 0.9,
        "pdf.fonttype": 42,
        "svg.hashsalt": "clipa",
        "figure.dpi": 100,
    }


def width() -> float:
    """Inches: the width of figures under the settings in force."""
    import matplotlib

    return float(matplotlib.rcParams["figure.figsize"][0])


def in_column() -> bool:
    """Whether figures are as narrow as a column: less beside each other, shorter names of axes."""
    return width() < 5


def small() -> float:
    """Points: the size of SMALL letters under the settings in force."""
    import matplotlib

    return 0.833 * float(matplotlib.rcParams["font.size"])


def length_colours(count: int) -> list[Any]:
    """Colours of a sequence of token lengths, from long (light) to short (dark); all dark enough for text on white."""
    import seaborn

    flare = seaborn.color_palette("flare", as_cmap=True)
    return [tuple(flare(0.48 + 0.52 * rank / max(1, count - 1))[:3]) for rank in range(count)]


def length_looks(lengths: Sequence[int]) -> dict[int, tuple[Any, str]]:
    """Colour and marker of each token length, given from long to short."""
    colours = length_colours(len(lengths))
    return dict(zip(lengths, zip(colours, itertools.cycle(LENGTH_MARKERS), strict=False), strict=True))


def line(
    panel: Axes,
    x: Any,
    table: pandas.DataFrame,
    column: str,
    colour: Any,
    marker: str,
    within: Sequence[float] = (),
) -> None:
    """One line of `table[column]` over `x` (a Series like the columns): hollow marks where an interval is not over
    seeds, bars where it is. `within`: the least and the largest possible value; bars end there."""
    import numpy

    panel.plot(x, table[column], color=colour, clip_on=False)
    alone = of_items(table)
    for chosen, face in ((~alone, colour), (alone, "white")):
        if chosen.any():
            look = {"markerfacecolor": face, "markeredgecolor": colour, "color": colour, "clip_on": False}
            panel.plot(x[chosen], table[column][chosen], linestyle="none", marker=marker, **look)
    barred = has_bar(table)
    known = table[barred]
    if len(known):
        low, high = (known[end].clip(*within) if within else known[end] for end in ("low", "high"))
        bars = numpy.stack([known[column] - low, high - known[column]])
        look = {"ecolor": colour, "elinewidth": 0.9, "capsize": 1.8, "clip_on": False}
        panel.errorbar(x[barred].to_numpy(), known[column].to_numpy(), yerr=bars, fmt="none", **look)


def bound(panel: Axes, level: float, colour: Any) -> None:
    """A thin dash-dotted line in a model's colour: as far as its drop can go."""
    panel.axhline(level, color=colour, linewidth=0.8, linestyle=(0, (5, 2, 1, 2)), alpha=0.7, zorder=0)


def reference(panel: Axes, level: float, name: str, below: bool = False) -> None:
    """A thin line across the panel with its name at the right end: chance, a ceiling, the full length."""
    panel.axhline(level, color=PALE, linewidth=0.8, linestyle=(0, (5, 2, 1, 2)), zorder=0)
    place = {"xycoords": panel.get_yaxis_transform(), "xytext": (0, -1.5 if below else 1.5)}
    look = {"textcoords": "offset points", "ha": "right", "va": "top" if below else "bottom"}
    panel.annotate(name, (1, level), fontsize=SMALL, color=FAINT, **place, **look)


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
    """A figure with `rows` × `columns` panels that share axes as asked; `height` of one on a page, in inches."""
    height *= (
        (IN_COLUMN if in_column() else 1.0) * (1.3 if columns == 1 else 1.0) * (1.25 if rows == 1 else 1.0)
    )
    figure = page(height * rows)
    axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
    return figure, [list(row) for row in axes]


def stacked(upper: float, lower: float) -> tuple[Figure, Axes, Axes]:
    """A figure with one panel above another; heights in inches."""
    figure = page(upper + lower)
    return figure, *figure.subplots(2, 1, height_ratios=(upper, lower))


def page(height: float) -> Figure:
    """An empty figure of the width in force; `heading` adds its own height."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width(), height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.03)
    return figure


TOP1 = ("Zero-shot top-1 accuracy (%)", "Top-1 accuracy (%)")
BOTH_TOWERS = ("Model (parameters of both towers)", "Model (parameters)")
Names = str | tuple[str, str]
"""The name of an axis, or one for a page and a shorter one for a column."""


def fitting(names: Names) -> str:
    """The name that fits the width in force."""
    return names if isinstance(names, str) else names[in_column()]


def finish(axes: Sequence[Sequence[Axes]], used: int, x: Names, y: Names) -> None:
    """Remove the panels after the first `used`, and name the outer axes."""
    columns = len(axes[0])
    flat = [panel for row in axes for panel in row]
    for panel in flat[used:]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel(fitting(y))
    for panel in flat[max(0, used - columns) : used]:
        panel.set_xlabel(fitting(x))
        panel.tick_params(labelbottom=True)


def heading(figure: Figure, title: str, subtitle: str) -> float:
    """Title and, under it in grey, what was measured on what: scale, data, seeds. Makes the figure higher by the inches
    that it returns."""
    import matplotlib

    wide, body = figure.get_size_inches()
    most = int(72 * (wide - 0.1) / (0.56 * small()))
    subtitle = "\n".join(line for part in subtitle.split("\n") for line in textwrap.wrap(part, most))
    size = float(matplotlib.rcParams["font.size"]) * (1.0 if in_column() else 1.2)
    lines = textwrap.wrap(title, int(72 * (wide - 0.1) / (0.68 * size)))
    first = (1.2 * len(lines) + 0.05) * size / 72
    own = 0.06 + first + 1.32 * small() / 72 * (subtitle.count("\n") + 1) + 0.05
    height = body + own
    figure.set_size_inches(wide, height)
    figure.get_layout_engine().set(rect=(0, 0, 1, body / height))
    left = 0.06 / wide
    figure.text(left, 1 - 0.06 / height, "\n".join(lines), fontsize=size, fontweight="bold", va="top")
    look = {"fontsize": SMALL, "color": FAINT, "va": "top", "linespacing": 1.2}
    figure.text(left, 1 - (0.06 + first) / height, subtitle, **look)
    return own


def millions(count: float) -> str:
    """`55 M`, `1.5 M`, `150 k`: a number of parameters, to two digits below ten million."""
    if count >= 10e6:
        return f"{count / 1e6:.0f} M"
    return f"{count / 1e6:#.2g} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


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
    room = 0.4 if in_column() else 1.0  # in a column as for a longer axis
    digits = next(chosen for span, chosen in spans if high < span * room * low)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    numbers = [digit * 10.0**decade for decade in decades for digit in digits]
    return [number for number in numbers if low / 1.1 <= number <= high * 1.1]


def remark() -> dict[str, Any]:
    """How a remark inside a panel looks; its position is a fraction of the axes."""
    return {"xycoords": "axes fraction", "fontsize": SMALL, "color": FAINT, "ha": "right", "va": "bottom"}


def accuracy_axis(panel: Axes, tables: Sequence[pandas.DataFrame], chance: float | None) -> None:
    """Limits of an accuracy axis (percent) for all of `tables`: measured ones from 0, with `chance` where it is known
    and the ceiling where bars come near it; published ones around their values."""
    import pandas

    table = pandas.concat([own[["value", "low", "high", "source", "interval"]] for own in tables])
    bars = table[has_bar(table)]
    top = min(100.0, float(max(table.value.max(), bars.high.max() if len(bars) else 0)))
    if (table.source == "published").all():
        bottom = float(table.value.min())
        panel.set_ylim(bottom - 0.07 * (top - bottom), top + 0.07 * (top - bottom))
    else:
        near = top > 85
        panel.set_ylim(0, 103 if near else 1.07 * top)
        if near:
            reference(panel, 100, "ceiling", below=True)
        if chance is not None:
            reference(panel, chance, "chance")
    round_steps(panel)


def round_steps(panel: Axes) -> None:
    """Few round numbers on the vertical axis."""
    from matplotlib.ticker import MaxNLocator

    panel.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def clean(axes: Axes) -> None:
    """Two axis lines instead of four."""
    import seaborn

    seaborn.despine(ax=axes)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]], *, offset: float = 5) -> None:
    """Write each line's name at the right of its end, moved apart where they would collide.

    `ends`: (x, y, text, colour) in data coordinates; for axes that have their limits. `offset`: points. Where a name
    is moved by more than half a line, thin lines lead from the ends to the names.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import offset_copy

    halo = withStroke(linewidth=2, foreground="white")  # readable where it crosses a line
    logarithmic = axes.get_yscale() == "log"
    low, high = map(math.log, axes.get_ylim()) if logarithmic else axes.get_ylim()
    gap = 1.2 * small() / _plotted_height(axes) * (high - low)
    wanted = [math.log(y) if logarithmic else y for _, y, _, _ in ends]
    placed = spread(wanted, gap)
    for rank, index in enumerate(sorted(range(len(placed)), key=placed.__getitem__)):
        placed[index] = max(placed[index], low + (rank + 0.5) * gap)  # clear of the axis below
    leaders = any(abs(y - end) > 0.55 * gap for y, end in zip(placed, wanted, strict=True))
    offset += 7 if leaders else 0
    for (x, end, text, colour), y in zip(ends, placed, strict=True):
        y = math.exp(y) if logarithmic else y
        if leaders:
            at = offset_copy(axes.transData, axes.figure, x=offset - 1, units="points")
            look = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", (x, end), (x, y), textcoords=at, arrowprops=look, annotation_clip=False)
        axes.annotate(
            text,
            (x, y),
            xytext=(offset, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            color=colour,
            fontsize=SMALL,
            fontweight="bold",
            annotation_clip=False,
            path_effects=[halo],
        )


def _plotted_height(axes: Axes) -> float:
    """Points, about: a panel's height without title and axes. Constrained layout has not run, and heading not yet."""
    rows = axes.get_subplotspec().get_gridspec().nrows
    share = 72 * axes.figure.get_size_inches()[1] / rows
    return max(20.0, share - 2.9 * small() - 3.6 * small() / rows)


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
