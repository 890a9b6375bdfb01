"""The drawn worlds of the small scales by name and version, and what their generator is asked for (docs/world.md)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from clipa.fields import Count, Fraction, Natural, Share, Strict

TEST_SETS = ("plain", "fresh", "renditions", "outlines", "clutter", "odd", "captions", "order")
"""Of every world. Counterparts, in this order: imagenet1k imagenetv2 imagenet-r imagenet_sketch imagenet-a objectnet
mscoco_captions, and ARO."""


class WorldParameters(Strict):
    """What the generator of pictograms v1 is asked for. Part of the data fingerprint; the defaults are those of the
    scale micro-v1. Figure sizes bound the longer side of a one-figure scene's main figure.
    """

    name: ClassVar[str] = "pictograms/v1"
    """Name and version of the generator. The version is raised whenever the same parameters would give other scenes
    or other captions; it is part of every fingerprint."""

    image_size: Count = Field(64, ge=16, le=4096, description="stored pixels, square")
    figure_min: Share = Field(0.40, ge=0.1, le=0.9, description="figure size as a fraction of image_size")
    figure_max: Share = Field(0.65, ge=0.1, le=0.9)
    training_images: Count = 40_000
    captions_per_image: Count = Field(
        3, le=8, description="each from another template; there are enough for 8"
    )
    images_per_shard: Count = 1000
    test_images_plain: Count = 4000
    test_images: Count = 2000
    world_seed: Natural = 0

    @model_validator(mode="after")
    def _ordered(self) -> WorldParameters:
        if self.figure_min > self.figure_max:
            raise ValueError(f"figure_min {self.figure_min} is larger than figure_max {self.figure_max}")
        return self

    def test_count(self, name: str) -> int:
        """Number of images (items) of the test set ``name``."""
        return self.test_images_plain if name == "plain" else self.test_images


class SecondWorldParameters(WorldParameters):
    """Of pictograms v2: more classes, several drawings of each, figures large and near the middle, and a share of
    scenes that are drawn in other ways. The defaults are the micro scale's.
    """

    name: ClassVar[str] = "pictograms/v2"

    figure_min: Share = Field(0.60, ge=0.1, le=0.9, description="figure size as a fraction of image_size")
    figure_max: Share = Field(0.85, ge=0.1, le=0.9)
    training_images: Count = 60_000
    test_images_plain: Count = Field(9_600, description="100 of a class; version 1 has 4,000")
    hard: Fraction = Field(
        0.1,
        description="share of the one-figure scenes of train, plain and fresh that are drawn as in renditions, "
        "outlines, clutter or odd",
    )


WORLDS = {world.name: world for world in (WorldParameters, SecondWorldParameters)}
"""Parameters of each world by its name."""
