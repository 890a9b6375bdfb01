"""NegCLIP's batches: what is drawn with what, and the same for every number of workers and ranks and after a resume."""

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipa.data import resident
from clipa.data.shards import ShardError, tar_bytes
from clipa.data.stream import Lane, StreamSpec, augmented, batches, by_role, sample_noise
from clipa.data.vocabulary import encode, load_tokenizer
from negclip_world import BATCH, LANES, LENGTH, SIZE, draw_annotated, negclip_spec, samples

STEPS = 30  # of eight positions: more than an epoch of 200


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_annotated(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def spec(data: Path) -> StreamSpec:
    return negclip_spec(data, crop_area=(0.3, 1.0), color_jitter=0.4)


def read(spec: StreamSpec, first: int = 0, steps: int = STEPS, **processes: int) -> list[tuple]:
    return list(batches(spec, first, steps, **processes))


def equal(one: list[tuple], other: list[tuple]) -> bool:
    return len(one) == len(other) and all(
        all(np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(one, other, strict=True)
    )


def by_position(values: np.ndarray, blocks: int) -> np.ndarray:
    """[blocks × b, …] → [b, blocks, …]."""
    return values.reshape(blocks, -1, *values.shape[1:]).swapaxes(0, 1)


# ------------------------------------------------------------------------------------------------- whoever reads it


def test_shapes(spec: StreamSpec) -> None:
    images, tokens, replaced = next(batches(spec, 0, 1))
    assert (images.shape, images.dtype) == ((2 * BATCH, 3, SIZE, SIZE), np.uint8)
    assert (tokens.shape, tokens.dtype) == ((4 * BATCH, LENGTH), np.int64)
    assert images.flags.c_contiguous and tokens.flags.c_contiguous and not replaced.any()


@pytest.mark.parametrize("workers", [1, 4])
def test_same_batches_for_every_number_of_workers(spec: StreamSpec, workers: int) -> None:
    assert equal(read(spec), read(spec, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_hold_every_second_position_of_every_block(spec: StreamSpec, workers: int) -> None:
    ranks = [read(spec, rank=rank, world_size=2, workers=workers) for rank in (0, 1)]
    for whole, *parts in zip(read(spec), *ranks, strict=True):
        for values, blocks, own in ((0, 2, BATCH // 2), (1, 4, BATCH // 2)):
            of_ranks = [by_position(part[values], blocks) for part in parts]
            assert all(len(part) == own for part in of_ranks)
            woven = np.stack(of_ranks, axis=1).reshape(BATCH, *of_ranks[0].shape[1:])
            assert np.array_equal(woven, by_position(whole[values], blocks))


@pytest.mark.parametrize("first", [1, 7, 25, 29])
def test_a_resume_continues_the_batches(spec: StreamSpec, first: int) -> None:
    assert equal(read(spec, first), read(spec)[first:])
    assert equal(read(spec, first, workers=4), read(spec)[first:])


def test_the_seed_changes_batches(spec: StreamSpec) -> None:
    assert not equal(read(spec, 0, 1), read(replace(spec, seed=6), 0, 1))


# ------------------------------------------------------------------------------------------------- what is in them


def lanes_of(spec: StreamSpec, each: int) -> list:
    """The first ``each`` samples of every lane."""
    return [sample for lane in range(LANES) for sample in itertools.islice(iter(Lane(spec, lane, 0)), each)]


def test_each_draw_is_the_sample_s_own(spec: StreamSpec, data: Path) -> None:
    """Every sample, made again by its position's two rows of noise from the files alone."""
    of_caption: dict[str, list[str]] = {}
    raw = samples(data / "negclip")
    for key, members in raw.items():
        for caption in json.loads(members["json"])["captions"]:
            of_caption.setdefault(caption, []).append(key)
    for sample in lanes_of(spec, 10):
        own = sample_noise(spec.seed, "negclip", sample.position, 1)[0]
        other = sample_noise(spec.seed, "negclip", sample.position, 1, "neighbour")[0]
        matches = 0
        for key in of_caption[sample.caption]:
            facts = json.loads(raw[key]["json"])
            which = int(own[31] * 3)
            neighbour = facts["neighbours"][which]
            at = [int(row[0] * len(one["captions"])) for row, one in ((own, facts), (other, neighbour))]
            negatives = [facts["negatives"][at[0]], neighbour["negatives"][at[1]]]
            expected = (
                facts["captions"][at[0]],
                neighbour["captions"][at[1]],
                negatives[0][int(own[30] * len(negatives[0]))],
                negatives[1][int(other[30] * len(negatives[1]))],
            )
            images = [
                augmented(raw[key]["jpg"], spec, own),
                augmented(raw[key][f"neighbour{which}.jpg"], spec, other),
            ]
            matches += (sample.caption, *sample.more) == expected and np.array_equal(sample.image, images)
        assert matches == 1


def test_blocks_of_a_batch_are_its_samples_in_the_order_of_positions(spec: StreamSpec) -> None:
    found = sorted(lanes_of(spec, 2 * BATCH // LANES), key=lambda sample: sample.position)
    tokenizer = load_tokenizer(spec.vocabulary)
    for step, (images, tokens, _) in enumerate(read(spec, 0, 2)):
        some = found[step * BATCH : (step + 1) * BATCH]
        assert [sample.position for sample in some] == list(range(step * BATCH, (step + 1) * BATCH))
        for block in range(2):
            expected = np.stack([sample.image[block] for sample in some])
            assert np.array_equal(images[block * BATCH : (block + 1) * BATCH], expected)
        for block in range(4):
            texts = [(sample.caption, *sample.more)[block] for sample in some]
            assert np.array_equal(
                tokens[block * BATCH : (block + 1) * BATCH], encode(tokenizer, texts, LENGTH)
            )


def test_all_neighbours_captions_and_negatives_are_drawn(spec: StreamSpec) -> None:
    """The two rows of noise are independent of each other, and of other stages'."""
    rows = [sample_noise(5, "negclip", 0, 4000, stream) for stream in ("augmentation", "neighbour")]
    rows.append(sample_noise(5, "finetune", 0, 4000))
    for one, other in itertools.combinations(rows, 2):
        assert np.abs([np.corrcoef(one[:, i], other[:, i])[0, 1] for i in range(32)]).max() < 0.08
    found = lanes_of(spec, 50)
    assert len({sample.caption for sample in found}) > 140
    assert all(sample.caption != sample.more[1] and sample.more[0] != sample.more[2] for sample in found)


def test_by_role() -> None:
    values = np.arange(24).reshape(4, 3, 2)
    assert np.array_equal(by_role(values), np.concatenate([values[:, 0], values[:, 1], values[:, 2]]))


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_sample_with_an_undecodable_neighbour_gives_way_to_the_next(
    spec: StreamSpec, tmp_path: Path
) -> None:
    for name, _ in spec.shards:
        members = []
        for place, (key, files) in enumerate(samples(spec.directory, name).items()):
            damaged = {"neighbour1.jpg": b"no picture"} if place == 0 else {}
            members += [(f"{key}.{ending}", content) for ending, content in (files | damaged).items()]
        (tmp_path / name).write_bytes(tar_bytes(members))
    damaged, whole = read(replace(spec, directory=tmp_path)), read(spec)
    replaced = sum(batch[2].sum() for batch in damaged)
    assert (
        STEPS * BATCH / 15 < replaced < STEPS * BATCH / 6
    )  # a third of what is drawn with a third of the samples
    for one, other in zip(damaged, whole, strict=True):
        same = [
            np.array_equal(a, b)
            for a, b in zip(by_position(one[1], 4), by_position(other[1], 4), strict=True)
        ]
        assert same.count(False) <= one[2].sum()
    assert equal(read(replace(spec, directory=tmp_path), 9), damaged[9:])


def test_a_training_set_without_pairs_is_refused(spec: StreamSpec, data: Path) -> None:
    names = [path.name for path in sorted((data / "train").glob("*.tar"))]
    wrong = replace(spec, directory=data / "train", shards=tuple((name, 32) for name in names))
    with pytest.raises(ShardError, match=r"train: no good sample in a window of \d: \d with metadata"):
        read(wrong, 0, 1)


def test_only_truncation_and_no_resident_loader(spec: StreamSpec) -> None:
    with pytest.raises(ValueError, match="text_reduction syntax: NegCLIP's captions are only ever truncated"):
        replace(spec, text_reduction="syntax")
    with pytest.raises(ValueError, match=r"data\.resident makes no pairs"):
        resident.batches(
            replace(spec, augmentation=spec.augmentation.model_copy(update={"color_jitter": 0})), 0, 1
        )


def test_pictures_are_what_they_were(spec: StreamSpec, data: Path) -> None:
    """A whole crop at the stored size: pixels of the own picture and of a neighbour of it."""
    plain = negclip_spec(data, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    plain = replace(plain, image_size=64)
    images, _, _ = next(batches(plain, 0, 1))
    pixels = {}
    for key, members in samples(data / "negclip").items():
        picture = np.asarray(Image.open(io.BytesIO(members["jpg"])).convert("RGB")).transpose(2, 0, 1)
        pixels[picture.tobytes()] = key, [one["key"] for one in json.loads(members["json"])["neighbours"]]
    for own, neighbour in by_position(images, 2):
        (key, near), (other, _) = pixels[own.tobytes()], pixels[neighbour.tobytes()]
        assert other in near and key != other
