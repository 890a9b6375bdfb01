"""The loader that keeps the world on the device gives what the stream gives: order, captions, crops, tokens, pixels."""

import io
import itertools
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError

from clipa.config import Augmentation, Project, Scale
from clipa.data import resident, stream
from clipa.data.annotation import WORLD, annotate, gold_captions
from clipa.data.resident import cropped
from clipa.data.samples import ShardReader
from clipa.data.shards import Expected, ShardError, read_manifest
from clipa.data.stream import StreamSpec, crop_box, crop_boxes, sample_noise
from clipa.resolved import data_slug
from clipa.stages import resolve, stages_of
from clipa.study import parse_run
from clipa.train import train_stage
from small_training import tiny_scale
from small_world import draw_small_world

REDUCTIONS = ("truncation", "random", "block", "syntax")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 pictures of 64 pixels in eight shards, three captions each, tagged with the world's own tags."""
    root = tmp_path_factory.mktemp("resident")
    scale = tiny_scale()
    draw_small_world(scale, root, ())
    data = root / "data" / data_slug(scale.data)
    annotate(data, 1, WORLD)
    return data


@pytest.fixture(scope="module")
def spec(root: Path) -> StreamSpec:
    shards = tuple((shard["name"], shard["samples"]) for shard in read_manifest(root / "train")["shards"])
    augmentation = Augmentation(crop_area=(0.3, 1.0))
    return StreamSpec(
        root / "train", shards, 3, "pretrain", 4, 16, 32, 24, 8, augmentation, root / "vocabulary"
    )


def both(spec: StreamSpec, first: int, steps: int, **ranks: int) -> list[tuple]:
    """(the stream's batch, the resident loader's) of each step."""
    return list(
        zip(
            stream.batches(spec, first, steps, **ranks),
            resident.batches(spec, first, steps, **ranks),
            strict=True,
        )
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("length", [32, 16, 8, 4])
def test_tokens_are_the_streams_to_the_last_id(spec: StreamSpec, reduction: str, length: int) -> None:
    chosen = replace(spec, text_reduction=reduction, text_tokens=length)
    for theirs, ours in both(chosen, 0, 3):
        assert ours[1].dtype == torch.int64
        assert np.array_equal(theirs[1], ours[1].numpy())


@pytest.mark.parametrize("size", [8, 24, 48, 64])
def test_pixels_are_the_streams(spec: StreamSpec, size: int) -> None:
    """Over two epochs. On a CPU to the last bit; what a GPU does instead: ``test_any_box_is_resized_as_pil_does``."""
    pairs = both(replace(spec, image_size=size), 0, 16)
    theirs, ours = (np.concatenate([np.asarray(pair[i][0]) for pair in pairs]).astype(int) for i in (0, 1))
    assert theirs.shape == ours.shape == (16 * 32, 3, size, size)
    assert np.array_equal(theirs, ours)
    assert np.abs(theirs[:-1] - ours[1:]).mean() > 5


@pytest.mark.parametrize(
    "ranks", [{"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 2}, {"rank": 6, "world_size": 8}]
)
def test_ranks_hold_what_the_stream_gives_them(spec: StreamSpec, ranks: dict[str, int]) -> None:
    chosen = replace(spec, text_reduction="random")
    for theirs, ours in both(chosen, 1, 4, **ranks):
        assert np.array_equal(theirs[1], ours[1].numpy())
        assert np.abs(theirs[0].astype(int) - ours[0].numpy()).max() <= 1


@pytest.mark.parametrize("first", [1, 7, 11])
def test_a_resume_continues_bit_for_bit(spec: StreamSpec, first: int) -> None:
    chosen = replace(spec, text_reduction="block")
    whole = list(itertools.islice(resident.batches(chosen, 0, 12), first, None))
    rest = list(resident.batches(chosen, first, 12))
    assert len(rest) == 12 - first
    for one, other in zip(whole, rest, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_an_undecodable_picture_gives_way_as_in_the_stream(spec: StreamSpec, tmp_path: Path) -> None:
    """Every fifth picture is damaged, and of one sample the facts."""
    for name, _ in spec.shards:
        with tarfile.open(spec.directory / name) as whole, tarfile.open(tmp_path / name, "w") as damaged:
            for number, member in enumerate(whole):
                content = whole.extractfile(member).read()
                if number % 15 == 0 or number == 8:
                    content = content[: len(content) // 2]
                member.size = len(content)
                damaged.addfile(member, io.BytesIO(content))
    pairs = both(replace(spec, directory=tmp_path), 2, 12)
    assert sum(theirs[2].sum() for theirs, _ in pairs) > 20
    for theirs, ours in pairs:
        assert theirs[2].tolist() == ours[2].tolist()
        assert np.array_equal(theirs[1], ours[1].numpy())
        assert np.abs(theirs[0].astype(int) - ours[0].numpy()).max() <= 1


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    area=st.floats(0.05, 1),
    first=st.integers(0, 2**40),
)
def test_crops_are_exactly_the_streams(width: int, height: int, area: float, first: int) -> None:
    augmentation = Augmentation(crop_area=(area, 1.0))
    noise = sample_noise(0, "pretrain", first, 64)
    alone = [crop_box(width, height, augmentation, row) for row in noise]
    assert crop_boxes(width, height, augmentation, noise).tolist() == [list(box) for box in alone]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), side=st.integers(9, 60), size=st.sampled_from([1, 3, 8, 17, 40, 70]))
def test_any_box_is_resized_as_pil_does(data: st.DataObject, side: int, size: int) -> None:
    """Smaller and larger, at the edge and inside; noise for pixels, the hardest picture there is."""
    left, upper = (data.draw(st.integers(0, side - 2)) for _ in "xy")
    right, lower = (data.draw(st.integers(start + 1, side)) for start in (left, upper))
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    box = (left, upper, right, lower)
    expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    found = cropped(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], torch.tensor([box]), size)
    difference = np.abs(np.asarray(expected).transpose(2, 0, 1).astype(int) - found[0].numpy())
    assert difference.max() <= 1


def test_the_data_is_read_once_for_all_stages(spec: StreamSpec) -> None:
    worlds = [
        resident.load_world(replace(spec, seed=seed, kind=kind, text_tokens=length, batch_size=length))
        for seed, kind, length in ((0, "pretrain", 8), (1, "finetune", 32))
    ]
    assert worlds[0] is worlds[1]


def test_decoded_images_are_kept_on_disk_and_never_stand_for_other_data(
    spec: StreamSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(spec.directory, tmp_path / "train")
    shutil.copytree(spec.vocabulary, tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / "vocabulary.json").unlink()  # it names the tokenizer's digest
    shards = read_manifest(tmp_path / "train")["shards"]
    known = replace(spec, directory=tmp_path / "train", vocabulary=tmp_path / "vocabulary")
    known = replace(known, expected=tuple(Expected(shard["sha256"]) for shard in shards))
    wanted, decodings, decode = list(resident.batches(spec, 0, 4)), [], resident._decode

    def counted(*asked: object) -> dict[str, torch.Tensor]:
        decodings.append(asked)
        return decode(*asked)

    def made(asked: StreamSpec) -> tuple[int, list[Path]]:
        """How often images have been decoded after ``asked`` is read as by another process; the files there."""
        resident._load_world.cache_clear()
        for one, other in zip(wanted, resident.batches(asked, 0, 4), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        return len(decodings), list(known.directory.glob("*resident-*"))

    monkeypatch.setattr(resident, "_decode", counted)
    (known.directory / ".resident-0-1.partial").write_bytes(b"of a kill")
    count, [file] = made(known)
    assert count == 1 and made(known) == (1, [file]), "the second process finds it"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert made(known) == (2, [file]) and "damaged" in capsys.readouterr().err
    tokenizer = known.vocabulary / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    count, [other] = made(known)
    assert count == 3 and other != file, "another vocabulary's"
    resident._load_world.cache_clear()
    wrong = replace(known, expected=(Expected("0" * 64), *known.expected[1:]))
    with pytest.raises(ShardError, match="its manifest names 0000000000000000"):
        resident.batches(wrong, 0, 1)
    monkeypatch.setattr("clipa.checkpoint.save_file", full_disk)
    assert made(known) == (5, []) and "not kept for other processes" in capsys.readouterr().err


def full_disk(*_: object, **__: object) -> None:
    raise SafetensorError("No space left on device")


def test_what_it_cannot_do_is_said(spec: StreamSpec, tmp_path: Path) -> None:
    jitter = replace(spec, augmentation=Augmentation(color_jitter=0.32))
    with pytest.raises(ValueError, match="neither colour jitter nor grey"):
        resident.batches(jitter, 0, 1)
    for path in spec.directory.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ShardError, match="tag the captions first"):
        resident.batches(replace(spec, directory=tmp_path, text_reduction="syntax"), 0, 1)
    cut = tuple((name, samples + 1) for name, samples in spec.shards)
    with pytest.raises(ShardError, match="the manifest says"):
        resident.batches(replace(spec, shards=cut), 0, 1)


def test_pictures_of_several_sizes_are_refused(spec: StreamSpec, tmp_path: Path) -> None:
    for name, _ in spec.shards:
        with tarfile.open(spec.directory / name) as whole, tarfile.open(tmp_path / name, "w") as mixed:
            for number, member in enumerate(whole):
                content = whole.extractfile(member).read()
                if name == "00003.tar" and number == 30:
                    buffer = io.BytesIO()
                    Image.new("RGB", (64, 48)).save(buffer, "JPEG")
                    content = buffer.getvalue()
                member.size = len(content)
                mixed.addfile(member, io.BytesIO(content))
    with pytest.raises(ShardError, match=r"00003\.tar: images of several sizes"):
        resident.batches(replace(spec, directory=tmp_path), 0, 1)


def test_a_stage_trains_to_the_same_bits_with_either_loader(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    made = resident.batches
    monkeypatch.setattr(resident, "batches", lambda *asked: given.append(asked) or made(*asked))
    project = Project(data_directory=str(root.parent), runs_directory=str(tmp_path))
    weights = []
    for kept in (False, True):
        values = tiny_scale().model_dump()
        values["data"]["resident"] = kept
        stage = stages_of(parse_run("S16-random49-syntax8"), Scale.model_validate(values), 0)[0]
        made_by = train_stage(resolve(stage, project)).parent / "open_clip" / "open_clip_model.safetensors"
        weights.append(made_by.read_bytes())
        assert len(given) == kept
    assert weights[0] == weights[1]


def test_the_worlds_own_tags_become_sidecars(root: Path) -> None:
    tagged = ShardReader(root / "train", "00000.tar", 32, tagged=True).window(0, 32)
    found = [caption for sample in tagged for caption in sample.tagged]
    assert found == list(gold_captions(root / "train" / "00000.tar"))
    assert not (root / "tagger").exists()


def test_only_the_loader_that_rounds_differently_has_a_fingerprint_of_its_own() -> None:
    values = tiny_scale().model_dump()
    values["data"]["resident"] = True
    streamed, kept = (
        stages_of(parse_run("S16-none-truncation32"), scale, 0)[0].content
        for scale in (tiny_scale(), Scale.model_validate(values))
    )
    assert kept == streamed | {"loader": "resident"}
