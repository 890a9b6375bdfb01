"""A NegCLIP training set of a small world, made once for the tests that read it."""

import tarfile
from pathlib import Path

from clipa.config import Augmentation
from clipa.data.annotation import WORLD, annotate
from clipa.data.negclip import write_negatives
from clipa.data.shards import read_manifest
from clipa.data.stream import StreamSpec
from clipa.resolved import data_slug
from small_world import draw_small_world, small_scale

LANES, BATCH, SIZE, LENGTH = 4, 8, 20, 24


def draw_annotated(root: Path, pictures: int = 256) -> Path:
    """Draw a small world below ``root``, with vocabulary and parts of speech; returns its data folder."""
    scale = small_scale(training_images=pictures, images_per_shard=32)
    draw_small_world(scale, root, ())
    data = root / "data" / data_slug(scale.data)
    annotate(data, 1, WORLD)
    return data


def negclip_spec(data: Path, **augmentation: object) -> StreamSpec:
    """What a NegCLIP stage reads; the set is made if it is not there."""
    write_negatives(data, 1, rows=200)
    shards = read_manifest(data / "negclip")["shards"]
    return StreamSpec(
        directory=data / "negclip",
        shards=tuple((shard["name"], shard["samples"]) for shard in shards),
        seed=5,
        kind="negclip",
        lanes=LANES,
        shuffle_window=3,
        batch_size=BATCH,
        image_size=SIZE,
        text_tokens=LENGTH,
        augmentation=Augmentation(**augmentation),
        vocabulary=data / "vocabulary",
    )


def samples(folder: Path, shards: str = "*.tar") -> dict[str, dict[str, bytes]]:
    """Members by key and ending of every sample of a folder's shards."""
    found: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob(shards)):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                found.setdefault(key, {})[ending] = archive.extractfile(member).read()
    return found
