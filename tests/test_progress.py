"""A stage's rate and time left are what its last steps took, not what starting took."""

import json

import numpy
import pytest

from clipa import progress
from clipa.progress import Progress

STEPS, BATCH = 1000, 32


class Clock:
    """Time that passes only when a test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A function that lets one step take so many seconds, and gives what progress.json then says."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    shown = Progress(tmp_path, STEPS, BATCH, first := 40, True)
    done = first

    def step(seconds: float) -> dict:
        nonlocal done
        done, clock.now = done + 1, clock.now + seconds
        shown.update(done, numpy.float64(2.0))
        return json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))

    return step


def test_the_first_step_says_nothing_about_the_next_ones(stage, capsys):
    """It starts what loads data, and compiles: after a resume, too."""
    said = stage(300.0)
    assert (said["samples_per_second"], said["eta_seconds"]) == (None, None)
    assert capsys.readouterr().out == "step 41/1000  loss 2.000\n"
    for _ in range(10):
        said = stage(0.5)
    assert said["samples_per_second"] == pytest.approx(BATCH / 0.5, rel=0.01)
    assert said["eta_seconds"] == pytest.approx(0.5 * (STEPS - said["step"]), rel=0.01)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 30.0])
def test_a_slow_past_is_forgotten(stage, seconds):
    for _ in range(50):
        stage(20 * seconds)
    for _ in range(max(100, round(130 / seconds))):
        said = stage(seconds)
    assert said["samples_per_second"] == pytest.approx(BATCH / seconds, rel=0.01, abs=0.1)
    assert said["eta_seconds"] == pytest.approx(seconds * (STEPS - said["step"]), rel=0.02)
