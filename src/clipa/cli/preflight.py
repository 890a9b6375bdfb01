"""The verb ``preflight``: all that is missing for a target, before anything is submitted."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipa.cli.verbs import add_verb, overrides


def add_verbs(verbs) -> None:
    """Add the verb of this module to a parser's verbs."""
    preflight = add_verb(
        verbs,
        "preflight",
        _preflight,
        "look at everything that a target needs, before anything is submitted",
        "all --scale paper --profile slurm",
    )
    preflight.description += """

Programs, environments, tokens, pins, files that must be placed by hand, and disk. With --profile also what the jobs of
the workflow ask of the cluster (a dry run): partitions, time limits, memory, cores and GPUs; whether SLURM would take a
job; and what a tiny job on a node of each partition sees: this disk, its locks, the internet. Each missing thing is a
line that says what to do; the exit code is then 1."""
    preflight.add_argument(
        "target", nargs="?", default="all", help="of Snakemake: all (default), measure_table11"
    )
    preflight.add_argument("--profile", metavar="NAME", help="the cluster's profile: slurm")
    preflight.add_argument("--seeds", type=int, default=1, help="how many seeds are asked for (default: 1)")
    preflight.add_argument(
        "--host", default=None, metavar="NAME:PORT", help="what nodes that download must reach"
    )
    preflight.add_argument("--no-jobs", action="store_true", help="submit no tiny jobs")


def _preflight(chosen: argparse.Namespace) -> int:
    from clipa.downloads import load_downloads
    from clipa.plan import load_plan
    from clipa.preflight import MISSING, lines, looked, machine

    plan = load_plan({**overrides(chosen), "seeds": list(range(chosen.seeds))})
    downloads = load_downloads()
    found = [
        *looked("environments", machine.environments, plan),
        *looked("HF_TOKEN", machine.tokens, plan, downloads),
        *looked("pins", machine.pins, plan, downloads),
        *looked("files by hand", machine.files_by_hand, plan),
    ]
    if chosen.target != "data":
        found += looked("disk", machine.space, plan, chosen.target)
    if chosen.profile:
        found += _on_cluster(chosen, plan)
    for line in lines(found):
        print(line)
    return int(any(one.state == MISSING for one in found))


def _on_cluster(chosen: argparse.Namespace, plan) -> list:
    from clipa.preflight import OK, cluster, looked

    words = [chosen.target, "--profile", chosen.profile, "--config", f"scale={plan.scale.name}"]
    asked = cluster.asked_of([*words, f"seeds={plan.project.seeds}"])
    found = looked("SLURM's commands", cluster.commands)
    if asked:
        found += looked("plan", cluster.longest, asked)
    if all(one.state == OK for one in found):
        folder = None if chosen.no_jobs else Path(plan.project.runs_directory)
        found += cluster.seen(asked, folder, chosen.host or cluster.HOST)
    return found
