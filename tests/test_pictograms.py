"""The world: scenes are pure functions of (parameters, split, index), and files are the same bytes every time."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from fontTools.ttLib import TTFont

from clipa.data import TEST_SETS, WorldParameters, drawing, glyphs, world_fingerprint
from clipa.data import pictograms as world
from clipa.data.drawing import draw_test, draw_train
from clipa.data.treatments import TREATMENTS, picture_of, treatment_of
from clipa.resolved import data_slug
from clipa.worlds import SecondWorldParameters
from small_world import small_scale

PARAMETERS = WorldParameters()
SECOND = SecondWorldParameters()
SECOND_DIGEST = "7b4b82a6281e337ce1dacadc06d7438fa42c14e43d46188d07ce0b91b121dd04"
TINY = WorldParameters(training_images=30, images_per_shard=8, test_images=10, test_images_plain=12)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_identity_is_known_without_drawing_and_covers_every_parameter():
    marks = {
        world_fingerprint(PARAMETERS),
        world_fingerprint(SecondWorldParameters(**PARAMETERS.model_dump())),
    }
    for name, value in PARAMETERS.model_dump().items():
        changed = PARAMETERS.model_copy(update={name: value * 1.01 if value < 1 and value else value + 1})
        marks.add(world_fingerprint(changed))
    assert len(marks) == 2 + len(PARAMETERS.model_dump())
    scale = small_scale()
    assert data_slug(scale.data) == f"pictograms-v1-{world_fingerprint(scale.data.world)}"
    # The Snakefile asks for it at parse time, in an environment without torch.
    script = "import sys, clipa.data; print(sorted({'numpy', 'PIL', 'torch', 'pandas'} & set(sys.modules)))"
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=paths
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training_images", 0),
        ("figure_min", 0.7),
        ("figure_max", 40),
        ("image_size", 8),
        ("captions_per_image", 50),
        ("world_seed", "x"),
    ],
)
def test_wrong_parameters_are_named(key, value):
    with pytest.raises(ValueError, match=key):
        WorldParameters(**{key: value})


@pytest.mark.parametrize(
    ("name", "classes", "glyphs_"), [("pictograms/v1", 48, 48), ("pictograms/v2", 96, 211)]
)
def test_classes_are_single_words_with_glyphs_that_their_fonts_have(name, classes, glyphs_):
    names = glyphs.class_names(name)
    assert len(names) == classes and all(re.fullmatch("[a-z]+", one) for one in names)
    drawn = [glyph for label in range(classes) for glyph in glyphs.drawings(name, label)]
    assert len(drawn) == glyphs_ == len(set(drawn))
    covered = {font: TTFont(glyphs.font_path(font)).getBestCmap() for font in {glyph.font for glyph in drawn}}
    assert [glyph for glyph in drawn if ord(glyph.character) not in covered[glyph.font]] == []


@pytest.mark.parametrize(("name", "alike"), [("pictograms/v1", 0.8), ("pictograms/v2", 0.91)])
def test_no_two_classes_look_alike(name, alike):
    size, squares, labels = 48, [], []
    for label, _ in enumerate(glyphs.class_names(name)):
        for glyph in glyphs.drawings(name, label):
            mask, square = glyphs.glyph_mask(glyph, size), numpy.zeros((size, size), numpy.float32)
            top, left = (size - mask.shape[0]) // 2, (size - mask.shape[1]) // 2
            square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            squares.append(square)
            labels.append(label)
    squares, labels = numpy.stack(squares), numpy.array(labels)
    for square, label in zip(squares, labels, strict=True):
        others = squares[labels != label]
        overlap = numpy.minimum(square, others).sum((1, 2)) / numpy.maximum(square, others).sum((1, 2))
        assert (overlap < alike).all(), glyphs.class_names(name)[label]


def test_the_second_worlds_training_and_plain_sets_mix_the_ways_of_drawing_alike():
    shares = {None: 1 - SECOND.hard, **dict.fromkeys(TREATMENTS, SECOND.hard / len(TREATMENTS))}
    for split in ("train", "plain", "fresh"):
        scenes = [world.layout(SECOND, split, index) for index in range(1000)]
        ways = Counter(treatment_of(SECOND, scene) for scene in scenes if scene.label is not None)
        assert set(ways) == set(shares)
        assert all(abs(ways[way] / ways.total() - share) < 0.03 for way, share in shares.items())
        assert not {treatment_of(SECOND, scene) for scene in scenes if scene.label is None} - {None}
    assert {treatment_of(SECOND, world.layout(SECOND, "odd", index)) for index in range(50)} == {"odd"}
    assert {treatment_of(PARAMETERS, world.layout(PARAMETERS, "train", index)) for index in range(50)} == {
        None
    }


def test_figures_of_the_second_world_are_large_and_near_the_middle_in_all_drawings():
    side, drawn = SECOND.image_size, set()
    for index in range(2400):
        (figure,) = world.layout(SECOND, "plain", index).figures
        drawn.add(figure.glyph)
        assert 0.59 <= max(figure.width, figure.height) / side <= 0.86
        for start, length in ((figure.left, figure.width), (figure.top, figure.height)):
            assert abs(start + length / 2 - side / 2) <= 0.08 * side + 1
            assert 0 <= start <= side - length
    assert len(drawn) > 0.97 * 211


def test_the_second_world_draws_the_same_bytes():
    """Digest of some scenes of every set: a change of what is drawn must raise the version."""
    found = hashlib.sha256()
    for index in range(40):
        for split in world.SPLITS:
            scene = world.layout(SECOND, split, index, 10 if split in ("captions", "order") else None)
            found.update(numpy.clip(picture_of(SECOND, scene), 0, 255).astype(numpy.uint8).tobytes())
            found.update("|".join(caption.text for caption in world.scene_captions(SECOND, scene)).encode())
    assert found.hexdigest() == SECOND_DIGEST


def test_scenes_do_not_depend_on_what_was_drawn_before():
    first = [world.layout(PARAMETERS, "train", index) for index in range(60)]
    picture = world.encode(world.render(PARAMETERS, first[7]))
    world._permutation.cache_clear()
    assert [world.layout(PARAMETERS, "train", index) for index in reversed(range(60))] == first[::-1]
    assert world.encode(world.render(PARAMETERS, first[7])) == picture
    other_seed = PARAMETERS.model_copy(update={"world_seed": 1})
    assert [world.layout(other_seed, "train", index) for index in range(60)] != first
    for name in TEST_SETS:
        assert world.layout(PARAMETERS, name, 7) != replace(first[7], split=name)


def test_kinds_and_classes_are_balanced():
    scenes = [world.layout(PARAMETERS, "train", index) for index in range(20 * 48)]
    labels = [scene.label for scene in scenes if scene.label is not None]
    assert len(labels) == 13 * 48
    assert set(numpy.bincount(labels, minlength=48)) == {13}
    firsts = [scene.figures[0].label for scene in scenes if scene.label is None]
    assert set(numpy.bincount(firsts, minlength=48)) == {7}
    for name in ("plain", "odd"):
        labels = [world.layout(PARAMETERS, name, index).label for index in range(480)]
        assert set(numpy.bincount(labels, minlength=48)) == {10}


def test_one_figure_is_whole_inside_the_picture_of_the_asked_size_and_clear_of_marks():
    sizes, side = [], PARAMETERS.image_size
    for index in range(800):
        scene = world.layout(PARAMETERS, "plain", index)
        (figure,) = scene.figures
        assert 0 <= figure.left <= side - figure.width and 0 <= figure.top <= side - figure.height
        assert glyphs.glyph_mask(figure.glyph, max(figure.width, figure.height)).shape == (
            figure.height,
            figure.width,
        )
        sizes.append(max(figure.width, figure.height) / side)
        assert not any(world.overlaps(mark, figure) for mark in scene.marks)
        assert {"small": sizes[-1] < 0.52, "large": sizes[-1] > 0.53, "": True}[figure.size]
    assert 0.39 <= min(sizes) <= 0.42 and 0.63 <= max(sizes) <= 0.66
    assert 0.1 < sum(bool(world.layout(PARAMETERS, "plain", i).marks) for i in range(800)) / 800 < 0.3


@pytest.mark.parametrize("image_size", [64, 112])
def test_two_figures_stand_as_their_relation_says(image_size):
    parameters = PARAMETERS.model_copy(update={"image_size": image_size})
    seen = set()
    for index in range(600):
        scene = world.layout(parameters, "train", index)
        if scene.label is not None:
            continue
        a, b = scene.figures
        seen.add(scene.relation)
        assert a.label != b.label and a.colour != b.colour and not world.overlaps(a, b, gap=0)
        assert {
            "left": a.left + a.width <= b.left,
            "right": b.left + b.width <= a.left,
            "above": a.top + a.height <= b.top,
            "below": b.top + b.height <= a.top,
        }[scene.relation]
        for figure in (a, b):
            assert (
                0 <= figure.left <= image_size - figure.width
                and 0 <= figure.top <= image_size - figure.height
            )
    assert seen == {"left", "right", "above", "below"}


def test_figures_are_dark_on_light_ground():
    for index in range(200):
        scene = world.layout(PARAMETERS, "plain", index)
        (figure,) = scene.figures
        luminance = world.render(PARAMETERS, scene) @ numpy.array([0.299, 0.587, 0.114])
        mask = glyphs.glyph_mask(figure.glyph, max(figure.width, figure.height)) > 0.95
        box = luminance[figure.top : figure.top + figure.height, figure.left : figure.left + figure.width]
        if mask.sum() >= 5:
            assert box[mask].mean() + 40 < numpy.median(luminance)


def test_one_and_two_processes_draw_the_same_bytes(tmp_path):
    for processes, name in ((1, "one"), (2, "two")):
        draw_train(TINY, tmp_path / name, processes)
        draw_test(TINY, tmp_path / name, ("plain", "renditions", "order"), processes)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    assert [name for name in one if name.startswith("train")] == [
        *(f"train/{shard:05d}.tar" for shard in range(4)),
        "train/manifest.json",
    ]
    manifest = json.loads(one["train/manifest.json"])
    assert manifest["fingerprint"] == world_fingerprint(TINY)
    assert [entry["samples"] for entry in manifest["shards"]] == [8, 8, 8, 6]


def test_what_is_whole_is_kept_and_what_is_not_is_drawn_again(tmp_path, monkeypatch):
    manifest = draw_train(TINY, tmp_path, 1)
    before = files_of(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".lock"}
    draw_train(TINY, tmp_path, 1)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    # Killed before the end: no manifest, a partial one of what was done, a temporary file.
    partial = json.loads(manifest.read_text()) | {"shards": json.loads(manifest.read_text())["shards"][:2]}
    (tmp_path / "train" / "manifest.partial.json").write_text(json.dumps(partial))
    (tmp_path / "train" / ".00003.tar.1.tmp").write_bytes(b"half")
    manifest.unlink()
    # And one of the done shards has since lost a bit.
    shard = tmp_path / "train" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    drawn, draw = [], drawing._draw_shard
    monkeypatch.setattr(drawing, "_draw_shard", lambda name, *job: drawn.append(name) or draw(name, *job))
    draw_train(TINY, tmp_path, 1)
    assert files_of(tmp_path) == before
    assert drawn == ["00001.tar", "00002.tar", "00003.tar"]
    assert (tmp_path / "train" / "00000.tar").stat().st_mtime_ns == stamps[tmp_path / "train" / "00000.tar"]


def test_a_manifest_of_other_parameters_is_not_taken_for_ours(tmp_path):
    draw_test(TINY, tmp_path, ("plain",), 1)
    other = TINY.model_copy(update={"world_seed": 5})
    (manifest,) = draw_test(other, tmp_path, ("plain",), 1)
    assert json.loads(manifest.read_text())["fingerprint"] == world_fingerprint(other)
    (again,) = draw_test(other, tmp_path / "fresh", ("plain",), 1)
    assert again.read_bytes() == manifest.read_bytes()


def test_an_unknown_set_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="'imagenet' is unknown: choose from plain, fresh"):
        draw_test(TINY, tmp_path, ("plain", "imagenet"), 1)
    assert list(tmp_path.iterdir()) == []
