"""The inverse scaling law as a statistic: does the drop shrink as the model grows? docs/law.md states it.

``statistic`` has drops and slopes at every length, ``verdicts`` the two primary hypotheses and the convergence gate,
``power`` what an experiment can find, ``printed`` the report, ``comparison`` recipes beside the
study, ``shortened`` any run beside its full length, on any test set.
"""

from clipa.law.comparison import compare, comparison_report
from clipa.law.printed import main_report, report
from clipa.law.statistic import item_drops, summarise
from clipa.law.verdicts import examine, signs_by_strategy

__all__ = [
    "compare",
    "comparison_report",
    "examine",
    "item_drops",
    "main_report",
    "report",
    "signs_by_strategy",
    "summarise",
]
