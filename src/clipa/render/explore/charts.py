"""The charts of docs/law.html as Vega-Lite specifications, one for each view and source: sources never share an axis.

A chart reads its points from the data set ``points`` and follows two parameters, ``reduction`` and ``models``, which
the page's script sets. Colours and markers are the figures' (clipa.render.figures.style).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipa.published import citation
from clipa.render.explore.points import DIGITS, Point, Source, scientific
from clipa.render.figures import style
from clipa.render.figures.drops import DODGE, THRESHOLDS
from clipa.stats import fixed
from clipa.study import TEXT_LENGTHS

if TYPE_CHECKING:
    import altair

HEIGHT = 300  # CSS pixels
CLOSE = 1.012  # factor by which marks of neighbouring models stand apart on dense axes
SHOWN = "datum.reduction === reduction && indexof(models, datum.model) >= 0"
SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
}
"""Vega's names of matplotlib's markers; any other becomes a wedge."""
CEILING_IN_SIGHT = 10
"""Times the largest drop: a bound further away than this is not drawn."""
ENDS = {"image": (228, 14.8), "text": (36, 3.55)}
"""Ends of the axis of lengths: long sequences left, because reading on means cutting more."""
TICKS = {
    "image": [197, 100, 50, 37, 17],
    "text": list(TEXT_LENGTHS),
}  # 99 (masks) and 101 (160 px) share a tick
DASHED = [7, 3, 1, 3]


@dataclass(frozen=True)
class View:
    """One question that the page answers. `y`: ``drop`` or ``accuracy``; `x`: the field that has a mark's place."""

    name: str
    title: str
    y: str
    x: str
    axis: str
    reads: str


VIEWS = {
    view.name: view
    for view in (
        View(
            "length",
            "Drop over sequence length",
            "drop",
            "x_length",
            "Tokens in pre-training",
            "One line a model. The law says that the line of a larger model is lower.",
        ),
        View(
            "size",
            "Drop over model size",
            "drop",
            "x_size",
            "Parameters of both towers",
            "One line a length. The law says that lines fall to the right.",
        ),
        View(
            "tokens",
            "Accuracy over tokens seen in pre-training",
            "accuracy",
            "x_tokens",
            "Image and text tokens seen in pre-training",
            "One line a model; its right end is the full length.",
        ),
        View(
            "compute",
            "Accuracy over compute",
            "accuracy",
            "x_gflops",
            "Compute of training (GFLOPs)",
            "One line a model; its right end is the full length. Compute is counted here, not printed in the paper: "
            "forward multiply-adds of both towers × samples, of pre-training and fine-tuning, in the paper’s GFLOPs.",
        ),
    )
}


def rows(source: Source) -> list[dict[str, Any]]:
    """The data set ``points``: what a mark's place, look and tooltip need, one row a point, ordered as `source.points`.

    ``x_…``: where it is drawn; measured marks of neighbouring models, or lengths, stand a little apart.
    """
    lengths = sorted({point.length for point in source.points if not point.full}, reverse=True)
    return [_row(number, point, source, lengths) for number, point in enumerate(source.points)]


def _row(number: int, point: Point, source: Source, lengths: list[int]) -> dict[str, Any]:
    aside = _aside(source.models, point.record["model"]) if source.measured else 0.0
    rank = _aside(lengths, point.length) if source.measured and not point.full else 0.0
    row: dict[str, Any] = {
        "number": number,
        "reduction": point.reduction,
        "model": point.record["model"],
        "length": point.length,
        "full": point.full,
        "hollow": point.hollow,
        "accuracy": point.accuracy.mean,
        "drop": point.drop.mean,
        "x_length": point.length * (1 if point.full else DODGE**-aside),
        "x_size": point.parameters * CLOSE**rank,
        "x_tokens": point.tokens * CLOSE**aside,
        "x_gflops": point.gflops * CLOSE**aside,
    }
    if point.measured and not point.hollow:
        row |= {
            "accuracy_low": max(0.0, point.accuracy.low),
            "accuracy_high": min(100.0, point.accuracy.high),
        }
        if not point.full:
            row |= {"drop_low": point.drop.low, "drop_high": point.drop.high}
    if point.full and source.chance is not None:
        row["whole"] = point.accuracy.mean - source.chance
    row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    return row | _said(point)


def _said(point: Point) -> dict[str, Any]:
    """What a mark says when it is pointed at; the page's script makes a sentence of it."""
    where, sample = citation.place(point.record), "one run"
    if point.measured:
        where, sample = f"{where}, {citation.quantity(point.record)}", citation.sample(point.record)
    found = {
        "trained": point.trained,
        "setting": point.setting,
        "where": where,
        "sample": sample,
        "id": point.id,
    }
    if point.measured:
        found |= {"n": point.record["dataset"]["n"], "seeds": point.seeds}
    for name in ("drop", "accuracy"):
        found[f"{name}_text"] = getattr(point, f"{name}_text")
        if interval := getattr(point, f"{name}_interval"):
            found[f"{name}_interval"] = interval
    if not point.full:
        found["drop_ids"] = list(point.drop_ids)
    return found


def _aside(names: list[Any], name: Any) -> float:
    """Steps from the middle of a list."""
    return names.index(name) - (len(names) - 1) / 2


def chart(source: Source, view: View) -> dict[str, Any]:
    """One chart as a Vega-Lite specification, without its data."""
    import altair

    ours = altair.Chart(altair.NamedData("points")).transform_filter(SHOWN)
    if view.name == "size":
        ours = ours.transform_filter("!datum.full")
    layers = [*_references(source, view), *_marks(ours, source, view), *_ceilings(source, view)]
    whole = altair.layer(*layers).properties(
        width="container",
        height=HEIGHT,
        description=_description(source, view),
        # Another choice has labels of other widths: without `resize` they would push the axis's title out.
        autosize=altair.AutoSizeParams(type="fit-x", contains="padding", resize=True),
    )
    whole = whole.add_params(
        altair.param(name="reduction", value=source.reductions[0]),
        altair.param(name="models", value=source.models),
    ).configure(**_look())
    found = whole.to_dict()
    del found["$schema"]  # an address elsewhere, which nothing needs: the page names the mode
    return found


def _description(source: Source, view: View) -> str:
    """Alternative text: what is drawn, from where, and where its numbers are as text."""
    y = "Drop in points" if view.y == "drop" else "Top-1 accuracy in percent"
    lines = "length" if view.name == "size" else "model"
    where = f"measured at scale {source.name}" if source.measured else "published in the paper"
    return f"Chart: {y} over {view.axis}, one line a {lines}, {where}. The table below has its numbers."


def _look() -> dict[str, Any]:
    font = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
    axis = {
        "labelFont": font,
        "titleFont": font,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "labelColor": style.INK,
        "titleColor": style.INK,
        "domainColor": style.PALE,
        "tickColor": style.PALE,
        "gridColor": "#ececec",
        "titlePadding": 8,
    }
    legend = {
        name: axis[name] for name in ("labelFont", "labelFontSize", "labelColor", "titleFont", "titleColor")
    }
    return {
        "background": "#ffffff",
        "axis": axis,
        "legend": legend
        | {"orient": "top", "titleFontSize": 12, "titleFontWeight": "normal", "symbolSize": 80},
        "text": {"font": font, "fontSize": 12},
        "view": {"stroke": None},
    }


# ---------------------------------------------------------------------------------------------------------- axes


def _x(source: Source, view: View) -> altair.X:
    """The horizontal axis, logarithmic. All but lengths have the same limits for every choice: choices compare."""
    import altair

    if view.name == "length":
        image = "substring(reduction, 0, 5) === 'image'"
        ends = [altair.ExprRef(f"{image} ? {ENDS['image'][i]} : {ENDS['text'][i]}") for i in (0, 1)]
        axis = altair.Axis(
            values=altair.ExprRef(f"{image} ? {TICKS['image']} : {TICKS['text']}"),
            format="d",
            labelExpr="datum.value === 100 ? '≈100' : datum.label",
            grid=False,
        )
        scale = altair.Scale(type="log", base=2, domain=ends, nice=False)
        return altair.X(f"{view.x}:Q", scale=scale, axis=axis, title=view.axis)
    field = {"size": "parameters", "tokens": "tokens", "compute": "gflops"}[view.name]
    values = [getattr(point, field) for point in source.points]
    low, high = min(values), max(values)
    room = (high / low) ** 0.07
    low, high = (float(f"{end:.{DIGITS}g}") for end in (low / room, high * room))
    if view.name == "size":
        after = " stand-in" if source.measured else ""
        names = {point.parameters: point.record["model"] + after for point in source.points}
        digits = 2 if source.measured else 3  # as in names of stand-ins, and in Table 4
        labels = {size: [name, f"{size / 1e6:.{digits}g} M"] for size, name in names.items()}
    else:
        ticks = [tick for tick in style.round_numbers(low, high) if low <= tick <= high]
        text = style.billions if view.name == "tokens" else scientific
        labels = {tick: text(tick) for tick in ticks}
    named = json.dumps({f"{value:.0f}": label for value, label in labels.items()}, ensure_ascii=False)
    axis = altair.Axis(values=sorted(labels), labelExpr=f"{named}[datum.value]", grid=view.name != "size")
    scale = altair.Scale(type="log", domain=[low, high], nice=False)
    return altair.X(f"{view.x}:Q", scale=scale, axis=axis, title=view.axis)


def _y(source: Source, view: View) -> altair.Y:
    """The vertical axis. Measured accuracies start at 0, published ones near their values (as in the figures)."""
    import altair

    if view.y == "drop":
        return altair.Y("drop:Q", scale=altair.Scale(zero=False), title="Drop (percentage points)")
    scale = altair.Scale(zero=False)
    if source.measured:
        scale = altair.Scale(domain=[0, _top(source)], nice=False)
    on = "zero-shot top-1" if not source.measured else "top-1"
    return altair.Y("accuracy:Q", scale=scale, title=f"Accuracy, {on} (%)")


def _top(source: Source) -> float:
    """Percent: the upper end of an axis of measured accuracies; above 100 where the ceiling must be seen."""
    highs = [point.accuracy.mean for point in source.points]
    highs += [min(100.0, point.accuracy.high) for point in source.points if not point.hollow]
    return 103 if max(highs) > 85 else math.ceil(1.07 * max(highs))


# ---------------------------------------------------------------------------------------------------------- marks


def _looks(source: Source, view: View) -> tuple[altair.Color, altair.Shape]:
    """Lines of models have the figures' colours and markers; lines of lengths are darker the shorter they are."""
    import altair

    if view.name == "size":
        lengths = _lengths_of(source)
        looks = style.length_looks(range(max(map(len, lengths.values()))))
        ranks = {length: rank for own in lengths.values() for rank, length in enumerate(own)}
        field, title, chosen = "length:N", "Tokens", altair.ExprRef(f"{json.dumps(lengths)}[reduction]")
        names: list[Any] = list(ranks)
        colours, shapes = zip(*(looks[rank] for rank in ranks.values()), strict=True)
        colours = [_hex(colour) for colour in colours]
    else:
        field, title, chosen, names = "model:N", "Model", source.models, source.models
        colours, shapes = [style.colour(name) for name in names], [style.marker(name) for name in names]
    look = {"sort": names, "title": title, "legend": altair.Legend(values=chosen)}
    return (
        altair.Color(field, scale=altair.Scale(domain=names, range=colours), **look),
        altair.Shape(
            field,
            scale=altair.Scale(domain=names, range=[SHAPES.get(marker, "wedge") for marker in shapes]),
            **look,
        ),
    )


def _lengths_of(source: Source) -> dict[str, list[int]]:
    """The shortened lengths of each reduction, from long to short."""
    return {
        reduction: sorted(
            {point.length for point in source.points if point.reduction == reduction and not point.full},
            reverse=True,
        )
        for reduction in source.reductions
    }


def _hex(colour: Any) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _marks(ours: altair.Chart, source: Source, view: View) -> list[altair.Chart]:
    """Lines, bars over seeds, and marks that answer to the pointer: hollow where there are too few seeds."""
    import altair

    x, y = _x(source, view), _y(source, view)
    colour, shape = _looks(source, view)
    found = [ours.mark_line(strokeWidth=1.6, aria=False).encode(x=x, y=y, color=colour)]
    if source.measured:
        bars = ours.transform_filter(f"isValid(datum.{view.y}_high)").mark_rule(strokeWidth=1.4, aria=False)
        found.append(bars.encode(x=x, y=altair.Y(f"{view.y}_low:Q"), y2=f"{view.y}_high:Q", color=colour))
    ways = {"!datum.hollow": {"filled": True}} | (
        {"datum.hollow": {"filled": False, "fill": "#ffffff", "strokeWidth": 2}} if source.measured else {}
    )
    for which, look in ways.items():
        marks = ours.transform_filter(which).mark_point(size=85, opacity=1, cursor="pointer", **look)
        found.append(
            marks.encode(
                x=x,
                y=y,
                color=colour,
                shape=shape,
                tooltip=_tooltip(source, view),
                description=f"{view.y}_said:N",
            )
        )
    return found


def _tooltip(source: Source, view: View) -> list[altair.Tooltip]:
    """What pointing at a mark shows."""
    import altair

    over = (
        [(f"{view.y}_interval", "95 % over seeds"), ("n", "n"), ("seeds", "seeds")] if source.measured else []
    )
    fields = [
        (f"{view.y}_text", view.y),
        *over,
        ("trained", "model"),
        ("setting", "setting"),
        ("where", "where"),
        *([] if source.measured else [("sample", "runs")]),
        ("drop_id" if view.y == "drop" else "id", "id"),
        *([("drop_from", "drop from")] if source.measured and view.y == "drop" else []),
    ]
    return [altair.Tooltip(f"{name}:N", title=title) for name, title in fields]


# ----------------------------------------------------------------------------------------- chance, ceilings, bounds


def _references(source: Source, view: View) -> list[altair.Chart]:
    """Lines across a chart: no drop, and the drops that §4 speaks of; chance and the ceiling of measured accuracies."""
    if view.y == "drop":
        dots = [_across(value, "", strokeDash=[1, 3], color=style.FAINT) for value in THRESHOLDS]
        return (
            [_across(0, "", color=style.INK, strokeWidth=1), *dots]
            if view.name == "length"
            else [_across(0, "", color=style.INK, strokeWidth=1)]
        )
    found = []
    if source.chance is not None:
        found.append(
            _across(source.chance, f"chance {fixed(source.chance)} %", strokeDash=DASHED, color=style.FAINT)
        )
    if source.measured and _top(source) > 100:
        found.append(_across(100, "ceiling 100 %", strokeDash=DASHED, color=style.FAINT))
    return found


def _far(source: Source) -> bool:
    """Whether the most that a drop can be lies so far above the drops that showing it would hide them."""
    drops = [
        point.drop.mean if point.hollow else point.drop.high for point in source.points if not point.full
    ]
    whole = [point.accuracy.mean for point in source.points if point.full]
    return bool(drops) and min(whole) - (source.chance or 0) > CEILING_IN_SIGHT * max(0.0, *drops)


def _across(value: float, text: str, **look: Any) -> altair.LayerChart:
    """A horizontal line with its name at the right end."""
    import altair

    base = altair.Chart(altair.InlineData(values=[{}]))
    y = altair.YDatum(round(value, 4))
    line = base.mark_rule(aria=False, **look).encode(y=y)
    if not text:
        return line
    name = base.mark_text(align="right", baseline="bottom", dy=-2, color=style.FAINT, text=text)
    return altair.layer(line, name.encode(y=y, x=altair.value("width")))


def _ceilings(source: Source, view: View) -> list[altair.Chart]:
    """What a model's full-length accuracy has above chance: the most that its drop can be, but for luck."""
    import altair

    if view.y != "drop" or source.chance is None or _far(source):
        return []
    full = altair.Chart(altair.NamedData("points")).transform_filter(f"{SHOWN} && isValid(datum.whole)")
    y = altair.Y("whole:Q")
    if view.name == "size":
        mark = full.mark_tick(orient="horizontal", thickness=2, size=34, color=style.FAINT, aria=False)
        return [mark.encode(x=_x(source, view), y=y)]
    colour, _ = _looks(source, view)
    return [full.mark_rule(strokeDash=DASHED, strokeWidth=1.2, aria=False).encode(y=y, color=colour)]
