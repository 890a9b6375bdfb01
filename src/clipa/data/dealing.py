"""Which process and which loader worker reads which samples of a batch.

A batch is dealt to any number of processes that divides it, and to any number of workers. The order of samples does not
depend on either (docs/design.md, "Order of samples"), so a stage may resume with other numbers.

To be dealt, a batch is sorted by lane, lanes in the order 0, R, 2R, …, 1, R + 1, … for R processes. Each process gets a
contiguous share of this row, and each of its workers a near-equal part of the share, so readers have whole lanes where
the numbers allow it. Where R divides the lanes, process r has all lanes ≡ r (mod R), which are the positions ≡ r.
Otherwise a lane has several readers: all of them read its bytes, and each decodes its own samples.
"""

from __future__ import annotations

import itertools

import numpy as np


def own_places(lanes: int, batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """Places in a batch, 0 … batch_size - 1, of the samples of process ``rank``, rising: int64 [batch / world size].

    The sample at place p has the global position step × batch_size + p and is in lane p % lanes. ValueError where the
    batch is not a multiple of the lanes or of the world size.
    """
    return np.sort(_share(lanes, batch_size, rank, world_size))


def places_of_workers(
    lanes: int, batch_size: int, rank: int, world_size: int, workers: int
) -> list[np.ndarray]:
    """:func:`own_places` in as many parts as there are workers, each sorted by lane, then place. None is empty: of a
    share with fewer samples than workers, there are as many parts as samples.
    """
    share = _share(lanes, batch_size, rank, world_size)
    return np.array_split(share, min(max(workers, 1), len(share)))


def rows_by_lane(lanes: int, places: np.ndarray) -> dict[int, range]:
    """Of ``places`` sorted by lane: the lanes in this order, each with the rows of the batch (place // lanes) that are
    read of it.
    """
    found = {}
    for lane, group in itertools.groupby(places.tolist(), lambda place: place % lanes):
        rows = [place // lanes for place in group]
        found[lane] = range(rows[0], rows[-1] + 1)
    return found


def _share(lanes: int, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """The places of process ``rank``, sorted by lane."""
    if batch_size % lanes:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {lanes} lanes")
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {world_size} processes")
    strided = np.concatenate([np.arange(first, lanes, world_size) for first in range(min(lanes, world_size))])
    by_lane = np.arange(batch_size).reshape(-1, lanes).T[strided].ravel()
    size = batch_size // world_size
    return by_lane[rank * size : (rank + 1) * size]
