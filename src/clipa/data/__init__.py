"""The embedded world: identity and where its files lie.

Light on purpose: no torch, no drawing. Parameters are in :mod:`clipa.config`, scenes in :mod:`clipa.data.pictograms`,
sentences in :mod:`clipa.data.captions`, test sets in :mod:`clipa.data.testsets`, files in :mod:`clipa.data.shards`.
"""

from __future__ import annotations

from clipa.config import WorldParameters
from clipa.stages import world_fingerprint

__all__ = ["TEST_SETS", "WORLD", "WorldParameters", "world_fingerprint"]

WORLD = "pictograms/v1"
"""Name and version of the generator. The version is raised whenever the same parameters would give other scenes or
other captions; it is part of every fingerprint."""

TEST_SETS = ("plain", "fresh", "renditions", "outlines", "clutter", "odd", "captions", "order")
"""Counterparts, in this order: imagenet1k imagenetv2 imagenet-r imagenet_sketch imagenet-a objectnet
mscoco_captions, and ARO."""
