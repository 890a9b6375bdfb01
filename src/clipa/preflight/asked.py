"""What the workflow's jobs would ask of the cluster: run as ``python -m clipa.preflight.asked TARGET --profile …``.

A dry run of Snakemake with a filter on its log, which has every job's rule, threads and resources as data. Prints JSON:
a list of [rule, jobs, threads, resources], equal ones once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence

_CORES = 10**6


class _Jobs(logging.Filter):
    """Counts jobs; lets nothing but errors pass."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "event", None) == "job_info":
            named = {
                name: value
                for name, value in record.resources.items()
                if isinstance(value, (int, str)) and not name.startswith("_")
            }
            self.counts[json.dumps([record.rule_name, record.threads, named], sort_keys=True)] += 1
        return record.levelno >= logging.ERROR


def main(arguments: Sequence[str]) -> int:
    """Print what the jobs of Snakemake's ``arguments`` ask for; Snakemake's exit code."""
    from snakemake.cli import main as snakemake

    jobs = _Jobs()
    logging.getLogger("snakemake.logging").addFilter(jobs)
    try:
        # A dry run has one core, to which it would cut all threads.
        code = snakemake([*arguments, "--dry-run", "--nolock", "--cores", str(_CORES)])
    except SystemExit as end:
        code = end.code
    found = []
    for row, count in jobs.counts.items():
        rule, threads, resources = json.loads(row)
        found.append([rule, count, threads, resources])
    print(json.dumps(found))
    return code if isinstance(code, int) else 0 if code is None else _said(code)


def _said(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
