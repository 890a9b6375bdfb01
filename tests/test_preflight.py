"""What preflight misses: on this machine, in what SLURM says of its partitions, and on the nodes of a real SLURM."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipa.config import load_scale
from clipa.downloads import load_downloads
from clipa.plan import load_plan
from clipa.preflight import MISSING, OK, Finding, cluster, lines, looked, machine
from clipa.preflight.cluster import Asked, read_partitions, shortcomings
from clipa.slurm import SlurmError
from private_slurm import Cluster, private_slurm

ROOT = Path(__file__).resolve().parent.parent


def missing(findings: list[Finding]) -> list[str]:
    return [one.said for one in findings if one.state == MISSING]


# -------------------------------------------------------------------------------------------------------- this machine


@pytest.fixture
def paper(tmp_path: Path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return load_plan({"scale": "paper", "seeds": [0]}, tmp_path)


def test_every_missing_thing_is_a_line_with_what_to_do(
    paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.chdir(tmp_path)  # no .venv-data
    downloads = load_downloads(tmp_path / "config")
    found = [
        *machine.environments(paper),
        *machine.tokens(paper, downloads),
        *machine.pins(paper, downloads),
        *machine.files_by_hand(paper),
    ]
    said = "\n".join(missing(found))
    for wanted in (
        "no img2dataset in .venv-data; make data",
        "agree to the terms at huggingface.co/datasets/laion/relaion400m",
        "revision is null for laion/relaion400m, laion/relaion2B-en-research-safe, clip-benchmark/wds_",
        "digest is null for flickr30k_test.json; paste it",
        "visual_genome_relation.json missing; get it from ARO's Google Drive, gdown",
        "flickr30k-images missing; get it on request, forms.illinois.edu/sec/229675",
    ):
        assert wanted in said
    assert lines(found) and list(lines(found))[-1] == f"{len(missing(found))} missing, {len(found)} looked at"


def test_what_is_there_is_not_missed(paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv-data/bin").mkdir(parents=True)
    (tmp_path / ".venv-data/bin/img2dataset").touch()
    folder = tmp_path / "results/data/aro"
    folder.mkdir(parents=True)
    for name in ("visual_genome_relation.json", "visual_genome_attribution.json", "vgr_vga_images.zip"):
        (folder / name).touch()
    (folder / "flickr30k-images").mkdir()
    downloads = load_downloads(tmp_path / "config")
    found = [*machine.tokens(paper, downloads), *machine.files_by_hand(paper), *machine.environments(paper)]
    assert not missing([one for one in found if one.what != "part-of-speech tagger"])
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 10**15))
    assert not missing(list(machine.space(paper, "measure_table9")))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 10**12))
    [said] = missing(list(machine.space(paper, "measure_table9")))
    assert said.endswith(
        "1.00 TB free; link results/data to a larger disk, or name one in config/config.yaml"
    )


def test_a_ray_cluster_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    scale = {
        "extends": "paper",
        "data": {"download": {"repository": "laion/relaion400m", "distributor": "ray"}},
    }
    (tmp_path / "config/scales/on-ray.yaml").write_text(json.dumps(scale), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plan = load_plan({"scale": "on-ray", "seeds": [0]}, tmp_path)
    cure = "no ray in .venv-data; install the version of your cluster there (docs/data.md)"
    assert cure in missing(list(machine.environments(plan)))
    (tmp_path / ".venv-data/bin").mkdir(parents=True)
    (tmp_path / ".venv-data/bin/ray").touch()
    assert cure not in missing(list(machine.environments(plan)))


def test_a_drawn_world_needs_none_of_it() -> None:
    plan = load_plan({"scale": "micro-v1"}, ROOT)
    downloads = load_downloads(ROOT / "config")
    found = [*machine.tokens(plan, downloads), *machine.pins(plan, downloads), *machine.files_by_hand(plan)]
    assert not found and not missing(list(machine.environments(plan)))


def test_a_look_that_fails_hides_no_other() -> None:
    def fails() -> Iterator[Finding]:
        raise SlurmError("sinfo: no answer")

    assert looked("partitions", fails) == [Finding("partitions", "unknown", "sinfo: no answer")]


# ------------------------------------------------------------------------------------------------ what SLURM would say

SINFO = """\
gpu*|up|2-00:00:00|4|96|1000000+|gpu:a100:8(S:0-1)
cpu|up|12:00:00|30|64|256000|(null)
cpu|up|12:00:00|2|128|512000|(null)
short|up|30:00|4|96|500000|gpu:2,gpu:a100:2
endless|up|infinite|1|8|8000|(null)
closed|down|1:00:00|1|8|8000|(null)
"""


def test_partitions_are_read() -> None:
    found = read_partitions(SINFO)
    assert found["gpu"] == (True, 172800.0, 4, 96, 1000000, 8)
    assert found["cpu"] == (True, 43200.0, 32, 128, 512000, 0)
    assert (found["short"].limit, found["short"].gpus) == (1800.0, 4)
    assert found["endless"].limit is None and not found["closed"].up


@pytest.mark.parametrize(
    ("partition", "asked", "said"),
    [
        ("gpu", Asked("train", 1, "gpu", 2880, 1, 96, 500000, 8), None),
        ("gpu", Asked("train", 1, "gpu", 2881, 1, 96, 500000, 8), "48.0 h, so it would wait for ever"),
        ("gpu", Asked("train", 1, "gpu", 60, 5, 96, 500000, 8), "asks for 5 nodes, it has 4"),
        ("short", Asked("train", 1, "short", 30, 1, 96, 500000, 8), "8 GPUs of a node, it has 4"),
        ("cpu", Asked("prepare", 1, "cpu", 60, 1, 129, 1, 0), "129 cores of a node, it has 128"),
        ("cpu", Asked("prepare", 1, "cpu", 60, 1, 1, 600000, 0), "600000 MB of memory of a node"),
        ("cpu", Asked("download_images", 9, "cpu", 721, 1, 1, 1, 0), "lower download.hours in the scale's"),
        ("closed", Asked("index_shards", 1, "closed", 60, 1, 1, 1, 0), "is down, index_shards would wait"),
    ],
)
def test_what_a_partition_lacks(partition: str, asked: Asked, said: str | None) -> None:
    found = list(shortcomings(asked, read_partitions(SINFO)[partition]))
    assert len(found) == (said is not None) and (said is None or said in found[0])


def test_the_workflow_says_what_its_jobs_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run: every rule that trains goes to GPUs, every one that downloads to nodes with a way to the internet.
    What a Ray cluster downloads asks for one core.
    """
    for name in ("Snakefile", "workflow", "slurm", "profiles", "envs", "results/published"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    profile = (ROOT / "slurm/config.yaml").read_text(encoding="utf-8")
    (tmp_path / "slurm").unlink()
    (tmp_path / "slurm").mkdir()
    other = profile.replace("internet: cpu ", "internet: way-out ")
    (tmp_path / "slurm/config.yaml").write_text(other, encoding="utf-8")
    shutil.copytree(ROOT / "config", tmp_path / "config")
    paper = tmp_path / "config/scales/paper.yaml"
    text = paper.read_text(encoding="utf-8")
    on_ray = "download: {repository: laion/relaion400m, distributor: ray}"
    paper.write_text(text.replace("download: {repository: laion/relaion400m}", on_ray), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = cluster.asked_of(
        ["measure_table14", "--profile", "slurm", "--config", "scale=paper", "seeds=[0]"]
    )
    where = {one.rule: one.partition for one in asked}
    assert {rule for rule, name in where.items() if name == "gpu"} >= {"train", "suite"}
    downloads = {rule for rule in where if rule.startswith("download_")} | {"complete_images"}
    assert {rule for rule, name in where.items() if name == "way-out"} == downloads and len(downloads) >= 6
    [train] = {one for one in asked if one.rule == "train"}
    scale = load_scale("paper", ROOT / "config")
    assert (train.gpus, train.memory_mb, train.minutes) == (8, 500000, scale.resources.runtime_minutes)
    assert train.cpus == scale.resources.cpus == 96
    images = [one for one in asked if one.rule == "download_images"]
    assert sum(one.jobs for one in images) == 49 and max(one.minutes for one in images) == 12 * 60
    [coco, laion] = sorted(images, key=lambda one: one.jobs)
    assert (laion.jobs, laion.cpus, laion.memory_mb) == (48, 1, 16000)
    assert (coco.jobs, coco.cpus, coco.memory_mb) == (1, 16, 64000)
    assert max(one.minutes for one in asked) <= 48 * 60
    assert not {rule for rule in where if rule == "all" or rule.startswith(("measure_", "fill_", "draw_"))}, (
        "the driver runs local rules itself"
    )


# ------------------------------------------------------------------------------------------------------ a real SLURM


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    with private_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_on_a_real_cluster(slurm: Cluster | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if slurm is None:
        return
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.chdir(tmp_path)
    asked = [
        Asked("train", 2, "gpu", 59, 2, 8, 8000, 8),
        Asked("download_images", 48, "urgent", 720, 1, 16, 16000, 0),
        Asked("index_shards", 1, "cpu", 60, 1, 1, 1000, 0),
    ]
    assert not missing([*cluster.commands(), *cluster.longest(asked)])
    found = list(cluster.seen(asked, tmp_path / "runs", "127.0.0.1:9"))
    said = missing([one for one in found if one.what.startswith("partition ")])
    assert len(said) == 2 and "there is none (known: gpu, urgent)" in said[0]
    assert "download_images asks for 12.0 h, the limit is 1.0 h, so it would wait for ever" in said[1]
    assert "index_shards go there" in said[0]
    assert len([one for one in found if "cpu" in one.what + one.said]) == 1, "said once"
    assert {"account on gpu", "account on urgent"} <= {one.what for one in found}
    found = [one for one in found if one.what.startswith("node of ")]
    assert [one.state for one in found] == [OK, OK, OK, OK, OK, MISSING], found
    assert "n1: does not reach 127.0.0.1:9" in found[-1].said.replace(
        os.uname().nodename.partition(".")[0], "n1"
    )
    assert not list((tmp_path / "runs").iterdir()), "nothing is left behind"


def test_a_slurm_that_does_not_answer_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: str) -> str:
        raise SlurmError("sinfo: no answer")

    monkeypatch.setattr(cluster, "ask", silent)
    found = list(cluster.seen([Asked("train", 1, "gpu", 1, 1, 1, 1, 0)], None))
    assert found == [Finding("partitions", "unknown", "sinfo: no answer")]


def test_a_lock_that_does_not_hold_is_noticed(tmp_path: Path) -> None:
    """As on a disk without locks: nobody holds this one."""
    (tmp_path / "seen").touch()
    (tmp_path / ".lock").touch()
    command = [sys.executable, "-m", "clipa.preflight.node", str(tmp_path), "127.0.0.1:9"]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert seen["seen"] and not seen["locked"] and not seen["internet"]
