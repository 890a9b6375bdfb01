"""Runs without Snakemake: from nothing to an archive that can be accepted, through kill -9 and time limits."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy
import pytest
import yaml

import fabricated
from clipa import provenance, standalone
from clipa.accept import accept
from clipa.cost import stage_macs
from clipa.files import with_digest
from clipa.plan import Job, Plan, load_plan
from clipa.records import read_records, write_records
from clipa.resolved import ResolvedStage
from clipa.standalone import jobs_of, pack, run_here, unpack
from clipa.study import parse_run
from clipa.train import INTERRUPTED, NonFinite

ROOT = Path(__file__).parents[1]
RUN = "S16-resize64-syntax8"
TINY = {
    "extends": "micro-v1",
    "about": "twelve steps of sixteen",
    "data": {
        "world": {"training_images": 256, "images_per_shard": 32, "test_images_plain": 60, "test_images": 48},
        "lanes": 4,
        "shuffle_window": 16,
        "resident": True,
    },
    "tagger": "world",
    "pretrain": {"samples": 192, "batch_size": 16, "warmup_steps": 3},
    "finetune": {"samples": 192, "batch_size": 16, "warmup_steps": 3},
    "experiments": ["table11", "table12"],
    "checkpoint_every": 1,
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The project's configuration and a scale of a few pictures; what is not needed cannot be imported."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name in ("spacy", "snakemake", "pandas"):
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text(f"raise ImportError('no {name} here')\n")
    return tmp_path


def plan_of(home: Path, **asked: object) -> Plan:
    folders = {"runs_directory": str(home / "runs"), "data_directory": str(home / "data")}
    return load_plan({"scale": "tiny", "seeds": [0], **folders, **asked}, home)


def start(home: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "clipa", "run", *arguments, "--scale", "tiny", "--seeds", "0"]
    command += ["--out", str(home / "out.tar.gz"), "--processes", "1"]
    command += ["--runs-directory", str(home / "runs"), "--data-directory", str(home / "data")]
    path = os.pathsep.join([str(home / "absent"), str(ROOT / "src")])
    return subprocess.Popen(command, cwd=home, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE)


def test_killed_and_started_again_it_ends_with_an_archive_that_is_accepted(home: Path) -> None:
    """One run with a text reduction that needs parts of speech; the first process dies within pre-training."""
    process, folder = start(home, RUN), home / "runs" / "tiny" / RUN / "pretrain"
    ends = time.monotonic() + 90
    while not list(folder.glob("seed0-*/checkpoint-*")) and process.poll() is None:
        assert time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(folder.glob("seed0-*/stage.json"))

    process = start(home, RUN)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, said
    assert "1 of 1 runs measured" in said
    assert not list(home.rglob("checkpoint-*")), "what is measured needs no checkpoint"

    # Elsewhere: unpacked as tar does it, then accepted; these sources are not committed, so that is put in.
    with tarfile.open(home / "out.tar.gz") as archive:
        archive.extractall(home / "elsewhere")  # no `filter`: Debian 12 has Python 3.11.2
    [path] = (home / "elsewhere").rglob("records.json")
    assert len(list((home / "elsewhere").rglob("loss.jsonl"))) == 2
    document = json.loads(path.read_text())
    for record in document["records"]:
        clean = {"commit": "0" * 40, "dirty": False}
        record["provenance"] |= clean
        record["provenance"]["commits"] = [one | clean for one in record["provenance"]["commits"]]
    path.write_text(json.dumps(with_digest(document)))
    plan = plan_of(home)
    [accepted] = accept([path], plan.scale, home / "recorded", knows_commit=lambda commit: True)
    assert [record["stage"] for record in read_records(accepted)] == ["pretrain", "finetune"]
    assert accepted.name == jobs_of([RUN], plan)[0].stages[-1].directory.name + ".json"

    # What is in the archive is not measured again, also where nothing else is left of it.
    shutil.rmtree(home / "runs")
    shutil.rmtree(home / "data")
    before = (home / "out.tar.gz").read_bytes()
    assert run_here([RUN], plan, home / "out.tar.gz", None, 1) == 0
    assert not (home / "data").exists() and (home / "out.tar.gz").read_bytes() == before


def test_negclip_gets_its_rows(home: Path) -> None:
    """A recipe of three stages; its logs lie under the run's coordinates, its records under its whole name."""
    file = home / "config" / "scales" / "tiny.yaml"
    streamed = TINY | {"data": TINY["data"] | {"resident": False}, "negatives": {"rows": 100}}
    streamed["negclip"] = {"samples": 96, "batch_size": 16, "warmup_steps": 2}
    file.write_text(yaml.safe_dump(streamed))
    process = start(home, "S16-resize64-truncation16-negclip")
    said = process.communicate(timeout=180)[1].decode()
    assert process.returncode == 0, said
    with tarfile.open(home / "out.tar.gz") as archive:
        names = archive.getnames()
    kinds = sorted(Path(name).parts[2] for name in names if name.endswith("loss.jsonl"))
    assert kinds == ["finetune", "negclip", "pretrain"]
    assert any(name.startswith("tiny/S16-resize64-truncation16-negclip/evaluation/") for name in names)


def test_a_time_limit_stops_training_and_the_next_call_resumes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The alarm rings in the fifth update; evaluation is left out here."""
    from clipa import train

    rate, updates = train.learning_rate, []

    def ringing(step: int, *others: object) -> float:
        updates.append(step)
        if len(updates) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(step, *others)

    def measured(self: standalone._Evaluations, job: Job) -> None:
        path = plan.root / job.output
        path.parent.mkdir(parents=True)
        correct = numpy.zeros(60, bool)
        record = fabricated.measured_record("S/16", "none", "pretrain", 0, correct)
        write_records(path, [record | {"stage_fingerprint": job.stages[-1].fingerprint}])

    monkeypatch.setattr(train, "learning_rate", ringing)
    monkeypatch.setattr(standalone._Evaluations, "start", measured)
    plan, slugs = plan_of(home), ["S16-resize64-truncation32", "S16-none-truncation32"]
    handler = signal.getsignal(signal.SIGTERM)
    assert run_here(slugs, plan, home / "out.tar.gz", minutes=5, processes=1) == INTERRUPTED
    assert updates == list(range(5))
    assert "time is up" in capfd.readouterr().err
    assert run_here(slugs, plan, home / "out.tar.gz", minutes=0, processes=1) == INTERRUPTED
    assert len(updates) == 5
    assert run_here(slugs, plan, home / "out.tar.gz", minutes=5, processes=1) == 0
    assert updates == [*range(5), *range(5, 12), *range(12), *range(12)]
    assert signal.getsignal(signal.SIGTERM) == handler


def test_failed_runs_are_named_and_do_not_stop_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The first training fails; the second run's evaluation does, since nothing was trained."""
    trained = []

    def train(stage: ResolvedStage) -> None:
        if "none" in stage.run:
            raise NonFinite("the loss of step 3 is not finite")
        trained.append(stage.content.kind)

    monkeypatch.setattr(standalone, "train_stage", train)
    monkeypatch.setattr(standalone, "_prepare", lambda *_: None)
    slugs = ["S16-none-truncation32", "S16-resize64-truncation32"]
    assert run_here(slugs, plan_of(home), home / "out.tar.gz", None, 1) == 1
    said = capfd.readouterr().err
    assert trained == ["pretrain", "finetune"]
    assert "the loss of step 3 is not finite" in said and "0 of 2 runs measured" in said
    assert "failed: S16-none-truncation32 seed 0, S16-resize64-truncation32 seed 0" in said


def test_names_are_slugs_tables_and_the_resize_column(home: Path) -> None:
    plan = plan_of(home, seeds=[0, 1])
    column = jobs_of(["resize"], plan)
    assert len(column) == 2 * 15
    assert {job.run.image_reduction for job in column} == {"none", "resize"}
    assert [job.seed for job in column] == [0] * 15 + [1] * 15
    assert len(jobs_of(["table11"], plan)) == 2 * 45
    assert len(jobs_of(["table12"], plan)) == 2 * 60
    everything = jobs_of(["resize", "table12", "table11"], plan)
    assert everything[:30] == column and len(everything) == 2 * 102
    with pytest.raises(ValueError, match=r"table99: .* the experiments fill figure10, .*table11"):
        jobs_of(["table99"], plan)
    with pytest.raises(ValueError, match="tables: needs no run"):
        jobs_of(["tables"], plan)


def test_foreign_and_damaged_archives_are_refused_and_nothing_is_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = plan_of(home), home / "out.tar.gz"
    path = home / "runs" / "tiny" / RUN / "evaluation" / "seed0-0123456789ab" / "records.json"
    log = home / "runs" / "tiny" / RUN / "pretrain" / "seed0-ba9876543210" / "loss.jsonl"
    for file in (path, log):
        file.parent.mkdir(parents=True)
        file.write_text("first")
    pack(plan, out)
    path.write_text("second")
    log.unlink()
    unpack(out, plan)
    assert (path.read_text(), log.read_text()) == ("second", "first")

    whole = out.read_bytes()
    path.unlink()
    monkeypatch.setattr(standalone, "LARGEST_ARCHIVE", 2000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        unpack(out, plan)
    assert not path.exists()
    monkeypatch.undo()

    out.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(out, plan)
    for name in ("../outside", "micro-v1/records.json"):
        with tarfile.open(out, "w:gz") as foreign:
            foreign.add(home / "config" / "config.yaml", name)
        with pytest.raises(ValueError, match="not an archive of this scale"):
            unpack(out, plan)
    with tarfile.open(out, "w:gz") as foreign:
        member = tarfile.TarInfo("tiny/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        foreign.addfile(member)
    with pytest.raises(ValueError, match="not an archive of this scale"):
        unpack(out, plan)
    assert not (home / "outside").exists() and not (home / "runs" / "tiny" / "link").is_symlink()


def test_what_is_no_record_is_not_counted_as_measured(home: Path) -> None:
    plan = plan_of(home)
    [job] = jobs_of(["S16-none-truncation32"], plan)
    path = plan.root / job.output
    path.parent.mkdir(parents=True)
    path.write_text("garbage")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        run_here(["S16-none-truncation32"], plan, home / "out.tar.gz", None, 1)
    write_records(path, [])
    with pytest.raises(ValueError, match="holds no records of S16-none-truncation32 seed 0"):
        run_here(["S16-none-truncation32"], plan, home / "out.tar.gz", None, 1)


def test_an_archive_bomb_is_refused(home: Path) -> None:
    plan, out = plan_of(home), home / "out.tar.gz"
    with gzip.open(out, "wb") as stream:
        for _ in range(300):
            stream.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="unpacks to more than 256 MiB"):
        unpack(out, plan)


def test_mini_asks_for_a_gpu(tmp_path: Path) -> None:
    plan = load_plan({"scale": "mini"}, ROOT)
    with pytest.raises(ValueError, match="trains on a GPU"):
        run_here(["resize"], plan, tmp_path / "out.tar.gz", None, None)
    with pytest.raises(ValueError, match="use Snakemake"):
        run_here(["resize"], load_plan({"scale": "paper"}, ROOT), tmp_path / "out.tar.gz", None, None)


# -------------------------------------------------------------------------------------------------- the mini scale

USABLE = 0.25 * 790e12 / 2  # multiply-adds a second: a quarter of what an H200 does in bf16


def minutes(jobs: list[Job]) -> float:
    return sum(stage_macs(stage) for job in jobs for stage in job.stages) / USABLE / 60


def test_the_mini_scale_fits_its_hour_and_a_half() -> None:
    """Half of each limit is left for what multiply-adds do not say: short kernels, evaluation, export."""
    plan = load_plan({"scale": "mini", "seeds": [0]}, ROOT)
    jobs = plan.jobs()
    assert len(jobs) == 106
    assert max(minutes([job]) for job in jobs) <= 6 / 2
    assert minutes(plan.jobs("resize")) <= 0.67 * 15 and minutes(plan.jobs("law")) <= 0.67 * 15
    assert minutes(jobs) <= 0.67 * 90


def test_the_mini_scale_has_the_papers_patches_and_ladder_of_models() -> None:
    plan = load_plan({"scale": "mini"}, ROOT)
    scale = plan.scale
    assert [(scale.image_sizes[pixels] // scale.patch_size) ** 2 for pixels in (224, 160, 112, 96, 64)] == [
        196,
        100,
        49,
        36,
        16,
    ]
    assert all(paper == ours for paper, ours in scale.kept_patches.items())
    stages = [plan.job(parse_run(f"{model}16-none-truncation32"), 0).stages[0] for model in "SBL"]
    small, middle, large = (stage_macs(stage) for stage in stages)
    assert 3 < middle / small < 5 and 3 < large / middle < 5
    assert scale.finetune.steps >= 200 and min(scale.finetune.warmup_steps, scale.pretrain.warmup_steps) >= 20


# ------------------------------------------------------------------------------------------ the commit without git


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources as they arrive on another machine: a stamped checkout, then without git's folder."""
    code = tmp_path / "src" / "clipa"
    code.mkdir(parents=True)
    (code / "provenance.py").write_text("code\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "a.yaml").write_text("a: 1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "_SOURCE", code)
    provenance.write_stamp()
    (tmp_path / ".git").rename(tmp_path / "elsewhere")
    return tmp_path


def test_a_stamp_names_the_commit_and_every_change_since(copied: Path) -> None:
    head = subprocess.run(
        ["git", "--git-dir", copied / "elsewhere", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (copied / "src" / "clipa" / "__pycache__").mkdir()
    (copied / "src" / "clipa" / "__pycache__" / "train.cpython-312.pyc").write_bytes(b"")
    assert provenance.commit() == (head, False)
    (copied / "config" / "a.yaml").write_text("a: 2\n")
    assert provenance.commit() == (head, True)
    (copied / "config" / "a.yaml").write_text("a: 1\n")
    (copied / "src" / "clipa" / "new.py").write_text("")
    assert provenance.commit() == (head, True)
    (copied / "src" / "clipa" / "new.py").unlink()
    (copied / "config" / "a.yaml").unlink()
    assert provenance.commit() == (head, True)
    (copied / ".source.json").unlink()
    assert provenance.commit() == (None, None)
    with pytest.raises(ValueError, match="no git checkout"):
        provenance.write_stamp()
