"""Statistics against printed tables, polynomial fits and brute force; the one rounding of printed numbers."""

import math

import numpy
import pytest

from clipa.stats import bootstrap, estimate, fixed, slope_weights, student_quantile


@pytest.mark.parametrize(
    ("degrees", "printed"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (30, 2.0423), (101, 1.9837)],
)
def test_student_quantiles_are_the_tables(degrees, printed):
    assert student_quantile(degrees) == pytest.approx(printed, abs=5e-5)


def test_an_estimate_is_over_seeds_from_three_on():
    three = estimate([10.0, 12.0, 17.0], [0.1, 0.1, 0.1])
    assert (three.mean, three.over, three.seeds) == (13.0, "seeds", 3)
    assert three.standard_error == pytest.approx(numpy.std([10, 12, 17], ddof=1) / math.sqrt(3))
    assert three.high - three.mean == pytest.approx(4.302653 * three.standard_error)
    two = estimate([10.0, 12.0], [3.0, 4.0])
    assert two.over == "items" and two.standard_error == pytest.approx(math.sqrt(12.5))
    published = estimate([54.7], [math.nan])
    assert published.text == "54.7" and published.over == "" and math.isnan(published.low)


def test_slope_weights_are_least_squares():
    sizes = [2e5, 7e5, 3e6, 4e6]
    drops = numpy.array([5.0, 4.5, 2.0, 2.5])
    expected = numpy.polyfit(numpy.log10(sizes), drops, 1)[0]
    assert slope_weights(sizes) @ drops == pytest.approx(expected)
    # The paper's own numbers (Tables 4 and 11, resize 64): the slope that docs/law.md quotes.
    assert slope_weights([55, 141, 414]) @ [6.2, 4.3, 3.0] == pytest.approx(-3.6, abs=0.05)


def test_the_cheap_bootstrap_is_the_bootstrap():
    random = numpy.random.default_rng(5)
    values = random.choice([-3.0, 0.0, 1.5, 7.0], size=500, p=[0.2, 0.5, 0.2, 0.1])
    found = bootstrap(values, 1)
    brute = random.choice(values, size=(20_000, 500)).mean(axis=1)
    assert found.standard_error == pytest.approx(values.std() / math.sqrt(500), rel=0.03)
    assert (found.low, found.high) == pytest.approx(tuple(numpy.quantile(brute, [0.025, 0.975])), abs=0.03)
    assert bootstrap(values, 1) == found


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (17.35, "17.4"),
        (17.349999999999998, "17.4"),
        (17.25, "17.3"),
        (-0.05, "-0.1"),
        (-0.04, "0.0"),
        (3, "3.0"),
    ],
)
def test_halves_are_rounded_away_from_zero(number, printed):
    assert fixed(number) == printed
    assert fixed(number, signed=True).lstrip("+") == printed
