"""The workflow under a real SLURM, disturbed as clusters disturb it: does it get through, and with the same bits?

    make slurm-test                                              every case
    PYTHONPATH=src:tests python tests/slurm_cases.py requeue     some of them

A SLURM of two nodes is started on this machine (tests/private_slurm.py) and asked through `snakemake --profile slurm`,
at the ci scale. Disturbed trainings have a pause in each step, so that there is time to disturb them, which changes no
bit. Their exported weights are compared with those of the same stages trained without SLURM. Cases run side by side,
since they mostly wait. SLURM starts a requeued job after two minutes; here it is asked to do so at once.

Prints a table of the cases. The exit code is 1 when one of them failed, and 0 without any case where there is no SLURM
(with CI set: 1, unless WITHOUT_SLURM is set, too).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipa.config import load_scale
from clipa.locks import lock_holder
from clipa.resolved import EXPORT, WEIGHTS
from clipa.slurm import LOG
from clipa.stages import Stage, stages_of
from clipa.study import parse_run
from private_slurm import Cluster, private_slurm
from workflow_tree import workflow_tree

RUN = "S16-resize64-truncation32"
TWO_NODES = {"processes": 2, "resources": {"nodes": 2, "cpus": 1, "memory_mb": 1000, "runtime_minutes": 30}}
PATIENCE = 600.0
"""Seconds that a case waits for one thing before it fails; longer where it is asked to."""
_PAUSE = """\
import sys
if {"clipa", "train"} <= set(sys.orig_argv):
    import time
    from clipa import train
    rate, paused = train.learning_rate, set()
    def after_a_pause(step, *others):
        if step not in paused:
            paused.add(step)
            time.sleep(PAUSE)
        return rate(step, *others)
    train.learning_rate = after_a_pause
"""
_BEGAN = time.monotonic()
STOPPED = threading.Event()
"""No case waits any longer."""
DRIVERS: list[subprocess.Popen] = []
"""Every Snakemake that was started."""


# ------------------------------------------------------------------------------------------- a driver and its training


@dataclass
class Work:
    """A folder of the workflow, in which Snakemake is started, and the stage that it is to train."""

    name: str
    cluster: Cluster
    data: Path
    partition: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    pause: float = 0.15
    """Seconds in each step of a training."""

    def __post_init__(self) -> None:
        self.tree = self.data.parent / self.name
        workflow_tree(self.tree, "ci", self.changes, {"gpu": self.partition} if self.partition else None)
        scale = load_scale("ci", self.tree / "config")
        self.stages: list[Stage] = stages_of(parse_run(RUN), scale, 0)
        self.directory = self.tree / "results" / "runs" / self.stages[0].directory
        self.target = str((self.directory / "stage.json").relative_to(self.tree))
        (self.tree / "pause").mkdir()
        (self.tree / "pause" / "sitecustomize.py").write_text(_PAUSE.replace("PAUSE", str(self.pause)))

    def start(self, *words: str, slurm: bool = True, own_data: bool = False) -> subprocess.Popen:
        """Snakemake, whose output is added to ``driver.log``."""
        command = [sys.executable, "-m", "snakemake", *words]
        if slurm:  # look at jobs at once, not after 30 seconds
            command += ["--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1"]
        command += ["--config", "scale=ci", "seeds=[0]", "reuse_recorded=false"]
        command += [] if own_data else [f"data_directory={self.data}"]
        environment = self.cluster.environment | {"OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.pause:
            paths = str(self.tree / "pause"), environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with open(self.tree / "driver.log", "ab") as log:
            driver = subprocess.Popen(
                command, cwd=self.tree, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        DRIVERS.append(driver)
        return driver

    def said(self) -> str:
        """What Snakemake has printed so far."""
        return (self.tree / "driver.log").read_text(encoding="utf-8", errors="replace")

    def jobs(self) -> list[str]:
        """The SLURM jobs that it has submitted."""
        return re.findall(r"SLURM jobid (\d+)", self.said())

    def history(self) -> list[tuple[str, str]]:
        """The stage's log of the jobs that trained it: number, and what it says."""
        try:
            log = (self.directory / LOG).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return re.findall(r" job (\d+) on \S+: (.*)", log)

    def starts(self) -> list[int]:
        """After which step each job began to train."""
        found = (re.search(r"start after step (\d+)", what) for _, what in self.history())
        return [int(match[1]) for match in found if match]

    def in_training(self, after: int = 0) -> str | None:
        """The job that makes steps, once it has made more than ``after``."""
        try:
            made = json.loads((self.directory / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        holder = lock_holder(self.directory)
        at_work = holder and holder.pid == made["pid"] and after < made["step"] < made["steps"]
        return self.history()[-1][0] if at_work and self.history() else None

    def has_checkpoint(self) -> bool:
        return any(self.directory.glob("checkpoint-*"))

    def weights(self, stage: int = 0) -> bytes:
        return (self.tree / "results" / "runs" / self.stages[stage].directory / EXPORT / WEIGHTS).read_bytes()

    def seen_by_slurm(self) -> str:
        """A line of ``squeue`` for each job: number, partition, state, time, nodes."""
        if not (jobs := self.jobs()):
            return ""
        asked = ["--noheader", "--states=all", "--format=%i %P %T %M %N", f"--jobs={','.join(jobs)}"]
        lines = self.cluster.run("squeue", *asked).splitlines()
        lines.sort()
        return "; ".join(lines if len(lines) <= 3 else [lines[0], f"{len(lines) - 2} more", lines[-1]])


def until(found: Callable[[], Any], what: str, driver: subprocess.Popen | None = None) -> Any:
    """The first true value of ``found()``; AssertionError when it takes too long, or ``driver`` ends before."""
    end = time.monotonic() + PATIENCE
    while not (value := found()):
        assert driver is None or driver.poll() is None, f"Snakemake ended before {what}"
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s for {what}"
        assert not STOPPED.wait(0.2), "stopped"
    return value


def ended(driver: subprocess.Popen, code: int = 0) -> None:
    """Wait for the end of Snakemake; AssertionError when it takes too long, or has another exit code."""
    until(lambda: driver.poll() is not None, "the end of Snakemake")
    assert driver.returncode == code, f"Snakemake ended with {driver.returncode}"


# ------------------------------------------------------------------------------------------------------------ the cases


@dataclass
class Bench:
    """What cases share: the cluster, drawn data, and trainings without SLURM to compare with."""

    cluster: Cluster
    data: Path
    undisturbed: Future[Work]
    on_two: Future[Work]
    node_is_back: threading.Event = field(default_factory=threading.Event)

    def work(self, name: str, **others: Any) -> Work:
        self.undisturbed.result()  # the data is drawn
        return Work(name, self.cluster, self.data, **others)

    def same_bits(self, work: Work, stages: int = 1) -> str:
        other = (self.on_two if work.changes.get("processes") else self.undisturbed).result()
        for number in range(stages):
            assert work.weights(number) == other.weights(number), "other bits than without SLURM"
        return "same bits"


Case = Callable[[Bench], Iterator[Work | str]]
CASES: dict[str, tuple[str, Case]] = {}


def case(what: str) -> Callable[[Case], Case]:
    """Add a case to the table: ``what`` is done. It yields its folder, then what was seen."""

    def add(function: Case) -> Case:
        CASES[function.__name__] = what, function
        return function

    return add


@case("the ci scale, from drawing data to Figure 4")
def figure(bench: Bench) -> Iterator[Work | str]:
    work = Work("figure", bench.cluster, bench.data, pause=0)
    yield work
    ended(work.start("measure_figure4", own_data=True))
    drawn = work.tree / "results" / "runs" / "ci" / "figures" / "figure4.png"
    assert drawn.read_bytes().startswith(b"\x89PNG"), "no figure"
    yield f"{len(work.jobs())} jobs, Figure 4 drawn"
    yield bench.same_bits(work, stages=2)


@case("a training that needs longer than its limit of two minutes")
def limit(bench: Bench) -> Iterator[Work | str]:
    asked = {"cpus": 1, "memory_mb": 1000, "runtime_minutes": 2}
    work = bench.work("limit", changes={"resources": asked}, pause=1.1)
    yield work
    ended(work.start(work.target))
    starts, jobs = work.starts(), {job for job, _ in work.history()}
    assert len(starts) > 1 and starts[0] == 0 < starts[1], f"started after steps {starts}"
    assert len(jobs) == len(work.jobs()) == 1, f"jobs {jobs}"
    yield f"one job, started after steps {', '.join(map(str, starts))}"
    yield bench.same_bits(work)


@case("scontrol requeue after a checkpoint")
def requeue(bench: Bench) -> Iterator[Work | str]:
    work = bench.work("requeue")
    yield work
    driver = work.start(work.target)
    until(work.has_checkpoint, "a checkpoint", driver)
    job = until(work.in_training, "a training", driver)
    bench.cluster.run("scontrol", "requeue", job)
    ended(driver)
    starts = work.starts()
    assert len(starts) == 2 and starts[1] >= 20, f"started after steps {starts}"
    assert work.jobs() == [job], f"jobs {work.jobs()}"
    yield f"the same job, started after steps 0, {starts[1]}"
    yield bench.same_bits(work)


@case("scancel of a running job")
def cancelled(bench: Bench) -> Iterator[Work | str]:
    work = bench.work("cancelled")
    yield work
    driver = work.start(work.target)
    job = until(lambda: work.in_training(after=5), "a training", driver)
    bench.cluster.run("scancel", job)
    ended(driver)
    starts = work.starts()
    assert "CANCELLED" in work.said() and len(work.jobs()) == 2, f"jobs {work.jobs()}"
    assert len(starts) == 2 and starts[1] > 5, f"started after steps {starts}"
    yield f"CANCELLED seen, second job started after step {starts[1]}"
    yield bench.same_bits(work)


@case("scancel of a pending job (its partition is down)")
def cancelled_pending(bench: Bench) -> Iterator[Work | str]:
    bench.cluster.run("scontrol", "create", "PartitionName=closed", "Nodes=n1", "State=DOWN")
    work = bench.work("cancelled_pending", partition="closed", pause=0)
    yield work
    driver = work.start(work.target)
    [job] = until(work.jobs, "a job", driver)
    assert bench.cluster.state(job) == "PENDING", bench.cluster.state(job)
    bench.cluster.run("scancel", job)
    until(lambda: len(work.jobs()) == 2, "a second job", driver)
    bench.cluster.run("scontrol", "update", "PartitionName=closed", "State=UP")
    ended(driver)
    assert "CANCELLED" in work.said() and work.starts() == [0], f"started after steps {work.starts()}"
    yield "CANCELLED seen, submitted again"
    yield bench.same_bits(work)


@case("kill -9 of Snakemake, its start, --unlock, its start")
def killed_driver(bench: Bench) -> Iterator[Work | str]:
    work = bench.work("killed_driver")
    yield work
    driver = work.start(work.target)
    job = until(work.in_training, "a training", driver)
    trainer = lock_holder(work.directory)
    assert trainer, "no training"
    os.kill(trainer.pid, signal.SIGSTOP)  # it is to be there when the second job comes
    driver.kill()
    driver.wait()
    began = time.monotonic()
    ended(work.start(work.target), code=1)
    said = work.said()
    assert -1 < said.find("Another Snakemake is at work") < said.find("LockException"), "no word of the lock"
    yield f"refused after {time.monotonic() - began:.0f} s"
    ended(work.start("--unlock"))
    again = work.start(work.target)
    log = until(lambda: [*work.tree.glob("results/runs/logs/*/*/pretrain-*.log.all")], "a log", again)[0]
    until(lambda: "already at work" in log.read_text(encoding="utf-8"), "the second job", again)
    os.kill(trainer.pid, signal.SIGCONT)
    ended(again)
    told = log.read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^--- ", told)) == 2, "the log of one job is gone"
    steps = work.stages[0].schedule.steps  # all were made when the second job began
    assert work.starts() == [0, steps] and work.history()[0][0] == job, f"trained twice: {work.history()}"
    yield f"the second job waited for the first, and found all {steps} steps made"
    yield bench.same_bits(work)


@case("power cut of a training's node (kill -9 of its processes, State=DOWN), and back")
def node_down(bench: Bench) -> Iterator[Work | str]:
    bench.cluster.run("scontrol", "create", "PartitionName=second", "Nodes=n2")
    work = bench.work("node_down", partition="second")
    yield work
    driver = work.start(work.target)
    until(work.has_checkpoint, "a checkpoint", driver)
    job = until(work.in_training, "a training", driver)
    bench.cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=a case")
    try:
        kill_job(job)
        state = until(lambda: (now := bench.cluster.state(job)) != "RUNNING" and now, "the job's end", driver)
    finally:  # refused where SLURM has found the node in order by itself
        bench.cluster.run("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)
    ended(driver)
    starts = work.starts()
    assert len(starts) == 2 and starts[1] >= 20 and work.jobs() == [job], (
        f"{work.jobs()} after steps {starts}"
    )
    yield f"{state} while the node was down, the same job started after steps 0, {starts[1]}"
    yield bench.same_bits(work)


def kill_job(job: str) -> None:
    """SIGKILL to all that runs of a job, SLURM's own processes for it included."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            own = f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0")
            if own or (process / "cmdline").read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


@case("a training on two nodes")
def two_nodes(bench: Bench) -> Iterator[Work | str]:
    bench.cluster.run("scontrol", "create", "PartitionName=both", "Nodes=ALL")
    work = bench.work("two_nodes", partition="both", changes=TWO_NODES, pause=0)
    yield work
    until(bench.node_is_back.is_set, "the node")
    ended(work.start(work.target))
    [job] = work.jobs()
    nodes = bench.cluster.run("squeue", "-h", "--states=all", "--format=%N", "--jobs", job).strip()
    assert nodes == "n[1-2]", nodes
    yield f"on {nodes}"
    yield bench.same_bits(work)


# ------------------------------------------------------------------------------------------------------- running them


@dataclass
class Row:
    """A line of the table."""

    name: str
    done: str
    seen: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slurm: str = ""
    failed: bool = False

    def __str__(self) -> str:
        seen = ", ".join(self.seen)
        return f"| {self.name} | {self.done} | {seen} | {self.seconds:.0f} | {self.slurm} |"


def run_case(name: str, bench: Bench) -> Row:
    what, function = CASES[name]
    row, work, began = Row(name, what), None, time.monotonic()
    try:
        for told in function(bench):
            if isinstance(told, Work):
                work, began = told, time.monotonic()
                continue
            row.seen.append(told)
            report(f"{name}: {told}")
    except Exception as error:  # a case that fails is a line of the table
        row.failed = True
        row.seen.append(f"FAILED: {' '.join(str(error).split()) or type(error).__name__}")
        report(f"{name}: {row.seen[-1]}")
        if work:
            print(f"--- {work.tree}/driver.log\n{work.said()[-6000:]}", flush=True)
    finally:
        if name == "node_down":  # only now has the other case both nodes
            bench.node_is_back.set()
    row.seconds = time.monotonic() - began
    row.slurm = work.seen_by_slurm() if work else ""
    return row


def report(what: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {what}", flush=True)


def without_slurm(name: str, cluster: Cluster, data: Path, changes: dict[str, Any], stages: int) -> Work:
    """The stages that cases train, trained by Snakemake on this machine alone."""
    work = Work(name, cluster, data, changes=changes, pause=0)
    target = (work.tree / "results" / "runs" / work.stages[stages - 1].directory).relative_to(work.tree)
    ended(work.start(str(target / "stage.json"), "--cores", "2", slurm=False))
    report(f"{name}: trained without SLURM")
    return work


@contextmanager
def nothing_left() -> Iterator[None]:
    """Ends what cases have started, also when this program is stopped (Ctrl-C, SIGTERM)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        STOPPED.set()
        for driver in DRIVERS:
            if driver.poll() is None:  # without SLURM its trainings are of its group
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


@contextmanager
def impatient(cluster: Cluster) -> Iterator[None]:
    """Has SLURM start requeued jobs at once, not in two minutes."""
    over = threading.Event()

    def hurry() -> None:
        while not over.wait(1.0):
            told = cluster.run("squeue", "--noheader", "--states=PENDING", "--format=%i %r", check=False)
            for job in re.findall(r"^(\d+) BeginTime$", told, re.MULTILINE):
                cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_cases(names: list[str], root: Path) -> list[Row] | None:
    """The cases of ``names``, side by side; None where there is no SLURM."""
    (root / "slurm").mkdir()
    with private_slurm(root / "slurm", kill_wait=30) as cluster:
        if cluster is None:
            return None
        report("SLURM is up: two nodes on this machine")
        # What is not meant to notice that the second node goes down stays on the first.
        cluster.run("scontrol", "update", "PartitionName=gpu", "Nodes=n1")
        cluster.run("scontrol", "create", "PartitionName=cpu", "Nodes=n1")
        data = root / "data"
        with impatient(cluster), ThreadPoolExecutor(len(CASES) + 2) as pool, nothing_left():
            alone = pool.submit(without_slurm, "undisturbed", cluster, data, {}, 2)

            def two_processes() -> Work:
                alone.result()
                one_node = TWO_NODES | {"resources": TWO_NODES["resources"] | {"nodes": 1}}
                return without_slurm("two_processes", cluster, data, one_node, 1)

            bench = Bench(cluster, data, alone, pool.submit(two_processes) if "two_nodes" in names else alone)
            if "node_down" not in names:
                bench.node_is_back.set()
            return list(pool.map(lambda name: run_case(name, bench), names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "case", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; all where none is named"
    )
    parser.add_argument(
        "--patience", type=float, metavar="SECONDS", help="that a case waits for one thing (default: 600)"
    )
    asked = parser.parse_args()
    names = asked.case or list(CASES)
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no case is called {unknown[0]}: there are {', '.join(CASES)}")
    if asked.patience:
        global PATIENCE
        PATIENCE = asked.patience
    with tempfile.TemporaryDirectory(prefix="slurm-cases-") as folder:
        rows = run_cases(names, Path(folder).resolve())
    if rows is None:
        return
    print("\n| case | what was done | what was seen | s | squeue: job, partition, state, time, nodes |")
    print("|---|---|---|---:|---|")
    for row in rows:
        print(row)
    failed = [row.name for row in rows if row.failed]
    print(
        f"\n{len(rows) - len(failed)} of {len(rows)} cases passed in {time.monotonic() - _BEGAN:.0f} s"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
