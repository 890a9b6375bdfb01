"""Means, intervals, slopes: what the law's summary is made of. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy

from clipa.records import Record, RecordError, correct_items

LEVEL = 0.95
MINIMAL_SEEDS = 3
MINIMAL_MODELS = 3
RESAMPLES = 10_000
BOOTSTRAP_STREAM = "law/bootstrap"


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95 % interval, and what the interval is over: "seeds" or "items"."""

    mean: float
    standard_error: float
    low: float
    high: float
    seeds: int
    over: str


def t_cdf(t: float, degrees: int) -> float:
    """Student's distribution function, exactly, by its finite series for whole degrees of freedom.

    Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(degrees))
    cosine2, term, total = math.cos(theta) ** 2, 1.0, 0.0
    if degrees % 2:
        term = math.cos(theta)
        for k in range(1, degrees, 2):
            total += term
            term *= cosine2 * (k + 1) / (k + 2)
        inside = (theta + math.sin(theta) * total) * 2 / math.pi
    else:
        for k in range(1, degrees, 2):
            total += term
            term *= cosine2 * k / (k + 1)
        inside = math.sin(theta) * total
    return 0.5 + inside / 2


def t_quantile(probability: float, degrees: int) -> float:
    """Student's quantile for 0.5 <= probability < 1 and degrees >= 1, by bisection to double precision."""
    if degrees < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"t quantile: needs degrees >= 1 and 0.5 <= p < 1, got {degrees} and {probability}")
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with Student's interval; needs at least two values."""
    array = numpy.asarray(values, float)
    mean, error = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))
    half = t_quantile(0.5 + LEVEL / 2, len(array) - 1) * error
    return Estimate(mean, error, mean - half, mean + half, len(array), "seeds")


def estimate(items: Sequence[numpy.ndarray]) -> Estimate:
    """Mean, over seeds, of the mean over test items. `items`: per seed, points of each item, [n].

    Student's interval over three seeds or more; else the normal one over items, each item's values averaged
    over the seeds first (the items are the same for all seeds, so their errors do not average out).
    """
    if len(items) >= MINIMAL_SEEDS:
        return over_seeds([float(values.mean()) for values in items])
    pooled = numpy.mean(items, axis=0)
    mean, error = float(pooled.mean()), float(pooled.std()) / math.sqrt(len(pooled))
    half = 1.959964 * error
    return Estimate(mean, error, mean - half, mean + half, len(items), "items")


def over_what(seeds: Iterable[int]) -> str:
    """What the intervals of numbers with these counts of seeds are over, in words."""
    enough = {count >= MINIMAL_SEEDS for count in seeds}
    if enough == {True}:
        return "seeds"
    return "seeds or, below three seeds, test items" if True in enough else "test items"


def item_drops(baseline: Record, reduced: Record) -> numpy.ndarray:
    """Paired drop of each test item in points, [n]: 100, 0 or -100."""
    full, short = correct_items(baseline), correct_items(reduced)
    if len(full) != len(short):
        raise RecordError(f"law: {reduced['id']} and its baseline have {len(short)} and {len(full)} outcomes")
    return 100.0 * (full.astype(float) - short.astype(float))


def slope_weights(parameters: Sequence[float]) -> numpy.ndarray:
    """Weights [models] whose product with the drops is their least-squares slope on log10(parameters)."""
    x = numpy.log10(numpy.asarray(parameters, float))
    centred = x - x.mean()
    return centred / (centred**2).sum()


def bootstrap_mean(values: numpy.ndarray) -> tuple[float, float, float]:
    """Standard error and 95 % percentile limits of the mean of `values` [items] under resampling of items.

    A slope is a mean over items of a weighted sum of their paired differences, which takes few distinct
    values: drawing how often each value occurs is the same bootstrap, thousands of times cheaper.
    """
    distinct, counts = numpy.unique(values.round(12), return_counts=True)
    random = numpy.random.default_rng(list(BOOTSTRAP_STREAM.encode()))
    draws = random.multinomial(len(values), counts / len(values), size=RESAMPLES)
    means = draws @ distinct / len(values)
    low, high = numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(means.std(ddof=1)), float(low), float(high)
