"""The plan: what Snakemake would do, in a copy of the tree where nothing has been run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from clipa.cli import parser
from clipa.plan import load_plan
from clipa.records import RECORDED_DIRECTORY

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("Snakefile", "workflow", "slurm", "profiles", "config", "envs", "src", "results/published")
TRAINING = {"pretrain", "finetune", "negclip", "evaluate", "draw_training", "download_images"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a fresh clone holds of what planning reads."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return tmp_path


def snakemake(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment, timeout=120)


def plan(tree: Path, *arguments: str) -> tuple[dict[str, int], str]:
    """Jobs by rule of a dry run, those of `train` by kind of stage, and all that it said."""
    done = snakemake(tree, *arguments)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", said + "\n\n", re.S)
    rows = table[1].splitlines() if table else []
    jobs = {name: int(count) for name, count in (row.split() for row in rows)}
    kinds = Counter(re.findall(r"(?m)^Job \d+: (\w+) of ", said))
    assert kinds.total() == jobs.pop("train", 0)
    return jobs | kinds, said


def test_figures_never_plan_training(tree):
    """Rule 1 of docs/design.md: after a pull that edits a comment, after touch, whatever the default target is."""
    for file in [
        *(tree / "config").rglob("*.yaml"),
        *(tree / "src").rglob("*.py"),
        *(tree / "workflow").rglob("*.smk"),
    ]:
        file.write_text(file.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    jobs, _ = plan(tree, "-n")
    assert jobs["draw_figure"] == 10 and jobs["fill_table"] == 15
    pages = {"define_numbers", "check_claims", "list_numbers", "draw_explorable"}
    assert set(jobs) == {"draw_figure", "fill_table", *pages, "published", "total"}


def test_one_figure_is_drawn_and_is_then_up_to_date(tree):
    drawn = snakemake(tree, "figures/figure4.pdf")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    for name in ("figures/figure4.pdf", "figures/figure4.png", "figures/data/figure4.csv"):
        assert (tree / name).stat().st_size > 500, name
    assert snakemake(tree, "figures/figure4.pdf", "-F").returncode == 0
    [log] = tree.glob("results/runs/logs/**/*.log")
    kept = Path(f"{log}.all").read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^--- [0-9: -]+", kept)) == 2, "Snakemake deleted the log of the first"
    assert log.read_text(encoding="utf-8") == kept
    for file in [
        *(tree / "config").rglob("*.yaml"),
        *(tree / "src").rglob("*.py"),
        tree / "workflow" / "Snakefile",
    ]:
        file.touch()
    jobs, said = plan(tree, "figures/figure4.pdf", "-n")
    assert "the longest" not in said
    assert not jobs and "Nothing to be done" in said


def test_slurm_plans_every_table_without_slurm(tree):
    """112 pre-trainings and 107 fine-tunings of §3 and §4, 11 and 33 more of §5 and §6, and NegCLIP."""
    jobs, said = plan(tree, "--profile", "slurm", "all", "-n", "-p")
    assert (jobs["pretrain"], jobs["finetune"], jobs["negclip"]) == (123, 140, 1)
    # Tables 1 to 3, 14 and 15 are filled from the whole suite; 60 runs of Table 12 are measured both ways.
    assert (jobs["evaluate"], jobs["suite"]) == (139, 70)
    # Of 12 hours at most: 48 for LAION-400M, 243 for LAION-2B, 161 for DataComp-1B, one for COCO.
    assert jobs["download_images"] == 48 + 243 + 161 + 1 and jobs["complete_images"] == 4
    assert (
        "python -m clipa data fetch --scale paper" in said and "--source DataComp-1B --part 160/161" in said
    )
    assert jobs["annotate"] == 2 and jobs["negatives"] == 1
    plan_of_all = re.findall(
        r"(?m)^(.+) jobs of SLURM by (\d+) rules; the longest by hours asked for: (.+)$", said
    )
    assert len(plan_of_all) == 2, "below each table of jobs"
    count, _, longest = plan_of_all[-1]
    local = {"all", "fill_measured_table", "draw_measured_figure"} | {
        name for name in jobs if name.startswith("measure_")
    }
    sent = {name: number for name, number in jobs.items() if name not in {*local, "total"}}
    assert int(count.replace(",", "")) == sum(sent.values()) and longest.startswith("train, 48 h (264 jobs)")
    for name in (
        "L16-resize64-truncation32/finetune",
        "L16-grid49-truncation32/finetune",
        "S16-resize112-syntax4/finetune",
        "ConvNeXt-B-resize64-truncation32/finetune",
        "G14-resize84-truncation8/pretrain",
        "B16-resize112-truncation16/negclip",
    ):
        assert f"results/runs/paper/{name}/seed0-" in said
    assert not shutil.which("sbatch") or "sbatch" not in said


# Stages by table: pre-trainings, fine-tunings, evaluations of one benchmark and of the suite.
STAGES = {
    1: (3, 3, 0, 3),
    2: (3, 8, 0, 6),
    3: (1, 3, 0, 2),
    6: (1, 5, 5, 0),
    7: (4, 5, 5, 0),
    8: (4, 4, 4, 0),
    9: (1, 10, 10, 0),
    10: (1, 6, 6, 0),
    11: (45, 42, 45, 0),
    12: (60, 60, 60, 0),
    13: (20, 16, 20, 0),
    14: (1, 1, 0, 2),
    15: (60, 60, 0, 60),
}


@pytest.mark.parametrize("table", [2, 7, 14, 15])
def test_slurm_plans_one_table(tree, table: int):
    jobs, _ = plan(tree, "--profile", "slurm", f"measure_table{table}", "-n")
    found = tuple(jobs.get(rule, 0) for rule in ("pretrain", "finetune", "evaluate", "suite"))
    assert found == STAGES[table] and jobs.get("negclip", 0) == (table == 14)


def test_every_table_needs_the_stages_it_should():
    asked = load_plan({"scale": "paper", "seeds": [0]}, ROOT)
    for table, expected in STAGES.items():
        work = asked.work(f"measure_table{table}")
        kinds = [stage.kind for stage in work.pending]
        assert (kinds.count("pretrain"), kinds.count("finetune")) == expected[:2], table
        assert work.evaluations == sum(expected[2:]), table


def test_aro_is_converted_and_not_asked_of_clip_benchmark(tree):
    jobs, said = plan(tree, "--profile", "slurm", "data", "-n", "-p")
    assert (jobs["convert_aro"], jobs["download_aro"]) == (4, 4)
    assert "wds_aro" not in said and "wds_flickr30k" in said
    for name in ("vg_relation", "vg_attribution", "coco_order", "flickr30k_order"):
        assert f"python -m clipa aro {name} --scale paper" in said
    assert "python -m clipa download val2014.zip results/data/aro" in said
    assert "python -m clipa download clip-benchmark/wds_imagenet1k results/data/" in said


def test_measuring_plans_every_stage_of_every_seed(tree):
    jobs, said = plan(
        tree, "measure_figure4", "-n", "-p", "--config", "scale=micro-v1", "reuse_recorded=false"
    )
    assert (jobs["pretrain"], jobs["finetune"], jobs["evaluate"]) == (27, 18, 27)
    commands = re.findall(r"python -m clipa (.*?)(?: >> \S+ 2>&1)?$", said, re.M)
    verbs = {
        parser().parse_args(command.replace("$REQUEUE", "--requeue").split()).verb for command in commands
    }
    assert len(commands) >= 27 + 18 + 27 + 1
    assert verbs >= {"draw", "vocabulary", "train", "evaluate", "figure"}


def test_the_law_over_training_is_drawn_where_it_is_measured(tree):
    """Of an embedded world, too, where the other targets beside figures and tables are records alone."""
    asked = ("-n", "--config", "scale=micro", 'experiments=["over-training","gate"]', "seeds=[0]")
    jobs, _ = plan(tree, "measure_over-training", "measure_gate", *asked)
    assert jobs["draw_own"] == 1


def test_recorded_cells_are_not_planned(tree):
    """A clone reuses accepted records of the same fingerprint; a cell without one is planned, and no other."""
    asked = load_plan({"scale": "micro-v1"}, tree)
    first, *others = asked.jobs()
    for job in others:
        path = tree / RECORDED_DIRECTORY / job.recorded_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    missing = first.stages
    jobs, said = plan(tree, "measure_figure4", "-n", "--config", "scale=micro-v1")
    assert jobs["pretrain"] == 1 and jobs["evaluate"] == 1 and jobs.get("finetune", 0) == len(missing) - 1
    assert missing[-1].fingerprint in said

    path = tree / RECORDED_DIRECTORY / first.recorded_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    jobs, _ = plan(tree, "measure_figure4", "-n", "--config", "scale=micro-v1")
    assert not TRAINING & set(jobs) and jobs["draw_measured_figure"] == 1


def test_what_is_newer_than_the_vocabulary_hides_no_training(tree):
    """Touch each input of training in turn: the plan has every stage, and what must be made again."""
    asked = load_plan({"scale": "ci", "seeds": [0], "reuse_recorded": False}, tree)
    names = (
        "train/manifest.json",
        "train/annotation.json",
        "vocabulary/vocabulary.json",
        "test/plain/manifest.json",
    )
    for number, newest in enumerate(names):
        for name in names:
            path = tree / asked.data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}", encoding="utf-8")
            os.utime(path, (0, 1_000_000_000 + (name == newest) * 1000 * (number + 1)))
        jobs, _ = plan(tree, "measure_figure4", "-n", "--config", "scale=ci", "seeds=[0]")
        kinds = (jobs["pretrain"], jobs["finetune"], jobs["evaluate"], jobs["draw_measured_figure"])
        assert kinds == (4, 2, 4, 1), newest


WHOLE_RUNS = """
extends: ci
one_process: true
data: {world: {training_images: 512, images_per_shard: 64, test_images_plain: 96}}
pretrain: {samples: 64, warmup_steps: 1}
finetune: {samples: 64, warmup_steps: 1}
"""


def test_a_job_can_be_a_whole_run(tree):
    """It is one job that trains what is missing and evaluates it; a stage that is there is not trained again."""
    (tree / "config/scales/whole.yaml").write_text(WHOLE_RUNS, encoding="utf-8")
    asked = load_plan({"scale": "whole", "seeds": [0]}, tree)
    job = asked.asked("S16-resize64-truncation32", 0)
    assert asked.trained_by([str(job.output)]) == list(job.stages)
    target = [str(job.output), "--cores", "1", "--config", "scale=whole", "seeds=[0]"]
    jobs, _ = plan(tree, *target, "-n")
    assert jobs == {"draw_test_set": 1, "draw_training": 1, "vocabulary": 1, "evaluate": 1, "total": 4}
    done = snakemake(tree, *target)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tree / job.output).read_text(encoding="utf-8"))["records"]
    assert {record["stage"] for record in records} == {"pretrain", "finetune"}
    stages = [tree / asked.stage_file(stage) for stage in job.stages]
    before = [path.read_bytes() for path in stages]
    assert asked.trained_by([str(job.output)]) == []
    (tree / job.output).unlink()
    assert snakemake(tree, *target).returncode == 0
    assert [path.read_bytes() for path in stages] == before and (tree / job.output).is_file()


def test_a_typo_is_one_line_that_names_key_and_file(tree):
    file = tree / "config" / "scales" / "micro-v1.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("precision:", "precison:"), encoding="utf-8")
    done = snakemake(tree, "-n")
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert lines[0].startswith("Using workflow specific profile")  # Snakemake's own
    assert lines[1:] == ["config/scales/micro-v1.yaml: precison: unknown key (did you mean precision?)"]


def test_a_lock_is_said_before_anything_is_planned(tree):
    locks = tree / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("figures/figure4.pdf\n", encoding="utf-8")
    done = snakemake(tree, "figures/figure4.pdf", "--cores", "1")
    assert done.returncode == 1
    said, planned, refused = (
        done.stderr.find(one) for one in ("Another Snakemake", "Building DAG", "LockException")
    )
    assert -1 < said < planned < refused, done.stderr
    dry = snakemake(tree, "figures/figure4.pdf", "--cores", "1", "-n")
    assert dry.returncode == 0 and "Another Snakemake" not in dry.stderr


def test_a_container_that_does_not_exist_is_refused_in_one_line(tree):
    done = snakemake(tree, "figures/figure4.pdf", "--cores", "1", "--software-deployment-method", "apptainer")
    assert done.returncode == 1 and not (tree / "figures").exists()
    [told] = [line for line in done.stderr.splitlines() if "apptainer" in line]
    assert told.startswith("--software-deployment-method apptainer: this workflow has no container")
    assert "Traceback" not in done.stderr


CONDA = """\
#!/bin/sh
case "$*" in
  "--version") echo "conda 26.9.0" ;;
  "info --json") echo '{"conda_prefix": "PLACE", "platform": "linux-64"}' ;;
  "config --get"*) echo '{"get": {"channel_priority": "strict"}}' ;;
  *"env create"*)
    for word in "$@"; do [ "$before" = --prefix ] && place=$word; before=$word; done
    case "$*" in *--prefix=*) place=$(echo "$*" | sed 's/.*--prefix=\\([^ ]*\\).*/\\1/') ;; esac
    mkdir -p "${place:?}/bin"
    printf '#!/bin/sh\\necho "$PYTHONPATH" >> PLACE/used\\nexec PYTHON "$@"\\n' > "$place/bin/python"
    chmod +x "$place/bin/python" ;;
esac
"""


def test_jobs_in_a_conda_environment_find_the_package(tree, tmp_path_factory, monkeypatch):
    """A stand-in for conda: Snakemake's own part is real, and removes PYTHONPATH in such jobs."""
    place = tmp_path_factory.mktemp("conda")
    (place / "bin").mkdir()
    (place / "bin" / "activate").write_text('export PATH="$1/bin:$PATH"\n', encoding="utf-8")
    conda = place / "bin" / "conda"
    conda.write_text(CONDA.replace("PLACE", str(place)).replace("PYTHON ", f"{sys.executable} "))
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = snakemake(tree, "figures/figure4.pdf", "--cores", "1", "--software-deployment-method", "conda")
    assert done.returncode == 0, done.stderr
    assert (tree / "figures" / "figure4.pdf").is_file()
    assert (place / "used").read_text(encoding="utf-8").splitlines() == [str(tree / "src")]


def test_lint_finds_nothing(tree):
    done = snakemake(tree, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


# ----------------------------------------------------------------------------------------------- without a dry run


def test_the_automatic_profile_is_found(tree):
    """Without it a kill of Snakemake alone ends in IncompleteFilesException at the next start."""
    _, said = plan(tree, "figures", "-n")
    assert "workflow specific profile profiles/default" in said


def test_profiles():
    """The automatic profile wins over --profile key by key, so it may hold only neutral keys."""
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8"))
    slurm = yaml.safe_load((ROOT / "slurm/config.yaml").read_text(encoding="utf-8"))
    placing = {
        "executor",
        "cores",
        "jobs",
        "default-resources",
        "set-resources",
        "set-threads",
        "config",
        "retries",
    }
    assert default and not placing & set(default)
    assert all(slurm.get(key, value) == value for key, value in default.items())
    assert slurm["slurm-status-command"] == "squeue"
    assert slurm["slurm-requeue"] is True
    assert slurm["rerun-triggers"] == ["mtime", "params", "input"]
    assert "slurm_partition" in slurm["default-resources"]
    assert "scale=paper" in slurm["config"]
    assert not [key for key in slurm if "array" in key]
    assert not (ROOT / "slurm").is_symlink()


def test_no_checkpoint_rules_and_no_yaml_in_rules():
    for file in [
        ROOT / "Snakefile",
        *(ROOT / "workflow").rglob("Snakefile"),
        *(ROOT / "workflow").rglob("*.smk"),
    ]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?m)^\s*checkpoint ", text) and "import yaml" not in text, file


def test_as_many_jobs_run_at_once_as_there_are_cores(tree):
    """Without --cores: Snakemake would refuse to start, or (told only half of it) start everything at once."""
    done = snakemake(tree, "tables/table1.tex", "--forcerun", "fill_table", "--verbose")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"Provided cores: {len(os.sched_getaffinity(0))}" in said
