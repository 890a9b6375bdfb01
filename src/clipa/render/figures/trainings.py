"""The law over training: drops, and their slope over the models, after different numbers of samples.

No figure of the paper, whose trainings of §4 all have one length. Does the sign turn as training converges?
docs/law.md says what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.law.layout import counted
from clipa.law.statistic import Length, Summary
from clipa.law.verdicts import examine
from clipa.records import load_records
from clipa.render.figures import NothingToDraw, save, style
from clipa.render.figures.points import of_estimates
from clipa.stats import MINIMAL_SEEDS, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = ("Samples of both stages (1: the study's)", "Samples (1: the study's)")
_DODGE = 1.02  # marks of neighbouring models stand apart by this factor
Series = dict[str, Length]
"""One length after each share of the samples."""


def make_trainings(records: Iterable[str | Path], out: Path) -> list[Path]:
    """Draw the records as PDF (``out``), SVG and PNG; returns the files. Raises RecordError, NothingToDraw."""
    import matplotlib

    matplotlib.use("Agg")
    found = examine(load_records(records))
    with matplotlib.rc_context(style.settings()):
        return save(draw(found.by_share), Path(out))


def draw(by_share: Mapping[str, Summary]) -> Figure:
    """One column a reduced length: drops of the models above, the slope of the drop below.

    `by_share`: :attr:`clipa.law.verdicts.Findings.by_share`. Marks as in all figures: bars over seeds, hollow without.
    """
    series: dict[str, Series] = {}
    for share, summary in by_share.items():
        for length in summary.lengths:
            series.setdefault(length.label, {})[share] = length
    series = {label: own for label, own in series.items() if len(own) > 1}
    if not series:
        raise NothingToDraw(
            "the law over training: no reduced length was measured after two numbers of samples or more; "
            "run the experiment over-training"
        )
    figure, (above, below) = style.panels(2, len(series), share_y="row")
    for column, (label, own) in enumerate(series.items()):
        above[column].set_title(label, loc="left")
        for panel in (above[column], below[column]):
            _axis(panel, list(by_share))
        _drops(above[column], own)
        slopes = {share: length.slope for share, length in own.items() if length.slope}
        _line(below[column], slopes, style.INK, "o")
    style.finish([above, below], 2 * len(series), _SHARE, "")
    above[0].set_ylabel("Drop (points)")
    below[0].set_ylabel("Slope of the drop\n(points per tenfold size)")
    style.heading(figure, "The law over training", _subtitle(by_share["1"], series))
    return figure


def _subtitle(summary: Summary, series: Mapping[str, Series]) -> str:
    seeds = sorted({len(length.seeds) for own in series.values() for length in own.values()})
    counts = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    return (
        f"Measured at {summary.scale} scale, {counts}; {summary.dataset} (n = {summary.n}). "
        f"Bars: 95 % intervals over seeds; hollow: fewer than {MINIMAL_SEEDS} seeds. "
        "The law says: slopes below 0. Exploratory"
    )


def _drops(panel: Axes, series: Series) -> None:
    models = list(dict.fromkeys(model for length in series.values() for model in length.drops))
    ends = []
    for rank, model in enumerate(models):
        own = {share: length.drops[model] for share, length in series.items() if model in length.drops}
        colour, shift = style.colour(model), _DODGE ** (rank - (len(models) - 1) / 2)
        end = _line(panel, own, colour, style.marker(model), shift)
        ends.append((*end, model, colour))
    if panel.get_subplotspec().is_last_col():
        style.label_ends(panel, ends)


def _line(
    panel: Axes, points: Mapping[str, Estimate], colour: str, marker: str, shift: float = 1.0
) -> tuple[float, float]:
    """One line over the shares; returns its right end."""
    table = of_estimates((shift * float(Fraction(share)) for share in points), points.values())
    style.line(panel, table.x, table, "mean", colour, marker)
    return tuple(table[["x", "mean"]].iloc[-1]) if len(table) else (math.nan, math.nan)


def _axis(panel: Axes, shares: Sequence[str]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks([float(Fraction(share)) for share in shares], shares)
    panel.minorticks_off()
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)
