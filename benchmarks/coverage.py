"""How often the law's test rejects where there is no law (docs/law.md, "Slopes and their intervals"): a minute.

For patterns of deviations over seeds and numbers of seeds, experiments without any effect are drawn; printed are the
percentages that the test at 5 % and at 2.5 % (Holm's for the smaller p) rejects, and that it would reject at 5 % if no
degree of freedom were spent on the weights.

    PYTHONPATH=src python benchmarks/coverage.py [--experiments 20000]
"""

import argparse
import math

import numpy

from clipa.law.statistic import slope_over_seeds
from clipa.law.verdicts import LEVEL
from clipa.stats import student_quantile

SIZES = (25_000, 63_000, 141_000, 501_000, 1_585_000)
DEVIATIONS = (
    (1, 1, 1, 1),
    (3, 2, 1, 0.5),
    (0.5, 1, 2, 3),
    (6, 1, 1, 1),
    (1, 1, 1, 6),
    (1, 0.2, 0.2, 1),
    (1, 0.1, 0.1, 1),
    (1, 1, 0.3, 0.3),
    (1, 0.1, 1, 0.1),
    (1, 1, 1, 1, 1),
    (1, 0.2, 0.2, 0.2, 1),
)
SEEDS = (8, 12, 16)


def rejected(deviations: tuple[float, ...], seeds: int, experiments: int) -> tuple[float, float, float]:
    """Percentages of experiments: at 5 %, at 2.5 %, and at 5 % with seeds - 1 degrees of freedom."""
    random = numpy.random.default_rng([seeds, *(round(10 * one) for one in deviations)])
    counts = numpy.zeros(3)
    for drops in random.standard_normal((experiments, seeds, len(deviations))) * deviations:
        found = slope_over_seeds(drops, SIZES[: len(deviations)])
        t = abs(found.mean) / found.standard_error * math.sqrt((seeds - 1) / found.degrees)
        counts += (found.p_value < LEVEL, found.p_value < LEVEL / 2, t > student_quantile(seeds - 1))
    return tuple(100 * counts / experiments)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=20_000, metavar="N")
    chosen = parser.parse_args()
    print("deviations of the models   seeds    5 %   2.5 %   5 %, nothing spent")
    for deviations in DEVIATIONS:
        for seeds in SEEDS:
            shares = rejected(deviations, seeds, chosen.experiments)
            values = "   ".join(f"{share:5.2f}" for share in shares)
            print(f"{' '.join(map(str, deviations)):<26} {seeds:>5}  {values}")


if __name__ == "__main__":
    main()
