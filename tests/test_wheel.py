"""A wheel carries all that the reader's verbs read, and they answer from it outside of a checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILT_FROM = ("src", "config", "results", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "runs", "data", "*.egg-info")
DRIVER = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built without a network and unpacked as an installer does; nothing else of the project is there."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            ignored = LEFT_OUT if name == "results" else shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(source / "dist")], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    shutil.rmtree(source)
    return place


def clipa(installed: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": str(installed)}
    return subprocess.run(
        [sys.executable, "-m", "clipa", *words],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_file_of_the_package_and_every_record_is_in_the_wheel(installed):
    def names(folder: Path) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix() for path in files}

    expected = names(ROOT / "src" / "clipa")
    for folder in ("published", "recorded"):
        expected |= {f"artifact/results/{folder}/{name}" for name in names(ROOT / "results" / folder)}
    expected |= {f"artifact/config/{name}" for name in names(ROOT / "config") if not name.endswith(".md")}
    assert names(installed / "clipa") == expected


def test_numbers_are_found_outside_of_a_checkout(installed):
    answers = {
        "L/16 resize 64 finetune": "66.2 %",
        "drop L/16 resize 64": "3.0 ± 0.1 points",
        "measured L/16 resize 64 finetune": "15.6 ± 1.9 %",
    }
    for query, value in answers.items():
        done = clipa(installed, "cite", *query.split())
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(value + "   ")
    (hit,) = json.loads(clipa(installed, "cite", "--json", "S/16", "baseline").stdout)["records"]
    assert hit["value"] == 56.7
    assert clipa(installed, "claims").stdout.startswith("What the paper says, against its own tables")
    where = [sys.executable, "-c", "import clipa.records as r; print(r.ROOT)"]
    done = subprocess.run(
        where, cwd=installed, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == installed / "clipa" / "artifact"
