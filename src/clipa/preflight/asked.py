"""What the workflow's jobs would ask of the cluster: run as ``python -m clipa.preflight.asked TARGET --profile …``.

A dry run of Snakemake, of which the Snakefile notes the jobs that go to the cluster (:class:`clipa.driver.PlanSaid`).
Prints JSON: a list of [rule, jobs, threads, resources], equal ones once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from clipa.driver import LOGGER, PlanSaid

_CORES = 10**6


class _Silent(logging.Filter):
    """Lets nothing but errors pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def main(arguments: Sequence[str]) -> int:
    """Print what the jobs of Snakemake's ``arguments`` ask for; Snakemake's exit code."""
    from snakemake.cli import main as snakemake

    log = logging.getLogger(LOGGER)
    log.addFilter(_Silent())
    try:
        # A dry run has one core, to which it would cut all threads.
        code = snakemake([*arguments, "--dry-run", "--nolock", "--cores", str(_CORES)])
    except SystemExit as end:
        code = end.code
    # The Snakefile has put it there: what it says is in nobody's way.
    plans = [one for one in log.filters if isinstance(one, PlanSaid)]
    counts = Counter(json.dumps(sent, sort_keys=True) for plan in plans for sent in plan.sent())
    found = []
    for row, count in counts.items():
        rule, threads, resources = json.loads(row)
        found.append([rule, count, threads, resources])
    print(json.dumps(found))
    return code if isinstance(code, int) else 0 if code is None else _said(code)


def _said(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
