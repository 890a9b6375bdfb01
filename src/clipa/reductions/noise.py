"""Uniform numbers that belong to a sample: a pure function of (key, position, index), equal on NumPy and torch.

Masks need one number per patch or word of every sample. A generator with a state would have to be carried along,
restored on resume and split over devices and loader workers; a hash of the sample's position needs nothing, and
runs where the positions are (on the device, without a host round trip). The hash is SplitMix64's output function
(Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014) in wrapping 64-bit arithmetic.
"""

from __future__ import annotations

from typing import Any

NUMBERS_PER_SAMPLE = 1 << 16
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def uniform(key: int, positions: Any, count: int) -> Any:
    """The first ``count`` of each sample's numbers in [0, 1): float64 [B, count], on the device of ``positions``.

    ``positions`` int64 [B], NumPy or torch. The same key and position give the same numbers whatever else is in the
    batch, and however many are asked for (at most 65,536). ``key`` names the random stream (any 64-bit integer).
    """
    if count > NUMBERS_PER_SAMPLE:
        raise ValueError(f"a sample has {NUMBERS_PER_SAMPLE} numbers, not {count}")
    index = _counting_like(positions, count)  # [count]
    state = (positions[:, None] * NUMBERS_PER_SAMPLE + index[None, :] + 1) * _signed(_GOLDEN) + _signed(key)
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    state = state ^ _shifted(state, 31)
    top = _shifted(state, 11)  # 53 bits: all that a double holds
    return (top.double() if hasattr(top, "double") else top.astype("float64")) * 2.0**-53


def _counting_like(positions: Any, count: int) -> Any:
    """0 … count - 1 as int64, of the kind and on the device of ``positions``."""
    if hasattr(positions, "new_ones"):
        return positions.new_ones(count).cumsum(0) - 1
    import numpy

    return numpy.arange(count, dtype=numpy.int64)


def _signed(number: int) -> int:
    """The signed 64-bit integer with the same bits: both libraries multiply in wrapping int64."""
    number &= 0xFFFFFFFFFFFFFFFF
    return number - (1 << 64) if number >= 1 << 63 else number


def _shifted(state: Any, bits: int) -> Any:
    """Logical shift to the right; int64 alone shifts arithmetically."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
