"""What one position of a NegCLIP batch is: two pictures and four captions, drawn from the sample's own noise.

Of a sample of ``negclip/`` (:mod:`clipa.data.negatives`): one of its captions and one of that caption's negatives, one
of its three neighbours, and the same of this neighbour. A batch of B positions is 2B images, own ones first, and 4B
texts: own captions, neighbours' captions, own negatives, neighbours' negatives (:func:`clipa.losses.negclip_loss`).

Each picture has a row of noise (:func:`clipa.data.stream.sample_noise`) of which numbers 1 to 29 make its crop and its
colours, as everywhere; number 0 draws the caption, 30 the negative, and 31 of the first row the neighbour.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from clipa.config import Augmentation
from clipa.data.augmentation import augmented

PICTURES, TEXTS = 2, 4


def pair_of(
    raw: dict[str, bytes], size: int, augmentation: Augmentation, noise: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pictures uint8 [2, 3, size, size] and the four texts of a raw sample; ``noise`` [2, 32]: own, neighbour's.

    Raises KeyError, ValueError or OSError where the sample is none of ``negclip/`` or cannot be decoded.
    """
    facts = json.loads(raw["json"])
    chosen = int(noise[0, 31] * len(facts["neighbours"]))
    pictures = [
        augmented(jpeg, size, augmentation, row)
        for jpeg, row in zip((raw["jpg"], raw[f"neighbour{chosen}.jpg"]), noise, strict=True)
    ]
    (own, own_negative), (other, other_negative) = (
        _texts(of, row) for of, row in zip((facts, facts["neighbours"][chosen]), noise, strict=True)
    )
    return np.stack(pictures), (own, other, own_negative, other_negative)


def _texts(facts: dict[str, Any], noise: np.ndarray) -> tuple[str, str]:
    """A caption of a picture, and one of this caption's negatives."""
    which = int(noise[0] * len(facts["captions"]))
    negatives = facts["negatives"][which]
    return facts["captions"][which], negatives[int(noise[30] * len(negatives))]


def by_role(values: np.ndarray) -> np.ndarray:
    """What b positions have k of, [b, k, …], in k blocks of b: [k × b, …]."""
    return np.moveaxis(values, 1, 0).reshape(-1, *values.shape[2:])
