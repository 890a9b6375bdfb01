"""Learning rate by step: linear warm-up, then cosine to zero (Table 5: minimal lr 0)."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Rate of the update number ``step`` (from 0) of ``steps``.

    Warm-up reaches the peak at its last step, as in open_clip ((step + 1) / warm-up: the first update is not
    wasted on a zero rate); the cosine is counted over the steps after the warm-up, as in the released code.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
