"""The embedded world's identity, and all data sets: how they are drawn or downloaded, prepared, and read.

This file is light: no torch, no drawing. Parameters of the world are in :mod:`clipa.config`, its scenes in
:mod:`clipa.data.pictograms`, its sentences in :mod:`clipa.data.captions`, its sets in :mod:`clipa.data.drawing`.
"""

from __future__ import annotations

from clipa.config import WorldParameters
from clipa.resolved import world_fingerprint

__all__ = ["TEST_SETS", "WORLD", "WorldParameters", "world_fingerprint"]

WORLD = "pictograms/v1"
"""Name and version of the generator. The version is raised whenever the same parameters would give other scenes or
other captions; it is part of every fingerprint."""

TEST_SETS = ("plain", "fresh", "renditions", "outlines", "clutter", "odd", "captions", "order")
"""Counterparts, in this order: imagenet1k imagenetv2 imagenet-r imagenet_sketch imagenet-a objectnet
mscoco_captions, and ARO."""
