"""Snakemake's driver on SLURM: it says which job is held, and does not wait for a pending job that is cancelled,
whatever scontrol and sacct say."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from clipa import driver
from clipa.driver import LOCKS, LOOKS, PluginError, Remembering, deployed_by, left_locked, watch_jobs
from private_slurm import private_slurm

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = """
import sys
sys.path.insert(0, {source!r})
from clipa.driver import watch_jobs
assert watch_jobs() == workflow.is_main_process

rule pending:
    output: "made{{number}}"
    resources: slurm_partition="gpu", slurm_account="lab", runtime=5, mem_mb=100, slurm_extra="--hold"
    shell: "touch {{output}}"
"""
# As on a cluster without an accounting database, while its controller is busy.
FAILING = {
    "scontrol": 'case "$*" in *config*) echo "Unable to contact slurm controller" >&2; exit 1;; esac\nexec {real} "$@"',
    "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1',
}


def test_the_driver_says_which_job_is_held_and_notices_that_one_is_cancelled(tmp_path: Path) -> None:
    with private_slurm(tmp_path / "slurm") as cluster:
        if cluster is None:
            return
        commands = tmp_path / "commands"
        commands.mkdir()
        for name, script in FAILING.items():
            (commands / name).write_text(
                "#!/bin/sh\n" + script.format(real=cluster.place / "bin" / name) + "\n"
            )
            (commands / name).chmod(0o755)
        (tmp_path / "Snakefile").write_text(WORKFLOW.format(source=str(ROOT / "src")), encoding="utf-8")
        asked = ["--executor", "slurm", "--jobs", "2", "--slurm-status-command", "squeue"]
        asked += ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "1"]
        path = os.pathsep.join([str(commands), cluster.environment["PATH"]])
        log = tmp_path / "driver.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "made1", "made2", *asked],
                cwd=tmp_path,
                env=cluster.environment | {"PATH": path},
                stdout=output,
                stderr=output,
            )
        try:
            pending = ["squeue", "--noheader", "--states=PENDING", "--format=%i"]
            until(lambda: len(cluster.run(*pending).split()) == 2, process, log)
            cancelled, held = cluster.run(*pending).split()
            cluster.run("scancel", cancelled)
            until(lambda: f"SLURM holds job {held} (JobHeldUser) and" in log.read_text(), process, log)
            until(
                lambda: f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in log.read_text(),
                process,
                log,
            )
            process.send_signal(signal.SIGINT)  # for the held one it would wait on
            process.wait(120)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 1 and "Falling back" not in log.read_text(), log.read_text()


def until(true: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Wait; AssertionError where ``process`` ends before, or it takes two minutes."""
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end and process.poll() is None, log.read_text()
        time.sleep(0.2)


def test_a_lock_that_was_left_is_said_and_how_to_go_on(tmp_path: Path) -> None:
    assert left_locked(tmp_path) is None
    (tmp_path / LOCKS).mkdir(parents=True)
    assert left_locked(tmp_path) is None
    lock = tmp_path / LOCKS / "0.output.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    said = left_locked(tmp_path)
    assert said and "at work here since 19" in said and "--unlock" in said and "\n" not in said


def test_a_method_that_would_do_nothing_is_refused() -> None:
    assert deployed_by([]) is None and deployed_by(["conda"]) is None
    said = deployed_by(["conda", "apptainer"])
    assert said and "no container" in said and "\n" not in said


def answers(*looks: dict[str, str] | None, reasons: Iterable[dict[str, str] | None] = ()) -> Remembering:
    """A query that gives these answers, one after the other; ``reasons`` where it is asked why jobs wait."""
    waiting, why = iter(looks), iter(reasons)

    async def query(command: str, logger: logging.Logger) -> tuple[dict[str, str] | None, float | None]:
        states = next(why, {}) if "%r" in command else next(waiting)
        return (None, None) if states is None else (dict(states), 0.1)

    return Remembering(query)


def test_a_job_that_squeue_has_forgotten_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test")
    looks = [
        {"7": "PENDING", "8": "RUNNING"},
        None,
        *[{"8": "RUNNING"}] * 2,
        {"7": "RUNNING", "8": "RUNNING"},
    ]
    query = answers(*looks, *[{"8": "RUNNING"}] * (LOOKS + 1))
    seen = [asyncio.run(query("squeue", logger))[0] for _ in range(len(looks) + LOOKS + 1)]
    assert seen[0] == {"7": "PENDING", "8": "RUNNING"} and seen[1] is None
    assert all("7" not in states for states in (*seen[2:4], *seen[5:7])), "two looks are not enough"
    assert seen[7] == seen[8] == {"8": "RUNNING", "7": "COMPLETED"}
    assert caplog.text.count("squeue does not name job 7 any more") == 1


def test_a_controller_that_does_not_answer_is_said(caplog: pytest.LogCaptureFixture) -> None:
    query = answers(*[None] * 5)
    for _ in range(5):
        asyncio.run(query("squeue", logging.getLogger("test")))
    assert caplog.text.count("squeue has not answered three times in a row") == 1


def test_a_held_job_is_said_once_each_time_it_is_held(caplog: pytest.LogCaptureFixture) -> None:
    broken, waits = "launch failed requeued held", "Resources"
    looks = [{"7": "PENDING", "8": "PENDING", "9": "RUNNING"}] * 6
    reasons = [{"7": waits, "8": waits}, {"7": broken, "8": waits}, None, {"7": broken, "8": "JobHeldUser"}]
    reasons += [{"7": waits, "8": "JobHeldUser"}, {"7": broken, "8": "JobHeldUser"}]
    query = answers(*looks, reasons=reasons)
    said = []
    for _ in looks:
        caplog.clear()
        states, _ = asyncio.run(query("squeue --format='%i|%T' --name=x", logging.getLogger("test")))
        assert states == looks[0]
        said.append(caplog.messages)
    of_7 = f"SLURM holds job 7 ({broken}) and will not start it by itself: scontrol release 7"
    of_8 = "SLURM holds job 8 (JobHeldUser) and will not start it by itself: scontrol release 8"
    assert said == [[], [of_7], [], [of_8], [], [of_7]]


def test_another_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, driver.PLUGIN, types.ModuleType(driver.PLUGIN))
    with pytest.raises(PluginError, match="has no is_query_tool_available, so a cancelled job"):
        watch_jobs()
    monkeypatch.delitem(sys.modules, driver.PLUGIN)
    assert watch_jobs() is False
