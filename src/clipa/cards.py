"""GPUs by name: what their data sheets say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU, by its data sheet: memory in bytes, and dense bfloat16 operations a second (two a multiply-add)."""

    memory: float
    flops: float


CARDS = {
    "A100-40": Card(40e9, 312e12),
    "A100-80": Card(80e9, 312e12),
    "H100-80": Card(80e9, 989e12),
    "H200-141": Card(141e9, 989e12),
}

CPU = "CPU"
"""Stands for a card where a scale trains on one: its memory is what a job asks for (resources.memory_mb)."""
