"""Per-item outcomes: kept exactly, refused where they cannot be, paired by hand."""

import json

import numpy
import pytest

from clipa import outcomes


@pytest.mark.parametrize("n", [1, 7, 8, 9, 4001])
def test_outcomes_round_trip(n):
    random = numpy.random.default_rng(n)
    bits, ranks = random.random(n) < 0.3, random.integers(0, 65536, n)
    for found in (bits, ranks):
        encoded = outcomes.encode_outcomes(found)
        json.dumps(encoded)
        assert numpy.array_equal(outcomes.decode_outcomes(encoded), found)
    short = outcomes.encode_outcomes(bits) | {"n": n + 8}
    with pytest.raises(ValueError, match="bytes for"):
        outcomes.decode_outcomes(short)


def test_outcomes_refuse_what_they_cannot_hold():
    for wrong in ([0.5, 0.5], [70000], [-1], [[True]], []):
        with pytest.raises(ValueError, match="outcomes"):
            outcomes.encode_outcomes(numpy.asarray(wrong))


def test_ranks_are_correct_below_the_cut_off():
    ranks = outcomes.encode_outcomes(numpy.array([0, 4, 5, 900]))
    for metric, expected in (("image_retrieval_recall@5", 2), ("image_retrieval_recall@1", 1), ("acc5", 2)):
        assert outcomes.correct_items({"id": "one", "metric": metric, "outcomes": ranks}).sum() == expected


def test_paired_drop_by_hand():
    baseline = numpy.array([1, 1, 1, 0], bool)
    reduced = numpy.array([1, 0, 0, 0], bool)
    drop, error = outcomes.paired_drop(baseline, reduced)
    assert drop == 50 and error == pytest.approx(100 * 0.5 / 2)
    with pytest.raises(ValueError, match="same test set"):
        outcomes.paired_drop(baseline, reduced[:3])
