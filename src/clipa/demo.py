"""``make demo``: the inverse scaling law measured at a small scale, driven and watched from one terminal.

Snakemake does the work, in a process group of its own. This module starts it, shows how far it is, and says at the end
what was found. Interrupted at any point, and however it was killed, the next start resumes from what is on disk.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from clipa.accept import agreement
from clipa.estimate import nominal_seconds
from clipa.locks import lock_holder
from clipa.plan import Plan, load_plan
from clipa.progress import Overall, clock
from clipa.provenance import cores
from clipa.records import RECORDED_DIRECTORY, load_records

CI_RESULTS = (*(f"figures/figure{number}.png" for number in (4, 9, 10)), "tables/table11.tex")
REPORT = "report.html"

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


@dataclass(frozen=True)
class Size:
    """What is measured: settings as Snakemake's ``--config`` takes them, targets, and what they draw."""

    settings: dict[str, Any]
    targets: tuple[str, ...]
    results: tuple[str, ...] = ()


def size_of(name: str, root: Path = Path()) -> Size:
    """``full``: one seed at micro that is not recorded yet, on a quarter of the samples; ``ci``: does it run at all."""
    if name == "ci":
        targets = (f"measure_{Path(result).stem}" for result in CI_RESULTS)
        return Size({"scale": "ci", "seeds": [0], "reuse_recorded": False}, tuple(targets), CI_RESULTS)
    seed = 0
    while True:
        settings = {
            "scale": "micro",
            "experiments": ["law-quarter"],
            "seeds": [seed],
            "reuse_recorded": False,
        }
        jobs = load_plan(settings, root).jobs()
        if not any((root / RECORDED_DIRECTORY / job.recorded_path).is_file() for job in jobs):
            return Size(settings, ("measure_law-quarter",))
        seed += 1


def demo(size: str = "full") -> int:
    """Measure the law at a small scale (``full``, ``ci``: :func:`size_of`); the exit code.

    0: finished, also when nothing was left to do; 1: a job failed; 130: interrupted.
    """
    began, again = time.monotonic(), "`make demo`" if size == "full" else f"`make demo SIZE={size}`"
    asked_for = size_of(size)
    plan, results = load_plan(asked_for.settings), [*asked_for.results, REPORT]
    directory = plan.measured_directory
    log = directory / "snakemake.log"
    directory.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    overall = Overall(f"demo ({plan.scale.name})", nominal_seconds(plan, results), cores())
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
        f"{directory}/{REPORT}",
        "--report-after-run",
    ]
    asked += ["--cores", f"{cores()}", "--config"]
    asked += [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in asked_for.settings.items()
    ]
    with overall:
        code = _run(directory, ["data", *asked_for.targets, *asked], overall.show)
        overall.show(final=code == 0)
    if code == 130:
        print(f"\nStopped. What is finished is kept, stages have saved checkpoints: {again} resumes.")
    elif code:
        _explain_failure(log, start, code)
        print(f"Snakemake's output is in {log}. {again} resumes from what is finished.", file=sys.stderr)
    else:
        (_conclude if asked_for.results else _conclude_joined)(plan)
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
    """The law among the records of this plan alone, and what was drawn."""
    from clipa.law import main_report

    directory = plan.measured_directory
    print(f"\n{main_report([job.output for job in plan.jobs()]).rstrip()}\n")
    print(f"figures    {directory}/figures/figure4.png, figure9.png, figure10.png (as CSV: figures/data)")
    print(f"table      {directory}/tables/table11.tex")
    _say_where(plan)


def _conclude_joined(plan: Plan) -> None:
    """The new seed beside the recorded ones; their figure."""
    from clipa.law.joined import join, joined_report
    from clipa.law.verdicts import TRAININGS
    from clipa.render.figures.law import make_from

    recipe = next(run.recipe for run in plan.runs() if not run.is_full_length)
    found = join(load_records([job.output for job in plan.jobs()]), load_records(plan.all_recorded()), recipe)
    print(f"\n{joined_report(found).rstrip()}\n")
    title = f"The law on {TRAININGS[recipe]} of the samples; crosses: seed {found.seed}, trained here"
    drawn = make_from(found.joined, plan.measured_directory / "figures" / "demo.pdf", found.own, title)
    print(f"figure     {drawn[-1]}")
    _say_where(plan)


def _say_where(plan: Plan) -> None:
    directory = plan.measured_directory
    print(f"report     {directory}/{REPORT}")
    print(f"records    {directory}/<run>/evaluation/*/records.json")
    if line := agreement(plan):
        print(f"recorded   {line}")
