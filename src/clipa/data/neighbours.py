"""The pictures most like each picture of a set, for NegCLIP's batches (:mod:`clipa.data.negatives`).

The original takes the cosine of CLIP ViT-B/32 image features. Any open_clip model with its weights does
(``ViT-B-32/openai``); ``pixels`` needs no model: colours averaged over 8 × 8 fields, each of the 192 numbers less its
mean over the set and divided by its deviation.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

PIXELS = "pixels"
FIELDS = 8
_CHUNK = 256  # pictures whose cosines with all others are in memory at once
_LONGEST = 4096  # a vector of whole numbers: two such have products whose sums are below 2²⁴

Encoder = Callable[[Iterable[bytes]], np.ndarray]
"""JPEGs of N pictures → float64 [N, D], one row a picture."""


class NeighboursError(ValueError):
    """A way to find neighbours is unknown, or its weights cannot be had; one line that says what to do."""


def encoder_of(name: str) -> Encoder | None:
    """The encoder behind ``<model>/<pretrained tag>`` of open_clip, loaded; None for ``pixels``, which need none.

    In place of the tag there may be a file of weights. Raises NeighboursError for another name, or without weights.
    """
    if name == PIXELS:
        return None
    model, slash, weights = name.partition("/")
    if not (model and slash and weights):
        raise NeighboursError(
            f"neighbours {name!r}: expected pixels, or an open_clip model and its weights, as ViT-B-32/openai"
        )
    return _open_clip_encoder(model, weights)


def _open_clip_encoder(name: str, weights: str) -> Encoder:
    import open_clip
    import torch

    known = open_clip.get_pretrained_cfg(name, weights) or {}
    logging.disable(logging.CRITICAL)  # what it logs is what it raises, and is said below
    try:
        model, _, prepared = open_clip.create_model_and_transforms(
            name, pretrained=weights, force_quick_gelu=bool(known.get("quick_gelu"))
        )
    except (
        Exception
    ) as error:  # of the network, of the hub, of the file: whatever it is, there are no weights
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NeighboursError(
            f"neighbours {name}/{weights}: open_clip has no such model or cannot get its weights ({reason}); "
            "name another, or pixels, which need none"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    model.eval()

    def encode(jpegs: Iterable[bytes]) -> np.ndarray:
        pictures = [prepared(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]
        with torch.inference_mode():
            return model.encode_image(torch.stack(pictures)).double().numpy()

    return encode


def pooled(jpeg: bytes) -> bytes:
    """Colours of a picture averaged over 8 × 8 fields, row by row: 192 bytes. OSError where it cannot be decoded."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return picture.convert("RGB").resize((FIELDS, FIELDS), Image.Resampling.BOX).tobytes()


def pixel_features(fields: Iterable[bytes]) -> np.ndarray:
    """Standardised colours float64 [N, 192] of what :func:`pooled` gives for N pictures."""
    values = np.frombuffer(b"".join(fields), np.uint8).reshape(-1, FIELDS * FIELDS * 3).astype(np.float64)
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def nearest(features: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` other rows of ``features`` [N, D] with the largest cosine, best first: int64 [N, count].

    Every pair is looked at. Unit vectors are rounded to whole numbers of length at most 4096 (a thousandth of their
    length is lost), so that float32 holds every product and every partial sum exactly: the same neighbours whatever
    the processor, its threads and the chunks; equal cosines go by index. Raises NeighboursError if N ≤ count.
    """
    if len(features) <= count:
        raise NeighboursError(f"{len(features)} pictures: each needs {count} others as its neighbours")
    whole = whole_numbers(features)
    found = np.empty((len(whole), count), np.int64)
    for first in range(0, len(whole), _CHUNK):
        cosines = whole[first : first + _CHUNK] @ whole.T
        row = np.arange(len(cosines))
        cosines[row, first + row] = -np.inf
        for place in range(count):
            best = cosines.argmax(axis=1)  # of equal ones the first
            found[first + row, place] = best
            cosines[row, best] = -np.inf
    return found


def whole_numbers(features: np.ndarray) -> np.ndarray:
    """Rows of ``features`` [N, D] at (almost) length 4096, rounded: float32 [N, D] of whole numbers."""
    values = np.asarray(features, np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    # Rounding adds at most half to every number, so at most √D / 2 to the length.
    scale = _LONGEST - np.sqrt(values.shape[1]) / 2
    return np.rint(values / np.where(length > 0, length, 1.0) * scale).astype(np.float32)
