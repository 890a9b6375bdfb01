"""The order of samples: a pure function of seed and position, whoever reads."""

import io
import itertools
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipa.config import Augmentation
from clipa.data.dealing import own_places
from clipa.data.shards import ShardError
from clipa.data.stream import Lane, StreamSpec, batches, crop_box, lane_windows, sample_noise
from written_shards import write_manifest

LANES, WINDOW = 4, 8


def picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, colour // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, samples: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, image, caption in samples:
            facts = json.dumps({"captions": [caption]}).encode()
            for ending, content in ((".jpg", image), (".txt", caption.encode()), (".json", facts)):
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StreamSpec:
    """Ten shards of unequal length; sample i is a picture of colour i with the caption 'i'."""
    from clipa.data.vocabulary import train_vocabulary

    root = tmp_path_factory.mktemp("stream")
    (root / "train").mkdir()
    shards, number = [], itertools.count()
    for index, size in enumerate((20, 17, 24, 8, 9, 16, 31, 20, 5, 12)):
        ids = list(itertools.islice(number, size))
        samples = [(f"{i:06d}", picture(i), f"sample {i:03d} abcdefghijklmnopqrstuvwxyz") for i in ids]
        write_shard(root / "train" / f"{index:05d}.tar", samples)
        shards.append((f"{index:05d}.tar", size))
    write_manifest(root / "train", dict(shards))
    train_vocabulary(root, 90)
    augmentation = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    return StreamSpec(
        root / "train",
        tuple(shards),
        0,
        "pretrain",
        LANES,
        WINDOW,
        16,
        4,
        16,
        augmentation,
        root / "vocabulary",
    )


def identities(images: np.ndarray) -> list[int]:
    """Which samples: colour of the top left pixel."""
    return [int(image[0, 0, 0]) + 256 * int(image[1, 0, 0]) for image in images]


def order(spec: StreamSpec, first: int, steps: int, **processes: int) -> list[list[int]]:
    return [identities(images) for images, _, _ in batches(spec, first, steps, **processes)]


def test_same_order_for_every_number_of_workers(spec: StreamSpec) -> None:
    alone = order(spec, 0, 12)
    assert order(spec, 0, 12, workers=1) == alone
    assert order(spec, 0, 12, workers=4) == alone


def test_tokens_and_pixels_are_the_same_with_workers(spec: StreamSpec) -> None:
    for one, four in zip(batches(spec, 0, 5), batches(spec, 0, 5, workers=4), strict=True):
        assert np.array_equal(one[0], four[0]) and np.array_equal(one[1], four[1])


def test_two_ranks_hold_every_second_position(spec: StreamSpec) -> None:
    whole = order(spec, 0, 10)
    first, second = (order(spec, 0, 10, rank=rank, world_size=2) for rank in (0, 1))
    assert [batch[0::2] for batch in whole] == first
    assert [batch[1::2] for batch in whole] == second
    assert order(spec, 0, 10, rank=1, world_size=2, workers=2) == second


@pytest.mark.parametrize(("ranks", "workers"), [(1, 3), (2, 3), (8, 0), (16, 0), (16, 8)])
def test_any_number_of_ranks_and_workers_deals_the_same_batches(
    spec: StreamSpec, ranks: int, workers: int
) -> None:
    """Four lanes, sixteen samples a batch; also from the middle, as a stage resumes that others began."""
    whole = list(batches(spec, 3, 6))
    for rank in sorted({0, ranks - 1}):
        own = own_places(LANES, 16, rank, ranks)
        read = list(batches(spec, 3, 6, rank=rank, world_size=ranks, workers=workers))
        assert len(read) == len(whole)
        for (images, tokens, _), (all_images, all_tokens, _) in zip(read, whole, strict=True):
            assert np.array_equal(images, all_images[own]) and np.array_equal(tokens, all_tokens[own])


def test_readers_of_one_lane_decode_their_own_samples_only(
    spec: StreamSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipa.data import stream

    decoded, decode = [], stream.decoded_for
    monkeypatch.setattr(stream, "decoded_for", lambda *asked: decoded.append(asked) or decode(*asked))
    order(spec, 0, 10, rank=5, world_size=8)
    assert len(decoded) == 10 * 16 // 8


@pytest.mark.parametrize("first", [1, 5, 9, 11])
def test_a_resume_continues_the_order(spec: StreamSpec, first: int) -> None:
    assert order(spec, first, 12) == order(spec, 0, 12)[first:]


def test_an_epoch_holds_every_sample_once(spec: StreamSpec) -> None:
    seen = []
    for lane in range(LANES):
        for epoch, shard, first, window in lane_windows(spec, lane):
            if epoch:
                break
            seen += [(shard, first + int(i)) for i in window]
    assert sorted(seen) == [(s, i) for s, (_, size) in enumerate(spec.shards) for i in range(size)]


def test_the_seed_changes_the_order_and_epochs_differ(spec: StreamSpec) -> None:
    assert order(spec, 0, 3) != order(replace(spec, seed=1), 0, 3)
    shards = [
        [shard for epoch, shard, _, _ in itertools.islice(lane_windows(spec, 0), 40) if epoch == e]
        for e in (0, 1)
    ]
    assert shards[0] != shards[1]


def test_stages_draw_their_own_noise() -> None:
    assert not np.array_equal(sample_noise(0, "pretrain", 0, 1), sample_noise(0, "finetune", 0, 1))
    assert np.array_equal(sample_noise(3, "pretrain", 5, 4)[2], sample_noise(3, "pretrain", 7, 1)[0])


def test_a_resume_opens_one_shard_per_lane(spec: StreamSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipa.data import stream

    opened = []
    reader = stream.ShardReader
    monkeypatch.setattr(stream, "ShardReader", lambda *asked: opened.append(asked) or reader(*asked))
    next(iter(Lane(spec, 1, 30)))
    assert len(opened) == 1


def test_a_truncated_shard_is_named(spec: StreamSpec, tmp_path: Path) -> None:
    for name, _ in spec.shards:
        whole = (spec.directory / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 3 // 512 * 512 + 100])
    with pytest.raises(ShardError, match=r"\d{5}\.tar: not a whole tar file: .*draw or download it again"):
        order(replace(spec, directory=tmp_path), 0, 12)


def test_an_undecodable_image_gives_way_to_the_next_and_is_counted(spec: StreamSpec, tmp_path: Path) -> None:
    for name, size in spec.shards:
        samples = [(f"{i}", b"no picture" if i % 4 == 0 else picture(i), "caption") for i in range(size)]
        write_shard(tmp_path / name, samples)
    damaged = replace(spec, directory=tmp_path)
    replaced = sum(count.sum() for _, _, count in batches(damaged, 0, 10))
    assert 20 < replaced < 70
    assert all(i % 4 for batch in order(damaged, 0, 10) for i in batch)
    assert order(damaged, 4, 10) == order(damaged, 0, 10)[4:]


def test_too_few_shards_are_refused(spec: StreamSpec) -> None:
    with pytest.raises(ShardError, match="3 shards for 4 lanes"):
        replace(spec, shards=spec.shards[:3])


@given(
    st.integers(8, 500),
    st.integers(8, 500),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=32, max_size=32),
    st.floats(0.05, 1.0),
)
def test_crops_lie_inside_and_keep_their_area(
    width: int, height: int, noise: list[float], area: float
) -> None:
    augmentation = Augmentation(crop_area=(area, 1.0))
    left, upper, right, lower = crop_box(width, height, augmentation, np.array(noise))
    assert 0 <= left < right <= width and 0 <= upper < lower <= height
    if 0.75 <= width / height <= 4 / 3:
        # Rounding each side to whole pixels loses at most half a pixel a side.
        assert (right - left + 0.5) * (lower - upper + 0.5) >= area * width * height * 0.99


MEMORY_PROGRAM = """
import json, resource, sys
from pathlib import Path
from clipa.config import Augmentation
from clipa.data.stream import StreamSpec, batches
root, count = Path(sys.argv[1]), int(sys.argv[2])
shards = tuple((f"{i % 20:05d}.tar", 8) for i in range(count))
spec = StreamSpec(root / "train", shards, 0, "pretrain", 8, 8, 16, 4, 16, Augmentation(), root / "vocabulary")
seen = sum(len(images) for images, _, _ in batches(spec, 0, count * 8 // 16))
print(json.dumps([seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def test_memory_does_not_grow_with_the_shards(spec: StreamSpec, tmp_path: Path) -> None:
    """A thousand shards with 200 kB a sample (1.6 GB in all) need no more memory than twenty."""
    (tmp_path / "train").mkdir()
    (tmp_path / "vocabulary").symlink_to(spec.vocabulary)
    padded = picture(1) + bytes(200_000)
    for index in range(20):
        write_shard(tmp_path / "train" / f"{index:05d}.tar", [(f"{i}", padded, "caption") for i in range(8)])
    peaks = []
    for count in (20, 1000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path), str(count)], capture_output=True, check=True
        )
        seen, kilobytes = json.loads(done.stdout)
        assert seen == count * 8
        peaks.append(kilobytes)
    assert peaks[1] < peaks[0] + 60_000
