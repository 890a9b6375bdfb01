"""The embedded world: parameters, identity and where its files lie.

Light on purpose (standard library only): the Snakefile calls :func:`fingerprint` and :func:`slug` when it is
parsed. Scenes are in :mod:`clipa.data.pictograms`, sentences in :mod:`clipa.data.captions`, test sets in
:mod:`clipa.data.testsets`, files in :mod:`clipa.data.shards`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields

WORLD = "pictograms/v1"
# Raised whenever the same parameters would give other scenes or other captions; part of the fingerprint.
GENERATOR_VERSION = 1

# Counterparts, in this order: imagenet1k imagenetv2 imagenet-r imagenet_sketch imagenet-a objectnet
# mscoco_captions, and ARO.
TEST_SETS = ("plain", "fresh", "renditions", "outlines", "clutter", "odd", "captions", "order")


@dataclass(frozen=True)
class WorldParameters:
    """Everything that decides which bytes are drawn. Defaults are the micro scale's.

    image_size is the stored width and height in pixels; figure_min and figure_max bound the longer side of
    the main figure of a one-figure scene, as a fraction of image_size.
    """

    image_size: int = 64
    figure_min: float = 0.40
    figure_max: float = 0.65
    training_images: int = 40_000
    captions_per_image: int = 3
    images_per_shard: int = 1000
    test_images_plain: int = 4000
    test_images: int = 2000
    world_seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("figure_"):
                valid = isinstance(value, (int, float)) and 0.1 <= value <= 0.9
                wanted = "a fraction between 0.1 and 0.9"
            else:
                least = 0 if field.name == "world_seed" else 1
                valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
                wanted = f"a whole number, at least {least}"
            if not valid:
                raise ValueError(f"world parameter {field.name}: {value!r} is not {wanted}")
        if self.figure_min > self.figure_max:
            raise ValueError(
                f"world parameter figure_min: {self.figure_min} is larger than figure_max, {self.figure_max}"
            )
        if self.image_size < 16:
            raise ValueError(
                f"world parameter image_size: {self.image_size} px is too small, give at least 16"
            )
        if self.captions_per_image > 8:
            raise ValueError(
                f"world parameter captions_per_image: {self.captions_per_image} is more than 8, "
                "there are not enough different templates"
            )

    def test_count(self, name: str) -> int:
        """Number of images (items) of the test set ``name``."""
        return self.test_images_plain if name == "plain" else self.test_images


def fingerprint(parameters: WorldParameters) -> str:
    """Identity of the drawn data: 8 hex digits, known without drawing."""
    spec = {"world": WORLD, "version": GENERATOR_VERSION, "parameters": asdict(parameters)}
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:8]


def slug(parameters: WorldParameters) -> str:
    """Folder name of the world under ``results/data``, e.g. ``pictograms-v1-3f2a9c1b``."""
    return f"{WORLD.replace('/', '-')}-{fingerprint(parameters)}"
