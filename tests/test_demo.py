"""The demo's driver: what it sees of the work, of other processes, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from clipa.demo_progress import Display, Work, clock

import fabricated
from clipa import demo
from clipa.plan import Plan, load_plan
from clipa.results import write_records
from clipa.stages import recorded_path

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


def test_work_is_read_from_what_jobs_write(plan):
    work = Work(plan, cores=2)
    assert work.done() == 0
    assert work.seconds_left() == pytest.approx(work.total / 1.8, rel=0.01)

    world = plan.scale.data.world
    shards = [{"samples": world.images_per_shard}]
    write(plan.data / "train" / "manifest.partial.json", {"shards": shards})
    drawing = next(piece for piece in work.pieces if piece.name == "draw train")
    assert drawing.done() == pytest.approx(world.images_per_shard / world.training_images)

    stage = work.stages[0]
    state = {"step": 15, "steps": 60, "loss": 4.0, "eta_seconds": 9.0, "updated": time.time()}
    write(plan.stage_file(stage).parent / "progress.json", state)
    assert [(found.fingerprint, seen["step"]) for found, seen in work.under_way()] == [
        (stage.fingerprint, 15)
    ]
    half = work.done()
    write(plan.stage_file(stage), {})
    assert work.under_way() == [] and work.done() > half

    for piece_file in [plan.data / "train/manifest.json", plan.data / "train/annotation.json"]:
        write(piece_file, {})
    assert drawing.done() == 1


def test_a_stale_progress_file_is_not_under_way(plan):
    work = Work(plan, cores=2)
    state = {"step": 15, "steps": 60, "loss": 4.0, "eta_seconds": 9.0, "updated": time.time() - 3600}
    write(plan.stage_file(work.stages[0]).parent / "progress.json", state)
    assert work.under_way() == []


def test_longer_stages_weigh_more(plan):
    weight = {piece.name: piece.seconds for piece in Work(plan, cores=2).pieces}
    full, short = (weight[f"B16-{image}-truncation32 pretrain seed 0"] for image in ("none", "resize64"))
    assert full > short > weight["B16-resize64-truncation32 finetune seed 0"] - 10


def test_lines_where_there_is_no_terminal(plan, capsys):
    work = Work(plan, cores=2)
    state = {"step": 15, "steps": 60, "loss": 4.0, "eta_seconds": 9.0, "updated": time.time()}
    write(plan.stage_file(work.stages[0]).parent / "progress.json", state)
    with Display(work) as display:
        display.show()
        display.next_line = 0.0
        display.show()
        display.show(final=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "S16-none-truncation32 pretrain 15/60 steps, 9 s left" in lines[0]
    assert lines[1] == "100 %, done"


# ------------------------------------------------------------------------------------------- other processes


def test_another_snakemake_in_this_folder_is_seen(tmp_path):
    script = tmp_path / "snakemake"
    script.write_text("import time; time.sleep(60)", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here, there = (subprocess.Popen([sys.executable, str(script)], cwd=cwd) for cwd in (tmp_path, elsewhere))
    try:
        wait_for(lambda: list(demo.other_snakemakes(tmp_path)) == [here.pid])
        assert list(demo.other_snakemakes(elsewhere)) == [there.pid]
    finally:
        here.kill()
        there.kill()
        here.wait()
        there.wait()
    assert list(demo.other_snakemakes(tmp_path)) == []


def test_orphaned_jobs_are_named(tmp_path):
    package = tmp_path / "clipa"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    words = ["train", "--scale", "ci", "--run", "S16-none-truncation32", "--kind", "pretrain", "--seed", "0"]
    job = subprocess.Popen([sys.executable, "-m", "clipa", *words], cwd=tmp_path, env={})
    try:
        wait_for(lambda: list(demo.orphans(tmp_path)))
        assert list(demo.orphans(tmp_path)) == [(job.pid, "train S16-none-truncation32 pretrain")]
    finally:
        job.kill()
        job.wait()


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
    assert "`make demo SIZE=ci` goes on" in said


def test_a_failed_job_is_told_with_its_log(plan, capsys, monkeypatch):
    failing = """
print("    log: job.log (check log file(s) for error details)")
open("job.log", "w").write("clipa train: the loss of step 3 is not finite")
raise SystemExit(1)
"""
    write(plan.runs / "snakemake.log", "    log: old.log (check log file(s) for error details)")
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
    run = next(run for run in plan.grid.runs() if run.slug == "S16-none-truncation32")
    stages = plan.grid.stages(run, 0)
    record = fabricated.measured_record("S/16", "none", "pretrain", 0, correct)
    accepted = Path("results/recorded") / recorded_path(stages)
    for path in (accepted, plan.records_file(stages)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, [record])
    assert demo.compare_with_recorded(plan) == [
        "recorded   all 1 accepted records of these stages: the same outcome on every test item"
    ]
    write_records(accepted, [fabricated.measured_record("S/16", "none", "pretrain", 0, ~correct)])
    assert demo.compare_with_recorded(plan)[0].startswith("recorded   0 of 1 accepted records")
