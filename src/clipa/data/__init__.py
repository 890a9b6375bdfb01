"""The embedded world's identity, and all data sets: how they are drawn or downloaded, prepared, and read.

This file is light: no torch, no drawing. Parameters of the world are in :mod:`clipa.worlds`, its scenes in
:mod:`clipa.data.pictograms`, its sentences in :mod:`clipa.data.captions`, its sets in :mod:`clipa.data.drawing`.
"""

from __future__ import annotations

from clipa.resolved import world_fingerprint
from clipa.worlds import TEST_SETS, WorldParameters

__all__ = ["TEST_SETS", "WorldParameters", "world_fingerprint"]
