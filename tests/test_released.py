"""Tables 1 to 3 measured of released checkpoints: planned without trainings, and filled from a hub on the loopback."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clipa.cli import main
from clipa.config import load_scale
from clipa.plan import load_plan
from clipa.records import read_records
from clipa.released import load_released, released_tables
from loopback_hub import foreign_checkpoint, served

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("workflow", "config", "envs", "profiles", "src", "results/published")
RELEASED = ("--config", "released=true")
TRAINED = {
    "train",
    "evaluate",
    "suite",
    "vocabulary",
    "draw_training",
    "download_images",
    "draw_recorded_figure",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a fresh clone holds of what the workflow reads."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    return tmp_path


def snakemake(tree: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, env=kept | environment, timeout=300
    )


def test_every_row_with_a_checkpoint_is_planned_and_no_training(tree):
    asked = ("measure_table1", "measure_table2", "measure_table3", "-n", "-p", *RELEASED, "scale=paper")
    done = snakemake(tree, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {name: int(count) for name, count in re.findall(r"(?m)^(\w+) +(\d+)$", done.stdout + done.stderr)}
    rows = [name for name, row in load_released(tree / "config").items() if row.why is None]
    assert not TRAINED & set(jobs) and jobs["fill_measured_table"] == 3
    # Two of Table 2's rows are Table 3's as well; a set that one table has measured is not measured for the other.
    assert len(rows) == 13 and jobs["evaluate_released"] == 13 + 2
    commands = re.findall(r"python -m clipa (evaluate .*?) >>", done.stdout + done.stderr)
    assert len(commands) == 15
    [b32] = [command for command in commands if "--model OpenAI-B32 " in command]
    assert "--scale paper" in b32 and "flickr30k" in b32 and "vtab" not in b32 and "aro" not in b32
    assert b32.endswith("--output results/runs/released/table1/OpenAI-B32.json")
    [vtab] = [command for command in commands if "/table3/OpenCLIP-H14.json" in command]
    assert vtab.count("vtab/") == 15 and "cifar10 " in vtab and "imagenetv2" not in vtab
    # As in a plan without Snakemake: no job of ours trains.
    assert load_plan({"released": True, "scale": "paper"}, tree).jobs("measure_table1") == []


def test_a_table_is_filled_from_a_hub_and_is_then_up_to_date(tree):
    path = tree / "config" / "scales" / "micro-v1.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"]["world"] = {"test_images_plain": 60, "test_images": 48}
    values["evaluation"]["suite"] = {"imagenet1k": "plain", "mscoco_captions": "captions"}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    here = {"hub": "somebody/tiny", "licence": "MIT", "gigabytes": 0.1}
    rows = {"OpenAI-B32": here, "OpenAI-B16": {"why": "on no hub"}}
    (tree / "config" / "released.yaml").write_text(yaml.safe_dump(rows), encoding="utf-8")
    asked = ("measure_table1", "--cores", "1", *RELEASED, "scale=micro-v1")
    with served({"somebody/tiny": foreign_checkpoint(tree / "tiny")}) as address:
        hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tree / "hub")}
        done = snakemake(tree, *asked, **hub)
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(tree / "results/runs/released/table1/OpenAI-B32.json")
    assert [(r["case"], r["benchmark"]) for r in records] == [
        ("OpenAI-B32", "imagenet1k"),
        ("OpenAI-B32", "mscoco_captions"),
        ("OpenAI-B32", "mscoco_captions"),
    ]
    table = (tree / "results/runs/released/tables/table1.tex").read_text(encoding="utf-8")
    for record in records:
        assert rf"{record['value']:.1f} \pm {record['standard_error']:.1f}" in table
    assert (
        "63.2" not in table and "pictograms/v1/plain" in table
    )  # the paper's number is of another benchmark
    again = snakemake(tree, *asked, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_what_released_checkpoints_cannot_fill_is_one_line(tree):
    done = snakemake(tree, "results/runs/released/tables/table4.tex", "-n", *RELEASED)
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0 and "Traceback" not in "".join(said)
    assert any(line.startswith("table4: released checkpoints fill table1, table2") for line in said)


def test_tables_have_the_benchmarks_that_the_scale_has():
    tables = released_tables(load_scale("micro-v1", ROOT / "config").evaluation.suite, ROOT / "config")
    assert set(tables) == {"table1", "table2", "table3"} and tables["table3"].benchmarks == ("imagenet1k",)
    assert "mscoco_captions" in tables["table1"].benchmarks and "FLIP-H14" not in tables["table2"].rows
    assert released_tables(["vtab/none"], ROOT / "config") == {}


def test_one_file_holds_one_protocol(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    asked = ["evaluate", "--model", "OpenAI-B32", "--protocol", "squash", "study", "--output", "x.json"]
    assert main(asked) == 1
    assert "--output x.json: for the records of one --protocol, not of 2" in capsys.readouterr().err
    assert main(["evaluate", "--run", "L16-resize64-truncation32", "--output", "x.json"]) == 1
    assert "--output: not with --run" in capsys.readouterr().err
