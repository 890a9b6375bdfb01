"""A batch is dealt to any number of processes and workers: whole, nothing twice, in equal shares."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipa.data.dealing import own_places, places_of_workers, rows_by_lane


@st.composite
def dealt(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Lanes, batch size, processes, workers."""
    lanes, rows = draw(st.integers(1, 64)), draw(st.integers(1, 16))
    batch_size = lanes * rows
    processes = draw(st.sampled_from([n for n in range(1, batch_size + 1) if batch_size % n == 0]))
    return lanes, batch_size, processes, draw(st.integers(0, 12))


@given(dealt())
def test_every_sample_of_a_batch_has_one_process_and_one_worker(asked: tuple[int, int, int, int]) -> None:
    lanes, batch_size, processes, workers = asked
    shares = [own_places(lanes, batch_size, rank, processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {batch_size // processes}
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(batch_size))
    for rank, share in enumerate(shares):
        assert (np.diff(share) > 0).all()
        parts = places_of_workers(lanes, batch_size, rank, processes, workers)
        assert len(parts) == min(max(workers, 1), len(share))
        assert np.array_equal(np.sort(np.concatenate(parts)), share)
        sizes = [len(part) for part in parts]
        assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1
        for part in parts:
            read = [(lane, row) for lane, rows in rows_by_lane(lanes, part).items() for row in rows]
            assert read == [(place % lanes, place // lanes) for place in part]


@given(dealt())
def test_processes_that_divide_the_lanes_hold_whole_lanes(asked: tuple[int, int, int, int]) -> None:
    """Process r has the positions ≡ r: what recorded results were trained with."""
    lanes, batch_size, processes, _ = asked
    for rank in range(processes) if lanes % processes == 0 else ():
        assert np.array_equal(
            own_places(lanes, batch_size, rank, processes), np.arange(rank, batch_size, processes)
        )


@given(dealt())
def test_no_lane_has_more_readers_than_it_must(asked: tuple[int, int, int, int]) -> None:
    """Readers times shares: contiguous parts of a row of lanes cut each lane at most where two parts meet."""
    lanes, batch_size, processes, workers = asked
    parts = itertools.chain.from_iterable(
        places_of_workers(lanes, batch_size, rank, processes, workers) for rank in range(processes)
    )
    lanes_read = [len(rows_by_lane(lanes, part)) for part in parts]
    assert sum(lanes_read) <= lanes + len(lanes_read) - 1


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 16 is not a multiple of the 3 processes"):
        own_places(4, 16, 0, 3)
    with pytest.raises(ValueError, match="batch_size 16 is not a multiple of the 5 lanes"):
        own_places(5, 16)
