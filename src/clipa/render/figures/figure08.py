"""Figure 8: accuracy against the compute of training, and how the paper's printed costs compare with one unit (§5).

Compute is `clipa.cost`'s: forward multiply-adds of both towers times samples, of pre-training and fine-tuning.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from clipa import cost
from clipa.render.figures import FigureError, printed_costs, style
from clipa.render.figures.points import (
    chance,
    has_bar,
    image_points,
    in_order,
    over_seeds,
    pretraining,
    provenance_line,
)
from clipa.stats import fixed

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNIT = 1e11  # GFLOPs: Table 8's
HEIGHTS = ((3.1, 2.9), (2.9, 2.6))  # inches, on a page and in a column: accuracy above, printed costs below
BY = ["source", "scale", "recipe", "model", "image_size", "patches", "image_tokens", "text_tokens", "gflops"]
WHOLE = ["image_size", "patches", "image_tokens", "text_tokens"]
RINGED = (("L/16", 17), ("B/16", 197))  # models and image tokens that §5 compares
# CLIPA's runs on LAION-400M, starred in the paper: Table 1, and the H/14 that Table 8 adds.
STARRED = {1: ("B/16", "L/16"), 8: ("H/14",)}


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a mark: accuracy in percent against total GFLOPs (multiply-adds); then printed against computed costs.

    `recipe`: "§4" for Table 11's runs resized or at full length, "CLIPA" for the starred ones, "OpenCLIP".
    """
    import pandas

    points = image_points(frame)
    points = points[points.image_reduction.isin(["none", "resize"])].assign(recipe="§4")
    if points[points.image_reduction == "resize"].empty:
        raise FigureError("no fine-tuned run of a resized image in the records")
    parts = [points, *_others(frame)]
    points = pandas.concat([part for part in parts if len(part)])
    points = points.assign(gflops=[training_gflops(row, frame) for row in points.itertuples()])
    table = over_seeds(points, BY, "value", "standard_error").astype(dict.fromkeys(WHOLE, "Int64"))
    recipes = [in_order(own, "model", "gflops") for _, own in table.groupby("recipe", sort=False)]
    accuracies = pandas.concat(recipes).assign(panel="accuracy")
    return pandas.concat([accuracies, printed_costs.data(frame).assign(panel="printed cost")])


def _others(frame: pandas.DataFrame) -> list[pandas.DataFrame]:
    """The published points beyond Table 11's: CLIPA's and OpenCLIP's, both on LAION-400M."""
    accuracies = frame[(frame.benchmark == "imagenet1k") & (frame.metric == "acc1")]
    found = []
    for number, models in STARRED.items():
        own = accuracies[
            (accuracies.table == number) & accuracies.model.isin(models) & accuracies.run.notna()
        ]
        if number == 8:
            own = own[own.case.str.contains("laion400m")]
        found.append(own.assign(recipe="CLIPA"))
    theirs = accuracies[(accuracies.table == 1) & accuracies.model.isin(["OpenCLIP-B/16", "OpenCLIP-L/14"])]
    patches = [cost.full_patches(model) for model in theirs.model]
    found.append(
        theirs.assign(
            recipe="OpenCLIP",
            patches=patches,
            image_tokens=[count + 1 for count in patches],
            text_tokens=cost.OPENCLIP_TEXT_TOKENS,
        )
    )
    return found


def training_gflops(row: Any, frame: pandas.DataFrame) -> float:
    """Total forward multiply-adds of a run's training, in units of 1e9."""
    if row.source == "measured":
        return _measured_gflops(row, frame)
    if row.recipe == "OpenCLIP":
        total = cost.training_total(row.model, row.patches, row.text_tokens, cost.OPENCLIP_SAMPLES, [])
    else:
        finetune = [] if row.image_reduction == "none" else [(None, cost.FINETUNE_SAMPLES)]
        total = cost.training_total(row.model, row.patches, row.text_tokens, cost.PRETRAIN_SAMPLES, finetune)
    return total / 1e9


def _measured_gflops(row: Any, frame: pandas.DataFrame) -> float:
    """Of what ran: lengths and samples from the records, towers from the scale's model configuration."""
    total = 0.0
    for stage in [pretraining(row, frame)] if row.stage == "pretrain" else [pretraining(row, frame), row]:
        towers = _towers(row.scale, row.model)
        if (towers.vision.width, towers.vision.layers) != (stage.actual_width, stage.actual_layers):
            raise FigureError(
                f"{stage.id}: ran with width {stage.actual_width:g} and {stage.actual_layers:g} layers, "
                f"config/scales/{row.scale}.yaml has {towers.vision.width} and {towers.vision.layers}: compute unknown"
            )
        total += stage.actual_samples * towers.macs(stage.actual_patches, stage.actual_text_tokens)
    return total / 1e9


@functools.cache
def _towers(scale: str, model: str) -> cost.Towers:
    from clipa.config import CONFIG_DIRECTORY, MODEL_CONFIG_DIRECTORY, load_scale
    from clipa.records import ROOT

    name = load_scale(scale, ROOT / CONFIG_DIRECTORY).models[model].config
    return cost.towers_of(json.loads((MODEL_CONFIG_DIRECTORY / f"{name}.json").read_text(encoding="utf-8")))


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """Published: accuracies above, printed costs below. Measured: accuracies, the published ones beside them on
    axes of their own, since neither accuracies nor compute of different scales compare."""
    table = data(frame)
    said = ["Compute: forward multiply-adds of both towers × samples of both stages (the paper's GFLOPs)"]
    comparisons = (table.source == "published").all()
    if comparisons:
        figure, *axes = style.stacked(*HEIGHTS[style.in_column()])
        _accuracies(axes[0], table[table.panel == "accuracy"], comparisons=True)
        printed_costs.draw(axes[1], table[table.panel == "printed cost"])
        said.append(
            "Published numbers; at marks: image tokens (text: 32). Stars: CLIPA's recipe, with image and text tokens "
            f"as the paper counts them. OpenCLIP: 12.8B samples, 77 text tokens. Below: {printed_costs.KEY}"
        )
    else:
        both = [table] if published is None else [table, data(published)]
        columns = 1 if style.in_column() else len(both)
        figure, rows = style.panels(len(both) // columns, columns, share_x=False, share_y=False, height=2.4)
        axes, least = [panel for row in rows for panel in row], chance(image_points(frame))
        for panel, part in zip(axes, both, strict=True):
            _accuracies(panel, part[part.recipe == "§4"], comparisons=False, least=least)
            source = part.source.iloc[0]
            panel.set_title(f"{source.capitalize()} ({part.scale.iloc[0]})", loc="left")
        said.insert(0, provenance_line(image_points(frame)))
        if has_bar(table).any():
            said[-1] += ". Bars end at 0 %"
    for panel in axes[: 1 if comparisons else None]:
        panel.set_ylabel(style.TOP1[0])
    style.heading(figure, "Accuracy against compute", "\n".join(said))
    return figure


def _accuracies(panel: Axes, table: pandas.DataFrame, comparisons: bool, least: float | None = None) -> None:
    """Lines of the models over token lengths; starred and OpenCLIP points; names."""
    unit = UNIT if (table.source == "published").all() else 1.0
    table = table.assign(x=table.gflops / unit)
    low, high = table.x.min(), table.x.max()
    panel.set_xscale("log")
    panel.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** (0.09 if comparisons else 0.2))
    ticks = style.round_numbers(low, high)
    panel.set_xticks(ticks, [style.thousands(tick) for tick in ticks])
    panel.minorticks_off()
    style.accuracy_axis(panel, [table], least)
    panel.set_xlabel(f"Compute of training, {'1e11 ' if unit > 1 else ''}GFLOPs")
    _lines(panel, table[table.recipe == "§4"], numbers=comparisons)
    for row in table[table.recipe != "§4"].itertuples():
        _single(panel, row)
    if comparisons:
        _comparisons(panel, table)
    style.clean(panel)


def _lines(panel: Axes, table: pandas.DataFrame, numbers: bool) -> None:
    ends = []
    for model, own in table.groupby("model", sort=False):
        own = own.sort_values("x")
        colour = style.colour(model)
        style.line(panel, own.x, own, "value", colour, style.marker(model), within=(0, 100))
        for row in own.itertuples() if numbers else ():
            # Right below the mark; outside of a ring, and of the first ring at the left, clear of the line.
            place = {False: (2, -4), True: (5, -7)}[(row.model, row.image_tokens) in RINGED]
            left = (row.model, row.image_tokens) == RINGED[0]
            panel.annotate(
                f"{row.image_tokens}",
                (row.x, row.value),
                xytext=(-7, -4) if left else place,
                textcoords="offset points",
                ha="right" if left else "left",
                va="top",
                fontsize=style.SMALL,
                color=colour,
            )
        ends.append((own.x.iloc[-1], own.value.iloc[-1], model, colour))
    style.label_ends(panel, ends, offset=8)


def _single(panel: Axes, row: Any) -> None:
    """A starred point, or one of OpenCLIP's, with its name."""
    starred = row.recipe == "CLIPA"
    colour = style.colour(row.model) if starred else style.FAINT
    look = (
        {"marker": "*", "markersize": 8, "markerfacecolor": "white", "zorder": 1.5}
        if starred
        else {"marker": "X"}
    )
    panel.plot(row.x, row.value, color=colour, linestyle="none", **look)
    # The paper counts the class token in Table 1 (I37 of 36 patches), and not for H/14 (I36 in Tables 2 and 8).
    tokens = row.patches if row.model == "H/14" else row.image_tokens
    name = f"{row.model} (I{tokens}, T{row.text_tokens})" if starred else row.model
    panel.annotate(
        name,
        (row.x, row.value),
        xytext=(-5, 3) if starred else (0, -7),
        textcoords="offset points",
        ha="right" if starred else "center",
        va="bottom" if starred else "top",
        fontsize=style.SMALL,
        color=colour,
    )


def _comparisons(panel: Axes, table: pandas.DataFrame) -> None:
    """The two comparisons of §5, with the ratio that is computed here and the one that the paper states."""

    def point(recipe: str, model: str, tokens: int) -> Any:
        own = table[(table.recipe == recipe) & (table.model == model) & (table.image_tokens == tokens)]
        return own.iloc[0]

    large, base = (point("§4", *of) for of in RINGED)
    huge, theirs = point("CLIPA", "H/14", 37), point("OpenCLIP", "OpenCLIP-L/14", 257)
    ring = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgecolor": style.FAINT}
    for compared in (large, base):
        panel.plot(compared.x, compared.value, markeredgewidth=0.8, **ring)
    arrow = {"arrowstyle": "<->", "color": style.FAINT, "linewidth": 0.7, "shrinkA": 5, "shrinkB": 5}
    panel.annotate("", (huge.x, huge.value), (theirs.x, theirs.value), arrowprops=arrow)
    remark = {"fontsize": style.SMALL, "color": style.INK, "linespacing": 1.25}
    panel.annotate(
        f"Ringed: L/16 at 17 tokens is {fixed(large.value - base.value)} points better\n"
        f"than B/16 at 197, with {fixed(base.x / large.x)}× less compute\n(§5: 2.5 and 1.7×)",
        (0.99, 0.03),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        **remark,
    )
    panel.annotate(
        f"{fixed(theirs.x / huge.x)}× less{style.fitting((' compute ', chr(10)))}(§5: ~25×)",
        ((theirs.x * huge.x) ** 0.5, huge.value + 0.4),
        ha="center",
        va="bottom",
        **remark,
    )
