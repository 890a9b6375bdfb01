"""Trainings that outlast their jobs: stopped in time, started again by SLURM, and the same weights at the end."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from clipa import slurm, stopping, train
from clipa.cli import main
from clipa.config import Project, load_scale
from clipa.locks import lock_holder
from clipa.resolved import EXPORT, WEIGHTS, write
from clipa.stages import resolve, stages_of
from clipa.study import parse_run
from private_slurm import Cluster, private_slurm
from small_training import resolved, tiny_stages
from workflow_tree import ROOT, workflow_tree

RUN = "S16-none-truncation32"

# ------------------------------------------------------------------------------------------------- the time budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def steps(stop: stopping.Stop, clock: Callable[[float], None], seconds: float, save_every: int = 0) -> int:
    """How many steps of ``seconds`` are made before the time is up; a save takes as long as three."""
    for step in range(1, 10_000):
        clock(seconds)
        stop.after_step()
        if stop.reason:
            assert stop.reason is stopping.OutOfTime
            return step
        if save_every and step % save_every == 0:
            with stop.saving():
                clock(3 * seconds)
    raise AssertionError("never out of time")


def test_a_training_stops_while_there_is_time_to_save(clock) -> None:
    """Left at the end: a step and a half, and a minute or what saving takes."""
    assert steps(stopping.Stop(1000.0), clock, 10.0) == 93  # 1000 - 930 < 15 + 60
    assert steps(stopping.Stop(100.0), clock, 1.0) == 89  # of a short job a tenth
    assert steps(stopping.Stop(1000.0, state_bytes=int(40e9)), clock, 10.0) == 79  # 200 s on a slow disk
    # Sixty steps and three saves are 690 s; the last save took 30.
    assert steps(stopping.Stop(1000.0), clock, 10.0, save_every=20) == 81


def test_without_a_limit_it_goes_on(clock) -> None:
    with pytest.raises(AssertionError, match="never out of time"):
        steps(stopping.Stop(), clock, 1e6)


# ------------------------------------------------------------------------------------------------- what SLURM says

SHOWN = "JobId=7 Requeue=1 Restarts=0 BatchFlag=1 RunTime=00:00:10 TimeLimit=2-00:00:00 TimeMin=N/A"


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in scontrol's place, within job 7."""

    def place(script: str) -> None:
        file = tmp_path / "scontrol"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return place


def test_the_time_left_is_slurms(scontrol) -> None:
    scontrol(f"echo '{SHOWN}'")
    assert slurm.own_job().seconds_left() == pytest.approx(2 * 86400 - 10, abs=60)
    scontrol(f"echo '{SHOWN.replace('2-00:00:00', 'UNLIMITED')}'")
    assert slurm.own_job().seconds_left() is None


def test_all_processes_know_the_time_that_the_firsts_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first is ahead of another, only the other's clock is right."""
    assert train._seconds_left(None) is None and train._seconds_left(slurm.Job("7", None)) is None
    assert train._seconds_left(slurm.Job("7", time.monotonic() + 90.5)) == pytest.approx(90, abs=1)
    first = [1, 90]
    monkeypatch.setattr(
        train.distributed, "all_reduce", lambda *own: [a + b for a, b in zip(own, first, strict=True)]
    )
    assert train._seconds_left(None) == 90


@pytest.mark.parametrize(
    ("clock_", "told"),
    [("00:01:30", 90), ("1-00:00:01", 86401), ("100:00:00", 360000), ("UNLIMITED", None), ("N/A", None)],
)
def test_slurms_times_are_read(clock_: str, told: float | None) -> None:
    assert slurm.seconds(clock_) == told


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exec sleep 60", "scontrol show job --oneliner 7: no answer within 1 s"),
        ("echo slurm_load_jobs error: Unable to contact >&2; exit 1", "scontrol show job --oneliner 7: slurm_load"),
        (f"echo '{SHOWN.replace('Requeue=1', 'Requeue=0')}'", "--requeue: job 7 was submitted without --requeue"),
        (f"echo '{SHOWN.replace('BatchFlag=1', 'BatchFlag=0')}'", "--requeue: job 7 is interactive"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_continued_is_refused_at_its_start(
    scontrol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys, script: str, told: str
) -> None:
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 1.0)
    scontrol(script)
    refused(tmp_path, capsys, told)


def refused(root: Path, capsys: pytest.CaptureFixture, told: str) -> None:
    file = write(resolved(tiny_stages()[0], root))
    assert main(["train", str(file), "--requeue"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"clipa train: {told}") and said.count("\n") == 1


def test_without_slurm_there_is_nothing_to_continue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    refused(tmp_path, capsys, "scontrol show job --oneliner 7: there is no scontrol on")
    monkeypatch.delenv("SLURM_JOB_ID")
    refused(tmp_path, capsys, "--requeue: SLURM_JOB_ID is not set")


# ------------------------------------------------------------------------------------------------- under a real SLURM


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    with private_slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a scale of one small stage, 400 steps, that is only saved when it stops; its data is drawn."""
    data = yaml.safe_load((ROOT / "config" / "scales" / "ci.yaml").read_text(encoding="utf-8"))["data"]
    data["world"] |= {"training_images": 512, "images_per_shard": 64}
    changes = {
        "data": data,
        "pretrain": {"samples": 400 * 32, "warmup_steps": 10},
        "checkpoint_every": 10_000,
        "resources": {"cpus": 1, "memory_mb": 1000, "runtime_minutes": 50},
    }
    return workflow_tree(tmp_path_factory.mktemp("tree"), "ci", changes)


def call(tree: Path, *words: str, cluster: Cluster | None = None) -> subprocess.Popen:
    environment = (cluster.environment if cluster else os.environ) | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=tree, env=environment, **pipes)


def done(process: subprocess.Popen, seconds: float = 300) -> str:
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return said


def until(found: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> object:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


def trainer(directory: Path) -> int | None:
    """The process that makes steps in ``directory``."""
    try:
        made = json.loads((directory / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    holder = lock_holder(directory)
    at_work = holder and holder.pid == made["pid"] and made["step"] < made["steps"]
    return holder.pid if at_work else None


def test_snakemakes_job_is_continued_by_itself_and_only_a_crash_is_a_retry(cluster, tree: Path) -> None:
    """Twice its time is up and once it is killed, with a single retry allowed."""
    if cluster is None:
        return
    scale = load_scale("ci", tree / "config")
    stage = stages_of(parse_run(RUN), scale, 0)[0]
    directory = tree / "results" / "runs" / stage.directory
    target = str((directory / "stage.json").relative_to(tree))
    asked = ("--config", "scale=ci", "seeds=[0]", "reuse_recorded=false")
    done(call(tree, "snakemake", "data", "--cores", "1", *asked))
    profile = ("--profile", "slurm", "--default-resources", "slurm_partition=gpu", "--latency-wait", "5")
    quick = ("--slurm-init-seconds-before-status-checks", "1", "--retries", "1")
    process = call(tree, "snakemake", target, *profile, *quick, *asked, cluster=cluster)
    try:
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGKILL):
            os.kill(until(lambda: trainer(directory), process), number)
            until(lambda: trainer(directory) is None, process)
            if number == signal.SIGUSR1:
                job = re.findall(r" job (\d+) ", (directory / slurm.LOG).read_text())[-1]
                until(lambda job=job: cluster.state(job) == "PENDING", process)
                cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # not in two minutes
        said = done(process)
    finally:
        process.kill()
    log = (directory / slurm.LOG).read_text()
    jobs = re.findall(r" job (\d+) on \S+: 1 processes start after step (\d+)", log)
    first, last = jobs[0][0], jobs[-1][0]
    assert [job for job, _ in jobs] == [first, first, first, last] and first != last, log
    steps = [int(step) for _, step in jobs]
    assert 0 == steps[0] < steps[1] < steps[2] == steps[3] < 400, (
        log
    )  # after the kill from the same checkpoint
    assert said.count("Trying to restart job") == 1, said

    resolve_ = resolve(
        stage, Project(data_directory=str(tree / "results/data"), runs_directory=str(tree / "other"))
    )
    done(call(tree, "clipa", "train", str(write(resolve_))))
    weights = (tree / "other" / stage.directory / EXPORT / WEIGHTS).read_bytes()
    assert (directory / EXPORT / WEIGHTS).read_bytes() == weights
