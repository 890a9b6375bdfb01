"""Figures 9 and 10 (Appendix B.1): drop against model size, and accuracy against tokens seen in pre-training.

The paper does not say which tokens Figure 10 counts. Here: image tokens (class token included) and text tokens (padding
included) of one sample, times the samples seen in pre-training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.cost import PRETRAIN_SAMPLES
from clipa.render.figures import drops, style
from clipa.render.figures.points import (
    chance,
    has_bar,
    image_points,
    in_order,
    models_of,
    over_seeds,
    pretraining,
    provenance_line,
    reductions_of,
)
from clipa.study import IMAGE_REDUCTIONS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple["pandas.DataFrame", str, str]
"""All points of one source, the reduction whose points the panel shows, and the panel's title."""


def _chosen(table: pandas.DataFrame, beside: pandas.DataFrame | None) -> tuple[int, list[Panel]]:
    """Columns and panels: one a reduction, or with published points `beside`, two."""
    parts = [(table, "")]
    if beside is not None:
        measured = style.fitting((f", measured ({table.scale.iloc[0]})", "\nmeasured"))
        parts = [(table, measured), (beside, style.fitting((", published (paper)", "\npublished")))]
    reductions = reductions_of(table)
    panels = [
        (part, name, IMAGE_REDUCTIONS[name].label + source) for name in reductions for part, source in parts
    ]
    return min(2, len(panels)), panels


class Sizes:
    """Figure 9: drop against model size, one line for each number of image tokens."""

    def data(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """One row a point: drop in points of a model (parameters: both towers) at an image token length."""
        points = image_points(frame)
        # Towers of one model differ a little between lengths (position table): the largest names the model.
        parameters = points.groupby(["source", "model"]).parameters.transform("max")
        reduced = points.assign(parameters=parameters)[points.image_reduction != "none"]
        by = ["source", "scale", "image_reduction", *drops.FULL_IMAGE, "model", "parameters"]
        table = over_seeds(reduced, by, "drop", "drop_standard_error")
        return in_order(table, "image_reduction", "-image_tokens", "parameters")

    def draw(self, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
        """One panel per reduction; with `published`, a second one beside each, on axes of its own: its models have
        other sizes, and its drops would be flat lines beside the bars of a small scale."""
        table = self.data(frame)
        beside = None if published is None else self.data(published)
        columns, chosen = _chosen(table, beside)
        share_y = True if published is None else "col"
        figure, axes = style.panels(-(-len(chosen) // columns), columns, share_x="col", share_y=share_y)
        flat = [panel for row in axes for panel in row][: len(chosen)]
        lengths = {_bucket(tokens) for part, *_ in chosen for tokens in part.image_tokens}
        looks = style.length_looks(sorted(lengths, reverse=True))
        shown = [part[part.image_reduction == name] for part, name, _ in chosen]
        for panel, own, (*_, title) in zip(flat, shown, chosen, strict=True):
            panel.set_title(title, loc="left")
            _lines_of_lengths(panel, own, looks)
        for panel, own, (part, *_) in zip(flat, shown, chosen, strict=True):
            panel.set_ylim(*drops.limits([part]))
            style.round_steps(panel)
            _name_lengths(panel, own, looks)
        style.finish(axes, len(chosen), style.BOTH_TOWERS, drops.DROP)
        said = provenance_line(image_points(frame))
        if published is not None:
            said += "\nPanels of the two sources have axes of their own."
        style.heading(figure, "Model size against drop, for each number of image tokens", said)
        return figure


def _bucket(tokens: int) -> int:
    """99 (masks) and 101 (160 px) are one line: half of the tokens."""
    return 99 if tokens == 101 else int(tokens)


def _lines_of_lengths(panel: Axes, table: pandas.DataFrame, looks: dict[int, tuple]) -> None:
    if table.empty:  # a reduction that the paper has not
        panel.set_axis_off()
        return
    models = table.drop_duplicates("model").sort_values("parameters").set_index("model").parameters
    span = style.model_axis(panel, models, models)
    panel.set_xlim(models.min() / span**1.5, models.max() * span ** (6 if style.in_column() else 4))
    aside = _asides(table)
    for tokens, shift in aside.items():
        own = table[table.image_tokens == tokens].sort_values("parameters")
        style.line(panel, own.parameters * shift, own, "drop", *looks[_bucket(tokens)])
    panel.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
    style.clean(panel)


def _asides(table: pandas.DataFrame) -> dict[int, float]:
    """Factors of the model's place, from the longest length to the shortest: marks and bars of several lengths stand
    beside one another."""
    tenth = (table.parameters.max() / table.parameters.min()) ** 0.1
    lengths = sorted(map(int, table.image_tokens.unique()), reverse=True)
    return {tokens: tenth ** (0.2 * (rank - (len(lengths) - 1) / 2)) for rank, tokens in enumerate(lengths)}


def _name_lengths(panel: Axes, table: pandas.DataFrame, looks: dict[int, tuple]) -> None:
    """Token numbers at the right ends; called when the limits stand."""
    if table.empty:
        return
    ends = []
    for tokens, shift in reversed(_asides(table).items()):
        unit = "" if ends else style.fitting((" tokens", " tok."))  # said once, at the shortest length
        last = table[table.image_tokens == tokens].sort_values("parameters").iloc[-1]
        ends.append((last.parameters * shift, last["drop"], f"{tokens}{unit}", looks[_bucket(tokens)][0]))
    style.label_ends(panel, ends, offset=8)


class Tokens:
    """Figure 10: accuracy against the number of tokens seen in pre-training, one line a model."""

    def data(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """One row a point: accuracy in percent against pre-training tokens, per model and reduction.

        The full-length baseline is a point of every reduction.
        """
        import pandas

        points = image_points(frame)
        points = points.assign(pretraining_tokens=tokens_seen(points, frame))
        by = ["source", "scale", "image_reduction", "model", *drops.FULL_IMAGE, "pretraining_tokens"]
        table = over_seeds(points, by, "value", "standard_error")
        full, reduced = table[table.image_reduction == "none"], table[table.image_reduction != "none"]
        baselines = [
            full[full.model.isin(own.model)].assign(image_reduction=name)
            for name, own in reduced.groupby("image_reduction", sort=False)
        ]
        table = pandas.concat([reduced, *baselines], ignore_index=True)
        return in_order(table, "image_reduction", "model", "pretraining_tokens")

    def draw(self, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
        """One panel per reduction. With `published`, a second panel beside each, on an accuracy axis of its own:
        accuracies of different scales are not compared."""
        table = self.data(frame)
        beside = None if published is None else self.data(published)
        columns, chosen = _chosen(table, beside)
        share_y = True if published is None else "col"
        figure, axes = style.panels(-(-len(chosen) // columns), columns, share_x="col", share_y=share_y)
        flat = [panel for row in axes for panel in row][: len(chosen)]
        for panel, (part, name, title) in zip(flat, chosen, strict=True):
            panel.set_title(title, loc="left")
            own = part[part.image_reduction == name]
            if own.empty:  # a reduction that the paper has not
                panel.set_axis_off()
            panel.set_xscale("log")
            for model in models_of(own):
                line = own[own.model == model]
                look = style.colour(model), style.marker(model)
                x = line.pretraining_tokens * _dodge(part, model)
                style.line(panel, x, line, "value", *look, within=(0, 100))
            style.clean(panel)
        least = chance(image_points(frame))
        for panel, (part, name, _) in zip(flat, chosen, strict=True):
            _limit(panel, part)
            style.accuracy_axis(panel, [part], least)
            _name_models(panel, part[part.image_reduction == name])
        seen = ("Image and text tokens seen in pre-training", "Tokens seen in pre-training")
        style.finish(axes, len(chosen), seen, style.TOP1)
        note = "Right end of each line: full length."
        if has_bar(table).any():
            note += " Bars end at 0 %."
        if published is not None:
            note += " Panels have accuracy axes of their own: the scales do not compare."
        said = provenance_line(image_points(frame))
        style.heading(figure, "Pre-training tokens against accuracy", f"{said}\n{note}")
        return figure


def tokens_seen(points: pandas.DataFrame, frame: pandas.DataFrame) -> list[float]:
    """Pre-training tokens of each point. Measured ones count what ran: the run's pre-train stage tells."""
    tokens = []
    for row in points.itertuples():
        if row.source == "published":
            tokens.append((row.image_tokens + row.text_tokens) * PRETRAIN_SAMPLES)
        else:
            ran = pretraining(row, frame)
            tokens.append((ran.actual_patches + 1 + ran.actual_text_tokens) * ran.actual_samples)
    return tokens


def _limit(panel: Axes, part: pandas.DataFrame) -> None:
    """Limits from everything of one source, so that its panels compare; ticks 1, 2, 5 of each decade."""
    low, high = part.pretraining_tokens.min(), part.pretraining_tokens.max()
    panel.set_xlim(low / 1.15, high * (high / low) ** (0.36 if style.in_column() else 0.2))
    ticks = style.round_numbers(low, high)
    panel.set_xticks(ticks, [style.billions(tick) for tick in ticks])
    panel.minorticks_off()


def _dodge(part: pandas.DataFrame, model: str) -> float:
    """A factor of the tokens by which a measured model's marks stand apart: bars of several would hide one another."""
    models = models_of(part)
    measured = (part.source == "measured").all()
    return 1.012 ** (models.index(model) - (len(models) - 1) / 2) if measured else 1.0


def _name_models(panel: Axes, table: pandas.DataFrame) -> None:
    ends = []
    for model, own in table.groupby("model"):
        last = own.sort_values("pretraining_tokens").iloc[-1]
        ends.append((last.pretraining_tokens, last["value"], model, style.colour(model)))
    style.label_ends(panel, ends, offset=6)


SIZES, TOKENS = Sizes(), Tokens()
