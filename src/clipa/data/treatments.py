"""Figures drawn in other ways than plainly: as renditions, outlines, in clutter, turned.

In version 1 of the world these are test sets only; version 2 mixes a share of each into training and
into the sets plain and fresh.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy
from PIL import Image, ImageFilter

from clipa.data import WorldParameters
from clipa.data.glyphs import Glyph, class_names, drawings, glyph_shape, master_glyph
from clipa.data.pictograms import (
    COLOURS,
    Figure,
    Scene,
    figure_colour,
    ground,
    paint,
    random_stream,
    render,
)
from clipa.worlds import SecondWorldParameters

STYLES = ("hatching", "stipple", "shaky", "inverted")
# Masks of variants are computed this much larger, then averaged down; they have a border of so many pixels.
_FINE, BORDER = 4, 3
_VARIANT, _TREATMENT = 3, 5


def _coverage(image: Image.Image) -> numpy.ndarray:
    """A fine mask (0 or 255) averaged down to pixels, float32 in [0, 1]."""
    small = image.resize((image.width // _FINE, image.height // _FINE), Image.Resampling.BOX)
    return numpy.asarray(small, dtype=numpy.float32) / 255.0


def _fine_glyph(glyph: Glyph, size: int) -> Image.Image:
    """Ink of a glyph at _FINE times ``size`` pixels, 0 or 255, with the border around."""
    width, height = glyph_shape(glyph, size)
    ink = master_glyph(glyph).resize((width * _FINE, height * _FINE), Image.Resampling.BOX)
    canvas = Image.new("L", ((width + 2 * BORDER) * _FINE, (height + 2 * BORDER) * _FINE), 0)
    canvas.paste(ink.point(lambda value: 255 if value >= 128 else 0), (BORDER * _FINE, BORDER * _FINE))
    return canvas


def _contour(ink: Image.Image, thickness: float) -> Image.Image:
    """Line of ``thickness`` pixels along the inner side of a fine mask's edges; thinner strokes stay whole."""
    inner = ink.filter(ImageFilter.MinFilter(2 * max(1, round(thickness * _FINE)) + 1))
    return Image.fromarray(numpy.asarray(ink) - numpy.asarray(inner))


def _bend(ink: Image.Image, strength: float, generator: numpy.random.Generator) -> Image.Image:
    """A fine mask with every point moved by smooth noise of ``strength`` pixels, as a shaky hand would."""
    down, across = numpy.mgrid[0 : ink.height, 0 : ink.width]
    moved = []
    for place, length in ((down, ink.height), (across, ink.width)):
        noise = Image.fromarray(generator.standard_normal((6, 6)).astype(numpy.float32))
        field = numpy.asarray(noise.resize(ink.size, Image.Resampling.BICUBIC))
        moved.append(numpy.clip(place + numpy.rint(field * strength * _FINE).astype(int), 0, length - 1))
    return Image.fromarray(numpy.asarray(ink)[moved[0], moved[1]])


def _screen(
    shape: tuple[int, int], style: str, size: int, generator: numpy.random.Generator
) -> numpy.ndarray:
    """Hatching lines or stipple dots over a fine (height, width), boolean."""
    down, across = numpy.mgrid[0 : shape[0], 0 : shape[1]].astype(numpy.float32) / _FINE
    if style == "hatching":
        angle = float(generator.choice(numpy.array([0.25, 0.75]))) * numpy.pi + 0.25 * (
            float(generator.random()) - 0.5
        )
        period = max(2.4, size / 12.0)
        return (across * numpy.cos(angle) + down * numpy.sin(angle)) % period < 0.66 * period
    step = max(2.4, size / 12.0)
    rows, columns = (down / step).astype(int), (across / step).astype(int)
    offsets = generator.uniform(0.42, 0.58, size=(2, rows.max() + 1, columns.max() + 1)).astype(numpy.float32)
    far = (down / step - rows - offsets[0][rows, columns]) ** 2 + (
        across / step - columns - offsets[1][rows, columns]
    ) ** 2
    return far < 0.46**2


def rendition_mask(glyph: Glyph, size: int, style: str, generator: numpy.random.Generator) -> numpy.ndarray:
    """A glyph in one of STYLES: coverage in [0, 1], shape (height + 2 BORDER, width + 2 BORDER) of its glyph mask."""
    ink = _fine_glyph(glyph, size)
    if style == "shaky":
        return _coverage(_contour(_bend(ink, 0.018 * size, generator), 0.06 * size))
    inside = numpy.asarray(ink) > 0
    if style == "inverted":
        chosen = ~inside
    else:
        chosen = inside & _screen(inside.shape, style, size, generator)
    return _coverage(Image.fromarray(chosen.astype(numpy.uint8) * 255))


def _start(
    parameters: WorldParameters, scene: Scene
) -> tuple[numpy.random.Generator, numpy.ndarray, Figure, int]:
    """Random stream, empty picture, figure and its longer side, of a picture that is drawn differently."""
    generator = random_stream(parameters, scene.split, scene.index, _VARIANT)
    figure = scene.figures[0]
    picture = ground(parameters.image_size, scene.texture, generator)
    return generator, picture, figure, max(figure.width, figure.height)


def _render_variant(parameters: WorldParameters, scene: Scene, treatment: str) -> numpy.ndarray:
    """Renditions and outlines: another mask of the figure, the rest as in training; no small marks."""
    generator, picture, figure, size = _start(parameters, scene)
    if treatment == "outlines":
        mask = _coverage(_contour(_fine_glyph(figure.glyph, size), max(1.0, 0.02 * parameters.image_size)))
    else:
        style = STYLES[(scene.index + scene.index // len(class_names(scene.world))) % len(STYLES)]
        mask = rendition_mask(figure.glyph, size, style, generator)
    paint(picture, mask, figure.left - BORDER, figure.top - BORDER, figure_colour(figure.colour, generator))
    return picture


def _render_odd(parameters: WorldParameters, scene: Scene, _: str) -> numpy.ndarray:
    """Turned by 30 to 180 degrees either way; a third squeezed; two fifths with up to 30 % outside the picture."""
    generator, picture, figure, size = _start(parameters, scene)
    side = parameters.image_size
    ink = _fine_glyph(figure.glyph, size)
    if generator.random() < 1 / 3:
        squeeze = 0.6 + 0.15 * float(generator.random())
        across = generator.random() < 0.5
        ink = ink.resize(
            (round(ink.width * (squeeze if across else 1)), round(ink.height * (1 if across else squeeze)))
        )
    angle = (30.0 + 150.0 * float(generator.random())) * (1 if generator.random() < 0.5 else -1)
    ink = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    ink = ink.crop(ink.getbbox())
    longest = side * _FINE / max(ink.size)
    if longest < 1.0:
        ink = ink.resize((int(ink.width * longest), int(ink.height * longest)))
    mask = _coverage(ink)
    height, width = mask.shape
    left, top = int(generator.integers(side - width + 1)), int(generator.integers(side - height + 1))
    if generator.random() < 0.4:
        outside = 0.1 + 0.2 * float(generator.random())
        edge = int(generator.integers(4))
        left = (-round(outside * width), side - width + round(outside * width), left, left)[edge]
        top = (top, top, -round(outside * height), side - height + round(outside * height))[edge]
    paint(picture, mask, left, top, figure_colour(figure.colour, generator))
    return picture


def _bar(side: int, centre: tuple[float, float], angle: float, width: float, length: float) -> numpy.ndarray:
    """Coverage of a bar of ``width`` and ``length`` pixels about a centre, shape (side, side)."""
    down, across = numpy.mgrid[0:side, 0:side].astype(numpy.float32)
    x, y = across - centre[0], down - centre[1]
    along, away = x * numpy.cos(angle) + y * numpy.sin(angle), y * numpy.cos(angle) - x * numpy.sin(angle)
    inside = numpy.minimum(width / 2 - abs(away), length / 2 - abs(along)) + 0.5
    return numpy.clip(inside, 0.0, 1.0).astype(numpy.float32)


def _other(scene: Scene, generator: numpy.random.Generator) -> int:
    """Another class than the scene's."""
    classes = len(class_names(scene.world))
    return (scene.figures[0].label + 1 + int(generator.integers(classes - 1))) % classes


def _render_clutter(parameters: WorldParameters, scene: Scene, _: str) -> numpy.ndarray:
    """Dark strokes and scraps of other glyphs around, bars of a light tint across, sometimes low contrast."""
    generator, picture, figure, size = _start(parameters, scene)
    side, backdrop = parameters.image_size, picture.mean(axis=(0, 1))
    fade = 0.2 + 0.3 * float(generator.random()) if generator.random() < 0.5 else 0.0
    for _ in range(2 + int(generator.integers(2))):
        colour = figure_colour(int(generator.integers(len(COLOURS))), generator)
        if generator.random() < 0.5:
            x, y, angle, length = generator.uniform((0, 0, 0, 0.12), (side, side, numpy.pi, 0.3))
            paint(picture, _bar(side, (x, y), angle, 0.025 * side, length * side), 0, 0, colour)
            continue
        other = drawings(scene.world, _other(scene, generator))[0]
        scrap = _coverage(_fine_glyph(other, round(side * generator.uniform(0.14, 0.2))))
        half = scrap.shape[0] // 2
        paint(
            picture,
            scrap[:half] if generator.random() < 0.5 else scrap[half:],
            *generator.integers(-3, side - 4, 2),
            colour,
        )
    mask = _coverage(_fine_glyph(figure.glyph, size))
    colour = figure_colour(figure.colour, generator)
    paint(picture, mask, figure.left - BORDER, figure.top - BORDER, colour + fade * (backdrop - colour))
    x = figure.left + figure.width * generator.uniform(0.25, 0.75)
    y = figure.top + figure.height * generator.uniform(0.25, 0.75)
    bar = _bar(side, (x, y), generator.uniform(0, numpy.pi), size * generator.uniform(0.1, 0.16), 3.0 * side)
    paint(picture, bar, 0, 0, backdrop - generator.uniform(0, 60))
    return picture


_RENDER: dict[str, Callable[[WorldParameters, Scene, str], numpy.ndarray]] = {
    "renditions": _render_variant,
    "outlines": _render_variant,
    "clutter": _render_clutter,
    "odd": _render_odd,
}
TREATMENTS = tuple(_RENDER)
"""Names of the test sets whose figures are drawn in other ways than in version 1's training."""
_MIXED = ("train", "plain", "fresh")


def treatment_of(parameters: WorldParameters, scene: Scene) -> str | None:
    """How a scene is drawn: one of TREATMENTS, or None (plainly).

    A test set of that name is drawn so; and a share of version 2's training scenes and of its sets plain and fresh,
    which have the distribution of training, in all ways, in equal parts.
    """
    if scene.split in _RENDER:
        return scene.split
    second = isinstance(parameters, SecondWorldParameters)
    if not second or scene.split not in _MIXED or len(scene.figures) > 1:
        return None
    generator = random_stream(parameters, scene.split, scene.index, _TREATMENT)
    if generator.random() >= parameters.hard:
        return None
    return TREATMENTS[int(generator.integers(len(TREATMENTS)))]


def picture_of(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """The picture of a scene as its set draws it, float32 in 0..255, shape (image_size, image_size, 3)."""
    treatment = treatment_of(parameters, scene)
    return _RENDER[treatment](parameters, scene, treatment) if treatment else render(parameters, scene)
