"""Scaled decoding of JPEGs (`decode: scaled`): the same crop, never fewer pixels than the target, all else as is."""

import io
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pydantic import ValidationError

from clipa.config import Augmentation, load_scale
from clipa.data import samples
from clipa.data.samples import BadSample, Reason, decoded, decoded_for, reduction_for
from clipa.data.shards import tar_bytes
from clipa.data.stream import StreamSpec, augmented, batches, crop_box, noise_rows, sample_noise
from clipa.plan import load_plan
from clipa.sources import Data

ROOT = Path(__file__).parents[1]
SHARDS = tuple((f"{i:05d}.tar", 8) for i in range(2))
NOISE = sample_noise(0, "pretrain", 0, 50)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StreamSpec:
    """What a stage with small targets reads; its vocabulary is there, its shards are not."""
    from clipa.data.vocabulary import train_vocabulary
    from written_shards import write_shards

    root = tmp_path_factory.mktemp("scaled")
    write_shards(root / "train", 2, 8)
    train_vocabulary(root, 90)
    order = (SHARDS, 0, "pretrain", 2, 8, 4, 16, 8)
    return StreamSpec(root / "train", *order, Augmentation(), root / "vocabulary", decode="scaled")


def picture(width: int, height: int) -> Image.Image:
    """Smooth noise and an edge."""
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] //= 2
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(3))


def file(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 512))
def test_the_largest_reduction_is_taken_that_keeps_the_targets_pixels(
    width: int, height: int, target: int
) -> None:
    by = reduction_for((7, 9, 7 + width, 9 + height), target)
    assert by in (1, 2, 4, 8)
    assert by == 1 or (width / by >= target and height / by >= target)
    assert by == 8 or width < 2 * by * target or height < 2 * by * target


@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.integers(1, 40),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_the_box_covers_the_same_part_of_the_picture(
    width: int, height: int, target: int, edges: list[float]
) -> None:
    (left, right), (upper, lower) = (
        sorted((int(a * size), int(b * size)))
        for a, b, size in ((edges[0], edges[1], width), (edges[2], edges[3], height))
    )
    chosen = (left, upper, right + (right == left), lower + (lower == upper))
    asked = []
    content = file(Image.new("RGB", (width, height), "teal"), "JPEG")
    image, box = decoded_for(content, lambda *size: asked.append(size) or chosen, target)
    by = reduction_for(chosen, target)
    assert asked == [(width, height)]
    assert image.size == (ceil(width / by), ceil(height / by))
    assert tuple(edge * by for edge in box) == chosen
    assert box[2] <= image.width and box[3] <= image.height
    assert by == 1 or min(box[2] - box[0], box[3] - box[1]) >= target


@pytest.mark.parametrize(
    ("side", "by"), [(127, 1), (128, 2), (255, 2), (256, 4), (511, 4), (512, 8), (900, 8)]
)
def test_a_jpeg_is_decoded_smaller_from_twice_the_target_on(side: int, by: int) -> None:
    image, _ = decoded_for(file(picture(side, side), "JPEG"), lambda *size: (0, 0, *size), 64)
    assert image.size == (ceil(side / by),) * 2 and image.mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("target", [None, 16])
def test_every_kind_of_jpeg_comes_out_as_rgb(mode: str, target: int | None) -> None:
    content = file(picture(64, 64).convert(mode), "JPEG", quality=95)
    image, _ = decoded_for(content, lambda *size: (0, 0, *size), target)
    whole = decoded(content).resize(image.size, Image.Resampling.BOX)
    assert image.mode == "RGB" and image.size == ((64, 64) if target is None else (16, 16))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(whole)).mean() < 2


def test_pixels_hardly_differ_from_full_decoding(spec: StreamSpec) -> None:
    content = file(picture(256, 200), "JPEG", quality=90)
    differences = [
        np.abs(
            augmented(content, spec, row).astype(int) - augmented(content, replace(spec, decode="full"), row)
        )
        for row in NOISE
    ]
    assert 0 < np.mean(differences) < 1 and np.max(differences) < 24


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_decoded_whole(spec: StreamSpec, kind: str) -> None:
    content = file(picture(256, 200), kind)
    for row in NOISE[:10]:
        whole = augmented(content, replace(spec, decode="full"), row)
        assert np.array_equal(augmented(content, spec, row), whole)


def test_full_decoding_crops_what_is_stored(spec: StreamSpec) -> None:
    """The plain way of the same: decode all, crop, resize."""
    content = file(picture(256, 200), "JPEG")
    for row in NOISE[:10]:
        box = crop_box(256, 200, spec.augmentation, row)
        plain = decoded(content).resize((16, 16), Image.Resampling.BILINEAR, box=box)
        made = augmented(content, replace(spec, image_size=16, decode="full"), row)
        assert np.array_equal(made, np.asarray(plain).transpose(2, 0, 1))


def test_limits_hold_for_the_stored_size(spec: StreamSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSample) as narrow:
        augmented(file(Image.new("RGB", (2020, 20)), "JPEG"), spec, NOISE[0])
    monkeypatch.setattr(samples, "PIXELS", 100 * 100 - 1)
    with pytest.raises(BadSample) as large:
        augmented(file(Image.new("RGB", (100, 100)), "JPEG"), spec, NOISE[0])
    assert {narrow.value.reason, large.value.reason} == {Reason.SIZE}


def test_a_truncated_jpeg_is_a_bad_sample_that_is_replaced_and_counted(
    spec: StreamSpec, tmp_path: Path
) -> None:
    whole = file(picture(128, 128), "JPEG")
    for name, count in SHARDS:
        cut = [whole[: len(whole) * 2 // 3] if i == 3 else whole for i in range(count)]
        members = [
            member
            for i, content in enumerate(cut)
            for member in ((f"{i}.jpg", content), (f"{i}.txt", f"caption {i}".encode()))
        ]
        (tmp_path / name).write_bytes(tar_bytes(members))
    found = list(batches(replace(spec, directory=tmp_path), 0, 4))
    replaced = sum(counts for _, _, counts in found)
    assert dict(zip(samples.REASONS, replaced.tolist(), strict=True))[Reason.IMAGE] == replaced.sum() == 2


@pytest.mark.parametrize("stride", [1, 2, 8, 64])
def test_a_lanes_rows_of_noise_are_those_of_its_positions(stride: int) -> None:
    rows = noise_rows(5, "finetune", 3, stride, "neighbour")
    for step in range(40):
        assert np.array_equal(next(rows), sample_noise(5, "finetune", 3 + step * stride, 1, "neighbour")[0])


# ------------------------------------------------------------------------------------------------------ the setting


def test_a_stage_names_scaled_decoding_and_nothing_else_in_its_content() -> None:
    scale = load_scale("micro-v1", ROOT / "config")
    [stage, *_] = next(iter(load_plan({"scale": "micro-v1"}, ROOT).jobs("figure4"))).stages
    data = scale.data.model_copy(update={"decode": "scaled"})
    other = replace(stage, scale=scale.model_copy(update={"data": data}))
    assert "decode" not in stage.content
    assert other.content == {**stage.content, "decode": "scaled"}
    assert other.fingerprint != stage.fingerprint


def test_the_papers_scale_decodes_scaled_and_the_recorded_ones_do_not() -> None:
    paper = load_scale("paper", ROOT / "config")
    assert {data.decode for data in (paper.data, *paper.sources.values())} == {"scaled"}
    assert {load_scale(name, ROOT / "config").data.decode for name in ("micro-v1", "ci", "mini")} == {"full"}


def test_resident_data_is_kept_as_stored() -> None:
    asked = {"kind": "pictograms", "name": "pictograms/v1", "world": {}, "resident": True, "decode": "scaled"}
    with pytest.raises(ValidationError, match="`decode: scaled` is not for `resident` data"):
        Data.model_validate(asked)
