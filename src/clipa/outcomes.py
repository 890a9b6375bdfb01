"""Per-item outcomes: what a record keeps of every test item, so that paired statistics can be had afterwards."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


def encode_outcomes(outcomes: Sequence[Any] | numpy.ndarray) -> dict[str, Any]:
    """Per-item outcomes as the record keeps them.

    `outcomes` [n]: booleans (correct or not) become packed bits; integers (the rank of the right answer, 0 is
    the best) become little-endian uint16. Raises ValueError for other types and for ranks beyond 65535.
    """
    import numpy

    array = numpy.asarray(outcomes)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"outcomes: expected one row of items, got shape {array.shape}")
    if array.dtype == bool:
        kind, raw = "bits", numpy.packbits(array).tobytes()
    elif numpy.issubdtype(array.dtype, numpy.integer):
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"outcomes: ranks must lie in 0..65535, got {array.min()}..{array.max()}")
        kind, raw = "ranks", array.astype("<u2").tobytes()
    else:
        raise ValueError(f"outcomes: expected booleans or integers, got {array.dtype}")
    return {"kind": kind, "n": int(array.size), "data": base64.b64encode(raw).decode("ascii")}


def decode_outcomes(encoded: Mapping[str, Any]) -> numpy.ndarray:
    """The array behind `encode_outcomes`: bool [n] or uint16 [n]. Raises ValueError if data and n disagree."""
    import numpy

    raw, n = base64.b64decode(encoded["data"], validate=True), encoded["n"]
    expected = math.ceil(n / 8) if encoded["kind"] == "bits" else 2 * n
    if len(raw) != expected:
        raise ValueError(f"outcomes: {len(raw)} bytes for {n} {encoded['kind']}, expected {expected}")
    if encoded["kind"] == "bits":
        return numpy.unpackbits(numpy.frombuffer(raw, numpy.uint8), count=n).astype(bool)
    return numpy.frombuffer(raw, "<u2").astype(numpy.uint16)


def correct_items(record: Mapping[str, Any]) -> numpy.ndarray:
    """Per item, was the answer right under the record's metric? bool [n]. Recall@k counts ranks below k."""
    outcomes = decode_outcomes(record["outcomes"])
    if outcomes.dtype == bool:
        return outcomes
    match = re.fullmatch(r".*_recall@(\d+)|acc(\d+)", record["metric"])
    if match is None:
        raise ValueError(f"record {record['id']}: metric {record['metric']} has no cut-off for ranks")
    return outcomes < int(match[1] or match[2])


def percent_and_error(correct: numpy.ndarray) -> tuple[float, float]:
    """Accuracy in percent and its binomial standard error in points, from bool [n]."""
    share = float(correct.mean())
    return 100 * share, 100 * math.sqrt(share * (1 - share) / len(correct))


def paired_drop(baseline: numpy.ndarray, reduced: numpy.ndarray) -> tuple[float, float]:
    """Drop in points and its standard error over the same test items (bool [n] twice), paired item by item."""
    if baseline.shape != reduced.shape:
        raise ValueError(f"paired drop: {len(baseline)} items against {len(reduced)}: not the same test set")
    difference = baseline.astype(float) - reduced.astype(float)
    return 100 * float(difference.mean()), 100 * float(difference.std()) / math.sqrt(len(difference))
