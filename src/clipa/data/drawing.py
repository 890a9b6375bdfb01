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
from dataclasses import asdict, replace
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont

from clipa.data import TEST_SETS, WorldParameters, world_fingerprint
from clipa.data.captions import Caption, Facts, core, wrong_orders
from clipa.data.glyphs import class_names, font_path
from clipa.data.pictograms import Scene, encode, layout, random_stream, scene_captions
from clipa.data.shards import Entry, Members, file_sha256, progress_bar, tar_bytes, writing
from clipa.data.treatments import picture_of
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
_WORDING = 4
_TWO_OF_TWENTY = {"captions": 10, "order": 20}
# CLIP_benchmark takes all that is not retrieval for classification; order items are read by our own evaluator.
_TYPES = {"captions": "retrieval", "order": "order"}


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
        "world": parameters.name,
        "fingerprint": world_fingerprint(parameters),
        "parameters": parameters.model_dump(),
    }
    with writing(home / "manifest.json", f"draw {split}", home if train else home / "test") as parts:
        if not train:
            header |= {
                "name": split,
                "n": count,
                "files": _write_layout(home, split, len(jobs), class_names(parameters.name)),
            }
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
        (f"{key}.jpg", encode(picture_of(parameters, scene))),
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


def _write_layout(home: Path, name: str, shards: int, classes: tuple[str, ...]) -> dict[str, str]:
    """Write the small files of CLIP_benchmark's layout beside the shards of a test set; sha256 by name."""
    files = {"dataset_type.txt": _TYPES.get(name, "classification"), "test/nshards.txt": str(shards)}
    if name not in _TYPES:
        files |= {
            "classnames.txt": "\n".join(classes),
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
    return scene, picture_of(parameters, scene)


def contact_sheet(parameters: WorldParameters, columns: int = 12) -> Image.Image:
    """One row of pictures per set, training first: what docs/world-v1.png and world-v2.png show."""
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
