"""Web-like captions of scenes, with the part of speech of every word; and wrong captions in ARO's four ways.

A caption is a core sentence that says what is in the picture, among zero to four pieces of filler as web shops and
stock sites write them, in some letter case. Its words are those of BERT's basic tokenizer (runs of letters and digits,
and single punctuation marks; :func:`clipa.data.annotation.words_of`), each with one tag (Universal POS).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy

_TIGHT_BEFORE = set(",.:!?;)]")
_TIGHT_AFTER = set("([#")

# Tag of every word that has one role only; the few others carry their tag in the template (word/TAG).
_LEXICON_BY_TAG = {
    "NOUN": """
        background paper photo picture image icon sketch stock vector wallpaper clip art quality print web
        page sticker poster design collection price sale corner center middle edge side top bottom pack
        file size px png img id style gallery home school kids project gift idea wall decor illustration
        edition rights stamp tags resolution figures surface symbol pixels
    """,
    "ADJ": """
        free high lovely more left right new large small best premium simple royalty digital modern full
        ready printable related vintage flat red blue green purple brown teal orange black plain shaded grainy
        striped dotted checkered wavy
    """,
    "VERB": """
        showing drawn placed see buy use enlarge reserved printed looks sits seen posted save share stands
    """,
    "DET": "a the this all",
    "ADP": "of on in at by with for from to near above below under over",
    "NUM": "one two",
    "CCONJ": "and",
    "PRON": "we you it our your",
    "AUX": "is can",
    "ADV": "now here today there",
    "PROPN": "com",
}


LEXICON = {word: tag for tag, words in _LEXICON_BY_TAG.items() for word in words.split()}

# In a template: plain words (tag from the lexicon), word/TAG, {slot}, and ~ before a word that follows without a space.
# A slot that is empty (the size of a figure of middling size) disappears.
# Half of the templates name only the noun; two in five the colour, one in six the texture, one in six the position.
# If all did, these alone would tell the pictures of a batch apart, and small models would not learn the nouns
# (measured: 10 % zero-shot accuracy where these templates give 46 %, at the same number of samples).
ONE_FIGURE = (
    "photo of a {noun}",
    "a {noun}",
    "one {noun} symbol",
    "sketch of a {noun} on paper",
    "the {noun}",
    "image: {noun}",
    "here is one {noun} for you",
    "simple {noun} design",
    "{noun} clip art",
    "one more {noun} for your collection",
    "a lovely {noun} icon",
    "picture of the {noun}",
    "a {colour} {noun}",
    "photo of a {colour} {noun}",
    "{size} {noun} in {colour}",
    "the {noun} is {colour}",
    "{colour} {noun} icon",
    "wallpaper showing the {size} {colour} {noun}",
    "there is a {noun} {position}",
    "the {size} {noun} stands {position}",
    "{position} we see one {colour} {noun}",
    "{size} {colour} {noun} on a {texture} background {position}",
    "a {colour} {noun} drawn on {texture} paper",
    "on a {texture} surface sits a {size} {noun}",
)
# In version 2 of the world a third of the templates name more than the noun: what is to be learnt is its many classes.
SECOND_ONE_FIGURE = (
    *ONE_FIGURE[:12],
    "a {colour} {noun}",
    "{size} {noun} in {colour}",
    "the {noun} is {colour}",
    "there is a {noun} {position}",
    "a {colour} {noun} drawn on {texture} paper",
    "{size} {colour} {noun} on a {texture} background {position}",
)
TWO_FIGURES = (
    "a {noun} {relation} a {noun2}",
    "a {colour} {noun} {relation} a {colour2} {noun2}",
    "photo of the {noun} {relation} the {noun2}",
    "here we see one {noun} and, {opposite} it, a {noun2}",
    "the {colour} {noun} is {relation} the {colour2} {noun2}",
    "{noun} and {noun2}",
    "a {noun} with a {noun2}",
    "a {size} {noun} {relation} a {size2} {noun2}",
    "picture of the {noun} in {colour} {relation} the {noun2} in {colour2}",
    "on a {texture} background a {colour} {noun} {relation} a {colour2} {noun2}",
    "{colour} {noun} and {colour2} {noun2} on {texture} paper",
)
FILLER = (
    "free download/NOUN",
    "stock image",
    "high quality",
    "royalty free vector",
    "id {number}",
    "img~_~{number}~.~jpg/NOUN",
    "photo by {name}",
    "{site}~.~com",
    "{month} {year}",
    "{number} x/SYM {number} px",
    "buy now",
    "best price",
    "click/VERB to/PART enlarge",
    "all rights reserved",
    "for web and print",
    "new collection {year}",
    "( {number} )",
    "page {number}",
    "ready to/PART use",
    "premium clip art",
    "no/NOUN. {number}",
    "from our {site} gallery",
    "printable wall decor for your home",
    "digital poster, full size",
    "gift idea by {name}",
    "# {number}",
    "save and share!",
    "school project for kids",
    "posted by {name} in {month}",
    "modern flat style",
    "you can download/VERB it here",
    "vintage stamp, {year} edition",
    "related tags",
    "on sale today!",
    "high resolution png file",
    "sticker pack, {number} pixels",
)
_SEPARATORS = (" - ", " | ", ", ", ". ", ": ", " / ", ", ", " - ")
_FILLER_COUNTS = (0, 1, 1, 2, 2, 2, 3, 3, 4, 4)
_SLOT_POOLS = {
    "name": ("anna", "ben", "carla", "dmitri", "emma", "felix"),
    "site": ("iconbay", "stockfox", "picmart", "glyphhub", "printly", "artnest"),
    "month": ("january", "march", "may", "june", "august", "october"),
}
# Where the first figure is, seen from the second; two wordings of each.
RELATIONS = {
    "left": ("to the left/NOUN of", "left/ADJ of"),
    "right": ("to the right/NOUN of", "right/ADJ of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
POSITIONS = {
    ("middle", "center"): ("in the center", "in the middle"),
    ("middle", "left"): ("on the left side", "at the left edge"),
    ("middle", "right"): ("on the right side", "at the right edge"),
    ("top", "center"): ("at the top", "near the top edge"),
    ("bottom", "center"): ("at the bottom", "near the bottom edge"),
    ("top", "left"): ("in the top/ADJ left/ADJ corner", "at the top left/NOUN"),
    ("top", "right"): ("in the top/ADJ right/ADJ corner", "at the top right/NOUN"),
    ("bottom", "left"): ("in the bottom/ADJ left/ADJ corner", "at the bottom left/NOUN"),
    ("bottom", "right"): ("in the bottom/ADJ right/ADJ corner", "at the bottom right/NOUN"),
}
_ORDER_TRIES = 50


@dataclass(frozen=True)
class Caption:
    """A caption, its words (in the caption's letter case) and their Universal POS tags, one tag per word."""

    text: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """What a caption may say of one figure; size is empty for a figure of middling size."""

    noun: str
    colour: str
    size: str = ""


@dataclass(frozen=True)
class Facts:
    """What a caption may say of a scene: one or two named figures, the ground's texture, and where they are.

    position is a key of POSITIONS (one figure); relation a key of RELATIONS (first figure to second).
    """

    figures: tuple[Named, ...]
    texture: str
    position: tuple[str, str] | None = None
    relation: str | None = None


@cache
def _parse(template: str) -> tuple[tuple[str, str, bool], ...]:
    """Template to (word or {slot}, tag, glued to the left) triples. ValueError for a word without a tag."""
    tokens = []
    for chunk in re.findall(r"~?\{\w+\}|~?[A-Za-z0-9]+(?:/[A-Z]+)?|~?[^\s~]", template):
        glued = chunk.startswith("~")
        word, _, tag = chunk.lstrip("~").partition("/")
        if not tag and not word.startswith("{"):
            tag = LEXICON.get(word, "" if word.isalnum() else "PUNCT")
            if not tag:
                raise ValueError(f"caption template {template!r}: no part of speech for {word!r}")
        tokens.append((word, tag, glued))
    return tuple(tokens)


def _pick(options: Sequence[Any], generator: numpy.random.Generator) -> Any:
    return options[int(generator.integers(len(options)))]


def _fill(
    template: str, slots: dict[str, str], generator: numpy.random.Generator
) -> list[tuple[str, str, bool]]:
    """Template to tokens, with its slots filled from ``slots`` or drawn."""
    filled: list[tuple[str, str, bool]] = []
    for word, tag, glued in _parse(template):
        if not word.startswith("{"):
            filled.append((word, tag, glued))
            continue
        slot = word.strip("{}")
        if slot == "number":
            filled.append((str(int(10 ** generator.uniform(1.0, 4.0))), "NUM", glued))
        elif slot == "year":
            filled.append((str(2012 + int(generator.integers(12))), "NUM", glued))
        elif slot in _SLOT_POOLS:
            filled.append((_pick(_SLOT_POOLS[slot], generator), "PROPN", glued))
        elif slots[slot]:
            filled.extend(_parse(slots[slot]))
    return filled


def _slots(facts: Facts, generator: numpy.random.Generator) -> dict[str, str]:
    slots = {"texture": facts.texture}
    for suffix, figure in zip(("", "2"), facts.figures, strict=False):
        slots[f"noun{suffix}"] = f"{figure.noun}/NOUN"
        slots[f"colour{suffix}"], slots[f"size{suffix}"] = figure.colour, figure.size
    if facts.position:
        slots["position"] = _pick(POSITIONS[facts.position], generator)
    if facts.relation:
        slots["relation"] = _pick(RELATIONS[facts.relation], generator)
        slots["opposite"] = _pick(RELATIONS[OPPOSITE[facts.relation]], generator)
    return slots


def _render(tokens: list[tuple[str, str, bool]], style: int) -> Caption:
    """Tokens to text: articles agree, spaces around punctuation as people write, letter case by ``style``."""
    words = [word for word, _, _ in tokens]
    for i, word in enumerate(words[:-1]):
        if word == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    if style == 7:
        words = [word.upper() for word in words]
    elif style == 6:
        words = [
            word.capitalize() if tag not in ("ADP", "DET", "CCONJ") else word
            for word, (_, tag, _) in zip(words, tokens, strict=True)
        ]
    if 4 <= style <= 6:
        words[0] = words[0].capitalize()
    text = ""
    for i, (word, (_, _, glued)) in enumerate(zip(words, tokens, strict=True)):
        tight = glued or word in _TIGHT_BEFORE or (i > 0 and words[i - 1] in _TIGHT_AFTER)
        text += word if tight or i == 0 else " " + word
    return Caption(text, tuple(words), tuple(tag for _, tag, _ in tokens))


def core(template: str, facts: Facts, generator: numpy.random.Generator) -> Caption:
    """One caption from one template: lower case, no filler."""
    return _render(_fill(template, _slots(facts, generator), generator), 0)


def draw(
    facts: Facts,
    count: int,
    generator: numpy.random.Generator,
    coloured: bool = False,
    one_figure: Sequence[str] = ONE_FIGURE,
) -> list[Caption]:
    """``count`` captions of one scene, each from another template; of those that name colours, if ``coloured``.

    Every caption names the noun of each figure exactly once.
    """
    templates = one_figure if len(facts.figures) == 1 else TWO_FIGURES
    if coloured:
        templates = tuple(template for template in templates if "{colour}" in template)
    chosen = generator.permutation(len(templates))[:count]
    captions = []
    for which in chosen:
        pieces = [templates[int(which)]]
        fillers = _pick(_FILLER_COUNTS, generator)
        for filler in generator.permutation(len(FILLER))[:fillers]:
            before = generator.random() < 0.5
            pieces.insert(0 if before else len(pieces), FILLER[int(filler)])
        slots = _slots(facts, generator)
        tokens: list[tuple[str, str, bool]] = []
        for piece in pieces:
            if tokens and tokens[-1][0] != "!":
                tokens.append((_pick(_SEPARATORS, generator).strip(), "PUNCT", False))
            tokens.extend(_fill(piece, slots, generator))
        if generator.random() < 0.3 and tokens[-1][0] != "!":
            tokens.append((".", "PUNCT", False))
        captions.append(_render(tokens, int(generator.integers(8))))
    return captions


def reordered(
    words: Sequence[str], slots: Sequence[Sequence[int]], way: int, generator: numpy.random.Generator
) -> list[str]:
    """``words`` in another order, in one of ARO's four ways (Yuksekgonul et al., 2023); chance may give the same order.

    0: the words at each of ``slots`` (groups of positions) change places among themselves; 1: the words at all other
    positions do; 2: words inside each group of three; 3: the groups of three.
    """
    moved = list(words)
    if way < 2:
        taken = {position for group in slots for position in group}
        rest = [position for position in range(len(words)) if position not in taken]
        for group in slots if way == 0 else [rest]:
            for position, source in zip(group, generator.permutation(group), strict=True):
                moved[position] = words[int(source)]
        return moved
    groups = [moved[i : i + 3] for i in range(0, len(moved), 3)]
    if way == 2:
        return [group[int(i)] for group in groups for i in generator.permutation(len(group))]
    return [word for i in generator.permutation(len(groups)) for word in groups[int(i)]]


def wrong_orders(
    right: str, words: Sequence[str], slots: Sequence[Sequence[int]], generator: numpy.random.Generator
) -> list[str]:
    """Four wrong orders of ``words``, joined by spaces, that differ from ``right`` and from one another.

    A way that does not change the caption gives a full shuffle. A caption that has fewer than four other orders gives
    one of them more than once, and one that has none gives itself.
    """
    wrong: list[str] = []
    for way in range(4):
        moved = reordered(words, slots, way, generator)
        for _ in range(_ORDER_TRIES):
            text = " ".join(moved)
            if text != right and text not in wrong:
                break
            moved = [words[int(i)] for i in generator.permutation(len(words))]
        else:
            text = wrong[0] if wrong else text
        wrong.append(text)
    return wrong
