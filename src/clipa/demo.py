"""``make demo``: the inverse scaling law measured at a small scale, driven and watched from one terminal.

Snakemake does the work, in a process group of its own. This module starts it, shows how far it is, and says at the end
what was found. Interrupted at any point, and however it was killed, the next start resumes from what is on disk.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen

from clipa.accept import agreement
from clipa.estimate import nominal_seconds
from clipa.locks import lock_holder
from clipa.plan import Plan, load_plan
from clipa.progress import Overall, clock
from clipa.provenance import cores

SCALES = {"full": "micro-v1", "ci": "ci"}
RESULTS = [*(f"figures/figure{number}.png" for number in (4, 9, 10)), "tables/table11.tex", "report.html"]
TARGETS = ["data", *(f"measure_{Path(name).stem}" for name in RESULTS[:-1])]

# The process that works holds the lock, not its driver: a Snakemake that outlives the demo keeps the next one waiting,
# and a killed one leaves nothing to clear away (hence --nolock). Jobs lock their directories likewise.
_SNAKEMAKE = """
import sys
from pathlib import Path
from clipa.locks import directory_lock
from snakemake.cli import main
with directory_lock(Path(sys.argv[1]), "the demo"):
    main(["--nolock", *sys.argv[2:]])
"""


def demo(size: str = "full") -> int:
    """Measure the law at the scale of ``size`` (``full``: micro-v1, ``ci``: does it run at all); the exit code.

    0: finished, also when nothing was left to do; 1: a job failed; 130: interrupted.
    """
    began, again = time.monotonic(), "`make demo`" if size == "full" else f"`make demo SIZE={size}`"
    plan = load_plan({"scale": SCALES[size], "seeds": [0], "reuse_recorded": False})
    directory = plan.measured_directory
    log = directory / "snakemake.log"
    directory.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    overall = Overall(f"demo ({plan.scale.name})", nominal_seconds(plan, RESULTS), cores())
    print(f"The {plan.scale.name} scale: {plan.scale.about}")
    print(f"{len(plan.jobs())} runs ({len(plan.stages)} stages), each evaluated; nothing is downloaded.")
    print(
        f"About {clock(overall.left())} left on {cores()} cores. Snakemake's output is in {log}.", flush=True
    )
    if holder := lock_holder(directory):
        print(f"{holder} is at work in {directory}: waiting for it (to end it: {holder.ended_by}).")
    asked = [
        "--keep-going",
        "--show-failed-logs",
        "--report",
        f"{directory}/report.html",
        "--report-after-run",
    ]
    asked += [
        "--cores",
        f"{cores()}",
        "--config",
        f"scale={plan.scale.name}",
        "seeds=[0]",
        "reuse_recorded=false",
    ]
    with overall:
        code = _run(directory, [*TARGETS, *asked], overall.show)
        overall.show(final=code == 0)
    if code == 130:
        print(f"\nStopped. What is finished is kept, stages have saved checkpoints: {again} resumes.")
    elif code:
        _explain_failure(log, start, code)
        print(f"Snakemake's output is in {log}. {again} resumes from what is finished.", file=sys.stderr)
    else:
        _conclude(plan)
        print(f"wall time  {clock(time.monotonic() - began)}", flush=True)
    return code if code in (0, 130) else 1


def _snakemake(directory: Path, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", _SNAKEMAKE, str(directory), *arguments]


def _run(directory: Path, arguments: Sequence[str], show: Callable[[], None]) -> int:
    """Run Snakemake in a process group of its own; its exit code, or 130 after Ctrl-C or SIGTERM.

    The group gets SIGTERM then, and stages save a checkpoint; at the second Ctrl-C it is killed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # jobs start several times faster with cached bytecode
    received: list[bool] = []
    numbers = signal.SIGINT, signal.SIGTERM
    handlers = {number: signal.signal(number, lambda *_: received.append(True)) for number in numbers}
    try:
        with open(directory / "snakemake.log", "ab") as log:
            command = _snakemake(directory, arguments)
            process = Popen(command, stdin=DEVNULL, stdout=log, stderr=log, env=environment, process_group=0)
        sent = 0
        while process.poll() is None:
            if len(received) > sent:
                if not sent:
                    print("\nStopping: stages save a checkpoint (Ctrl-C again: kill at once) …", flush=True)
                os.killpg(process.pid, signal.SIGKILL if sent else signal.SIGTERM)
                sent += 1
            show()
            time.sleep(1.0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 130 if received else process.returncode


def _explain_failure(log: Path, start: int, code: int) -> None:
    """Say which jobs failed and why: the last lines of their logs, which Snakemake has shown since byte ``start``."""
    if code < 0:
        print(f"Snakemake was killed (signal {-code}); its jobs may still be running.", file=sys.stderr)
    said = log.read_bytes()[start:].decode("utf-8", errors="replace")
    failed = re.findall(r"^Logfile (\S+):\n=+\n(.*?)\n=+$", said, re.MULTILINE | re.DOTALL)
    for path, lines in failed:
        print("\n".join([f"--- {path}", *lines.splitlines()[-10:]]), file=sys.stderr)
    if not failed:
        print("\n".join(said.splitlines()[-20:]), file=sys.stderr)


def _conclude(plan: Plan) -> None:
    from clipa.law import main_report

    directory = plan.measured_directory
    print(f"\n{main_report([job.output for job in plan.jobs()]).rstrip()}\n")
    print(f"figures    {directory}/figures/figure4.png, figure9.png, figure10.png (as CSV: figures/data)")
    print(f"table      {directory}/tables/table11.tex")
    print(f"report     {directory}/report.html")
    print(f"records    {directory}/<run>/evaluation/*/records.json")
    if line := agreement(plan):
        print(f"recorded   {line}")
