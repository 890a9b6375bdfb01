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
WEIGHED_SEEDS = 8
"""From this many seeds on, a model's variance over them is known well enough to weigh it; below, models count alike."""
SPENT_ON_WEIGHTS = 1
"""Degrees of freedom that a slope loses when its weights come from the same seeds (docs/law.md, "Slopes")."""
SEEDS, ITEMS = "seeds", "items"
RESAMPLES = 10_000
BOOTSTRAP_STREAM = "law/bootstrap"


@dataclass(frozen=True)
class Estimate:
    """A mean over ``seeds`` seeds, with standard error and interval; ``over``: SEEDS, ITEMS, or "" for neither.

    Without an error (published numbers: ``over`` is ""), ``standard_error``, ``low`` and ``high`` are NaN. ``degrees``
    of freedom are those of an interval over seeds, else 0.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    seeds: int
    over: str
    degrees: int = 0

    @property
    def text(self) -> str:
        """``17.4 ± 4.1``; the mean alone where there is no error."""
        return with_error(self.mean, self.standard_error)

    @property
    def interval_text(self) -> str:
        """``+15.6 [-0.7, +31.9]``, for differences and slopes."""
        return self.interval()

    def interval(self, decimals: int = 1) -> str:
        """Mean and interval with so many decimals."""
        low, mean, high = (fixed(value, decimals, signed=True) for value in (self.low, self.mean, self.high))
        return f"{mean} [{low}, {high}]"

    @property
    def p_value(self) -> float:
        """Two-sided p of Student's test that the mean is zero; NaN unless the interval is over seeds."""
        if self.over != SEEDS:
            return math.nan
        if self.standard_error == 0:
            return float(self.mean == 0)
        from scipy.special import stdtr

        return float(2 * stdtr(self.degrees, -abs(self.mean) / self.standard_error))


def estimate(values: Sequence[float], errors: Sequence[float], spent: int = 0) -> Estimate:
    """The mean of one value a seed. ``errors``: standard error of each over its test items, NaN where unknown.

    Below three seeds the error is the root mean square of the seeds' own: their test items are the same, so errors
    over items do not average out. ``spent``: degrees of freedom that the values' own weights have used up.
    """
    mean = math.fsum(values) / len(values)
    degrees = 0
    if len(values) >= MINIMAL_SEEDS:
        degrees = len(values) - 1 - spent
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / degrees)
        error, over = spread / math.sqrt(len(values)), SEEDS
        half = student_quantile(degrees) * error
    else:
        error = math.sqrt(math.fsum(error**2 for error in errors) / len(errors))
        half, over = NormalDist().inv_cdf((1 + LEVEL) / 2) * error, "" if math.isnan(error) else ITEMS
    return Estimate(mean, error, mean - half, mean + half, len(values), over, degrees)


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Half width of the two-sided interval at ``level`` in standard errors, with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def holm(values: Sequence[float]) -> list[float]:
    """p values as Holm's step-down procedure adjusts them: below a level, they are so for the whole family."""
    adjusted, least = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = least
    return adjusted


def power_below(mean: float, standard_error: float, seeds: int, spent: int, level: float) -> float:
    """How probably the two-sided test of :func:`estimate` at ``level`` (0.05) finds a mean significantly below zero.

    ``standard_error``: the true one of the mean over ``seeds`` seeds.
    """
    from scipy.special import nctdtr

    degrees = seeds - 1 - spent
    # `estimate` divides by the degrees that are left, so its t is smaller than one of seeds - 1 degrees.
    threshold = student_quantile(degrees, 1 - level) * math.sqrt((seeds - 1) / degrees)
    return float(nctdtr(seeds - 1, mean / standard_error, -threshold))


def over_what(seeds: Iterable[int]) -> str:
    """What the intervals of numbers with these counts of seeds are over, in words."""
    enough = {count >= MINIMAL_SEEDS for count in seeds}
    if enough == {True}:
        return "seeds"
    return "seeds or, below three seeds, test items" if True in enough else "test items"


def of_items(points: numpy.ndarray) -> tuple[float, float]:
    """Mean and standard error over test items of ``points`` [n] (percentage points of each item)."""
    return float(points.mean()), float(points.std()) / math.sqrt(len(points))


def model_weights(variances: Sequence[float]) -> numpy.ndarray:
    """Weights [models] of a regression over models whose drops have these variances over seeds.

    The inverse of each variance, after it was moved half of the way to the mean of all: a variance from eight seeds
    can be wrong by a factor of four, and one that is small by chance must not decide the slope. No weight is more than
    models + 1 times another.
    """
    import numpy

    own = numpy.asarray(variances, float)
    shrunk = (own + own.mean()) / 2
    return shrunk.min() / shrunk if shrunk.min() > 0 else numpy.ones(len(own))


def slope_weights(parameters: Sequence[float], weights: Sequence[float] | None = None) -> numpy.ndarray:
    """Weights [models] whose product with the drops is their least-squares slope on log10(parameters).

    ``weights`` [models] of the least squares; None: all alike.
    """
    import numpy

    x = numpy.log10(numpy.asarray(parameters, float))
    w = numpy.ones(len(x)) if weights is None else numpy.asarray(weights, float)
    centred = x - (w * x).sum() / w.sum()
    return w * centred / (w * centred**2).sum()


def bootstrap(points: numpy.ndarray, seeds: int) -> Estimate:
    """Mean of ``points`` [items], over so many seeds each, with error and percentile interval over resampled items.

    Items take few distinct values, so it is drawn how often each value occurs: the same bootstrap, far cheaper.
    """
    import numpy

    distinct, counts = numpy.unique(points.round(12), return_counts=True)
    random = numpy.random.default_rng(list(BOOTSTRAP_STREAM.encode()))
    parts = [  # in parts, which are the same draws: many models and seeds have many distinct values
        random.multinomial(len(points), counts / len(points), size=RESAMPLES // 20) @ distinct
        for _ in range(20)
    ]
    means = numpy.concatenate(parts) / len(points)
    low, high = numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(points.mean()), float(means.std(ddof=1)), float(low), float(high), seeds, ITEMS)


def with_error(mean: float, standard_error: float) -> str:
    """``17.4 ± 4.1``; the mean alone where the error is NaN."""
    return fixed(mean) + ("" if math.isnan(standard_error) else f" ± {fixed(standard_error)}")


def fixed(number: float, decimals: int = 1, *, signed: bool = False) -> str:
    """``number`` with so many decimals, rounded half away from zero; never ``-0.0``. ``signed``: with + or -."""
    exact = decimal.Decimal(repr(round(float(number), 9)))
    rounded = exact.quantize(decimal.Decimal(1).scaleb(-decimals), rounding=decimal.ROUND_HALF_UP)
    return f"{rounded + 0:{'+' if signed else ''}f}"
