"""A few attacks of each kind by the fault harness (benchmarks/faults), and what the harness must see."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import clipa.data.shards
import clipa.files
import clipa.models
from benchmarks.faults import configurations, flips, harness, hostile, kills, power, processes, samples, world
from benchmarks.faults.outcomes import (
    ACCEPTED,
    CODE,
    DIFFERENT,
    HANG,
    IMPOSSIBLE,
    LEFTOVER,
    NAMED,
    REFUSED,
    SAME,
    TRACEBACK,
    Result,
    judge,
    table,
)

ROOT = Path(__file__).resolve().parents[1]
KINDS = list(harness.KINDS)
SEED = 0


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> harness.Harness:
    """A small world that every attack copies."""
    return harness.Harness(tmp_path_factory.mktemp("faults"), SEED, quick=True)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_are_survived(attacked, kind):
    cases = attacked.cases([kind])
    results = attacked.run(cases)
    assert len(results) == len(cases) > 0
    failed = [result.line(SEED) for result in results if result.failed]
    assert not failed, "\n".join(["", *failed])


# ----------------------------------------------------------------------------------- what the harness must see


def test_bytes_that_nobody_checks_are_seen(attacked, monkeypatch):
    monkeypatch.setattr(clipa.data.shards, "check_bytes", lambda *_, **__: None)
    monkeypatch.setattr(flips, "flip_bit", redden)
    pattern = flips.READERS["shard"][0]
    assert flips.flip(attacked.world, pattern, "train", None, False)[0] == DIFFERENT


def redden(path: Path, draw: object, header: bool) -> tuple[int, int]:
    """Another caption in place of a flipped bit, which may fall where it changes nothing."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b" the ", b" red "))
    return 0, 0


def test_what_a_kill_leaves_behind_is_seen(attacked, monkeypatch):
    """A writer that leaves its temporary file, and one that writes in place."""

    def careless(path: Path, content: bytes) -> None:
        Path(path).with_name(f".{Path(path).name}.tmp").write_bytes(content)
        Path(path).write_bytes(content)

    monkeypatch.setattr(clipa.files, "write_bytes_atomically", careless)
    with attacked.world.copy("accept") as home:
        words = attacked.world.words("accept", home)
        assert kills.again(attacked.world, "accept", home, words, "not killed")[0] == LEFTOVER


def test_a_command_is_killed_at_its_event(attacked):
    with attacked.world.copy("resolve") as home:
        words = attacked.world.words("resolve", home)
        undisturbed = processes.run(home, words, processes.Watch(home))
    with attacked.world.copy("resolve") as home:
        killed = processes.run(home, words, watch := processes.Watch(home, undisturbed.events))
        assert (killed.code, killed.events) == (-9, undisturbed.events)
        assert "stage.resolved.json" in watch.event or watch.event == "fsync"
    with attacked.world.copy("resolve") as home:
        assert processes.run(home, words, processes.Watch(home, undisturbed.events + 1)).code == 0


def test_a_model_that_is_not_flushed_is_seen(attacked, monkeypatch):
    def careless(directory: Path) -> dict[str, str]:
        return {
            path.name: clipa.files.sha256_of(path) for path in sorted(directory.iterdir()) if path.is_file()
        }

    monkeypatch.setattr(clipa.models, "seal", careless)
    outcome, detail = power.lose(attacked.world, "train", None)
    assert outcome == IMPOSSIBLE or (outcome == DIFFERENT and "is not whole" in detail)


def test_code_that_runs_and_what_does_not_end_are_seen(tmp_path):
    assert hostile.run(tmp_path, lambda: Path(samples.MARK).write_text("x") and 0)[0] == CODE
    endless = processes.run(tmp_path, lambda: time.sleep(60) or 0, limit=0.3)
    assert judge(endless)[0] == HANG and endless.seconds < 30


def ended(code: int = 0, said: str = "", timed_out: bool = False) -> processes.Ended:
    return processes.Ended(code, said, 1.0, 100, timed_out, 0, "")


def test_outcomes_are_told_apart():
    assert judge(ended()) is None
    assert judge(ended(1, "clipa train: a/b.tar: cut; draw it again"))[0] == REFUSED
    assert judge(ended(1, "Traceback (most recent call last):\n  …\nKeyError: 'x'"))[0] == TRACEBACK
    assert judge(ended(0, "Traceback (most recent call last):\n  …"))[0] == TRACEBACK
    assert judge(ended(-9, "", timed_out=True))[0] == HANG
    for said in ("", "error", "clipa train: a\nclipa train: b"):
        assert judge(ended(1, said))[0] == "no clear line"


def test_the_comparison_overlooks_times_alone(attacked, tmp_path):
    with attacked.world.copy("accept", "after") as home:
        assert attacked.world.compare(home, "accept") == (SAME, "")
        [path] = home.glob("results/runs/tiny/*/pretrain/*/stage.json")
        content = path.read_text(encoding="utf-8")
        path.write_text(content.replace('"seconds": ', '"seconds": 1'), encoding="utf-8")
        assert attacked.world.compare(home, "accept")[0] == SAME
        path.write_text(content.replace('"steps": 6', '"steps": 7'), encoding="utf-8")
        assert attacked.world.compare(home, "accept")[0] == DIFFERENT
        path.write_text(content, encoding="utf-8")
        (home / "results" / ".x.1.tmp").touch()
        assert attacked.world.compare(home, "accept")[0] == LEFTOVER


def test_the_table_adds_up():
    results = [
        Result("kill", "a", SAME, "", 0.1),
        Result("kill", "b", ACCEPTED, "", 0.1),
        Result("full-disk", "c", IMPOSSIBLE, "", 0.1),
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(results).splitlines()]
    assert rows[0] == [
        "attack", "tried", "survived", SAME, REFUSED, NAMED, "failed", ACCEPTED, IMPOSSIBLE,
    ]  # fmt: skip
    assert rows[2:] == [
        ["kill", "2", "1", "1", "0", "0", "1", "1", "0"],
        ["full-disk", "0", "0", "0", "0", "0", "0", "0", "1"],
        ["all", "2", "1", "1", "0", "0", "1", "1", "1"],
    ]


def test_a_failure_names_the_command_that_repeats_it():
    line = Result("bad-sample", "train: captions null", TRACEBACK, "KeyError", 0.1).line(3)
    assert line.endswith(
        "python -m benchmarks.faults --only bad-sample --case 'train: captions null' --seed 3"
    )


def test_cases_have_names_of_their_own():
    """Of the attacks that need no world to be listed."""
    for module in (configurations, samples, hostile):
        names = [case.name for case in module.cases(world.World(ROOT), SEED, False)]
        assert len(names) == len(set(names)) > 50
        quick = [case.name for case in module.cases(world.World(ROOT), SEED, True)]
        assert set(quick) < set(names)


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--only KIND" in done.stdout
