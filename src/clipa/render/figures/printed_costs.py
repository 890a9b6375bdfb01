"""The lower panel of Figure 8: compute costs that the paper prints, over what one consistent unit gives."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from clipa.cost import computed_costs
from clipa.render.figures import style
from clipa.stats import fixed

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

CLIPA_H = "table2.H14-resize84-truncation8-laion2b-12.8B"
CLIPA_G = "table2.G14-resize84-truncation8-datacomp1b-12.8B-512M"
# One record for each different cost, from top to bottom.
GROUPS = {
    "Table 10, GFLOPs": {
        "table10.224px-128M.flops": "H/14, 224 px",
        "table10.336px-mask40-640M.flops": "336 px, 40 % masked",
        "table10.224px-mask30-128M.flops": "224 px, 30 % masked",
        "table10.224px-mask30-512M-336px-mask40-128M.flops": "mean of 512M and 128M",
    },
    "Table 2, 1e12 GFLOPs": {
        "table2.FLIP-H14.compute": "FLIP-H/14",
        "table2.OpenCLIP-H14.compute": "OpenCLIP-H/14",
        f"{CLIPA_H}-128M.compute": "CLIPA-H/14, 128M",
        f"{CLIPA_H}-512M-128M.compute": "CLIPA-H/14, 512M + 128M",
        "table2.OpenCLIP-G14.compute": "OpenCLIP-G/14",
        f"{CLIPA_G}.compute": "CLIPA-G/14, 512M",
        f"{CLIPA_G}-128M.compute": "CLIPA-G/14, 512M + 128M",
    },
    "Table 8, 1e11 GFLOPs": {
        "table8.L16-resize96-truncation8-laion400m-2.56B-128M.compute": "CLIPA-L/16, 2.56B",
        "table8.H14-resize84-truncation8-laion400m-2.56B-128M.compute": "CLIPA-H/14, 2.56B",
        "table8.H14-resize84-truncation8-laion2b-12.8B-128M.compute": "CLIPA-H/14, 12.8B",
    },
}
NAMES = {identity: name for group in GROUPS.values() for identity, name in group.items()}
SPAN = (0.66, 1.62)  # ratios on the axis; left of them names, right of them numbers
TITLE = ("Costs that the paper prints, against the same in one unit", "Printed costs, against one unit")
COLUMNS = ("printed", "computed", "ratio")
WRONG = "#b3261e"
KEY = "red where the computed cost is not within the rounding of print"
EXACT = 1e-3  # a kept share of patches that is no whole number (60 % of 576) leaves this much open


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a printed cost of `frame`: printed, the rounding of print, computed, their ratio, whether they agree."""
    import pandas

    computed = computed_costs()
    rows = []
    for row in frame[frame.id.isin(list(NAMES))].itertuples():
        digits = re.sub(r"[^0-9.]", "", row.printed)
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        value = computed[row.id]
        rows.append(
            {
                "source": row.source,
                "scale": row.scale,
                "id": row.id,
                "model": row.model,
                "unit": row.unit,
                "printed": row.value,
                "rounding": half,
                "computed": value,
                "ratio": row.value / value,
                "agrees": abs(row.value - value) <= half + EXACT * value,
            }
        )
    order = list(NAMES)
    return pandas.DataFrame(sorted(rows, key=lambda row: order.index(row["id"])))


def draw(panel: Axes, table: pandas.DataFrame) -> None:
    """A dot for each ratio with the rounding of print as a bar; numbers at the right; what disagrees in red."""
    panel.set_title(TITLE[style.in_column()], loc="left")
    table = table.set_index("id")
    places: dict[str, int] = {}
    panel.axvline(1, color=style.PALE, linewidth=0.7, zorder=0)
    left, right = _frame(panel)
    for heading, names in GROUPS.items():
        known = [identity for identity in names if identity in table.index]
        places |= {key: -len(places) - rank for rank, key in enumerate([heading, *known] if known else [])}
        for identity in known:
            _row(panel, places[identity], table.loc[identity], right)
    for name, x in zip(COLUMNS, right, strict=False):
        _text(panel, name, (x, 0), style.FAINT)
    for key, y in places.items():
        _text(panel, NAMES.get(key, key), (left, y), style.INK if key in NAMES else style.FAINT)
    panel.set_ylim(min(places.values()) - 0.7, 0.7)
    panel.set_xlabel("Printed / computed (bars: rounding of print)")
    panel.set_yticks([])
    style.clean(panel)
    panel.spines["left"].set_visible(False)
    panel.spines["bottom"].set_bounds(*SPAN)


def _frame(panel: Axes) -> tuple[float, list[float]]:
    """The axis of ratios, with room in letters for names at the left and numbers at the right. Returns where names end
    and where the columns of numbers do."""
    letter = 0.6 * style.small()  # points, about
    columns = [9, 9, *([] if style.in_column() else [6])]  # letters; without the ratio, which the axis has
    whole, names, numbers = 72 * style.width() - 38, 23 * letter, sum(columns) * letter
    scale = math.log(SPAN[1] / SPAN[0]) / (whole - names - numbers)  # of the logarithm, a point

    def at(points: float) -> float:
        return SPAN[0] * math.exp(scale * (points - names))

    panel.set_xscale("log")
    panel.set_xlim(at(0), at(whole))
    ticks = (0.7, 1, 1.5) if style.in_column() else (0.7, 0.8, 0.9, 1, 1.2, 1.5)
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    ends = [whole - letter * sum(columns[rank + 1 :]) for rank in range(len(columns))]
    return at(names - letter), [at(end) for end in ends]


def _row(panel: Axes, y: float, row: pandas.Series, columns: list[float]) -> None:
    colour = style.INK if row.agrees else WRONG
    ends = [(row.printed + sign * row.rounding) / row.computed for sign in (-1, 1)]
    panel.plot(ends, [y, y], color=colour, linewidth=2.2, alpha=0.35, solid_capstyle="butt")
    panel.plot(row.ratio, y, color=colour, marker="o", markersize=3.4)
    decimals = round(-math.log10(2 * row.rounding))
    numbers = (fixed(row.printed, decimals), fixed(row.computed, decimals + 1), fixed(row.ratio, 2))
    for text, x in zip(numbers, columns, strict=False):
        _text(panel, text, (x, y), colour)


def _text(panel: Axes, text: str, place: tuple[float, float], colour: str) -> None:
    panel.annotate(text, place, ha="right", va="center", fontsize=style.SMALL, color=colour)
