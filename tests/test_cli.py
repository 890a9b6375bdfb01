"""The command line: instant help, one clear line for a mistake, the stage that a rule asks for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipa.cli import main, parser
from clipa.config import load_scale
from clipa.stages import stages_of
from clipa.study import parse_run

ROOT = Path(__file__).resolve().parent.parent
RUN = "L16-resize64-truncation32"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_help_is_instant_and_teaches():
    code = (
        "import sys, clipa.cli; sys.stderr.write(str(len(sys.modules))); sys.exit(clipa.cli.main(['--help']))"
    )
    began = time.process_time(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}
    )
    assert time.monotonic() - began[1] < 2.0
    for word in ("snakemake measure_figure4", "train", "evaluate", "accept", "demo"):
        assert word in done.stdout
    # Nothing but argparse and its like: pydantic alone brings hundreds of modules.
    assert int(done.stderr) < 150


@pytest.mark.parametrize(
    "verb",
    [
        *("cite", "claims", "numbers", "models", "recipes", "figure", "table", "macros", "law", "compare"),
        *("draw", "index", "aro", "vocabulary", "annotate", "coco", "negatives"),
        *("train", "evaluate", "accept", "demo"),
    ],
)
def test_every_verb_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    example = said.split("example:\n")[1].splitlines()[0].split()
    assert example[:2] == ["clipa", verb]
    assert parser().parse_args(example[1:]).verb == verb


def test_a_closed_pipe_is_no_mistake():
    command = f"{sys.executable} -m clipa cite table 15 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_verb_is_help(capsys):
    assert main([]) == 0
    assert "VERB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--run", "L17-none-truncation32", "--kind", "pretrain"], "names no run"),
        (
            ["train", "--run", "H14-none-truncation32", "--kind", "pretrain", "--scale", "mini"],
            "not built at this scale",
        ),
        (["train", "--run", RUN, "--kind", "pretrain", "--scale", "mirco"], "no scale 'mirco' (known:"),
        (
            ["train", "--run", "L16-none-truncation32", "--kind", "finetune"],
            "has no such stage (it has: pretrain)",
        ),
        (
            ["train", "--run", RUN, "--kind", "pretrain", "--fingerprint", "0" * 12],
            "was changed after this job",
        ),
        (["draw", "all", "--scale", "paper"], "nothing to draw"),
        (["draw", "blue", "--scale", "ci", "--data-directory", "unused"], "'blue' is unknown"),
        (["figure", "four", "--published", "x.json", "--output", "x.pdf"], "'four' is no figure"),
        (
            ["figure", "4", "--published", "missing.json", "--output", "x.pdf"],
            "missing.json: no such records file",
        ),
        (["index", "train", "--scale", "paper", "--data-directory", "missing"], "no shards"),
    ],
)
def test_a_mistake_is_one_line(arguments, told, capsys, tmp_path):
    arguments = [str(tmp_path / word) if word in ("missing", "unused") else word for word in arguments]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and said.startswith(f"clipa {arguments[0]}: ")


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="names no run"):
        main(["train", "--debug", "--run", "nonsense", "--kind", "pretrain"])


def test_train_gets_the_stage_and_the_places(monkeypatch, tmp_path):
    import clipa.train

    seen = []
    monkeypatch.setattr(clipa.train, "main", lambda stage, project: seen.append((stage, project)) or 75)
    expected = stages_of(parse_run(RUN), load_scale("ci"), 3)[1]
    arguments = [
        "--scale",
        "ci",
        "--run",
        RUN,
        "--kind",
        "finetune",
        "--seed",
        "3",
        "--runs-directory",
        str(tmp_path),
    ]
    assert main(["train", *arguments, "--fingerprint", expected.fingerprint]) == 75
    stage, project = seen[0]
    assert stage.fingerprint == expected.fingerprint and stage.parent.kind == "pretrain"
    assert project.runs_directory == str(tmp_path) and project.data_directory == "results/data"


def test_several_processes_are_started_by_torchrun(monkeypatch):
    started = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "96")

    def replace_process(program, words):
        started.extend(words)
        raise SystemExit

    monkeypatch.setattr("os.execv", replace_process)
    monkeypatch.setattr(sys, "argv", ["clipa", "train", "--scale", "paper"])
    with pytest.raises(SystemExit):
        main(["train", "--scale", "paper", "--run", RUN, "--kind", "pretrain"])
    assert started[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8"]
    assert os.environ["OMP_NUM_THREADS"] == "12"
    assert started[6:] == ["-m", "clipa", "train", "--scale", "paper"]
