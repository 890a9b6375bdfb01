"""Pictograms: scenes of dark glyph figures on light textured grounds, with captions.

A scene is a pure function of (parameters, split, index): three random streams per scene, named by
``SeedSequence([world_seed, split, index, purpose])``, decide its layout, its pixels and its captions, so any
number of processes draws the same. Figures are glyphs (:mod:`clipa.data.glyphs`). Version 2 of the world differs from
version 1 in its classes and drawings, in :data:`_KINDS` and in how figures are placed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy
from PIL import Image

from clipa.data import TEST_SETS, WorldParameters
from clipa.data.captions import ONE_FIGURE, SECOND_ONE_FIGURE, Caption, Facts, Named, draw
from clipa.data.glyphs import Glyph, class_names, drawings, glyph_mask, glyph_shape
from clipa.worlds import SecondWorldParameters

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
# Of every twenty consecutive training scenes so many have two figures.
_BLOCK, _TWO_OF_BLOCK = 20, {"pictograms/v1": 7, "pictograms/v2": 3}
# Version 2 places figures near the middle: so far from it at most, as a fraction of the image.
_OFF_CENTRE = 0.08
_LAYOUT, _PIXELS, _CAPTIONS = range(3)
SPLITS = ("train", *TEST_SETS)


@dataclass(frozen=True)
class Figure:
    """A placed glyph. left, top, width, height: its ink's box in pixels; label: index among its world's classes."""

    label: int
    glyph: Glyph
    colour: int
    left: int
    top: int
    width: int
    height: int
    size: str = ""


@dataclass(frozen=True)
class Scene:
    """Layout of one picture: one or two named figures, then unnamed small marks, on a ground."""

    world: str
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
        names = class_names(self.world)
        named = tuple(Named(names[f.label], COLOUR_NAMES[f.colour], f.size) for f in self.figures)
        return Facts(named, TEXTURES[self.texture], self.position, self.relation)


def random_stream(
    parameters: WorldParameters, split: str, index: int, purpose: int
) -> numpy.random.Generator:
    """The named random stream of one scene: purpose 0 layout, 1 pixels, 2 captions, 3 up others'."""
    seed = numpy.random.SeedSequence([parameters.world_seed, SPLITS.index(split), index, purpose])
    return numpy.random.Generator(numpy.random.PCG64(seed))


@lru_cache(maxsize=64)
def _permutation(parameters: WorldParameters, split: str, cycle: int, length: int) -> numpy.ndarray:
    """Seeded permutation of ``length`` things, for the ``cycle``-th pass over them."""
    seed = [parameters.world_seed, SPLITS.index(split), cycle, 1000 + length]
    return numpy.random.Generator(numpy.random.PCG64(seed)).permutation(length)


def scene_place(parameters: WorldParameters, split: str, index: int, two_of_twenty: int) -> tuple[int, int]:
    """(number of figures, class of the first) of a scene: kinds by blocks of twenty, classes by cycles of all."""
    classes = len(class_names(parameters.name))
    block, offset = divmod(index, _BLOCK)
    order = _permutation(parameters, split, block, _BLOCK)
    ones = _BLOCK - two_of_twenty
    rank = int(order[offset])
    if rank < ones:
        figures, ordinal = 1, block * ones + rank
    else:
        figures, ordinal = 2, block * two_of_twenty + rank - ones
    cycle, place = divmod(ordinal, classes)
    return figures, int(_permutation(parameters, split, 2 * cycle + figures - 1, classes)[place])


def _uniform(generator: numpy.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(generator.random())


def _integer(generator: numpy.random.Generator, count: int) -> int:
    return int(generator.integers(count))


def _third(fraction: float, names: tuple[str, str, str]) -> str:
    return names[0] if fraction < 0.42 else names[2] if fraction > 0.58 else names[1]


def _drawing(parameters: WorldParameters, label: int, generator: numpy.random.Generator) -> Glyph:
    """One of the drawings of a class; nothing is drawn from the generator where there is only one."""
    glyphs = drawings(parameters.name, label)
    return glyphs[_integer(generator, len(glyphs))] if len(glyphs) > 1 else glyphs[0]


def _other(parameters: WorldParameters, label: int, generator: numpy.random.Generator) -> int:
    """Another class."""
    classes = len(class_names(parameters.name))
    return (label + 1 + _integer(generator, classes - 1)) % classes


def _start(parameters: WorldParameters, length: int, generator: numpy.random.Generator) -> int:
    """Where a figure of ``length`` pixels begins: anywhere inside the picture, or in version 2 near its middle."""
    side = parameters.image_size
    if not isinstance(parameters, SecondWorldParameters):
        return _integer(generator, side - length + 1)
    middle = (side - length) / 2 + side * _uniform(generator, -_OFF_CENTRE, _OFF_CENTRE)
    return min(max(round(middle), 0), side - length)


def place_one(parameters: WorldParameters, label: int, generator: numpy.random.Generator) -> Figure:
    """One main figure, whole inside the picture."""
    fraction = float(generator.random())
    side = parameters.image_size
    size = round(side * (parameters.figure_min + (parameters.figure_max - parameters.figure_min) * fraction))
    word = "small" if fraction < 0.35 else "large" if fraction > 0.65 else ""
    glyph = _drawing(parameters, label, generator)
    width, height = glyph_shape(glyph, size)
    left, top = _start(parameters, width, generator), _start(parameters, height, generator)
    return Figure(label, glyph, _integer(generator, len(COLOURS)), left, top, width, height, word)


def position_of(figure: Figure, side: int) -> tuple[str, str]:
    """Where the middle of a figure lies: (top/middle/bottom, left/center/right)."""
    across = (figure.left + figure.width / 2) / side
    down = (figure.top + figure.height / 2) / side
    return _third(down, ("top", "middle", "bottom")), _third(across, ("left", "center", "right"))


def place_two(
    parameters: WorldParameters, first: int, generator: numpy.random.Generator
) -> tuple[tuple[Figure, Figure], str]:
    """Two figures of different class and colour, beside or above one another, and the first's relation."""
    second = _other(parameters, first, generator)
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
        glyph = _drawing(parameters, label, generator)
        width, height = glyph_shape(glyph, size)
        along, across = (width, height) if relation in ("left", "right") else (height, width)
        half = side // 2
        # Each keeps to its own half along the relation's axis, and near the middle across it.
        start = 1 + _integer(generator, half - along) + (0 if bool(is_first) == lead else half - 1)
        middle = (side - across) / 2 + _uniform(generator, -0.16, 0.16) * side
        cross = min(max(round(middle), 0), side - across)
        left, top = (start, cross) if relation in ("left", "right") else (cross, start)
        placed.append(Figure(label, glyph, hue, left, top, width, height, word))
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
    label = _other(parameters, main.label, generator)
    glyph = _drawing(parameters, label, generator)
    width, height = glyph_shape(glyph, round(side * _uniform(generator, *_MARK_SIZES)))
    colour = _integer(generator, len(COLOURS))
    for _ in range(6):
        left, top = _integer(generator, side - width + 1), _integer(generator, side - height + 1)
        mark = Figure(label, glyph, colour, left, top, width, height)
        if not overlaps(mark, main):
            return (mark,)
    return ()


def layout(parameters: WorldParameters, split: str, index: int, two_of_twenty: int | None = None) -> Scene:
    """The scene ``index`` of a split; of twenty, ``two_of_twenty`` have two figures (None: as in training, else 0)."""
    if two_of_twenty is None:
        two_of_twenty = _TWO_OF_BLOCK[parameters.name] if split == "train" else 0
    generator = random_stream(parameters, split, index, _LAYOUT)
    figures, label = scene_place(parameters, split, index, two_of_twenty)
    texture = _integer(generator, len(TEXTURES))
    if figures == 2:
        pair, relation = place_two(parameters, label, generator)
        return Scene(parameters.name, split, index, pair, (), texture, None, relation)
    main = place_one(parameters, label, generator)
    marks = _marks(parameters, main, generator)
    position = position_of(main, parameters.image_size)
    return Scene(parameters.name, split, index, (main,), marks, texture, position, None)


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
    """The plain picture of a scene, float32 in 0..255, shape (image_size, image_size, 3)."""
    generator = random_stream(parameters, scene.split, scene.index, _PIXELS)
    picture = ground(parameters.image_size, scene.texture, generator)
    for figure in (*scene.figures, *scene.marks):
        mask = glyph_mask(figure.glyph, max(figure.width, figure.height))
        paint(picture, mask, figure.left, figure.top, figure_colour(figure.colour, generator))
    return picture


def scene_captions(
    parameters: WorldParameters, scene: Scene, count: int | None = None, coloured: bool = False
) -> list[Caption]:
    """Captions of a scene (by default captions_per_image), each from another template; see captions.draw."""
    generator = random_stream(parameters, scene.split, scene.index, _CAPTIONS)
    second = isinstance(parameters, SecondWorldParameters) and not coloured
    templates = SECOND_ONE_FIGURE if second else ONE_FIGURE
    return draw(scene.facts(), count or parameters.captions_per_image, generator, coloured, templates)
