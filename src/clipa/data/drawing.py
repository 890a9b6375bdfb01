"""The drawn world on disk: its training set, and eight test sets, counterparts of the paper's.

Below the world's folder (``results/data/<slug>``): ``train/00000.tar`` … with ``train/manifest.json``, and
``test/<set>/`` in CLIP_benchmark's local webdataset layout with ``test/<set>/manifest.json``.

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

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clipa.data import TEST_SETS, WORLD, WorldParameters, world_fingerprint
from clipa.data.captions import Caption, Facts, core, wrong_orders
from clipa.data.pictograms import (
    CLASS_NAMES,
    COLOURS,
    Figure,
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
from clipa.data.shards import Entry, Members, file_sha256, progress_bar, tar_bytes, writing
from clipa.files import write_bytes_atomically

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
# All name colours: by its nouns alone, a picture could not be found among thousands.
CAPTIONS_PER_RETRIEVAL_ITEM = 5
# Both figures stand in the same phrase, so exchanging them or their colours keeps every word.
ORDER_TEMPLATES = (
    "a {size} {colour} {noun} {relation} a {size2} {colour2} {noun2}",
    "the {colour} {noun} is {relation} the {colour2} {noun2} on {texture} paper",
    "photo of a {colour} {noun} {relation} a {colour2} {noun2}",
    "on a {texture} background a {colour} {noun} {relation} a {colour2} {noun2}",
    "picture of the {noun} in {colour} {relation} the {noun2} in {colour2}",
)
# Masks of variants are computed this much larger, then averaged down; they have a border of so many pixels.
_FINE, BORDER = 4, 3
_VARIANT, _WORDING = 3, 4
_TWO_OF_TWENTY = {"captions": 10, "order": 20}
# CLIP_benchmark takes all that is not retrieval for classification; order items are read by our own evaluator.
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


def _start(
    parameters: WorldParameters, scene: Scene
) -> tuple[numpy.random.Generator, numpy.ndarray, Figure, int]:
    """Random stream, empty picture, figure and its longer side, of a picture that is drawn differently."""
    generator = random_stream(parameters, scene.split, scene.index, _VARIANT)
    figure = scene.figures[0]
    picture = ground(parameters.image_size, scene.texture, generator)
    return generator, picture, figure, max(figure.width, figure.height)


def _render_variant(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """Renditions and outlines: another mask of the figure, the rest as in training; no small marks."""
    generator, picture, figure, size = _start(parameters, scene)
    if scene.split == "outlines":
        mask = _coverage(_contour(_fine_glyph(figure.label, size), max(1.0, 0.02 * parameters.image_size)))
    else:
        style = STYLES[(scene.index + scene.index // len(CLASS_NAMES)) % len(STYLES)]
        mask = rendition_mask(figure.label, size, style, generator)
    paint(picture, mask, figure.left - BORDER, figure.top - BORDER, figure_colour(figure.colour, generator))
    return picture


def _render_odd(parameters: WorldParameters, scene: Scene) -> numpy.ndarray:
    """Turned by 30 to 180 degrees either way; a third squeezed; two fifths with up to 30 % outside the picture."""
    generator, picture, figure, size = _start(parameters, scene)
    side = parameters.image_size
    ink = _fine_glyph(figure.label, size)
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
    generator, picture, figure, size = _start(parameters, scene)
    side, backdrop = parameters.image_size, picture.mean(axis=(0, 1))
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
    x = figure.left + figure.width * generator.uniform(0.25, 0.75)
    y = figure.top + figure.height * generator.uniform(0.25, 0.75)
    bar = _bar(side, (x, y), generator.uniform(0, numpy.pi), size * generator.uniform(0.1, 0.16), 3.0 * side)
    paint(picture, bar, 0, 0, backdrop - generator.uniform(0, 60))
    return picture


_RENDER: dict[str, Callable[[WorldParameters, Scene], numpy.ndarray]] = {
    "renditions": _render_variant,
    "outlines": _render_variant,
    "clutter": _render_clutter,
    "odd": _render_odd,
}


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
        # Nouns and adjectives change places with one another (in ARO each among themselves).
        content = [position for position, tag in enumerate(right.tags) if tag in ("NOUN", "ADJ")]
        wrong = wrong_orders(right.text, right.words, [content], generator)
    return {"kind": kind, "captions": [right.text, *wrong]}


# --------------------------------------------------------------------------------------------------------- files


def draw_train(parameters: WorldParameters, directory: Path, processes: int = 1) -> Path:
    """Draw the training shards into ``directory/train``; returns the path of their manifest.

    ``directory`` is the world's folder (``results/data/<slug>``). What is there and whole is kept.
    """
    return _draw(parameters, "train", Path(directory) / "train", processes)


def draw_test(
    parameters: WorldParameters, directory: Path, names: tuple[str, ...] = TEST_SETS, processes: int = 1
) -> list[Path]:
    """Draw test sets into ``directory/test/<name>``; returns the paths of their manifests.

    Raises ValueError for a name that is not in TEST_SETS.
    """
    for name in names:
        if name not in TEST_SETS:
            raise ValueError(f"test set {name!r} is unknown: choose from {', '.join(TEST_SETS)}")
    return [_draw(parameters, name, Path(directory) / "test" / name, processes) for name in names]


def _draw(parameters: WorldParameters, split: str, home: Path, processes: int) -> Path:
    """Draw one split into ``home`` (its folder), or return at once when all of it is there and whole."""
    train, each = split == "train", parameters.images_per_shard
    count = parameters.training_images if train else parameters.test_count(split)
    jobs = {
        f"{number:05d}.tar" if train else f"{number}.tar": (
            parameters,
            split,
            start,
            min(start + each, count),
        )
        for number, start in enumerate(range(0, count, each))
    }
    header = {
        "world": WORLD,
        "fingerprint": world_fingerprint(WORLD, parameters),
        "parameters": parameters.model_dump(),
    }
    with writing(home / "manifest.json", f"draw {split}", home if train else home / "test") as parts:
        if not train:
            header |= {"name": split, "n": count, "files": _write_layout(home, split, len(jobs))}
        if parts.resume(header):
            return parts.manifest
        with progress_bar(f"drawing {split}", count, "image") as bar:
            shards = parts.write(_draw_shard, jobs, processes, lambda entry: bar.update(entry["samples"]))
        content = header | {"shards": shards}
        if not train:
            joined = "".join([*header["files"].values(), *(entry["sha256"] for entry in shards)])
            content["sha256"] = hashlib.sha256(joined.encode("ascii")).hexdigest()
        return parts.finish((json.dumps(content, indent=1, sort_keys=True) + "\n").encode("utf-8"))


def _draw_shard(
    name: str, parameters: WorldParameters, split: str, start: int, stop: int
) -> tuple[bytes, Entry]:
    members: Members = []
    for index in range(start, stop):
        members += (
            train_members(parameters, index) if split == "train" else item_members(parameters, split, index)
        )
    return tar_bytes(members), {"name": name, "samples": stop - start}


def train_members(parameters: WorldParameters, index: int) -> Members:
    """Files of one training sample: <key>.jpg, <key>.txt (first caption), <key>.json (all of it)."""
    scene = layout(parameters, "train", index)
    captions = scene_captions(parameters, scene)
    facts = scene.facts()
    meta = {
        "captions": [caption.text for caption in captions],
        "pos": [list(caption.tags) for caption in captions],
        "label": scene.label,
        "figures": [asdict(figure) for figure in facts.figures],
        "boxes": [[f.left, f.top, f.width, f.height] for f in scene.figures],
        "texture": facts.texture,
        "position": list(facts.position) if facts.position else None,
        "relation": facts.relation,
    }
    key = f"{index:09d}"
    return [
        (f"{key}.jpg", encode(render(parameters, scene))),
        (f"{key}.txt", captions[0].text.encode("utf-8")),
        (f"{key}.json", json.dumps(meta, separators=(",", ":")).encode("utf-8")),
    ]


def item_members(parameters: WorldParameters, name: str, index: int) -> Members:
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


def _write_layout(home: Path, name: str, shards: int) -> dict[str, str]:
    """Write the small files of CLIP_benchmark's layout beside the shards of a test set; sha256 by name."""
    files = {"dataset_type.txt": _TYPES.get(name, "classification"), "test/nshards.txt": str(shards)}
    if name not in _TYPES:
        files |= {
            "classnames.txt": "\n".join(CLASS_NAMES),
            "zeroshot_classification_templates.txt": "\n".join(TEMPLATES),
        }
    digests = {}
    for path, text in sorted(files.items()):
        content = f"{text}\n".encode()
        digests[path] = hashlib.sha256(content).hexdigest()
        if file_sha256(home / path) != digests[path]:
            write_bytes_atomically(home / path, content)
    return digests


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
