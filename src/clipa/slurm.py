"""The SLURM job that a training runs in: how long it may run, and having SLURM start it again.

A stage that outlasts its job's time limit is continued by the same job: ``scontrol requeue`` puts it back into the
queue under its number, so whoever waits for it keeps waiting (Snakemake, which therefore spends none of its retries).
SLURM starts it again two minutes later at the earliest. Tried with SLURM 22.05.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

ANSWER_SECONDS = 60.0
"""How long to wait for an answer."""

LOG = "jobs.log"
"""In the stage's folder: every job that trained a part of it. (Snakemake deletes its own log whenever a job starts.)"""


class SlurmError(RuntimeError):
    """SLURM does not answer, or does not start the job again; one line."""


@dataclass(frozen=True)
class Job:
    """``ends``: of :func:`time.monotonic`; None where the job has no time limit."""

    number: str
    ends: float | None

    def seconds_left(self) -> float | None:
        return None if self.ends is None else self.ends - time.monotonic()

    def note(self, directory: Path, what: str) -> None:
        """Add a line to the log of jobs in ``directory``."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with open(directory / LOG, "a", encoding="utf-8") as log:
            log.write(f"{now} job {self.number} on {socket.gethostname()}: {what}\n")

    def start_again(self) -> None:
        """Put this job back into the queue; SLURM then ends its processes. SlurmError where it does not."""
        ask("scontrol", "requeue", self.number)


def own_job() -> Job:
    """The job that this process runs in; SlurmError where there is none, or none that can be started again."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        raise SlurmError("--requeue: SLURM_JOB_ID is not set: this is no job of SLURM")
    told = dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "show", "job", "--oneliner", number)))
    if told.get("BatchFlag") != "1":
        raise SlurmError(f"--requeue: job {number} is interactive: only batch jobs can be started again")
    if told.get("Requeue") != "1":
        raise SlurmError(
            f"--requeue: job {number} was submitted without --requeue, so SLURM will not start it again (with "
            "Snakemake: slurm-requeue: true in slurm/config.yaml)"
        )
    limit, run = seconds(told.get("TimeLimit", "")), seconds(told.get("RunTime", ""))
    return Job(number, None if limit is None else time.monotonic() + limit - (run or 0.0))


def seconds(clock: str) -> float | None:
    """Of SLURM's ``[days-]hours:minutes:seconds``; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", clock)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def ask(*command: str) -> str:
    """What a command of SLURM prints; SlurmError where it is missing, fails, or does not answer."""
    told = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except FileNotFoundError:
        raise SlurmError(
            f"{told}: there is no {command[0]} on {socket.gethostname()}; this needs it where the job runs"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{told}: no answer within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"{told}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout.strip()
