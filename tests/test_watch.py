"""`clipa watch` shows what trains from the files that trainings write, whatever state these are in."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipa import watching
from clipa.events import VERSION, EventFiles, event
from clipa.watching import BARS, FINISHED, SILENT, STOPPED, TRAINING, Watch, sparkline
from own_data import ROOT, clone

NOW = 1_800_000_000.0
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "140"}


def stage(runs: Path, name: str = "seed0-0123456789ab", **changes) -> Path:
    """A stage's folder with a progress file; returns the folder."""
    folder = runs / "micro-v1" / "B16-none-truncation32" / "pretrain" / name
    folder.mkdir(parents=True)
    state = {"step": 30, "steps": 100, "loss": 2.5, "samples_per_second": 640.0, "eta_seconds": 75.0}
    state |= {"pid": os.getpid(), "updated": NOW - 1, "host": socket.gethostname(), "job": None}
    (folder / "progress.json").write_text(json.dumps(state | changes), encoding="utf-8")
    (folder / "stage.resolved.json").touch()
    return folder


def log(folder: Path, *points: tuple[int, float]) -> None:
    rows = [json.dumps({"step": step, "loss": loss, "lr": 0.001, "scale": 14.3}) for step, loss in points]
    (folder / "loss.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture
def no_slurm(monkeypatch):
    monkeypatch.setattr(watching, "queue", lambda: None)


# ------------------------------------------------------------------------------------------------------ sparklines


@given(
    losses=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60),
    width=st.integers(0, 30),
)
def test_a_sparkline_fits_and_shows_highest_and_lowest(losses, width):
    line = sparkline(list(enumerate(losses)), width)
    assert len(line) <= width and set(line) <= set(BARS)
    if len({round(loss, 3) for loss in losses if abs(loss) < 1e6}) > 1 and width > 60 > len(losses):
        assert {BARS[0], BARS[-1]} <= set(line)


def test_a_falling_loss_falls():
    assert sparkline([(step, 8.0 - step) for step in range(8)], 8) == BARS[::-1]


# --------------------------------------------------------------------------------------------------------- states


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, TRAINING),
        ({"pid": 2**22 + 1}, STOPPED),
        ({"host": "elsewhere", "pid": 2**22 + 1}, TRAINING),
        ({"host": "elsewhere", "updated": NOW - 600}, SILENT),
        ({"updated": NOW - 600}, SILENT),
        ({"updated": NOW + 600}, TRAINING),
    ],
)
def test_the_state_of_a_stage(tmp_path, changes, state):
    folder = stage(tmp_path, **changes)
    (found,) = Watch(tmp_path).look(NOW)
    assert (found.state, found.run, found.kind, found.seed) == (
        state,
        "B16-none-truncation32",
        "pretrain",
        "0",
    )
    (folder / "stage.json").write_text("{}")
    assert Watch(tmp_path).look(NOW)[0].state == FINISHED
    assert Watch(tmp_path, "mini").look(NOW) == []


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"step": 1}', '{"step": NaN}', "\x00"])
def test_what_cannot_be_read_shows_nothing(tmp_path, content):
    stage(tmp_path)
    folder = stage(tmp_path, "seed1-0123456789ab")
    (folder / "progress.json").write_text(content)
    (folder.parent / "seed0-0123456789ab" / "loss.jsonl").write_text(content)
    watch = Watch(tmp_path)
    (found,) = watch.look(NOW)
    assert watch.points(found) == [(30, 2.5)]


@pytest.mark.usefixtures("no_slurm")
def test_to_come_is_what_a_workflow_made_ready_and_nothing_of_other_seeds(tmp_path):
    """A run with `seeds=[0]` is over when its stages are, whatever seeds the configuration has."""
    folder, watch = stage(tmp_path), Watch(tmp_path, "micro-v1")
    other = stage(tmp_path, "seed1-0123456789ab")
    (other / "progress.json").unlink()
    assert (watch.to_come(), Watch(tmp_path).to_come(), Watch(tmp_path, "mini").to_come()) == (1, 1, 0)
    (other / "stage.json").touch()
    assert watch.to_come() == 0
    (other / "stage.json").unlink()
    (other / "stage.resolved.json").unlink()
    assert folder.is_dir() and watch.to_come() == 0


@pytest.mark.usefixtures("no_slurm")
def test_points_are_the_log_and_what_was_seen_since(tmp_path):
    folder, watch = stage(tmp_path), Watch(tmp_path)
    log(folder, (10, 4.0), (20, 3.0))
    assert watch.points(watch.look(NOW)[0]) == [(10, 4.0), (20, 3.0), (30, 2.5)]
    state = json.loads((folder / "progress.json").read_text()) | {"step": 40, "loss": 2.0}
    (folder / "progress.json").write_text(json.dumps(state))
    assert watch.points(watch.look(NOW)[0])[-2:] == [(30, 2.5), (40, 2.0)]
    log(folder, (10, 4.0), (20, 3.0), (40, 2.1))
    os.utime(folder / "loss.jsonl", (1, 1))
    assert watch.points(watch.look(NOW)[0]) == [(10, 4.0), (20, 3.0), (40, 2.1)]


def test_jobs_of_slurm_are_as_squeue_says(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '7 RUNNING\\n8 PENDING\\n9 RUNNING\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for job in (7, 8, 10):
        stage(tmp_path / "runs", f"seed{job}-0123456789ab", job=str(job), host="node1")
    states = {one.place: one.state for one in Watch(tmp_path / "runs").look(NOW)}
    assert states == {"job 7": TRAINING, "job 8": STOPPED, "job 10": STOPPED}
    assert watching.counted_jobs(watching.queue()) == "SLURM: 1 pending, 2 running"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert {one.state for one in Watch(tmp_path / "runs").look(NOW)} == {TRAINING}


WRITER = """
import numpy, sys, time
from pathlib import Path
from clipa.progress import Progress
progress = Progress(Path(sys.argv[1]), 1000, 32, 0, True)
for step in range(1, 1000):
    progress.next_file = 0.0
    progress.update(step, numpy.float64(3.0 - step / 1000))
    time.sleep(0.05)
"""


def test_a_training_that_is_killed_is_seen_to_stop(tmp_path):
    """With a real process, a real terminal, and Ctrl-C."""
    home = clone(tmp_path / "home")
    folder = home / "results/runs/micro-v1/B16-none-truncation32/pretrain/seed0-0123456789ab"
    folder.mkdir(parents=True)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "clipa", "watch", "--every", "0.2"]
    watch = subprocess.Popen(
        command, cwd=home, env=ENVIRONMENT | {"TERM": "xterm"}, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        assert "micro-v1/B16-none-truncation32" in read_until(ours, "pretrain seed 0")
        read_until(ours, "training")
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        read_until(ours, "stopped")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0
    finally:
        for process in (writer, watch):
            process.kill()
            process.wait()
        os.close(ours)


def read_until(terminal: int, word: str) -> str:
    """What a program has written to its terminal up to ``word``."""
    seen = ""
    while word not in seen:
        assert select.select([terminal], [], [], 120)[0], f"nothing new after: {seen}"
        seen += os.read(terminal, 4096).decode("utf-8", "replace")
    return seen


def test_without_a_terminal_the_table_is_printed_once(tmp_path):
    home = clone(tmp_path / "home")
    log(stage(home / "results/runs", updated=time.time()), (10, 4.0), (20, 3.0))
    stage(home / "results/runs", "seed1-0123456789ab").joinpath("progress.json").unlink()
    command = [sys.executable, "-m", "clipa", "watch", "--scale", "micro-v1", "--tensorboard", "events"]
    done = subprocess.run(command, cwd=home, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    first, *_, row = done.stdout.splitlines()
    assert first == "results/runs/micro-v1: 1 training, 1 to come"
    assert row.split()[:9] == [
        "B16-none-truncation32",
        "pretrain",
        "seed",
        "0",
        "training",
        "30/100",
        "30",
        "%",
        "2.500",
    ]
    assert f"{BARS[-1]}" in row and "640" in row and "75 s" in row
    assert len(list(home.glob("events/micro-v1/*/pretrain/*/events.out.tfevents.*"))) == 1


@pytest.mark.parametrize(("scale", "names"), [((), 9), (("--scale", "micro-v1"), 19)])
def test_in_a_small_terminal_names_are_whole_and_what_does_not_fit_is_counted(tmp_path, scale, names):
    """24 lines of 80 columns: all that trains comes first, and no line is cut."""
    home = clone(tmp_path / "home")
    for seed in range(30):
        stage(home / "results/runs", f"seed{seed}-0123456789ab", updated=time.time())
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "clipa", "watch", *scale]
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "COLUMNS"} | {"TERM": "xterm"}
    watch = subprocess.Popen(command, cwd=home, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        first = read_until(ours, "\x1b[2K").partition("\x1b[2K")[0]  # up to where the second one begins
        assert f"{30 - names} more are not shown" in first
        assert len(re.findall(r"(?m)^(micro-v1/|B16-none-truncation32) +pretrain seed", first)) == names, (
            first
        )
    finally:
        watch.kill()
        watch.wait()
        os.close(ours)


def test_what_is_not_known_after_the_first_step_is_a_dash(tmp_path):
    home = clone(tmp_path / "home")
    stage(home / "results/runs", step=1, samples_per_second=None, eta_seconds=None, updated=time.time())
    command = [sys.executable, "-m", "clipa", "watch", "--tensorboard", "events"]
    done = subprocess.run(command, cwd=home, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.splitlines()[-1].split()[-3:-1] == ["–", "–"]
    [file] = home.glob("events/**/events.out.tfevents.*")
    assert b"live/loss" in file.read_bytes() and b"samples_per_second" not in file.read_bytes()


# ---------------------------------------------------------------------------------------------------- event files


def test_events_are_the_bytes_that_tensorboard_writes():
    """As tensorboard 2.21.0's RecordWriter wrote the same events."""
    version = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
    scalars = (
        "31000000000000009d8383e90900001040fc54d94110ac022a230a0b0a046c6f737315000020400a140a0d6c6561726e696e675f72"
        "617465156f12833aa41c3aee"
    )
    assert event(1.5, version=VERSION).hex() == version
    assert event(1700000000.25, 300, {"loss": 2.5, "learning_rate": 0.001}).hex() == scalars


@pytest.mark.usefixtures("no_slurm")
def test_each_point_is_written_once(tmp_path):
    folder, watch, events = (
        stage(tmp_path / "runs"),
        Watch(tmp_path / "runs"),
        EventFiles(tmp_path / "events"),
    )
    log(folder, (10, 4.0), (20, 3.0))
    events.add(watch, watch.look(NOW))
    (file,) = tmp_path.glob("events/micro-v1/*/*/*/events.out.tfevents.*")
    first = file.read_bytes()
    assert first.count(b"learning_rate") == first.count(b"\x04loss") == 2 and first.count(b"live/loss") == 1
    events.add(watch, watch.look(NOW))
    assert file.read_bytes() == first
    log(folder, (10, 4.0), (20, 3.0), (30, 2.6))
    events.add(watch, watch.look(NOW))
    assert file.read_bytes().startswith(first) and file.read_bytes().count(b"learning_rate") == 3
    EventFiles(tmp_path / "events").add(watch, watch.look(NOW))
    assert len(list(tmp_path.glob("events/**/events.out.tfevents.*"))) == 1
