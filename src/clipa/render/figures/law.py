"""The law of one scale: accuracy at full length and of short runs, the drop between them and its slope, over size.

One column a length: a primary hypothesis where it was measured (docs/law.md), else the image lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.law.layout import counted
from clipa.law.power import published_slope
from clipa.law.statistic import FULL, Length, Summary
from clipa.law.verdicts import PRIMARIES, examine
from clipa.records import load_records
from clipa.render.figures import NothingToDraw, save, style
from clipa.render.figures.points import of_estimates
from clipa.stats import MINIMAL_SEEDS, Estimate, fixed
from clipa.study import FULL_TEXT_TOKENS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 3  # columns
NEAR_CEILING = 85  # percent
_FULL_NAME, _SHORT_NAME = "full length", "short, fine-tuned"


def make_law(records: Iterable[str | Path], out: Path) -> list[Path]:
    """Draw the study's records as PDF (``out``), SVG and PNG; returns the files. Raises RecordError, NothingToDraw."""
    return make_from(examine(load_records(records)).summary, out)


def make_from(summary: Summary, out: Path, own: Summary | None = None, title: str = "") -> list[Path]:
    """Likewise, from what was found. ``own``: one seed of it, whose drops are drawn as crosses."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(style.settings()):
        return save(draw(summary, own, title), Path(out))


def draw(summary: Summary, own: Summary | None = None, title: str = "") -> Figure:
    """Accuracies above, drops below with their line, and the paper's slope through the same middle, dashed.

    Bars: 95 % intervals over seeds, hollow marks without. NothingToDraw if no short run has its baseline.
    """
    found = [*summary.lengths, *summary.text_lengths]
    primary = {one.label: one for one in PRIMARIES}
    lengths = ([one for one in found if one.label in primary] or found)[:_MOST]
    if not lengths:
        raise NothingToDraw(
            "the law: no short run beside its full length among the records; run the experiment law"
        )
    figure, (above, below) = style.panels(2, len(lengths), share_y="row")
    for column, length in enumerate(lengths):
        _accuracies(above[column], summary, length)
        above[column].set_title(length.label)
        _drops(below[column], summary, length, own.length(length.label) if own else None)
        if length.label in primary and length.slope:
            _paper(below[column], summary, length, published_slope(primary[length.label]))
    style.finish([above, below], 2 * len(lengths), style.BOTH_TOWERS, "")
    above[0].set_ylabel(style.fitting(style.TOP1))
    below[0].set_ylabel("Drop (points)")
    style.heading(
        figure,
        title or "The law: accuracy, and the drop of short runs, over size",
        _subtitle(summary, lengths),
    )
    return figure


def _subtitle(summary: Summary, lengths: Sequence[Length]) -> str:
    seeds = sorted({len(length.seeds) for length in lengths})
    counts = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    return (
        f"Measured at {summary.scale} scale, {counts}; {summary.dataset} (n = {summary.n}). "
        f"Bars: 95 % intervals over seeds; hollow: fewer than {MINIMAL_SEEDS} seeds. "
        "The law says: the drop falls with size"
    )


def _line(
    panel: Axes, summary: Summary, values: dict[str, Estimate], colour: str, marker: str
) -> tuple[float, float]:
    """One line over the models; its right end."""
    table = of_estimates((summary.parameters[model] for model in values), values.values())
    style.line(panel, table.x, table, "mean", colour, marker)
    return tuple(table[["x", "mean"]].iloc[-1])


def _baseline_label(length: Length) -> str:
    if not length.label.startswith("text "):
        return FULL
    return f"{length.label.rpartition(' ')[0]} {FULL_TEXT_TOKENS}"


def _accuracies(panel: Axes, summary: Summary, length: Length) -> None:
    ends = []
    for label, name, look in (
        (_baseline_label(length), _FULL_NAME, (style.INK, "o")),
        (length.label, _SHORT_NAME, (style.OTHER_COLOURS[0], "s")),
    ):
        own = {
            model: summary.accuracies[model, label]
            for model in summary.models
            if (model, label) in summary.accuracies
        }
        ends.append((*_line(panel, summary, own, *look), name, look[0]))
        if label == length.label and max(one.mean for one in own.values()) > NEAR_CEILING:
            style.reference(panel, 100, "ceiling", below=True)
    style.clean(panel)
    style.model_axis(panel, summary.parameters, summary.parameters)
    if panel.get_subplotspec().is_last_col():
        style.label_ends(panel, ends)


def _drops(panel: Axes, summary: Summary, length: Length, own: Length | None) -> None:
    drops = {model: length.drops[model] for model in summary.models if model in length.drops}
    _line(panel, summary, drops, style.INK, "o")
    if own is not None:
        places = [summary.parameters[model] for model in own.drops]
        means = [one.mean for one in own.drops.values()]
        panel.plot(places, means, linestyle="none", marker="x", color=style.OTHER_COLOURS[0], clip_on=False)
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)
    style.model_axis(panel, summary.parameters, summary.parameters)
    if length.slope:
        said = f"slope {fixed(length.slope.mean, 2, signed=True)}"
        if length.slope.seeds >= MINIMAL_SEEDS:
            said += (
                f" [{fixed(length.slope.low, 2, signed=True)}, {fixed(length.slope.high, 2, signed=True)}]"
            )
        panel.set_title(f"{said} points per tenfold size", fontsize=style.SMALL, fontweight="normal")


def _paper(panel: Axes, summary: Summary, length: Length, slope: float) -> None:
    """The paper's slope, through the mean of the drops."""
    import numpy

    sizes = numpy.log10([summary.parameters[model] for model in length.models])
    middle = numpy.mean([length.drops[model].mean for model in length.models])
    panel.plot(
        10**sizes,
        middle + slope * (sizes - sizes.mean()),
        color=style.PALE,
        linestyle=(0, (3, 2)),
        zorder=0,
    )
    panel.annotate(
        "the paper's slope",
        (10 ** sizes[0], middle + slope * (sizes[0] - sizes.mean())),
        xytext=(4, 2),
        textcoords="offset points",
        fontsize=style.SMALL,
        color=style.FAINT,
    )
