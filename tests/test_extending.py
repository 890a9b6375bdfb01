"""docs/extending.md, applied to a copy of the repository: the new reduction and model train, are drawn and cited."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
TINY = """\
extends: ci
about: "ten steps"
data:
  world: {training_images: 256, images_per_shard: 32, test_images_plain: 60, test_images: 48}
pretrain: {samples: 320, warmup_steps: 2}
finetune: {samples: 320, warmup_steps: 2}
"""
RUNS = [f"{model}-{image}-truncation32" for model in ("S16", "M16") for image in ("none", "ring16")]


def block(name: str) -> str:
    """The code between the page's marks `<!-- name: begin -->` and `<!-- name: end -->`."""
    found = re.search(rf"<!-- {name}: begin -->\n *```\w+\n(.*?)\n *```\n *<!-- {name}: end -->", PAGE, re.S)
    assert found, name
    return textwrap.dedent(found[1])


def insert(file: Path, before: str, lines: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, file
    file.write_text(text.replace(before, f"{lines}\n{before}"), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the repository with exactly the changes of the page, and a scale of ten steps."""
    tree = tmp_path_factory.mktemp("extended")
    for name in ("config", "src", "results/published"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    package, scales = tree / "src" / "clipa", tree / "config" / "scales"
    (package / "reductions" / "ring.py").write_text(block("ring") + "\n", encoding="utf-8")
    insert(package / "study.py", '    "resize": ImageReduction(', f"    {block('entry')}")
    small = json.loads((package / "model_configs" / "micro-v1-S16.json").read_text(encoding="utf-8"))
    small["vision_cfg"]["layers"] += 1
    (package / "model_configs" / "micro-M16.json").write_text(json.dumps(small), encoding="utf-8")
    insert(scales / "micro-v1.yaml", "  L/16: {config: micro-v1-L16}", f"  {block('model')}")
    (scales / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return tree


def clipa(tree: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "clipa", *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_they_train_are_drawn_and_cited(extended):
    clipa(extended, "run", *RUNS, "--scale", "tiny", "--seeds", "0", "--out", "tiny.tar.gz")
    records = sorted(map(str, extended.glob("results/runs/tiny/*/evaluation/*/records.json")))
    assert len(records) == len(RUNS)

    clipa(extended, "figure", "4", "--measured", *records, "--output", "figure4.pdf")
    assert (extended / "figure4.png").stat().st_size > 10_000
    with open(extended / "data" / "figure4.csv", encoding="utf-8", newline="") as file:
        drawn = {(row["image_reduction"], row["model"], row["image_tokens"]) for row in csv.DictReader(file)}
    assert drawn == {("ring", model, tokens) for model in ("S/16", "M/16") for tokens in ("17", "197")}

    said = clipa(extended, "cite", "M/16", "ring", "16", "finetune", "--records", *records)
    assert "tiny.M16-ring16-truncation32.finetune.imagenet1k.acc1\n" in said and "measured here" in said


def test_the_rule_keeps_what_it_says_on_numpy_and_torch():
    """The page's third step, for its own rule: the border first, and the same indices from both libraries."""
    names: dict = {}
    exec(compile(block("ring"), "ring.py", "exec"), names)
    noise = numpy.random.default_rng(0).random((5, 16))
    kept = names["ring"](noise, (4, 4), 12)
    border = [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15]
    assert kept.tolist() == [border] * 5
    assert names["ring"](torch.from_numpy(noise), (4, 4), 12).tolist() == kept.tolist()
