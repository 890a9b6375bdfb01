"""The demo's driver: what it shows of the work, how it stops, and what it says of failures and records."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

import fabricated
from clipa import demo
from clipa.accept import agreement
from clipa.estimate import nominal_seconds
from clipa.locks import directory_lock
from clipa.plan import Plan, load_plan
from clipa.progress import Overall, clock
from clipa.records import write_records

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def plan(tmp_path: Path, monkeypatch) -> Plan:
    """The ci demo's plan in a folder where nothing has been made."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return load_plan({"scale": "ci", "seeds": [0], "reuse_recorded": False})


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# ---------------------------------------------------------------------------------------------------- progress


def test_clock_is_for_people():
    assert [clock(s) for s in (0.4, 89, 200, 754, 4000, 5399.9, 7260)] == [
        "0 s", "89 s", "3 min 20 s", "13 min", "67 min", "1 h 30 min", "2 h 01 min",
    ]  # fmt: skip


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def reported(plan: Plan, slug: str, **changes: object) -> Path:
    """What the pre-training of a run wrote last; the file that will say that it is finished."""
    stage = next(
        stage for stage in plan.stages.values() if (stage.run.slug, stage.kind) == (slug, "pretrain")
    )
    state = {"step": 15, "steps": 60, "loss": 4.0, "eta_seconds": 9.0, "updated": time.time()}
    write(plan.stage_file(stage).with_name("progress.json"), state | changes)
    return plan.stage_file(stage)


def test_work_is_read_from_what_jobs_write(plan):
    jobs = nominal_seconds(plan, [*demo.CI_RESULTS, demo.REPORT])
    overall = Overall("demo", jobs, cores=2)
    assert overall.look() == (0, [])
    assert overall.left() == pytest.approx(overall.total / 1.8, rel=0.01)

    finished = reported(plan, "S16-none-truncation32")
    done, under_way = overall.look()
    assert done == jobs[finished][1] / 4 and under_way == ["S16-none-truncation32 pretrain 15/60"]
    write(finished, {})
    assert overall.look() == (jobs[finished][1], [])
    for file in jobs:
        write(file, {})
    assert overall.look()[0] == pytest.approx(overall.total) and overall.left() == pytest.approx(0)


def test_a_stale_progress_file_is_not_under_way(plan):
    reported(plan, "S16-none-truncation32", updated=time.time() - 3600)
    done, under_way = Overall("demo", nominal_seconds(plan, [*demo.CI_RESULTS, demo.REPORT]), cores=2).look()
    assert done > 0 and under_way == []


def test_longer_stages_weigh_more(plan):
    weight = dict(nominal_seconds(plan, [*demo.CI_RESULTS, demo.REPORT]).values())
    full, short = (weight[f"B16-{image}-truncation32 pretrain"] for image in ("none", "resize64"))
    assert full > short > weight["B16-resize64-truncation32 finetune"] - 10


def test_lines_where_there_is_no_terminal(plan, capsys):
    reported(plan, "S16-none-truncation32")
    with Overall("demo", nominal_seconds(plan, [*demo.CI_RESULTS, demo.REPORT]), cores=2) as overall:
        for final in (False, False, True):
            overall.show(final)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" left; S16-none-truncation32 pretrain 15/60")
    assert lines[1] == "100 %, done"


def test_on_a_terminal_one_bar_says_how_long_is_left(plan, capsys, monkeypatch):
    reported(plan, "S16-none-truncation32")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Overall("demo (ci)", nominal_seconds(plan, [*demo.CI_RESULTS, demo.REPORT]), cores=2) as overall:
        overall.show()
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.replace("\r", "\n").split("\n")[-2]
    assert re.fullmatch(
        r"demo \(ci\) +\d+ % \|.*\|, .* left; S16-none-truncation32 pretrain 15/60", last.strip()
    )


# ------------------------------------------------------------------------------------------- other processes


def test_a_snakemake_at_work_keeps_the_next_one_waiting_and_is_named(plan, capfd):
    """Snakemake itself holds the lock, so this holds as well when the demo that started it was killed."""
    command = demo._snakemake(plan.measured_directory, ["--version"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with directory_lock(plan.measured_directory, "test"):
        waiting = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert (
            f"process {os.getpid()} on {socket.gethostname()} is already at work" in waiting.stderr.readline()
        )
        assert waiting.poll() is None
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and said.startswith("9.")


def test_the_demo_says_whom_it_waits_for(plan, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_snakemake", lambda *words: [sys.executable, "-c", "raise SystemExit(1)"])
    with directory_lock(plan.measured_directory, "test"):
        assert demo.demo("ci") == 1
    assert (
        f"process {os.getpid()} on {socket.gethostname()} is at work in results/runs/ci"
        in capsys.readouterr().out
    )


JOB = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open("saved", "w").close(), sys.exit(75)))
open("ready", "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_the_jobs_get_sigterm_and_save(plan, number):
    """The signal reaches the driver alone; Snakemake's whole group hears SIGTERM, and the driver waits for it."""
    driver = f"""
import sys
from clipa import demo
from clipa.accept import agreement
from clipa.estimate import nominal_seconds
from clipa.plan import load_plan
demo._snakemake = lambda *words: [sys.executable, "-c", {JOB!r}]
sys.exit(demo.demo("ci"))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", driver],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(Path("ready").exists)
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert Path("saved").exists()
    assert "`make demo SIZE=ci` resumes" in said


def test_a_failed_job_is_told_with_its_log(plan, capsys, monkeypatch):
    failing = """
print("Logfile job.log:\\n=====\\nclipa train: the loss of step 3 is not finite\\n=====")
raise SystemExit(1)
"""
    write(plan.measured_directory / "snakemake.log", "Logfile old.log:\n==\nold\n==\n")
    monkeypatch.setattr(demo, "_snakemake", lambda *words: [sys.executable, "-c", failing])
    assert demo.demo("ci") == 1
    said = capsys.readouterr()
    assert (
        "--- job.log\nclipa train: the loss of step 3 is not finite" in said.err and "old.log" not in said.err
    )
    assert "results/runs/ci/snakemake.log" in said.err
    assert "The inverse scaling law" not in said.out


# -------------------------------------------------------------------------------------------------- comparison


def test_records_are_compared_with_accepted_ones(plan):
    correct = numpy.random.default_rng(0).random(64) < 0.3
    [job] = plan.jobs("S16-none-truncation32")
    record = fabricated.measured_record("S/16", "none", "pretrain", 0, correct)
    accepted = Path("results/recorded") / job.recorded_path
    for path in (accepted, job.output):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, [record])
    assert agreement(plan) == "1 of 1 accepted records have the same outcomes here"
    write_records(accepted, [fabricated.measured_record("S/16", "none", "pretrain", 0, ~correct)])
    assert agreement(plan).startswith(
        f"0 of 1 accepted records have the same outcomes here; not, for instance, {record['id']}"
    )
