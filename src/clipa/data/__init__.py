"""The embedded world's identity, and all data sets: how they are drawn or downloaded, prepared, and read.

This file is light: no torch, no drawing. Parameters of the world are in :mod:`clipa.config`, its scenes in
:mod:`clipa.data.pictograms`, its sentences in :mod:`clipa.data.captions`, its sets in :mod:`clipa.data.drawing`.
"""

from __future__ import annotations

from clipa.config import TEST_SETS, WORLD, WorldParameters
from clipa.resolved import world_fingerprint

__all__ = ["TEST_SETS", "WORLD", "WorldParameters", "world_fingerprint"]
