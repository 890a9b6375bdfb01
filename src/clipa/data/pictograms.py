"""Pictograms v1: scenes of dark glyph figures on light textured grounds, with captions.

A scene is a pure function of (parameters, split, index): three random streams per scene, named by
``SeedSequence([world_seed, split, index, purpose])``, decide its layout, its pixels and its captions, so any
number of processes draws the same. Figures are pictographs of DejaVu Sans, which ships inside matplotlib.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from clipa.data import TEST_SETS, WorldParameters
from clipa.data.captions import Caption, Facts, Named, draw

# Forty-eight nameable figures whose outlines differ, and DejaVu Sans' glyph for each.
_GLYPHS = """
    umbrella ☂  snowman ☃  comet ☄  star ★  telephone ☎  cup ☕  shamrock ☘  skull ☠  biohazard ☣
    sun ☀  cloud ☁  smiley ☻  moon ☽  crown ♛  rook ♜  knight ♞  pawn ♟  spade ♠  heart ♥  diamond ♦
    melody ♫  wheelchair ♿  dice ⚄  flag ⚑  hammer ⚒  anchor ⚓  sword ⚔  balance ⚖  flask ⚗  gear ⚙
    atom ⚛  lily ⚜  lightning ⚡  urn ⚱  scissors ✂  reel ✇  airplane ✈  envelope ✉  pencil ✏
    checkmark ✔  flower ✿  snowflake ❄  house ⌂  keyboard ⌨  arrow ➔  cat 🐱  mouse 🐭  hand ☛
"""
CLASSES = {name: ord(glyph) for name, glyph in zip(_GLYPHS.split()[::2], _GLYPHS.split()[1::2], strict=True)}
CLASS_NAMES = tuple(CLASSES)
# Thin strokes, which a picture of 24 px would not show, are widened, in 1/512 of the glyph.
_BOLDER = {"comet": 17, "snowman": 13, "cup": 9, "skull": 7, "atom": 7, "moon": 7}
COLOURS = {
    "black": (22, 22, 24),
    "red": (186, 22, 30),
    "blue": (28, 60, 190),
    "green": (14, 112, 44),
    "purple": (112, 28, 148),
    "brown": (112, 62, 22),
    "teal": (0, 116, 124),
    "orange": (206, 98, 0),
}
COLOUR_NAMES = tuple(COLOURS)
TEXTURES = ("plain", "shaded", "grainy", "striped", "dotted", "checkered", "wavy")
# Light, so that what is dark is a figure (random polarity is not learnt in the samples a laptop can afford).
_TINTS = numpy.array(
    [
        (250, 250, 248),
        (248, 240, 222),
        (252, 230, 230),
        (226, 240, 252),
        (228, 246, 230),
        (240, 232, 250),
        (236, 236, 232),
    ]
)
TWO_FIGURE_SIZES = (0.30, 0.42)
_MARK_SIZES = (0.13, 0.18)
# In every twenty consecutive training scenes thirteen have one figure (65 %).
_BLOCK, _BLOCK_ONE = 20, 13
_LAYOUT, _PIXELS, _CAPTIONS = range(3)
SPLITS = ("train", *TEST_SETS)
_MASTER = 512


@dataclass(frozen=True)
class Figure:
    """A placed glyph. left, top, width, height: its ink's box in pixels; label: index in CLASS_NAMES."""

    label: int
    colour: int
    left: int
    top: int
    width: int
    height: int
    size: str = ""


@dataclass(frozen=True)
class Scene:
    """Layout of one picture: one or two named figures, then unnamed small marks, on a ground."""

    split: str
    index: int
    figures: tuple[Figure, ...]
    marks: tuple[Figure, ...]
    texture: int
    position: tuple[str, str] | None
    relation: str | None

    @property
    def label(self) -> int | None:
        """Class index of a one-figure scene, else None."""
        return self.figures[0].label if len(self.figures) == 1 else None

    def facts(self) -> Facts:
        """What captions may say of it."""
        named = tuple(Named(CLASS_NAMES[f.label], COLOUR_NAMES[f.colour], f.size) for f in self.figures)
        return Facts(named, TEXTURES[self.texture], self.position, self.relation)


def random_stream(
    parameters: WorldParameters, split: str, index: int, purpose: int
) -> numpy.random.Generator:
    """The named random stream of one scene: purpose 0 layout, 1 pixels, 2 captions, 3 up a test set's own."""
    seed = numpy.random.SeedSequence([parameters.world_seed, SPLITS.index(split), index, purpose])
    return numpy.random.Generator(numpy.random.PCG64(seed))


def font_path() -> Path:
    """DejaVuSans.ttf inside the installed matplotlib (found without importing it)."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "matplotlib is not installed: pictograms need the DejaVu Sans font it carries"
        )
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: font not found; reinstall matplotlib, which carries DejaVu Sans")
    return path


@cache
def master_glyph(label: int) -> Image.Image:
    """Ink of a class as a grey image (255 = ink), cropped to the ink, its longer side about 512 px."""
    character = chr(CLASSES[CLASS_NAMES[label]])
    font = ImageFont.truetype(str(font_path()), _MASTER, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(character)
    font = font.font_variant(size=round(_MASTER * _MASTER / max(right - left, bottom - top)))
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), character, font=font, fill=255)
    width = _BOLDER.get(CLASS_NAMES[label], 1)
    if width > 1:
        canvas = ImageOps.expand(canvas, width).filter(ImageFilter.MaxFilter(2 * (width // 2) + 1))
    return canvas.crop(canvas.getbbox())


def glyph_shape(label: int, size: int) -> tuple[int, int]:
    """Width and height in pixels of a class whose longer side is ``size`` pixels."""
    width, height = master_glyph(label).size
    longer = max(width, height)
    return max(1, round(size * width / longer)), max(1, round(size * height / longer))


@lru_cache(maxsize=20_000)
def glyph_mask(label: int, size: int) -> numpy.ndarray:
    """Ink coverage of a class, float32 in [0, 1], shape (height, width), longer side ``size`` pixels."""
    mask = master_glyph(label).resize(glyph_shape(label, size), Image.Resampling.BOX)
    coverage = numpy.asarray(mask, dtype=numpy.float32) / 255.0
    coverage.setflags(write=False)
    return coverage


@lru_cache(maxsize=64)
def _permutation(parameters: WorldParameters, split: str, cycle: int, length: int) -> numpy.ndarray:
    """Seeded permutation of ``length`` things, for the ``cycle``-th pass over them."""
    seed = [parameters.world_seed, SPLITS.index(split), cycle, 1000 + length]
    return numpy.random.Generator(numpy.random.PCG64(seed)).permutation(length)


def scene_place(parameters: WorldParameters, split: str, index: int, two_of_twenty: int) -> tuple[int, int]:
    """(number of figures, class of the first) of a scene: kinds by blocks of twenty, classes by cycles of 48."""
    block, offset = divmod(index, _BLOCK)
    order = _permutation(parameters, split, block, _BLOCK)
    ones = _BLOCK - two_of_twenty
    rank = int(order[offset])
    if rank < ones:
        figures, ordinal = 1, block * ones + rank
    else:
        figures, ordinal = 2, block * two_of_twenty + rank - ones
    cycle, place = divmod(ordinal, len(CLASS_NAMES))
    classes = _permutation(parameters, split, 2 * cycle + figures - 1, len(CLASS_NAMES))
    return figures, int(classes[place])


def _uniform(generator: numpy.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(generator.random())


def _integer(generator: numpy.random.Generator, count: int) -> int:
    return int(generator.integers(count))


def _third(fraction: float, names: tuple[str, str, str]) -> str:
    return names[0] if fraction < 0.42 else names[2] if fraction > 0.58 else names[1]


def place_one(parameters: WorldParameters, label: int, generator: numpy.random.Generator) -> Figure:
    """One main figure, freely placed, whole inside the picture."""
    fraction = float(generator.random())
    side = parameters.image_size
    size = round(side * (parameters.figure_min + (parameters.figure_max - parameters.figure_min) * fraction))
    word = "small" if fraction < 0.35 else "large" if fraction > 0.65 else ""
    width, height = glyph_shape(label, size)
    left, top = _integer(generator, side - width + 1), _integer(generator, side - height + 1)
    return Figure(label, _integer(generator, len(COLOURS)), left, top, width, height, word)


def position_of(figure: Figure, side: int) -> tuple[str, str]:
    """Where the middle of a figure lies: (top/middle/bottom, left/center/right)."""
    across = (figure.left + figure.width / 2) / side
    down = (figure.top + figure.height / 2) / side
    return _third(down, ("top", "middle", "bottom")), _third(across, ("left", "center", "right"))


def place_two(
    parameters: WorldParameters, first: int, generator: numpy.random.Generator
) -> tuple[tuple[Figure, Figure], str]:
    """Two figures of different class and colour, beside or above one another, and the first's relation."""
    second = (first + 1 + _integer(generator, len(CLASS_NAMES) - 1)) % len(CLASS_NAMES)
    colour = _integer(generator, len(COLOURS))
    other = (colour + 1 + _integer(generator, len(COLOURS) - 1)) % len(COLOURS)
    relation = ("left", "right", "above", "below")[_integer(generator, 4)]
    side = parameters.image_size
    sizes = [round(side * _uniform(generator, *TWO_FIGURE_SIZES)) for _ in range(2)]
    words = ("", "")
    if max(sizes) >= 1.17 * min(sizes):
        words = ("small", "large") if sizes[0] < sizes[1] else ("large", "small")
    lead = relation in ("left", "above")
    placed = []
    for label, hue, size, word, is_first in (
        (first, colour, sizes[0], words[0], 1),
        (second, other, sizes[1], words[1], 0),
    ):
        width, height = glyph_shape(label, size)
        along, across = (width, height) if relation in ("left", "right") else (height, width)
        half = side // 2
        # Each keeps to its own half along the relation's axis, and near the middle across it.
        start = 1 + _integer(generator, half - along) + (0 if bool(is_first) == lead else half - 1)
        middle = (side - across) / 2 + _uniform(generator, -0.16, 0.16) * side
        cross = min(max(round(middle), 0), side - across)
        left, top = (start, cross) if relation in ("left", "right") else (cross, start)
        placed.append(Figure(label, hue, left, top, width, height, word))
    return (placed[0], placed[1]), relation


def overlaps(a: Figure, b: Figure, gap: int = 1) -> bool:
    """Whether two figures' boxes come nearer than ``gap`` pixels."""
    return (
        a.left < b.left + b.width + gap
        and b.left < a.left + a.width + gap
        and a.top < b.top + b.height + gap
        and b.top < a.top + a.height + gap
    )


def _marks(
    parameters: WorldParameters, main: Figure, generator: numpy.random.Generator
) -> tuple[Figure, ...]:
    """Sometimes one small unnamed figure of another class, clear of the main one."""
    if generator.random() >= 0.25:
        return ()
    side = parameters.image_size
    label = (main.label + 1 + _integer(generator, len(CLASS_NAMES) - 1)) % len(CLASS_NAMES)
    width, height = glyph_shape(label, round(side * _uniform(generator, *_MARK_SIZES)))
    colour = _integer(generator, len(COLOURS))
    for _ in range(6):
        left, top = _integer(generator, side - width + 1), _integer(generator, side - height + 1)
        mark = Figure(label, colour, left, top, width, height)
        if not overlaps(mark, main):
            return (mark,)
    return ()


def layout(parameters: WorldParameters, split: str, index: int, two_of_twenty: int | None = None) -> Scene:
    """The scene ``index`` of a split; of twenty, ``two_of_twenty`` have two figures (training 7, else 0)."""
    if two_of_twenty is None:
        two_of_twenty = _BLOCK - _BLOCK_ONE if split == "train" else 0
    generator = random_stream(parameters, split, index, _LAYOUT)
    figures, label = scene_place(parameters, split, index, two_of_twenty)
    texture = _integer(generator, len(TEXTURES))
    if figures == 2:
        pair, relation = place_two(parameters, label, generator)
        return Scene(split, index, pair, (), texture, None, relation)
    main = place_one(parameters, label, generator)
    marks = _marks(parameters, main, generator)
    return Scene(split, index, (main,), marks, texture, position_of(main, parameters.image_size), None)


@lru_cache(maxsize=8)
def _grid(side: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    down, across = numpy.mgrid[0:side, 0:side].astype(numpy.float32)
    return across, down


def ground(side: int, texture: int, generator: numpy.random.Generator) -> numpy.ndarray:
    """Light textured ground, float32 in 0..255, shape (side, side, 3)."""
    tint = _TINTS[_integer(generator, len(_TINTS))].astype(numpy.float32)
    across, down = _grid(side)
    angle, phase = _uniform(generator, 0.0, numpy.pi), _uniform(generator, 0.0, 1.0)
    along = (across * numpy.cos(angle) + down * numpy.sin(angle)) / side
    period = _uniform(generator, 5.0, 8.0)
    depth = _uniform(generator, 16.0, 30.0)
    name = TEXTURES[texture]
    if name == "shaded":
        shade = depth * 1.6 * (along - along.min()) / (along.max() - along.min())
    elif name == "grainy":
        shade = numpy.abs(generator.standard_normal((side, side), dtype=numpy.float32)) * depth * 0.7
    elif name == "striped":
        shade = depth * numpy.clip(0.5 + 3.0 * numpy.sin(2 * numpy.pi * (along * period + phase)), 0.0, 1.0)
    elif name == "dotted":
        step = 2 * numpy.pi * period / side
        waves = numpy.cos(across * step + phase * 6.0) + numpy.cos(down * step + angle)
        shade = depth * 1.3 * numpy.clip((waves - 0.9) * 2.0, 0.0, 1.0)
    elif name == "checkered":
        cell = side / (period + 1.0)
        shade = depth * (((across / cell + phase).astype(int) + (down / cell + angle).astype(int)) % 2)
    elif name == "wavy":
        bent = along + 0.05 * numpy.sin(2 * numpy.pi * (1.5 * (down - across) / side + phase))
        shade = depth * (0.5 + 0.5 * numpy.sin(2 * numpy.pi * (bent * period * 0.6 + phase)))
    else:
        shade = numpy.zeros((side, side), numpy.float32)
    return numpy.asarray(tint - shade[:, :, None], dtype=numpy.float32)


def figure_colour(colour: int, generator: numpy.random.Generator) -> numpy.ndarray:
    """A named colour with a little jitter, float32 of shape (3,)."""
    base = numpy.array(COLOURS[COLOUR_NAMES[colour]], dtype=numpy.float32)
    return numpy.clip(base + generator.integers(-14, 15, size=3), 0, 255).astype(numpy.float32)


def paint(picture: numpy.ndarray, mask: numpy.ndarray, left: int, top: int, colour: numpy.ndarray) -> None:
    """Lay ``colour`` over the picture, in place, where mask (height, width) says; what sticks out is cut."""
    side = picture.shape[0]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], side), min(top + mask.shape[0], side)
    if x0 >= x1 or y0 >= y1:
        return
    cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
    area = picture[y0:y1, x0:x1]
    area += cover * (colour - area)


def encode(picture: numpy.ndarray) -> bytes:
    """JPEG bytes (quality 90, full colour resolution) of a (side, side, 3) picture in 0..255."""
    pixels = numpy.clip(picture + 0.5, 0, 255).astype(numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def render(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """The picture of a scene, float32 in 0..255, shape (image_size, image_size, 3)."""
    generator = random_stream(parameters, scene.split, scene.index, _PIXELS)
    picture = ground(parameters.image_size, scene.texture, generator)
    for figure in (*scene.figures, *scene.marks):
        mask = glyph_mask(figure.label, max(figure.width, figure.height))
        paint(picture, mask, figure.left, figure.top, figure_colour(figure.colour, generator))
    return picture


def scene_captions(
    parameters: WorldParameters, scene: Scene, count: int | None = None, coloured: bool = False
) -> list[Caption]:
    """Captions of a scene (by default captions_per_image), each from another template; see captions.draw."""
    generator = random_stream(parameters, scene.split, scene.index, _CAPTIONS)
    return draw(scene.facts(), count or parameters.captions_per_image, generator, coloured)
