"""``make demo``: the inverse scaling law measured at a small scale, driven and watched from one terminal.

Snakemake does the work, in a process group of its own; this module starts it, shows one progress bar for the whole
and one for each stage under way, and says at the end what was found. Interrupted at any point, and however it was
killed, the next start goes on from what is on disk.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clipa.demo_progress import Display, Work, clock
from clipa.plan import Plan, load_plan
from clipa.records import RECORDED_DIRECTORY, load_records
from clipa.schema import Record
from clipa.stages import recorded_path

SCALES = {"full": "micro", "ci": "ci"}
TARGETS = ("data", "measure_figure4", "measure_figure9", "measure_figure10", "measure_table11")
POLL_SECONDS = 1.0


class Stopped(Exception):
    """Ctrl-C, or SIGTERM."""


def demo(size: str = "full") -> int:
    """Measure the law at the scale of ``size`` (``full``: micro, ``ci``: does it run at all); the exit code.

    0: finished, also when nothing was left to do; 1: a job failed; 130: interrupted.
    """
    began = time.monotonic()
    asked = {"scale": SCALES[size], "seeds": [0], "reuse_recorded": False}
    plan = load_plan(asked)
    log = plan.runs / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    cores = len(os.sched_getaffinity(0))
    work = Work(plan, cores)
    _introduce(plan, work, cores, log)
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _wait_for_others(work)
        _name_orphans(Path.cwd())
        code = _measure(asked, work, cores, log)
    except Stopped:
        print(
            f"\nStopped. What is finished is kept, stages go on from their checkpoints: {_again(size)} goes on."
        )
        return 130
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code:
        _explain_failure(log, start, code, size)
        return 1
    _conclude(plan, time.monotonic() - began)
    return 0


def _again(size: str) -> str:
    return "`make demo`" if size == "full" else f"`make demo SIZE={size}`"


def _stop(_number: int, _frame: object) -> None:
    raise Stopped


def _introduce(plan: Plan, work: Work, cores: int, log: Path) -> None:
    runs, stages = plan.grid.runs(), list(plan.stages.values())
    print(f"The {plan.scale.name} scale: {plan.scale.about}")
    print(f"{len(runs)} runs ({len(stages)} training stages), each evaluated; nothing is downloaded.")
    left = work.seconds_left()
    if left:
        print(f"About {clock(left)} on {cores} cores. What Snakemake says is in {log}.", flush=True)
    else:
        print("All of it is here already.", flush=True)


# ------------------------------------------------------------------------------------------- others at work


def _wait_for_others(work: Work) -> None:
    """A Snakemake that outlived an earlier start, or another terminal's, is at work: watch it until it is done."""
    other = next(other_snakemakes(Path.cwd()), None)
    if other is None:
        if any(Path(".snakemake", "locks").glob("*.lock")):
            print("Clearing the lock of a Snakemake that was killed (no process owns it).")
            subprocess.run(_snakemake("--unlock"), capture_output=True, check=False)
        return
    print(
        f"Snakemake (process {other}) is already at work in this folder: watching it (to end it: kill {other})."
    )
    with Display(work) as display:
        while _alive(other):
            display.show()
            time.sleep(POLL_SECONDS)
    _wait_for_others(work)


def other_snakemakes(root: Path) -> Iterator[int]:
    """Live Snakemake drivers that work in ``root``."""
    for process, words in _processes_in(root):
        if "snakemake" in {Path(word).name for word in words[:3]}:
            yield process


def _processes_in(root: Path) -> Iterator[tuple[int, list[str]]]:
    """Process ids and command lines of other live Python processes whose working directory is ``root``."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if process.pid == os.getpid() or "python" not in Path(words[0]).name:
            continue
        try:
            if Path(process.cwd()) == root.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, words
        except psutil.Error:
            continue


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name_orphans(root: Path) -> None:
    """Jobs whose Snakemake was killed are left to finish: theirs and the new jobs' locks keep them apart."""
    for pid, job in orphans(root):
        print(f"Still at work from a Snakemake that was killed: {job} (process {pid}). It is left to finish;")
        print(f"a new job for the same thing waits for it (to end it instead: kill {pid}).")


def orphans(root: Path) -> Iterator[tuple[int, str]]:
    """Processes of jobs (``python -m clipa VERB …``) in ``root`` other than this one, and what they do."""
    for process, words in _processes_in(root):
        if words[1:3] == ["-m", "clipa"] and len(words) > 3 and words[3] != "demo":
            options = dict(itertools.pairwise(words))
            named = [options.get(key) for key in ("--run", "--kind")] if "--run" in options else words[4:5]
            yield process, " ".join(word for word in [words[3], *named] if word)


# ---------------------------------------------------------------------------------------------- Snakemake


def _snakemake(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def _config(asked: dict[str, object]) -> list[str]:
    return ["--config", *(f"{key}={str(value).lower()}" for key, value in asked.items())]


def _measure(asked: dict[str, object], work: Work, cores: int, log: Path) -> int:
    """Run Snakemake to its end under the progress bar, then its report; the exit code of what failed first."""
    command = _snakemake(*TARGETS, "--cores", str(cores), "--keep-going", *_config(asked))
    with open(log, "a", encoding="utf-8") as output:
        code = _run(command, output, work)
        report = log.with_name("report.html")
        if code == 0 and _older(report, work.results()):
            code = _run(_snakemake(*TARGETS, "--report", str(report), *_config(asked)), output, None)
    return code


def _older(report: Path, files: list[Path]) -> bool:
    return not report.is_file() or any(file.stat().st_mtime > report.stat().st_mtime for file in files)


def _run(command: list[str], output: IO[str], work: Work | None) -> int:
    """Run ``command`` in a process group of its own, so that Ctrl-C reaches it as SIGTERM, through us."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # jobs start several times faster with cached bytecode
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, process_group=0
    )
    try:
        if work is None:
            return process.wait()
        with Display(work) as display:
            while process.poll() is None:
                display.show()
                time.sleep(POLL_SECONDS)
            display.show(final=process.returncode == 0)
        return process.returncode
    except Stopped:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to Snakemake and its jobs: stages save a checkpoint. A second Ctrl-C kills them."""
    print("\nStopping: stages under way save a checkpoint (Ctrl-C again: kill at once) …", flush=True)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait()
    except Stopped:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _explain_failure(log: Path, start: int, code: int, size: str) -> None:
    """Say which job failed and why: the last lines of the failed jobs' own logs."""
    if code < 0:
        reason = f"Snakemake was killed (signal {-code}); its jobs may still be running."
    else:
        said = log.read_bytes()[start:].decode("utf-8", errors="replace")
        failed = dict.fromkeys(re.findall(r"^ +log: (\S+) \(check log", said, re.MULTILINE))
        for path in failed:
            print(f"--- {path}\n{_last_lines(Path(path), 10)}", file=sys.stderr)
        if not failed:
            print(_last_lines(log, 20), file=sys.stderr)
        reason = f"A job failed: see above, and {log}."
    print(f"{reason} {_again(size)} goes on from what is finished.", file=sys.stderr)


def _last_lines(path: Path, count: int) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
    except OSError as error:
        return f"(cannot be read: {error.strerror})"


# ---------------------------------------------------------------------------------------------- the end


def _conclude(plan: Plan, seconds: float) -> None:
    from clipa.law import main_report

    cells = plan.cells()
    print(f"\n{main_report(cells).rstrip()}\n")
    print(
        f"figures    {plan.runs}/figures/figure4.png, figure9.png, figure10.png (the numbers: figures/data/*.csv)"
    )
    print(f"table      {plan.runs}/tables/table11.tex")
    print(f"report     {plan.runs}/report.html")
    print(f"records    {plan.runs}/<run>/evaluation/*/records.json")
    for line in compare_with_recorded(plan):
        print(line)
    print(f"wall time  {clock(seconds)}", flush=True)


def compare_with_recorded(plan: Plan) -> list[str]:
    """Whether the accepted records of the same fingerprints hold the same per-item outcomes."""
    same: list[str] = []
    different: list[str] = []
    for run in plan.grid.runs():
        for seed in plan.project.seeds:
            stages = plan.grid.stages(run, seed)
            accepted = plan.root / RECORDED_DIRECTORY / recorded_path(stages)
            if not accepted.is_file():
                continue
            measured = {
                record["id"]: record for record in load_records([plan.root / plan.records_file(stages)])
            }
            for record in load_records([accepted]):
                other = measured.get(record["id"])
                if other is not None:
                    (same if _same_outcomes(record, other) else different).append(record["id"])
    if not same and not different:
        return []
    total = len(same) + len(different)
    if not different:
        return [
            f"recorded   all {total} accepted records of these stages: the same outcome on every test item"
        ]
    return [
        f"recorded   {len(same)} of {total} accepted records of these stages have the same outcomes; not, for "
        f"instance, {different[0]} (other hardware gives other bits)"
    ]


def _same_outcomes(first: Record, second: Record) -> bool:
    return (
        first["stage_fingerprint"] == second["stage_fingerprint"] and first["outcomes"] == second["outcomes"]
    )
