"""The command line: instant help, one clear line for a mistake, the stage that a rule asks for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipa.cli import main, parser
from clipa.config import Project, load_scale
from clipa.resolved import write
from clipa.stages import resolve, stages_of
from clipa.study import parse_run

ROOT = Path(__file__).resolve().parent.parent
RUN = "L16-resize64-truncation32"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_help_imports_little_and_teaches():
    code = (
        "import sys, clipa.cli; sys.stderr.write(str(len(sys.modules))); sys.exit(clipa.cli.main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}
    )
    for word in ("snakemake measure_figure4", "train", "evaluate", "accept", "demo"):
        assert word in done.stdout
    # Nothing but argparse and its like: pydantic alone brings hundreds of modules.
    assert int(done.stderr) < 150


@pytest.mark.parametrize(
    "verb",
    [
        *(
            "cite",
            "claims",
            "numbers",
            "explore",
            "models",
            "recipes",
            "figure",
            "table",
            "macros",
            "law",
            "compare",
        ),
        *("draw", "index", "aro", "vocabulary", "annotate", "coco", "negatives", "prepare"),
        *("resolve", "train", "evaluate", "released", "export", "accept", "demo"),
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
    assert "COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resolve", "L16-shrink64-truncation32"], "names no run"),
        (["resolve", "L17-none-truncation32"], "L/17 is not built at this scale (it has S/16, B/16, L/16"),
        (
            ["resolve", "H14-none-truncation32", "--scale", "mini"],
            "not built at this scale",
        ),
        (["resolve", RUN, "--scale", "mirco"], "no scale 'mirco' (known:"),
        (["train", "unused"], "cannot be read (No such file or directory); `clipa resolve` writes it"),
        (["evaluate", "--run", RUN, "--fingerprint", "0" * 12], "was changed after this job"),
        (["evaluate", "--run", RUN, RUN, "--fingerprint", "0" * 12], "--fingerprint: of one --run, not of 2"),
        (["evaluate", "--run", RUN, "L16-shrink64-truncation32"], "names no run"),
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
        main(["resolve", "--debug", "nonsense"])


def test_resolve_writes_what_train_starts_from(monkeypatch, tmp_path, capsys):
    """Training needs neither config/ nor recipes: it runs elsewhere."""
    import clipa.train

    seen = []
    monkeypatch.setattr(clipa.train, "main", lambda path, *_: seen.append(path) or 75)
    stages = stages_of(parse_run(RUN), load_scale("ci"), 3)
    arguments = ["--scale", "ci", "--seed", "3", "--runs-directory", str(tmp_path / "runs")]
    assert main(["resolve", RUN, *arguments]) == 0
    files = capsys.readouterr().out.splitlines()
    assert files == [str(tmp_path / "runs" / stage.directory / "stage.resolved.json") for stage in stages]
    monkeypatch.chdir(tmp_path)
    assert main(["train", files[1]]) == 75 and seen == [Path(files[1])]


def test_several_processes_are_started_by_torchrun(monkeypatch, tmp_path):
    """The agent runs in this process; only it is replaced here (tests/test_nodes.py starts real ones)."""
    started = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "96")
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    stage = stages_of(parse_run(RUN), load_scale("paper"), 0)[0]
    file = write(resolve(stage, Project(runs_directory=str(tmp_path))))
    monkeypatch.setattr(sys, "argv", ["clipa", "train", str(file)])
    assert main(["train", str(file)]) == 0
    [asked] = started
    assert asked.standalone and asked.nproc_per_node == "8" and asked.module
    assert [asked.training_script, *asked.training_script_args] == ["clipa", "train", str(file)]
    assert os.environ["OMP_NUM_THREADS"] == "12"
