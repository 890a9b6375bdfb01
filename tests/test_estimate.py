"""What a plan costs: the same stages as Snakemake plans, calibrated hours, and a budget that holds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from clipa.cli import main
from clipa.config import MODEL_CONFIG_DIRECTORY, ConfigError, load_project
from clipa.cost import stage_macs
from clipa.estimate import (
    CHECKPOINTS_KEPT,
    Spread,
    devices_of,
    disk,
    over_budget,
    parameters,
    short,
    throughput_of,
    wall_clock,
)
from clipa.plan import Plan, load_plan
from clipa.records import RECORDED_DIRECTORY
from clipa.stages import recorded_path, stages_of
from clipa.study import TABLE4_PARAMETERS, parse_run

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("Snakefile", "workflow", "slurm", "profiles", "config", "envs", "src", "results/published")
ONE_SEED = {"scale": "paper", "seeds": [0]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a fresh clone holds of what planning reads; the code itself is linked."""
    for name in COPIED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "config":
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def snakemake(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment, timeout=120)


def planned(tree: Path, *arguments: str) -> tuple[int, int, int]:
    """Pre-trainings, fine-tunings and evaluations that a dry run plans."""
    done = snakemake(tree, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    kinds = re.findall(r"(?m)^Job \d+: (\w+) of ", said)
    evaluations = re.search(r"(?m)^evaluate +(\d+)$", said)
    return kinds.count("pretrain"), kinds.count("finetune"), int(evaluations[1]) if evaluations else 0


def pending(plan: Plan, target: str) -> tuple[int, int, int]:
    work = plan.work(target)
    kinds = [stage.kind for stage in work.pending]
    return kinds.count("pretrain"), kinds.count("finetune"), work.evaluations


def write(path: Path, content: str = "{}", age: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    if age:
        os.utime(path, (path.stat().st_mtime - age,) * 2)


# ---------------------------------------------------------------------------------------- the same as Snakemake plans


def test_a_fresh_clone_needs_what_snakemake_plans(tree):
    plan = load_plan(ONE_SEED, tree)
    found = pending(plan, "measure_table12")
    assert found == planned(tree, "measure_table12", "-n", "--config", "scale=paper", "seeds=[0]")
    assert found == (60, 60, 60)


def test_recorded_finished_and_evaluated_stages_are_those_snakemake_leaves_alone(tree):
    """One run accepted, one evaluated whose weights were cleared away, one half trained; the data is there."""
    plan = load_plan({"scale": "ci", "seeds": [0]}, tree)
    accepted, evaluated, begun = (
        plan.job(parse_run(slug), 0).stages
        for slug in ("S16-none-truncation32", "S16-resize64-truncation32", "B16-resize64-truncation32")
    )
    data = tree / plan.data
    for name in (
        "train/manifest.json",
        "train/annotation.json",
        "vocabulary/vocabulary.json",
        "test/plain/manifest.json",
    ):
        write(data / name, age=3600)
    write(tree / RECORDED_DIRECTORY / recorded_path(accepted))
    write(tree / plan.job(evaluated[-1].run, 0).output)
    write(tree / plan.stage_file(begun[0]))

    plan = load_plan({"scale": "ci", "seeds": [0]}, tree)
    work = plan.work("measure_figure4")
    assert work.recorded == accepted
    assert work.finished == (*evaluated, begun[0])
    assert begun[1] in work.pending
    found = pending(plan, "measure_figure4")
    assert found == planned(tree, "measure_figure4", "-n", "--config", "scale=ci", "seeds=[0]")
    assert found == (1, 1, 2)


def test_targets_that_are_files_and_targets_that_train_nothing():
    plan = load_plan({**ONE_SEED, "reuse_recorded": False})
    job = plan.job(parse_run("L16-resize64-truncation32"), 0)
    stages = job.stages
    assert plan.work(str(plan.stage_file(stages[1]))).pending == stages
    assert plan.work(str(plan.stage_file(stages[0]))).pending == (stages[0],)
    assert plan.work(str(job.output)).pending == stages
    assert plan.work(job.run.slug).pending == stages
    same = {
        pending(plan, name)
        for name in ("table11", "measure_table11", "results/runs/paper/tables/table11.tex")
    }
    assert same == {(45, 42, 45)}
    assert pending(plan, "figures") == pending(plan, "tables/table11.tex") == (0, 0, 0)
    suite = plan.work("measure_suite").pending
    assert suite and {stage.run.image_reduction for stage in suite} == {"none"}
    with pytest.raises(ValueError, match=r"table99: at scale paper the experiments fill .*table11"):
        plan.work("table99")


# ---------------------------------------------------------------------------------------------------------- hours


@pytest.mark.parametrize(
    ("slug", "printed"),
    [
        ("B16-resize112-truncation16", 444),
        ("L16-resize64-truncation16", 628),
        ("L16-resize96-truncation8", 826),
    ],
)
def test_table_1_gets_its_own_hours_back(slug, printed, tree):
    """Within the spread that the three have among themselves; fine-tuning is 131M samples here, 128M there."""
    plan = load_plan(ONE_SEED, tree)
    speed = throughput_of(plan)
    hours = speed.total(stages_of(parse_run(slug), plan.scale, 0))
    assert speed.source == "table1" and "Table 1" in speed.about
    assert hours.low * 0.99 < printed < hours.high * 1.01
    assert hours.low < hours.mean < hours.high


def test_hours_follow_the_work(tree):
    """The same samples: hours are as multiply-adds are, a full-length run costs most."""
    plan = load_plan(ONE_SEED, tree)
    speed = throughput_of(plan)
    short_one, whole = (
        plan.job(parse_run(f"L16-{name}-truncation32"), 0).stages[0] for name in ("resize64", "none")
    )
    ratio = speed.hours(whole).mean / speed.hours(short_one).mean
    assert ratio == pytest.approx(stage_macs(whole) / stage_macs(short_one))
    assert 7 < ratio < 12


def test_measured_stages_override_table_1(tree):
    """Two finished stages at a known speed: theirs exactly, of all seeds; the others along the line through them."""
    plan = load_plan({"scale": "paper", "seeds": [0, 1]}, tree)
    small, large = (plan.job(parse_run(f"{m}16-resize64-truncation32"), 0).stages[0] for m in "SL")
    for stage in (small, large):
        made = {"seconds": stage_macs(stage) / 1e15 + 1e-5 * stage.schedule.samples, "hardware": "test GPU"}
        write(tree / plan.stage_file(stage), json.dumps(made | {"samples_seen": stage.schedule.samples}))
    speed = throughput_of(plan)
    assert speed.source == "measured" and "test GPU" in speed.about
    again = plan.job(small.run, 1).stages[0]
    seconds = stage_macs(small) / 1e15 + 1e-5 * small.schedule.samples
    assert speed.hours(again).mean == pytest.approx(seconds * 8 / 3600)
    other = plan.job(parse_run("B16-resize96-truncation32"), 0).stages[0]
    expected = stage_macs(other) / 1e15 + 1e-5 * other.schedule.samples
    hours = speed.hours(other)
    assert hours.mean == pytest.approx(expected * 8 / 3600, rel=1e-6)
    assert hours.high == pytest.approx(2 * hours.mean), "two stages say nothing about the spread"


def test_cpu_scales_count_cores_and_use_what_was_recorded(tree):
    (tree / RECORDED_DIRECTORY).symlink_to(ROOT / RECORDED_DIRECTORY)  # and no results/runs of this checkout
    plan = load_plan({"scale": "ci", "reuse_recorded": False}, tree)
    speed = throughput_of(plan)
    assert devices_of(plan.scale) == 1 and "measured at scale micro-v1" in speed.about
    micro = load_plan({"scale": "micro-v1", "reuse_recorded": False}, tree)
    recorded = throughput_of(micro)
    stage = micro.job(parse_run("L16-resize64-truncation32"), 0).stages[0]
    seconds = [
        next(r for r in json.loads(path.read_text("utf-8"))["records"] if r["stage"] == "pretrain")[
            "provenance"
        ]["seconds"]
        for path in (ROOT / RECORDED_DIRECTORY / "micro-v1" / stage.run.slug).glob("*.json")
    ]
    assert len(seconds) >= 3
    hours = recorded.hours(stage)
    expected = Spread(sum(seconds) / len(seconds), min(seconds), max(seconds)) * (1 / 3600)
    assert (hours.mean, hours.low, hours.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_without_any_record_a_cpu_scale_is_still_estimated(tree):
    speed = throughput_of(load_plan({"scale": "micro-v1"}, tree))
    assert speed.source == "nominal" and "factor of two" in speed.about


# -------------------------------------------------------------------------------------------------- wall-clock and disk


def trained(name: str, parent: SimpleNamespace | None = None) -> SimpleNamespace:
    return SimpleNamespace(directory=Path(name), parent=parent)


def test_a_parent_is_trained_before_its_child():
    one, two = trained("one"), trained("two")
    stages = [one, two, trained("after-one", one), trained("after-two", two)]
    hours = {"one": 10.0, "after-one": 1.0, "two": 4.0, "after-two": 2.0}
    end = [wall_clock(stages, lambda stage: hours[str(stage.directory)], slots) for slots in (1, 2, 9)]
    assert end == [(17.0, 11.0), (11.0, 11.0), (11.0, 11.0)]
    assert wall_clock(stages[2:], lambda stage: hours[str(stage.directory)], 1) == (3.0, 2.0), (
        "parents are there"
    )
    assert wall_clock([], lambda stage: 1.0, 1) == (0.0, 0.0)


@given(
    some.lists(some.tuples(some.floats(0.1, 9), some.booleans()), min_size=1, max_size=25),
    some.integers(1, 6),
)
def test_wall_clock_keeps_its_bounds(drawn, slots):
    """Never shorter than the longest way or the work shared evenly; never longer than both together (Graham)."""
    stages = []
    for number, (_, is_child) in enumerate(drawn):
        stages.append(trained(str(number), stages[-1] if is_child and stages else None))
    hours = {str(number): length for number, (length, _) in enumerate(drawn)}
    end, way = wall_clock(stages, lambda stage: hours[str(stage.directory)], slots)
    share = sum(hours.values()) / slots
    assert max(way, share) <= end * (1 + 1e-9)
    assert end <= (share + way) * (1 + 1e-9)


def test_parameters_are_counted_without_a_model():
    """Within one per cent of Table 4, and of what open_clip builds, ConvNeXt included."""
    from clipa.checkpoint import KEPT
    from clipa.models import build

    for model, millions in TABLE4_PARAMETERS.items():
        config = json.loads((MODEL_CONFIG_DIRECTORY / f"{model.replace('/', '')}.json").read_text("utf-8"))
        assert parameters(config) == pytest.approx(millions * 1e6, rel=0.01), model
    for path in sorted(MODEL_CONFIG_DIRECTORY.glob("micro-*.json")):
        config = json.loads(path.read_text("utf-8"))
        built = sum(p.numel() for p in build(config, 0).parameters() if p.requires_grad)
        assert parameters(config) == pytest.approx(built, rel=0.01), path.name
    assert CHECKPOINTS_KEPT == KEPT


def test_disk_counts_checkpoints_exports_and_data_once(tree):
    plan = load_plan(ONE_SEED, tree)
    stages = plan.job(parse_run("S16-resize64-truncation32"), 0).stages
    sizes = disk(plan, stages)
    count = parameters(stages[0].model_config) + parameters(stages[1].model_config)
    assert sizes == {"checkpoints": 24 * count, "exports": 4 * count, "data": 10e12}
    write(tree / plan.data / "train" / "manifest.json")
    assert disk(plan, stages)["data"] == 0.0


# ---------------------------------------------------------------------------------------------------------- the budget


def test_snakemake_does_not_start_what_does_not_fit_its_card(tree):
    """Refused in one line before the first stage is written, and before data is downloaded."""
    scale = tree / "config" / "scales" / "paper.yaml"
    scale.write_text(scale.read_text("utf-8").replace("pretrain:\n", "pretrain:\n  microbatch: 32768\n", 1))
    done = snakemake(tree, "measure_table14", "--config", "scale=paper", "seeds=[0]")
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "A100-80" in line]
    assert len(said) == 1 and said[0].startswith(
        "B16-resize112-truncation16-negclip pretrain at scale paper: 4096 samples a pass need"
    )
    assert not (tree / "results" / "data").exists() and not list((tree / "results").glob("runs/**/*.*"))


def test_snakemake_does_not_start_above_the_budget(tree):
    asked = ("measure_table11", "--config", "scale=paper", "seeds=[0]", "budget_gpu_hours=1000")
    done = snakemake(tree, *asked)
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("budget")]
    assert len(said) == 1
    assert said[0].startswith("budget_gpu_hours: 87 pending stages at scale paper need about")
    needed = int(re.search(r"--config budget_gpu_hours=(\d+)", said[0])[1])
    plan = load_plan({**ONE_SEED, "budget_gpu_hours": needed}, tree)
    assert over_budget(plan, plan.work("table11").pending) is None, "what the line advises is enough"
    assert not (tree / "results" / "data").exists() and not list((tree / "results").glob("runs/**/*.*"))
    assert planned(tree, *asked, "-n")[:2] == (45, 42), "a dry run has no budget, and nothing is left locked"


def test_a_budget_of_nothing_hinders_no_figure(tree):
    done = snakemake(
        tree, "tables/table1.tex", "--config", "scale=paper", "budget_gpu_hours=0", f"runs_directory={tree}/r"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tree / "tables" / "table1.tex").is_file()


def test_the_budget_is_checked_when_it_is_read():
    with pytest.raises(ConfigError, match="budget_gpu_hours"):
        load_project({"budget_gpu_hours": -1})
    assert load_project().budget_gpu_hours is None


# ---------------------------------------------------------------------------------------------------- the command line


def asked(capsys, *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_the_json_adds_up(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("measure_table11", "--scale", "paper", "--config", "seeds=[0]", "reuse_recorded=false", "--json")
    costs = json.loads(asked(capsys, *words, "--gpus", "64", "--price", "3", "--carbon", "0.1"))
    hours, groups = costs["device_hours"], costs["groups"]
    assert costs["stages"]["pending"] == sum(group["pending"] for group in groups) == 87
    for end in ("mean", "low", "high"):
        assert hours[end] == pytest.approx(sum(group["device_hours"][end] for group in groups))
        assert costs["dollars"][end] == pytest.approx(3 * hours[end])
        assert costs["kwh"][end] == pytest.approx(0.4 * 1.1 * hours[end])
        assert costs["co2e_kg"][end] == pytest.approx(0.1 * costs["kwh"][end])
        even = hours[end] / 64
        assert even <= costs["wall_clock_hours"][end] <= even + costs["longest_chain_hours"][end]
    assert costs["assumptions"]["price"]["source"] == "given" != costs["assumptions"]["watts"]["source"]
    assert sum(group["samples"] for group in groups) == 45 * 2_560_000_000 + 42 * 131_072_000


def test_a_training_of_more_than_one_job_is_told(capsys, monkeypatch, tree):
    """G/14 pre-trains for 71,400 GPU-hours over three seeds: 124 days on 8 GPUs, in jobs of two days."""
    monkeypatch.chdir(tree)
    jobs = {
        (group["model"], group["kind"]): group["jobs"]["mean"]
        for group in json.loads(asked(capsys, "all", "--scale", "paper", "--json"))["groups"]
    }
    assert (
        jobs["G/14", "pretrain"] == 62 and jobs["H/14", "pretrain"] == 22 and jobs["L/16", "pretrain"] == 11
    )
    assert jobs["S/16", "finetune"] == 1
    said = " ".join(asked(capsys, "all", "--scale", "paper").split())
    assert "jobs of 48.0 h" in said and "G/14 pre-training 62" in said and "S/16 fine-tuning" not in said
    assert "SLURM starts it again" in said and "WARNING" not in said
    (tree / "slurm").unlink()
    said = " ".join(asked(capsys, "all", "--scale", "paper").split())
    assert "WARNING: nothing starts them again: slurm/config.yaml has no `slurm-requeue: true`" in said
    assert "\njobs" not in asked(capsys, "measure_table11", "--scale", "micro-v1")


@pytest.mark.parametrize(
    "words", [("all", "--scale", "paper"), ("all", "--config", "reuse_recorded=false"), ("figures",)]
)
def test_people_get_at_most_100_columns_and_every_assumption(words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = asked(capsys, *words)
    assert max(map(len, said.splitlines())) <= 100
    if words[0] == "all":
        for word in ("wall-clock", "disk", "$", "kWh", "PUE", "CO2e", "throughput"):
            assert word in said
        assert ("core-hours" in said) == ("--scale" not in words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("table99",), "clipa plan: table99: at scale micro-v1 the experiments fill"),
        (("--scale", "paper", "--gpus", "4"), "clipa plan: --gpus 4: one stage at scale paper takes 8 GPUs"),
        (("--price", "-1"), "clipa plan: --price -1: must not be negative"),
        (("--config", "seeds"), "clipa plan: --config seeds: expected KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line(words, line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["plan", *words]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(line)


def test_planning_loads_nothing_heavy():
    code = (
        "import sys; from clipa.cli import main; main(['plan', 'all', '--scale', 'paper']);"
        "sys.exit(' '.join({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (71282.3, "71,300"), (999.6, "1,000"), (12.345, "12.3"), (0.01234, "0.0123")],
)
def test_three_digits(number, told):
    assert short(number) == told
