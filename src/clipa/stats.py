"""The statistics of measured numbers, and how numbers are printed: one home for both.

A measured quantity is a mean over seeds. Its standard error and 95 % interval are Student's over seeds from three
seeds on; with one or two seeds they are over test items, and say nothing about other seeds (docs/law.md). Everything
that prints a measured number (law, tables, figures, pages, claims) calls :func:`estimate`, then :func:`fixed`.

Rounding is decimal and half away from zero, as the paper's own numbers are read: 17.35 is printed as 17.4. A mean is
rounded to nine decimals first, so that binary noise (17.349999999999998) never decides a digit.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

LEVEL = 0.95
"""Confidence level of every interval, two-sided."""
MINIMAL_SEEDS = 3
"""From this many seeds on, intervals are over seeds and verdicts are given."""
MINIMAL_MODELS = 3
SEEDS, ITEMS = "seeds", "items"
RESAMPLES = 10_000
BOOTSTRAP_STREAM = "law/bootstrap"


@dataclass(frozen=True)
class Estimate:
    """A mean over ``seeds`` seeds, with standard error and interval; ``over``: SEEDS, ITEMS, or "" for neither.

    Without an error (published numbers: ``over`` is ""), ``standard_error``, ``low`` and ``high`` are NaN.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    seeds: int
    over: str

    @property
    def text(self) -> str:
        """``17.4 ± 4.1``; the mean alone where there is no error."""
        error = "" if math.isnan(self.standard_error) else f" ± {fixed(self.standard_error)}"
        return fixed(self.mean) + error

    @property
    def interval_text(self) -> str:
        """``+15.6 [-0.7, +31.9]``, for differences and slopes."""
        low, mean, high = (fixed(value, signed=True) for value in (self.low, self.mean, self.high))
        return f"{mean} [{low}, {high}]"


def estimate(values: Sequence[float], errors: Sequence[float]) -> Estimate:
    """The mean of one value a seed. ``errors``: standard error of each over its test items, NaN where unknown.

    Below three seeds the error is the root mean square of the seeds' own: their test items are the same, so errors
    over items do not average out.
    """
    mean = math.fsum(values) / len(values)
    if len(values) >= MINIMAL_SEEDS:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        error, over = spread / math.sqrt(len(values)), SEEDS
        half = student_quantile(len(values) - 1) * error
    else:
        error = math.sqrt(math.fsum(error**2 for error in errors) / len(errors))
        half, over = NormalDist().inv_cdf((1 + LEVEL) / 2) * error, "" if math.isnan(error) else ITEMS
    return Estimate(mean, error, mean - half, mean + half, len(values), over)


def student_quantile(degrees: int) -> float:
    """Half width of the interval at LEVEL in standard errors, with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def over_what(seeds: Iterable[int]) -> str:
    """What the intervals of numbers with these counts of seeds are over, in words."""
    enough = {count >= MINIMAL_SEEDS for count in seeds}
    if enough == {True}:
        return "seeds"
    return "seeds or, below three seeds, test items" if True in enough else "test items"


def of_items(points: numpy.ndarray) -> tuple[float, float]:
    """Mean and standard error over test items of ``points`` [n] (percentage points of each item)."""
    return float(points.mean()), float(points.std()) / math.sqrt(len(points))


def slope_weights(parameters: Sequence[float]) -> numpy.ndarray:
    """Weights [models] whose product with the drops is their least-squares slope on log10(parameters)."""
    import numpy

    x = numpy.log10(numpy.asarray(parameters, float))
    centred = x - x.mean()
    return centred / (centred**2).sum()


def bootstrap(points: numpy.ndarray, seeds: int) -> Estimate:
    """Mean of ``points`` [items], over so many seeds each, with error and percentile interval over resampled items.

    Items take few distinct values, so it is drawn how often each value occurs: the same bootstrap, far cheaper.
    """
    import numpy

    distinct, counts = numpy.unique(points.round(12), return_counts=True)
    random = numpy.random.default_rng(list(BOOTSTRAP_STREAM.encode()))
    draws = random.multinomial(len(points), counts / len(points), size=RESAMPLES)
    means = draws @ distinct / len(points)
    low, high = numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(points.mean()), float(means.std(ddof=1)), float(low), float(high), seeds, ITEMS)


def fixed(number: float, decimals: int = 1, *, signed: bool = False) -> str:
    """``number`` with so many decimals, rounded half away from zero; never ``-0.0``. ``signed``: with + or -."""
    exact = decimal.Decimal(repr(round(float(number), 9)))
    rounded = exact.quantize(decimal.Decimal(1).scaleb(-decimals), rounding=decimal.ROUND_HALF_UP)
    return f"{rounded + 0:{'+' if signed else ''}f}"
