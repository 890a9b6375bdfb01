"""The law over training: drops, and their slope over the models, after different numbers of pre-training samples.

No figure of the paper, whose trainings of §4 all have one length. Does the sign turn as training converges?
docs/law.md says what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.law.statistic import Length, Summary
from clipa.law.verdicts import TRAININGS, examine
from clipa.records import load_records
from clipa.render.figures import NothingToDraw, save, style
from clipa.stats import MINIMAL_SEEDS, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = ("Pre-training samples (1: the study's)", "Samples (1: the study's)")
_DODGE = 1.02  # marks of neighbouring models stand apart by this factor
Series = dict[Fraction, Length]
"""One length after each share of the samples."""


def make_trainings(records: Iterable[str | Path], out: Path) -> list[Path]:
    """Draw the records as PDF (``out``), SVG and PNG; returns the files. Raises RecordError, NothingToDraw."""
    import matplotlib

    matplotlib.use("Agg")
    found = examine(load_records(records))
    by_share = {TRAININGS[recipe]: own for recipe, own in found.trainings.items()} | {"1": found.summary}
    with matplotlib.rc_context(style.settings()):
        return save(draw(by_share), Path(out))


def draw(by_share: Mapping[str, Summary]) -> Figure:
    """One column a reduced length: drops of the models above, the slope of the drop below. `by_share`: "1/4" and so on.

    Filled marks with bars: 95 % intervals over three seeds or more. Hollow ones have fewer seeds, and no bar.
    """
    order = sorted(by_share, key=Fraction)
    series: dict[str, Series] = {}
    for share in order:
        for length in by_share[share].lengths:
            series.setdefault(length.label, {})[Fraction(share)] = length
    series = {label: own for label, own in series.items() if len(own) > 1}
    if not series:
        raise NothingToDraw(
            "the law over training: no reduced length was measured after two numbers of samples or more; "
            "run the experiment over-training"
        )
    figure, (above, below) = style.panels(2, len(series), share_y="row")
    for column, (label, own) in enumerate(series.items()):
        above[column].set_title(label, loc="left")
        _drops(above[column], own)
        _slopes(below[column], own)
        for panel in (above[column], below[column]):
            _axis(panel, order)
    style.finish([above, below], 2 * len(series), _SHARE, "")
    above[0].set_ylabel("Drop (points)")
    below[0].set_ylabel("Slope of the drop\n(points per tenfold size)")
    summary = by_share[order[0]]
    seeds = sorted({len(length.seeds) for own in series.values() for length in own.values()})
    counts = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s'[: seeds[0] > 1]}"
    style.heading(
        figure,
        "The law over training",
        f"Measured at {summary.scale} scale, {counts}; {summary.dataset} (n = {summary.n}). "
        f"Bars: 95 % intervals over seeds; hollow: fewer than {MINIMAL_SEEDS} seeds. "
        "The law says: slopes below 0. Exploratory",
    )
    return figure


def _drops(panel: Axes, series: Series) -> None:
    models = list(dict.fromkeys(model for length in series.values() for model in length.drops))
    ends = []
    for rank, model in enumerate(models):
        own = {share: length.drops[model] for share, length in series.items() if model in length.drops}
        shift = _DODGE ** (rank - (len(models) - 1) / 2)
        _marks(panel, {float(share) * shift: drop for share, drop in own.items()}, style.colour(model), model)
        ends.append((2.05 * shift, list(own.values())[-1].mean, model, style.colour(model)))
    if panel.get_subplotspec().is_last_col():
        style.label_ends(panel, ends)


def _slopes(panel: Axes, series: Series) -> None:
    own = {float(share): length.slope for share, length in series.items() if length.slope}
    _marks(panel, own, style.INK, "")


def _marks(panel: Axes, points: Mapping[float, Estimate], colour: str, model: str) -> None:
    """A line with a mark for each point; a bar where the interval is over seeds."""
    marker = style.marker(model) if model else "o"
    panel.plot(list(points), [one.mean for one in points.values()], color=colour, linewidth=1.0)
    for x, one in points.items():
        known = one.seeds >= MINIMAL_SEEDS
        panel.errorbar(
            x,
            one.mean,
            yerr=one.high - one.mean if known else None,
            fmt=marker,
            color=colour,
            markerfacecolor=colour if known else "white",
            elinewidth=0.9,
            capsize=1.8,
        )


def _axis(panel: Axes, shares: Iterable[str]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks([float(Fraction(share)) for share in shares], list(shares))
    panel.minorticks_off()
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)
