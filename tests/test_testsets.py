"""The eight test sets: layout as CLIP_benchmark reads it, and what each of them changes."""

import hashlib
import json
import tarfile
from collections import Counter

import numpy
import pytest

from clipa.data import TEST_SETS, WorldParameters, glyphs, world_fingerprint
from clipa.data import pictograms as world
from clipa.data.annotation import words_of
from clipa.data.drawing import (
    CAPTIONS_PER_RETRIEVAL_ITEM,
    ORDER_KINDS,
    TEMPLATES,
    draw_item,
    draw_test,
    order_item,
)
from clipa.data.treatments import BORDER, STYLES, rendition_mask

PARAMETERS = WorldParameters()
NAMES = glyphs.class_names(PARAMETERS.name)
CLASSIFICATION = [name for name in TEST_SETS if name not in ("captions", "order")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    parameters = WorldParameters(images_per_shard=20, test_images=50, test_images_plain=60)
    draw_test(parameters, directory, TEST_SETS, 1)
    return parameters, directory / "test"


def order_items(count):
    scenes = [draw_item(PARAMETERS, "order", index)[0] for index in range(count)]
    return [(scene, order_item(PARAMETERS, scene)) for scene in scenes]


@pytest.mark.parametrize("name", TEST_SETS)
def test_layout_and_manifest(drawn, name):
    parameters, root = drawn
    home, count = root / name, parameters.test_count(name)
    manifest = json.loads((home / "manifest.json").read_text())
    assert (manifest["name"], manifest["n"], manifest["fingerprint"]) == (
        name,
        count,
        world_fingerprint(parameters),
    )
    assert int((home / "test" / "nshards.txt").read_text()) == 3 == len(manifest["shards"])
    expected = {"captions": "retrieval", "order": "order"}.get(name, "classification")
    assert (home / "dataset_type.txt").read_text().strip() == expected
    assert (home / "classnames.txt").exists() == (name in CLASSIFICATION)
    member = {"captions": "txt", "order": "json"}.get(name, "cls")
    found = []
    for shard in range(3):
        with tarfile.open(home / "test" / f"{shard}.tar") as archive:
            found += archive.getnames()
    assert found == [f"{index:06d}.{kind}" for index in range(count) for kind in ("jpg", member)]


def test_clip_benchmark_reads_them(drawn):
    from clip_benchmark.datasets.builder import build_dataset

    parameters, root = drawn
    plain = build_dataset(
        "wds/plain", root=str(root / "plain"), transform=lambda image: image.size, split="test"
    )
    samples = list(plain)
    assert samples[0][0] == (64, 64)
    expected = [world.layout(parameters, "plain", index).label for index in range(60)]
    assert [label for _, label in samples] == expected
    assert plain.classes == list(NAMES)
    assert plain.templates == list(TEMPLATES)
    retrieval = build_dataset(
        "wds/captions",
        root=str(root / "captions"),
        transform=numpy.asarray,
        split="test",
        task="zeroshot_retrieval",
    )
    samples = list(retrieval)
    assert len(samples) == 50
    assert {len(texts) for _, texts in samples} == {CAPTIONS_PER_RETRIEVAL_ITEM}
    assert all(set(words_of(text.lower())) & set(world.COLOURS) for _, texts in samples for text in texts)


def test_prompts_have_the_wording_of_training_captions():
    known = {
        word.lower()
        for index in range(300)
        for caption in world.scene_captions(PARAMETERS, world.layout(PARAMETERS, "train", index))
        for word in caption.words
    }
    for template in TEMPLATES:
        assert template.count("{c}") == 1
        assert set(words_of(template.format(c="anchor"))) <= known
        assert not set(words_of(template)) & {*world.COLOURS, *world.TEXTURES}


def test_renditions_overlap_little_with_the_training_glyphs():
    generator = numpy.random.default_rng(0)
    overlaps = {style: [] for style in STYLES}
    for label in range(len(NAMES)):
        for style in STYLES:
            for size in (26, 34, 42):
                (drawing,) = glyphs.drawings(PARAMETERS.name, label)
                glyph = numpy.pad(glyphs.glyph_mask(drawing, size), BORDER)
                mask = rendition_mask(drawing, size, style, generator)
                assert mask.shape == glyph.shape and mask.sum() > 20
                overlaps[style].append(numpy.minimum(mask, glyph).sum() / numpy.maximum(mask, glyph).sum())
    assert numpy.median(list(overlaps.values())) <= 0.7
    assert all(numpy.median(values) <= 0.7 for values in overlaps.values())


def test_every_rendition_style_is_drawn_of_every_class():
    # Four cycles of classes: enough for each class to meet each style about once; styles are equally frequent.
    pairs = Counter()
    for index in range(16 * len(NAMES)):
        style = (index + index // len(NAMES)) % len(STYLES)
        pairs[style, world.layout(PARAMETERS, "renditions", index).label] += 1
    assert len({style for style, _ in pairs}) == 4
    assert len(pairs) > 0.95 * 4 * 48


def darkness(name, count=192):
    """Mean share of dark pixels, of the whole picture and outside the figure's own box."""
    whole, outside = [], []
    for index in range(count):
        scene, picture = draw_item(PARAMETERS, name, index)
        luminance = picture @ numpy.array([0.299, 0.587, 0.114])
        dark = luminance < numpy.median(luminance) - 50
        whole.append(dark.mean())
        (figure,) = scene.figures
        dark[figure.top : figure.top + figure.height, figure.left : figure.left + figure.width] = False
        outside.append(dark.mean())
    return numpy.mean(whole), numpy.mean(outside)


def ink_luminance(name, count=192):
    """Mean luminance where the figure's ink would be in training."""
    values = []
    for index in range(count):
        scene, picture = draw_item(PARAMETERS, name, index)
        (figure,) = scene.figures
        ink = glyphs.glyph_mask(figure.glyph, max(figure.width, figure.height)) > 0.95
        box = picture[figure.top : figure.top + figure.height, figure.left : figure.left + figure.width]
        values += list((box @ numpy.array([0.299, 0.587, 0.114]))[ink])
    return numpy.mean(values)


def test_each_shift_is_what_it_says():
    dark = {name: darkness(name) for name in CLASSIFICATION}
    plain = dark["plain"]
    assert abs(dark["fresh"][0] - plain[0]) < 0.1 * plain[0]
    assert dark["outlines"][0] < 0.8 * plain[0]  # contours only
    assert dark["odd"][0] < plain[0] and dark["odd"][1] > 5 * plain[1]  # cut at the edge, and elsewhere
    assert dark["clutter"][1] > 3 * plain[1]  # strokes and scraps
    assert ink_luminance("clutter") > ink_luminance("plain") + 15  # the figure crossed by a bar, or faint


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_pictures_are_functions_of_their_index(name):
    scene, picture = draw_item(PARAMETERS, name, 11)
    again, same = draw_item(PARAMETERS, name, 11)
    assert scene == again and numpy.array_equal(picture, same)
    assert not numpy.array_equal(picture, draw_item(PARAMETERS, name, 12)[1])


def test_order_items_have_the_same_words_right_or_wrong():
    kinds = Counter()
    for _, item in order_items(300):
        right, *wrong = item["captions"]
        kinds[item["kind"]] += 1
        assert len(wrong) == (4 if item["kind"] == "order" else 1)
        assert len(set(item["captions"])) == len(item["captions"])
        for text in wrong:
            assert Counter(words_of(text)) == Counter(words_of(right)), item
    assert kinds == dict.fromkeys(ORDER_KINDS, 100)


def test_order_items_are_those_of_version_1():
    """Records of them exist; the code of their orders serves ARO's own sets, too, and must not change them."""
    said = json.dumps([item for _, item in order_items(60)]).encode()
    assert (
        hashlib.sha256(said).hexdigest() == "50eb7da587287ca0c2e3a70e6cd36a1ba8579ca3cf641e444f73fd2ff6e1e87e"
    )


def test_a_bag_of_words_is_at_chance_on_order_items():
    generator = numpy.random.default_rng(0)
    vectors: dict[str, numpy.ndarray] = {}
    correct = {kind: [] for kind in ORDER_KINDS}
    for _, item in order_items(900):
        image = generator.standard_normal(32)
        scores = []
        for text in item["captions"]:
            words = sorted(words_of(text))  # sums in one order: rounding must not tell them apart
            for word in words:
                vectors.setdefault(word, generator.standard_normal(32))
            scores.append(float(image @ sum(vectors[word] for word in words)))
        best = [i for i, score in enumerate(scores) if score == max(scores)]
        correct[item["kind"]].append((0 in best) / len(best))
    assert numpy.mean(correct["relation"]) == numpy.mean(correct["attribute"]) == 0.5
    assert numpy.mean(correct["order"]) == pytest.approx(0.2)


def test_right_order_captions_are_true_and_wrong_ones_are_not():
    forms = {"left": "left of", "right": "right of", "above": "above|over", "below": "below|under"}
    for scene, item in order_items(150):
        first, second = (NAMES[figure.label] for figure in scene.figures)
        right, wrong = item["captions"][:2]
        assert right.index(first) < right.index(second)
        assert any(form in right for form in forms[scene.relation].split("|"))
        if item["kind"] == "relation":
            assert wrong.index(second) < wrong.index(first)
            assert any(form in wrong for form in forms[scene.relation].split("|"))
        if item["kind"] == "attribute":
            assert wrong.index(first) < wrong.index(second)
            colours = [world.COLOUR_NAMES[figure.colour] for figure in scene.figures]
            assert right.index(colours[0]) < right.index(colours[1])
            assert wrong.index(colours[1]) < wrong.index(colours[0])


def test_order_items_do_not_favour_a_relation_or_a_class():
    scenes = [draw_item(PARAMETERS, "order", index)[0] for index in range(960)]
    relations = Counter(scene.relation for scene in scenes)
    assert min(relations.values()) > 190
    assert set(Counter(scene.figures[0].label for scene in scenes).values()) == {20}
