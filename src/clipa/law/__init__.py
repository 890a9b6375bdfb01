"""The inverse scaling law as a statistic: does the drop shrink as the model grows? (docs/law.md states it.)

Accuracies are in percent, drops in percentage points, slopes in points per tenfold number of parameters.
NumPy only, so that it runs in the reader environment.
"""

from clipa.law.recipes import Comparison, compare, comparison_report
from clipa.law.statistics import (
    LEVEL,
    MINIMAL_MODELS,
    MINIMAL_SEEDS,
    Estimate,
    bootstrap_mean,
    estimate,
    item_drops,
    over_seeds,
    over_what,
    slope_weights,
    t_cdf,
    t_quantile,
)
from clipa.law.summary import Length, Summary, summarise, verdict
from clipa.law.telling import conclusion, main_report, report

__all__ = [
    "LEVEL",
    "MINIMAL_MODELS",
    "MINIMAL_SEEDS",
    "Comparison",
    "Estimate",
    "Length",
    "Summary",
    "bootstrap_mean",
    "compare",
    "comparison_report",
    "conclusion",
    "estimate",
    "item_drops",
    "main_report",
    "over_seeds",
    "over_what",
    "report",
    "slope_weights",
    "summarise",
    "t_cdf",
    "t_quantile",
    "verdict",
]
