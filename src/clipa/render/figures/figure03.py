"""Figure 3, text reductions: the rules of `clipa.reductions.texts` applied to a caption.

The paper shows a token length of 4 (§3.3); here also 8, the length at which it compares the four. Nothing is measured:
`frame` and `published` are not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipa.reductions import texts
from clipa.render.figures import style
from clipa.study import TEXT_REDUCTIONS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A caption of our own: the word pieces of BERT's uncased vocabulary, and a Universal POS tag for each word. Both are
# written down here, because the reader environment has neither the vocabulary nor a tagger.
CAPTION: tuple[tuple[tuple[str, ...], str], ...] = (
    (("my",), "PRON"),
    (("fluffy",), "ADJ"),
    (("grey",), "ADJ"),
    (("kitten",), "NOUN"),
    (("asleep",), "ADJ"),
    (("on",), "ADP"),
    (("the",), "DET"),
    (("old",), "ADJ"),
    (("wooden",), "ADJ"),
    (("windows", "##ill"), "NOUN"),
    (("in",), "ADP"),
    (("lisbon",), "PROPN"),
)
PIECES = tuple(piece for pieces, _ in CAPTION for piece in pieces)
PARTS = texts.parts_of([len(pieces) for pieces, _ in CAPTION], [tag for _, tag in CAPTION], len(PIECES))
LENGTHS = (4, 8)  # text tokens, [CLS] included
SEED = 1  # of the noise; one draw, the same for both lengths
OTHER_FILL = "#f0b98d"  # of words that are neither nouns nor adjectives

LABELS = 0.07  # inches from the left
CHIPS = 1.06  # inches from the left: where [CLS] begins
HEIGHT, PITCH = 0.165, 0.195  # inches: of a chip, and from line to line
BETWEEN = 0.03  # inches, further, between rows
GROUP = 0.3  # inches above the rows of one token length, for its heading
PARTS_NAMES = 0.12  # inches, further, for the parts of speech under the caption
COLUMN_BREAK = 7  # pieces in the first of two lines, in a column


def kept_pieces(reduction: str, text_tokens: int) -> list[int]:
    """Indices in PIECES of what the rule keeps, ascending: text_tokens − 1 of them."""
    import numpy

    noise = numpy.random.default_rng(SEED).random(len(PIECES))
    counts, tags = [len(pieces) for pieces, _ in CAPTION], [tag for _, tag in CAPTION]
    return texts.keep_of_caption(reduction, counts, tags, text_tokens, noise)


def data(frame: pandas.DataFrame | None = None) -> pandas.DataFrame:
    """One row a word piece, per reduction and token length: its place, its word's tag, and whether it is kept."""
    import pandas

    tags = [tag for pieces, tag in CAPTION for _ in pieces]
    return pandas.DataFrame(
        [
            {
                "text_reduction": reduction,
                "text_tokens": text_tokens,
                "place": place,
                "piece": piece,
                "tag": tag,
                "kept": place in kept,
            }
            for text_tokens in LENGTHS
            for reduction in TEXT_REDUCTIONS
            for kept in [kept_pieces(reduction, text_tokens)]
            for place, (piece, tag) in enumerate(zip(PIECES, tags, strict=True))
        ]
    )


def draw(frame: pandas.DataFrame | None = None, published: Any = None) -> Figure:
    """The whole caption, then what each reduction keeps of it at 4 and at 8 tokens, word under word."""
    spans = _spans()
    lines = 1 + spans[-1][0]
    step = lines * PITCH + BETWEEN
    rows = len(LENGTHS) * len(TEXT_REDUCTIONS)
    body = step + lines * PARTS_NAMES + len(LENGTHS) * GROUP + rows * step + 0.06
    figure = style.page(body)
    top = style.heading(
        figure,
        "Four ways to fewer text tokens",
        "The index rules of clipa.reductions on a caption of 12 words, 13 word pieces (##: the rest of a word). "
        "Kept pieces are filled, dropped ones struck out; one draw of the noise.",
    )
    figure.set_layout_engine("none")  # everything else is placed by hand, in inches
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, style.width()), ylim=(top + body, 0))
    axes.set_axis_off()
    y = top + 0.06
    _draw_row(axes, y, "Caption", set(range(len(PIECES))), spans, "caption", PITCH + PARTS_NAMES)
    _name_parts(axes, y + HEIGHT + 0.01, spans)
    y += step + lines * PARTS_NAMES
    for text_tokens in LENGTHS:
        y += GROUP
        title = f"{text_tokens} text tokens: [CLS] and {text_tokens - 1} word pieces"
        axes.text(LABELS, y - 0.06, title, fontsize=style.SMALL, fontweight="bold", va="bottom")
        for reduction, entry in TEXT_REDUCTIONS.items():
            kept = set(kept_pieces(reduction, text_tokens))
            _draw_row(axes, y, entry.label, kept, spans, f"{reduction}-{text_tokens}")
            y += step
    return figure


Span = tuple[int, float, float]
"""A chip's line in its row (0, or 1 in a column), its left and its right end in inches."""


def _spans() -> list[Span]:
    """Where [CLS] and each piece stand; the pieces of one word touch."""
    texts_ = ["[CLS]", *PIECES]
    if not style.in_column():
        return [(0, *ends) for ends in _line(texts_)]
    first = 1 + COLUMN_BREAK
    return [(0, *ends) for ends in _line(texts_[:first])] + [(1, *ends) for ends in _line(texts_[first:])]


def _line(pieces: list[str]) -> list[tuple[float, float]]:
    """Left and right ends of pieces that fill a line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans")
    widths = [
        TextPath((0, 0), text, size=style.small(), prop=font).get_extents().width / 72 for text in pieces
    ]
    gaps = [0.0 if text.startswith("##") else 0.03 for text in pieces[1:]]
    padding = (style.width() - 0.06 - CHIPS - sum(widths) - sum(gaps)) / len(pieces)
    spans, left = [], CHIPS
    for width, gap in zip(widths, [*gaps, 0.0], strict=True):
        spans.append((left, left + width + padding))
        left += width + padding + gap
    return spans


def part_colours() -> dict[int, Any]:
    """Fill of each part of speech: what syntax masking keeps first is darkest."""
    adjective, noun = style.length_colours(2)
    return {texts.NOUN: noun, texts.ADJECTIVE: adjective, texts.OTHER: OTHER_FILL}


def _draw_row(
    axes: Axes, y: float, name: str, kept: set[int], spans: list[Span], row: str, pitch: float = PITCH
) -> None:
    """A row's name, [CLS], and every piece as a chip if it is kept, else struck out."""
    axes.text(LABELS, y + HEIGHT / 2, name, fontsize=style.SMALL, va="center_baseline")
    _draw_chip(axes, y, "[CLS]", spans[0][1:], style.INK, f"{row}-cls")
    colours = part_colours()
    for place, (piece, part) in enumerate(zip(PIECES, PARTS, strict=True)):
        colour = colours[part] if place in kept else None
        ink = style.INK if part == texts.OTHER else "white"  # the lightest fill needs dark letters
        line, *ends = spans[1 + place]
        _draw_chip(axes, y + line * pitch, piece, tuple(ends), colour, f"{row}-{place}", ink)


def _draw_chip(
    axes: Axes, y: float, text: str, span: tuple[float, float], colour: Any, name: str, ink: str = "white"
) -> None:
    """One token: on a rounded fill, or pale and struck out where `colour` is None."""
    from matplotlib.patches import FancyBboxPatch

    left, right = span
    chip = FancyBboxPatch(
        (left, y),
        right - left,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.04",
        facecolor=colour or "none",
        edgecolor="none",
        gid=name,
    )
    axes.add_patch(chip)
    middle = (left + right) / 2
    axes.text(
        middle,
        y + HEIGHT / 2,
        text,
        fontsize=style.SMALL,
        ha="center",
        va="center_baseline",
        color=ink if colour else style.FAINT,
    )
    if not colour:
        axes.plot([left + 0.02, right - 0.02], [y + HEIGHT / 2] * 2, color=style.PALE, linewidth=0.5)


def _name_parts(axes: Axes, y: float, spans: list[Span]) -> None:
    """Under each noun and adjective of the caption what it is; other words have no name."""
    colours, place = part_colours(), 0
    names = {texts.NOUN: "noun", texts.ADJECTIVE: "adj."}
    for pieces, _ in CAPTION:
        part = PARTS[place]
        line, left, _ = spans[1 + place]
        middle = (left + spans[place + len(pieces)][2]) / 2
        if part in names:
            below = y + line * (PITCH + PARTS_NAMES)
            look = {"fontsize": style.SMALL, "color": colours[part], "ha": "center", "va": "top"}
            axes.text(middle, below, names[part], **look)
        place += len(pieces)
