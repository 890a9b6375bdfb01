"""The eight token reductions of §3 as index rules: noise in, indices of the kept tokens out.

`images` has random, grid and block masking and says what resizing leaves; `texts` has truncation, random, block and
syntax masking. A rule gives every token a priority, and `first` keeps the `kept` tokens of first priority, in
their original order. Hence every sample keeps the same number of tokens, exactly.

Noise (uniform numbers in [0, 1), drawn by the caller) is only ever compared, never rounded: NumPy arrays and torch
tensors of the same numbers give the same indices, on any device, without a copy to the host. Importing this package
imports neither.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy
    import torch

    Array: TypeAlias = numpy.ndarray | torch.Tensor


class ReductionError(ValueError):
    """A reduction cannot keep what it was asked to keep; one line that says what and what is possible."""


def first(priority: Array, kept: int) -> Array:
    """Indices (B, kept) of the `kept` smallest entries in each row of `priority` (B, L), in ascending order.

    Of equal entries the ones further left are taken.
    """
    order = priority.argsort(stable=True)  # the tokens of each row, first priority first
    place = order.argsort(stable=True)  # where each token stands in that order
    return ((place >= kept) * 1).argsort(stable=True)[:, :kept]


def arrays_of(array: Array) -> Any:
    """The module that `array` comes from, numpy or torch: both name the few functions used here alike."""
    return sys.modules[type(array).__module__.partition(".")[0]]
