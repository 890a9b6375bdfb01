"""Snakemake's driver: what it says before it plans, and of the plan; on SLURM it asks squeue alone how its jobs are,
does not wait for one that is gone, and says which one SLURM holds.

snakemake-executor-plugin-slurm turns to sacct whenever ``scontrol show config`` fails once, whatever the profile says.
Without an accounting database sacct knows no job, and with one it says ``CANCELLED by 0``, which the plugin does not
know: either way the driver waits for ever. And squeue forgets a job some minutes after its end (MinJobAge), so that a
controller that was away that long leaves the driver waiting, too. A job that failed to start on a broken node is put
back and held ("launch failed requeued held"): PENDING for ever, which looks like any other waiting.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

LOGGER = "snakemake.logging"
PLUGIN = "snakemake_executor_plugin_slurm"
LOOKS = 3
"""A job that squeue named before, and does not name so often in a row, has ended. Its output says how."""
_SACCT, _SQUEUE = "is_query_tool_available", "query_job_status"
_STATES, _REASONS = "%i|%T", "%i|%r"
"""What the plugin's command has squeue print of each job; and to print why it waits."""


LOCKS = Path(".snakemake", "locks")
"""Where Snakemake notes that it is at work, in the folder that it was started in."""


def left_locked(directory: Path) -> str | None:
    """What to say where a Snakemake is at work in ``directory``, or was killed there; one line.

    Snakemake says it itself, but only when all jobs are planned, and not what becomes of those that it has submitted.
    """
    try:
        since = min(lock.stat().st_mtime for lock in (directory / LOCKS).iterdir())
    except (OSError, ValueError):  # none, or it ends at this moment
        return None
    return (
        f"Another Snakemake is at work here since {datetime.fromtimestamp(since):%F %H:%M}, or was killed; one that "
        "asks for the same files will be refused. When no other runs: the same command with --unlock, then without "
        "it. Jobs of SLURM that a killed one left go on (squeue), and are waited for"
    )


def deployed_by(methods: Collection[str]) -> str | None:
    """Why Snakemake cannot put software in place by these methods (``--software-deployment-method``); one line."""
    if "apptainer" not in methods:
        return None
    return (
        "--software-deployment-method apptainer: this workflow has no container, so its jobs would run without one; "
        "leave the option out (make environment), or take conda"
    )


class Sent(NamedTuple):
    """A job of the plan that goes to the cluster; ``resources`` that are numbers or text."""

    rule: str
    threads: int
    resources: dict[str, int | str]


class PlanSaid(logging.Filter):
    """On Snakemake's log: a line below its table of jobs, which says how many go to SLURM, and the longest.

    ``workflow`` is Snakemake's.
    """

    def __init__(self, workflow: Any) -> None:
        super().__init__()
        self._workflow = workflow

    def sent(self) -> Iterator[Sent]:
        """Jobs of the plan, those that have ended included. Those of local rules are not: the driver runs them itself.

        (In a dry run Snakemake's ``is_local`` is true for all.)
        """
        local, dag = self._workflow._localrules, self._workflow.dag
        for job in {*dag.needrun_jobs(), *dag.finished_jobs}:
            if job.rule.name not in local and not job.rule.norun:
                named = {
                    name: value
                    for name, value in job.resources.items()
                    if isinstance(value, (int, str)) and not name.startswith("_")
                }
                yield Sent(job.rule.name, job.threads, named)

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "event", None) == "run_info":
            hours = [(one.rule, int(one.resources.get("runtime", 0)) / 60) for one in self.sent()]
            if hours:
                record.msg = f"{record.msg}\n{longest(hours)}\n"
        return True


def longest(jobs: Sequence[tuple[str, float]]) -> str:
    """What to say of jobs, each with its rule and the hours that it asks for; at least one."""
    rule, most = max(jobs, key=lambda job: job[1])
    alike = jobs.count((rule, most))
    return (
        f"{len(jobs):,} jobs of SLURM by {len({rule for rule, _ in jobs})} rules; the longest by hours asked for: "
        f"{rule}, {most:.3g} h ({alike:,} jobs)"
    )


def say_plan(workflow: Any) -> None:
    """Have a run of Snakemake's ``workflow``, dry or not, say its longest job (:class:`PlanSaid`)."""
    logging.getLogger(LOGGER).addFilter(PlanSaid(workflow))


class PluginError(RuntimeError):
    """The plugin is not the one that this was written for; one line."""


def watch_jobs() -> bool:
    """Change the SLURM plugin of this process so that it asks squeue alone; returns whether the plugin is loaded.

    Raises PluginError where it has no such functions to change.
    """
    plugin = sys.modules.get(PLUGIN)
    if plugin is None:
        return False
    missing = [name for name in (_SACCT, _SQUEUE) if not callable(getattr(plugin, name, None))]
    if missing:
        raise PluginError(
            f"{PLUGIN}: has no {missing[0]}, so a cancelled job might be waited for for ever; install the version in "
            "envs/train.lock (make environment)"
        )
    available = plugin.is_query_tool_available
    plugin.is_query_tool_available = lambda tool: tool != "sacct" and available(tool)
    plugin.query_job_status = Remembering(plugin.query_job_status)
    return True


class Remembering:
    """The plugin's query, which also answers for jobs that squeue has forgotten: COMPLETED. The plugin then looks for
    their output, and fails those that have left none. Jobs that are held are said once.
    """

    def __init__(self, query: Any) -> None:
        self._query = query
        self._absent: Counter[str] = Counter()
        self._unanswered = 0
        self._held: set[str] = set()

    async def __call__(self, command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        """Job ids and states, and the seconds that the query took; (None, None) where it failed."""
        states, took = await self._query(command, logger)
        self._unanswered = self._unanswered + 1 if states is None else 0
        if self._unanswered == LOOKS:
            logger.warning(
                "squeue has not answered three times in a row: is SLURM's controller up? Still waiting"
            )
        if states is None:
            return None, None
        await self._say_held(states, command, logger)
        for job in states:
            self._absent[job] = 0
        gone = [job for job in self._absent if job not in states]
        self._absent.update(gone)
        for job in gone:
            if self._absent[job] == LOOKS:
                logger.warning(
                    f"squeue does not name job {job} any more: it has ended; looking for its output"
                )
        return states | {job: "COMPLETED" for job in gone if self._absent[job] >= LOOKS}, took

    async def _say_held(self, states: Mapping[str, str], command: str, logger: Any) -> None:
        """Warn of each job that is held since the last look."""
        pending = [job for job, state in states.items() if state == "PENDING"]
        if not pending or _STATES not in command:
            return
        reasons, _ = await self._query(command.replace(_STATES, _REASONS), logger)
        if reasons is None:  # squeue did not answer; the next look asks again
            return
        held = {job for job in pending if "held" in reasons.get(job, "").lower()}
        for job in sorted(held - self._held):
            logger.warning(
                f"SLURM holds job {job} ({reasons[job]}) and will not start it by itself: scontrol release {job}"
            )
        self._held = held
