"""The eight test sets of pictograms v1, counterparts of the paper's, in CLIP_benchmark's local layout.

====================== ==================== ============================================================
set                    counterpart          what is different from training
====================== ==================== ============================================================
plain                  imagenet1k           nothing: one-figure scenes of the training distribution
fresh                  imagenetv2           nothing either: a draw of its own
renditions             imagenet-r           hatched, stippled, drawn by a shaky hand, cut out of a dark plate
outlines               imagenet_sketch      thin contours only
clutter                imagenet-a           strokes and scraps around, bars across, low contrast
odd                    objectnet            turned by 30 to 180 degrees, squeezed, partly outside
captions               mscoco_captions      image-text retrieval, half of the scenes with two figures
order                  aro                  right and wrong captions of the same words
====================== ==================== ============================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clipa.data import TEST_SETS, WorldParameters
from clipa.data.captions import Caption, Facts, core
from clipa.data.orders import wrong_orders
from clipa.data.pictograms import (
    CLASS_NAMES,
    COLOURS,
    Scene,
    encode,
    figure_colour,
    font_path,
    glyph_shape,
    ground,
    layout,
    master_glyph,
    paint,
    random_stream,
    render,
    scene_captions,
)

# Worded like training captions; without articles, which would have to agree with the noun.
TEMPLATES = (
    "the {c}",
    "picture of the {c}",
    "image: {c}, free download",
    "simple {c} design, high quality",
    "{c} clip art",
    "here is one {c} for you",
    "stock image: one {c} symbol",
    "the {c} stands in the center",
)
STYLES = ("hatching", "stipple", "shaky", "inverted")
ORDER_KINDS = ("relation", "attribute", "order")
# All of them name colours: by its nouns alone, a picture could not be found among thousands.
CAPTIONS_PER_RETRIEVAL_ITEM = 5
# Both figures stand in the same phrase, so exchanging them or their colours keeps every word.
ORDER_TEMPLATES = (
    "a {size} {colour} {noun} {relation} a {size2} {colour2} {noun2}",
    "the {colour} {noun} is {relation} the {colour2} {noun2} on {texture} paper",
    "photo of a {colour} {noun} {relation} a {colour2} {noun2}",
    "on a {texture} background a {colour} {noun} {relation} a {colour2} {noun2}",
    "picture of the {noun} in {colour} {relation} the {noun2} in {colour2}",
)
# Masks of variants are computed this much larger, then averaged down; and carry a border of so many pixels.
_FINE, BORDER = 4, 3
_VARIANT, _WORDING = 3, 4
_TWO_OF_TWENTY = {"captions": 10, "order": 20}
# CLIP_benchmark takes whatever is not retrieval for classification; order items are read by our own evaluator.
_TYPES = {"captions": "retrieval", "order": "order"}


def _coverage(image: Image.Image) -> numpy.ndarray:
    """A fine mask (0 or 255) averaged down to pixels, float32 in [0, 1]."""
    small = image.resize((image.width // _FINE, image.height // _FINE), Image.Resampling.BOX)
    return numpy.asarray(small, dtype=numpy.float32) / 255.0


def _fine_glyph(label: int, size: int) -> Image.Image:
    """Ink of a class at _FINE times ``size`` pixels, 0 or 255, with the border around."""
    width, height = glyph_shape(label, size)
    ink = master_glyph(label).resize((width * _FINE, height * _FINE), Image.Resampling.BOX)
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


def rendition_mask(label: int, size: int, style: str, generator: numpy.random.Generator) -> numpy.ndarray:
    """A class in one of STYLES: coverage in [0, 1], shape (height + 2 BORDER, width + 2 BORDER) of its glyph mask."""
    ink = _fine_glyph(label, size)
    if style == "shaky":
        return _coverage(_contour(_bend(ink, 0.018 * size, generator), 0.06 * size))
    inside = numpy.asarray(ink) > 0
    if style == "inverted":
        chosen = ~inside
    else:
        chosen = inside & _screen(inside.shape, style, size, generator)
    return _coverage(Image.fromarray(chosen.astype(numpy.uint8) * 255))


def _render_variant(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """Renditions and outlines: the figure's mask is another one, the rest as in training; no small marks."""
    generator = random_stream(parameters, scene.split, scene.index, _VARIANT)
    picture = ground(parameters.image_size, scene.texture, generator)
    figure = scene.figures[0]
    size = max(figure.width, figure.height)
    if scene.split == "outlines":
        mask = _coverage(_contour(_fine_glyph(figure.label, size), max(1.0, 0.02 * parameters.image_size)))
    else:
        style = STYLES[(scene.index + scene.index // len(CLASS_NAMES)) % len(STYLES)]
        mask = rendition_mask(figure.label, size, style, generator)
    paint(picture, mask, figure.left - BORDER, figure.top - BORDER, figure_colour(figure.colour, generator))
    return picture


def _render_odd(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """Turned by 30 to 180 degrees either way; a third squeezed; two fifths with up to 30 % outside the picture."""
    generator = random_stream(parameters, scene.split, scene.index, _VARIANT)
    side = parameters.image_size
    picture = ground(side, scene.texture, generator)
    figure = scene.figures[0]
    ink = _fine_glyph(figure.label, max(figure.width, figure.height))
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


def _render_clutter(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """Dark strokes and scraps of other glyphs around, bars of a light tint across, sometimes low contrast."""
    generator = random_stream(parameters, scene.split, scene.index, _VARIANT)
    side = parameters.image_size
    picture = ground(side, scene.texture, generator)
    backdrop = picture.mean(axis=(0, 1))
    figure = scene.figures[0]
    size = max(figure.width, figure.height)
    fade = 0.2 + 0.3 * float(generator.random()) if generator.random() < 0.5 else 0.0
    for _ in range(2 + int(generator.integers(2))):
        colour = figure_colour(int(generator.integers(len(COLOURS))), generator)
        if generator.random() < 0.5:
            x, y, angle, length = generator.uniform((0, 0, 0, 0.12), (side, side, numpy.pi, 0.3))
            paint(picture, _bar(side, (x, y), angle, 0.025 * side, length * side), 0, 0, colour)
            continue
        other = (figure.label + 1 + int(generator.integers(len(CLASS_NAMES) - 1))) % len(CLASS_NAMES)
        scrap = _coverage(_fine_glyph(other, round(side * generator.uniform(0.14, 0.2))))
        half = scrap.shape[0] // 2
        paint(
            picture,
            scrap[:half] if generator.random() < 0.5 else scrap[half:],
            *generator.integers(-3, side - 4, 2),
            colour,
        )
    mask = _coverage(_fine_glyph(figure.label, size))
    colour = figure_colour(figure.colour, generator)
    paint(picture, mask, figure.left - BORDER, figure.top - BORDER, colour + fade * (backdrop - colour))
    for _ in range(1):
        x = figure.left + figure.width * generator.uniform(0.25, 0.75)
        y = figure.top + figure.height * generator.uniform(0.25, 0.75)
        bar = _bar(
            side, (x, y), generator.uniform(0, numpy.pi), size * generator.uniform(0.1, 0.16), 3.0 * side
        )
        paint(picture, bar, 0, 0, backdrop - generator.uniform(0, 60))
    return picture


_RENDER: dict[str, Callable[[WorldParameters, Scene], numpy.ndarray]] = {
    "renditions": _render_variant,
    "outlines": _render_variant,
    "clutter": _render_clutter,
    "odd": _render_odd,
}


def _wrong_orders(right: Caption, generator: numpy.random.Generator) -> list[str]:
    """Four wrong orders of a caption; its nouns and adjectives change places with one another (in ARO apart)."""
    content = [position for position, tag in enumerate(right.tags) if tag in ("NOUN", "ADJ")]
    return wrong_orders(right.text, right.words, [content], generator)


def order_item(parameters: WorldParameters, scene: Scene) -> dict:
    """{"kind", "captions": [right, wrong, …]} of a two-figure scene, after ARO (Yuksekgonul et al., 2023).

    Every wrong caption has exactly the words of the right one: the two figures exchanged (relation), their
    colours exchanged (attribute), or the words in another order (order, four wrong ones).
    """
    generator = random_stream(parameters, scene.split, scene.index, _WORDING)
    kind = ORDER_KINDS[scene.index % len(ORDER_KINDS)]
    template = ORDER_TEMPLATES[int(generator.integers(len(ORDER_TEMPLATES)))]
    facts = scene.facts()
    first, second = facts.figures
    wording = int(generator.integers(2**31))

    def say(said: Facts) -> Caption:
        # The same stream each time: the same wording of the relation.
        return core(template, said, numpy.random.Generator(numpy.random.PCG64(wording)))

    right = say(facts)
    if kind == "relation":
        wrong = [say(replace(facts, figures=(second, first))).text]
    elif kind == "attribute":
        swapped = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        wrong = [say(replace(facts, figures=swapped)).text]
    else:
        wrong = _wrong_orders(right, generator)
    return {"kind": kind, "captions": [right.text, *wrong]}


def members(parameters: WorldParameters, name: str, index: int) -> list[tuple[str, bytes]]:
    """Files of one item of a test set: .jpg and .cls (classification), .txt (retrieval) or .json (order)."""
    scene, picture = draw_item(parameters, name, index)
    if name == "captions":
        captions = scene_captions(parameters, scene, CAPTIONS_PER_RETRIEVAL_ITEM, coloured=True)
        said = ("txt", "\n".join(caption.text for caption in captions))
    elif name == "order":
        said = ("json", json.dumps(order_item(parameters, scene), separators=(",", ":")))
    else:
        said = ("cls", str(scene.label))
    key = f"{index:06d}"
    return [(f"{key}.jpg", encode(picture)), (f"{key}.{said[0]}", said[1].encode("utf-8"))]


def layout_files(name: str, shards: int) -> dict[str, bytes]:
    """Small files of CLIP_benchmark's layout beside the shards of a test set: content by path."""
    files = {"dataset_type.txt": _TYPES.get(name, "classification"), "test/nshards.txt": str(shards)}
    if name not in _TYPES:
        files |= {
            "classnames.txt": "\n".join(CLASS_NAMES),
            "zeroshot_classification_templates.txt": "\n".join(TEMPLATES),
        }
    return {path: f"{text}\n".encode() for path, text in sorted(files.items())}


def draw_item(parameters: WorldParameters, name: str, index: int) -> tuple[Scene, numpy.ndarray]:
    """Scene and picture (float32 in 0..255, (side, side, 3)) of one item of a test set, or of ``train``."""
    scene = layout(parameters, name, index, _TWO_OF_TWENTY.get(name))
    return scene, _RENDER.get(name, render)(parameters, scene)


def contact_sheet(parameters: WorldParameters, columns: int = 12) -> Image.Image:
    """One row of pictures per set, training first: what docs/world.png shows."""
    side, left = parameters.image_size + 4, 96
    names = ("train", *TEST_SETS)
    sheet = Image.new("RGB", (left + columns * side, len(names) * side), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(font_path()), 14)
    for row, name in enumerate(names):
        pen.text((6, row * side + side // 2), name, font=font, fill="black", anchor="lm")
        for column in range(columns):
            picture = numpy.clip(draw_item(parameters, name, column)[1] + 0.5, 0, 255).astype(numpy.uint8)
            sheet.paste(Image.fromarray(picture), (left + column * side, row * side + 2))
    return sheet
