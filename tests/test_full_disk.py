"""A disk that fills up under every verb that writes: one line with the path and what to do; with space it goes on.

The disk is a tmpfs of its own, which only root may mount.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clipa.cli import main

ROOT = Path(__file__).parents[1]
RUN = "S16-resize64-truncation8"
TINY = {
    "extends": "micro-v1",
    "about": "four steps of sixteen",
    "data": {
        "world": {"training_images": 128, "images_per_shard": 32, "test_images_plain": 60, "test_images": 48},
        "lanes": 4,
        "shuffle_window": 16,
    },
    "tagger": "world",
    "pretrain": {"samples": 64, "batch_size": 16, "warmup_steps": 1},
    "finetune": {"samples": 64, "batch_size": 16, "warmup_steps": 1},
    "negatives": {"rows": 64},
    "experiments": ["table12"],
    "checkpoint_every": 1,
}
# In the order in which one needs the other.
VERBS = [
    "draw train",
    "draw plain",
    "vocabulary",
    "annotate",
    "negatives",
    "resolve",
    "train pretrain",
    "train finetune",
    "evaluate",
    "figure 4",
    "table 11",
    "macros",
    "numbers",
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A project on a disk of 48 MiB; every verb finds what those before it made. None where none may be mounted."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        print(f"no tmpfs may be mounted here ({mounted.stderr.strip()}): a full disk is not tested")
        yield None
        return
    try:
        shutil.copytree(ROOT / "config", place / "config")
        (place / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def command(disk: Path, verb: str) -> list[str]:
    asked = ["--scale", "tiny"]
    name, _, what = verb.partition(" ")
    if name == "train":
        (file,) = (disk / "results/runs/tiny" / RUN / what).glob("seed0-*/stage.resolved.json")
        return ["train", str(file.relative_to(disk))]
    published = ["--published", str(ROOT / "results" / "published" / "table11.json")]
    if name in ("figure", "table"):
        return [name, what, *published, "--output", f"drawn/{what}.{'pdf' if name == 'figure' else 'tex'}"]
    return {
        "macros": ["macros", *published, "--output", "drawn/numbers.tex"],
        "numbers": ["numbers", "--output", "drawn/numbers.html"],
        "resolve": ["resolve", RUN, *asked, "--seed", "0"],
        "evaluate": ["evaluate", *asked, "--run", RUN, "--seed", "0"],
    }.get(name, [*verb.split(), *asked])


def run(disk: Path, verb: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipa", *command(disk, verb)],
        cwd=disk,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def fill(disk: Path, left: int) -> Path:
    """Fill the disk up to ``left`` bytes."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)
    return filler


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_line(disk: Path | None, verb: str) -> None:
    if disk is None:
        return
    for left in (0, 12_288):
        filler = fill(disk, left)
        try:
            done = run(disk, verb)
        finally:
            filler.unlink()
        if done.returncode == 0:  # it needed less
            assert left
            break
        said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("clipa ")]
        assert len(said) == 1 and "Traceback" not in done.stderr, (left, done.stderr[-2000:])
        assert "No space left on device" in said[0] or "os error 28" in said[0], said
        assert "make space" in said[0] and "/" in said[0].split(": ")[1], said
        leftovers = [str(path) for path in disk.rglob("*.tmp")]
        assert not leftovers, leftovers
    done = run(disk, verb)
    assert done.returncode == 0, done.stderr[-2000:]


def test_standard_output_may_be_full() -> None:
    program = [sys.executable, "-m", "clipa", "claims"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        1,
        "clipa claims: standard output: No space left on device; make space, and run the same command again\n",
    )


def test_what_may_not_be_written_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    source = str(ROOT / "results" / "published" / "table11.json")
    output = str(tmp_path / "file" / "figure4.pdf")
    assert main(["figure", "figure4", "--published", source, "--output", output]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said and said.count("\n") == 1
