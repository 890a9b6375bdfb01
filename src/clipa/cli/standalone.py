"""The verbs for a machine without the workflow: ``run`` there, and ``stamp`` here before the sources go there."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipa.cli.asked import overrides
from clipa.cli.verbs import add_verb


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    run = add_verb(
        verbs,
        "run",
        _run,
        "draw, train, evaluate and pack records, without Snakemake; exit code 75: call again to resume",
        "resize --scale mini --seeds 0 1 2 --out mini.tar.gz --minutes 9",
    )
    run.add_argument(
        "runs", nargs="+", metavar="RUN", help="L16-resize64-truncation32, …; table11, figure4, …; or resize"
    )
    run.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: those of config/config.yaml"
    )
    run.add_argument("--out", required=True, type=Path, metavar="FILE", help="the archive (.tar.gz)")
    run.add_argument(
        "--minutes", type=float, help="stop training then, with a checkpoint saved (default: no limit)"
    )
    run.add_argument(
        "--processes", type=int, metavar="N", help="for drawing and the like (default: all cores)"
    )
    add_verb(
        verbs,
        "stamp",
        _stamp,
        "write which commit these sources are, for a machine that gets them without git's folder",
        "",
        asked=False,
    )


def _run(chosen: argparse.Namespace) -> int:
    from clipa.plan import load_plan
    from clipa.standalone import run_here

    plan = load_plan(overrides(chosen) | ({"seeds": chosen.seeds} if chosen.seeds else {}))
    return run_here(chosen.runs, plan, chosen.out, chosen.minutes, chosen.processes)


def _stamp(chosen: argparse.Namespace) -> int:
    from clipa.provenance import write_stamp

    print(write_stamp())
    return 0
