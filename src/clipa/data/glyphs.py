"""The figures of the drawn worlds: classes, and the glyphs that draw each of them.

All glyphs are of fonts that ship inside matplotlib (DejaVu, STIX), which is found without importing it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

SANS, SERIF, STIX = "DejaVuSans", "DejaVuSerif", "STIXGeneral"
_MASTER = 512

# Version 1: forty-eight nameable figures whose outlines differ, and DejaVu Sans' glyph for each.
_FIRST = """
    umbrella ☂  snowman ☃  comet ☄  star ★  telephone ☎  cup ☕  shamrock ☘  skull ☠  biohazard ☣
    sun ☀  cloud ☁  smiley ☻  moon ☽  crown ♛  rook ♜  knight ♞  pawn ♟  spade ♠  heart ♥  diamond ♦
    melody ♫  wheelchair ♿  dice ⚄  flag ⚑  hammer ⚒  anchor ⚓  sword ⚔  balance ⚖  flask ⚗  gear ⚙
    atom ⚛  lily ⚜  lightning ⚡  urn ⚱  scissors ✂  reel ✇  airplane ✈  envelope ✉  pencil ✏
    checkmark ✔  flower ✿  snowflake ❄  house ⌂  keyboard ⌨  arrow ➔  cat 🐱  mouse 🐭  hand ☛
"""
# Version 2: ninety-six classes, many of which have near neighbours. Several characters of one class, and its glyphs in
# the fonts of its group, are its drawings.
_SECOND = {
    (SANS,): """
        umbrella ☂  snowman ☃  cup ☕  shamrock ☘  skull ☠  biohazard ☣  radiation ☢  cloud ☁
        king ♔♚  queen ♕♛  rook ♖♜  bishop ♗♝  knight ♘♞  pawn ♙♟  telephone ☏☎  star ☆★  flag ⚐⚑
        hammer ⚒  anchor ⚓  sword ⚔  balance ⚖  flask ⚗  gear ⚙  atom ⚛  lily ⚜  urn ⚱  reel ✇
        airplane ✈  pencil ✏  checkmark ✓✔  snowflake ❄  arrow ➔  keyboard ⌨
        mouse 🐭  monkey 🐵  cow 🐮  hand ☛☞  ankh ☥  crescent ☪  peace ☮
        gemini ♊  cancer ♋  leo ♌  scorpio ♏  capricorn ♑
        aquarius ♒  pisces ♓
    """,
    (SANS, STIX): "aries ♈  envelope ✉  moon ☽  house ⌂",
    (SANS, SERIF): "uranus ♅  command ⌘",
    (SANS, SERIF, STIX): """
        sun ☼  smiley ☺☻  spade ♤♠  heart ♡♥  club ♧♣
        quaver ♪  crotchet ♩  sharp ♯
        terra ♁  mars ♂  jupiter ♃  saturn ♄  pluto ♇
        alpha α  beta β  gamma γ  delta δ  epsilon ε  zeta ζ  eta η  theta θ  kappa κ  lambda λ  mu μ  xi ξ  pi π
        rho ρ  tau τ  phi φ  chi χ  omega ω
        integral ∫  radical √  infinity ∞  nabla ∇  dollar $  yen ¥  cent ¢
        question ?  paragraph §  pilcrow ¶  dagger †  asterisk *
    """,
}
# Thin strokes, which a picture of 24 px would not show, are widened, in 1/512 of the glyph.
_BOLDER = {"comet": 17, "snowman": 13, "cup": 9, "skull": 7, "atom": 7, "moon": 7}
_THINNEST = 15  # in version 2, of every glyph


@dataclass(frozen=True)
class Glyph:
    """A character of a font; its strokes are widened to or by ``bolder`` / 512 of its longer side (0: not)."""

    font: str
    character: str
    bolder: int = 0


def _pairs(text: str) -> list[tuple[str, str]]:
    words = text.split()
    return list(zip(words[::2], words[1::2], strict=True))


def _second() -> dict[str, tuple[Glyph, ...]]:
    return {
        name: tuple(Glyph(font, character, _THINNEST) for character in characters for font in fonts)
        for fonts, text in _SECOND.items()
        for name, characters in _pairs(text)
    }


CLASSES: dict[str, dict[str, tuple[Glyph, ...]]] = {
    "pictograms/v1": {
        name: (Glyph(SANS, character, _BOLDER.get(name, 0)),) for name, character in _pairs(_FIRST)
    },
    "pictograms/v2": _second(),
}
"""Drawings of each class, by world and class; the order of classes is that of their labels."""


@cache
def class_names(world: str) -> tuple[str, ...]:
    """Names of the classes of a world, at the place of their labels."""
    return tuple(CLASSES[world])


@cache
def drawings(world: str, label: int) -> tuple[Glyph, ...]:
    """The glyphs that draw a class."""
    return CLASSES[world][class_names(world)[label]]


@cache
def font_path(font: str = SANS) -> Path:
    """<font>.ttf inside the installed matplotlib (found without importing it)."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"matplotlib is not installed: pictograms need the font {font} that it carries"
        )
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: font not found; reinstall matplotlib, which carries it")
    return path


@cache
def master_glyph(glyph: Glyph) -> Image.Image:
    """Ink of a glyph as a grey image (255 = ink), cropped to the ink, its longer side about 512 px."""
    font = ImageFont.truetype(str(font_path(glyph.font)), _MASTER, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(glyph.character)
    font = font.font_variant(size=round(_MASTER * _MASTER / max(right - left, bottom - top)))
    left, top, right, bottom = font.getbbox(glyph.character)
    canvas = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), glyph.character, font=font, fill=255)
    width = glyph.bolder
    if width:
        canvas = ImageOps.expand(canvas, width).filter(ImageFilter.MaxFilter(2 * (width // 2) + 1))
    return canvas.crop(canvas.getbbox())


def glyph_shape(glyph: Glyph, size: int) -> tuple[int, int]:
    """Width and height in pixels of a glyph whose longer side is ``size`` pixels."""
    width, height = master_glyph(glyph).size
    longer = max(width, height)
    return max(1, round(size * width / longer)), max(1, round(size * height / longer))


@lru_cache(maxsize=20_000)
def glyph_mask(glyph: Glyph, size: int) -> numpy.ndarray:
    """Ink coverage of a glyph, float32 in [0, 1], shape (height, width), longer side ``size`` pixels."""
    mask = master_glyph(glyph).resize(glyph_shape(glyph, size), Image.Resampling.BOX)
    coverage = numpy.asarray(mask, dtype=numpy.float32) / 255.0
    coverage.setflags(write=False)
    return coverage
