"""Data of one's own: shards are found, linked and counted, test sets read, and mistakes end in one line."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipa.cli import main
from clipa.config import ConfigError, load_scale
from clipa.data.local import LocalDataError, index_local, index_own_test_set, shards_of, survey
from clipa.data.shards import read_manifest
from clipa.plan import load_plan
from clipa.resolved import digest
from clipa.sources import Data
from own_data import ROOT, clone, good, picture, write_shards, write_tar, write_test_set

VOCABULARY = ["--vocabulary", "300"]


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipa", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def init(home: Path, shards: Path | str, test: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    return run(
        home, "init", "--shards", str(shards), "--test", str(test), "--name", "mine", *VOCABULARY, *words
    )


def local(files: Path | str, shards: int, **more) -> Data:
    return Data(kind="local", name="mine", files=str(files), shards=shards, lanes=2, **more)


# ------------------------------------------------------------------------------------------------------- finding


@given(first=st.integers(0, 30), count=st.integers(1, 12), digits=st.integers(1, 4))
def test_numbers_in_braces_are_every_number(tmp_path_factory, first, count, digits):
    folder = tmp_path_factory.mktemp("braces")
    names = [f"part-{number:0{digits}d}.tar" for number in range(first, first + count)]
    for name in names:
        (folder / name).touch()
    pattern = f"{folder}/part-{{{first:0{digits}d}..{first + count - 1}}}.tar"
    assert shards_of(pattern) == sorted(str(folder / name) for name in names)
    (folder / names[-1]).unlink()
    with pytest.raises(LocalDataError, match=re.escape(f"no file is called {folder / names[-1]}")):
        shards_of(pattern)


def test_a_folder_a_pattern_words_and_an_address_name_the_same(tmp_path):
    write_shards(tmp_path / "a", 2, 1)
    write_shards(tmp_path / "b", 1, 1)
    here = [str(tmp_path / "a/00000.tar"), str(tmp_path / "a/00001.tar")]
    assert shards_of(f"{tmp_path}/a") == shards_of(f"{tmp_path}/a/*.tar") == here
    assert (
        shards_of(f"{tmp_path}/{{a,b}}")
        == shards_of(f"{tmp_path}/**/*.tar")
        == [*here, str(tmp_path / "b/00000.tar")]
    )
    assert [one.removeprefix("file://") for one in shards_of(f"file://{tmp_path}/a")] == here


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("none/*.tar", "no file is called"),
        ("empty", "a folder without tars"),
        ("words.txt", "not a tar"),
        ("{5..2}.tar", "names no numbers"),
        ("nosuch://bucket/*.tar", "Protocol not known"),
        ("file://{here}/none-*.tar", "no file is called"),
    ],
)
def test_what_names_no_shards_is_refused(tmp_path, pattern, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").touch()
    files = pattern.replace("{here}", str(tmp_path)) if "://" in pattern else f"{tmp_path}/{pattern}"
    with pytest.raises(LocalDataError, match=said):
        shards_of(files)


# ------------------------------------------------------------------------------------------------------- indexing


def test_the_manifest_is_the_same_wherever_the_shards_lie_and_they_stay_as_they_are(tmp_path):
    write_shards(tmp_path / "here", 3, 5)
    write_shards(tmp_path / "there/below", 3, 5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    places = (f"{tmp_path}/here", f"{tmp_path}/there/below/*.tar", f"file://{tmp_path}/here/*.tar")
    digests = set()
    for number, files in enumerate(places):
        path = index_local(local(files, 3), tmp_path / f"data{number}")
        digests.add(digest(read_manifest(path.parent)))
        assert [entry["samples"] for entry in read_manifest(path.parent)["shards"]] == [5, 5, 5]
        assert (path.parent / "00000.tar").is_symlink() == ("://" not in files)
    assert len(digests) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(tmp_path.glob("here/*")) == sorted(path for path in before if path.parent.name == "here")


def test_other_shards_than_configured_are_refused_and_gone_links_are_removed(tmp_path):
    write_shards(tmp_path / "here", 3, 2)
    with pytest.raises(LocalDataError, match="3 shards, the scale's file says 2"):
        index_local(local(tmp_path / "here", 2), tmp_path / "data")
    index_local(local(tmp_path / "here", 3), tmp_path / "data")
    (tmp_path / "here/00002.tar").unlink()
    index_local(local(tmp_path / "here", 2), tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data/train").glob("*.tar")) == ["00000.tar", "00001.tar"]


BAD_SHARDS = {
    "empty": ([], "an empty tar"),
    "no captions": ([{"jpg": picture(1)}] * 3, "no good sample among the first 3: 3 with no caption"),
    "no images": ([{"txt": b"words"}] * 3, "3 with no image"),
    "cut images": (
        [{"jpg": picture(1)[:300], "txt": b"words"}] * 3,
        "3 with an image that cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_a_shard_without_a_good_sample_is_refused(tmp_path, name):
    samples, said = BAD_SHARDS[name]
    write_shards(tmp_path / "here", 2, 2)
    write_tar(tmp_path / "here/00001.tar", samples)
    with pytest.raises(LocalDataError, match=said) as refused:
        index_local(local(tmp_path / "here", 2), tmp_path / "data")
    assert "00001.tar" in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "data/train/manifest.json").exists()


def test_a_cut_shard_is_refused(tmp_path):
    write_shards(tmp_path / "here", 2, 4)
    shard = tmp_path / "here/00001.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(LocalDataError, match=r"not a whole tar file.*write it again"):
        survey(shard, 20)


# ------------------------------------------------------------------------------------------------------ test sets


def _no_place_for_the_name(folder: Path) -> None:
    (folder / "zeroshot_classification_templates.txt").write_text("a picture\n", encoding="utf-8")


def _too_few_classes(folder: Path) -> None:
    (folder / "classnames.txt").write_text("red disc\nred box\n", encoding="utf-8")


def _a_cut_image(folder: Path) -> None:
    write_tar(folder / "test/0.tar", [{"jpg": picture(1)[:200], "cls": b"0"}])


def _captions_for_labels(folder: Path) -> None:
    write_tar(folder / "test/0.tar", [{"jpg": picture(1), "txt": b"words"}])


BAD_TESTS = {
    "no names": (lambda folder: (folder / "classnames.txt").unlink(), "classnames.txt: missing or empty"),
    "no shards": (lambda folder: (folder / "test/0.tar").unlink(), "no tars"),
    "a name": (
        lambda folder: (folder / "test/0.tar").rename(folder / "test/a.tar"),
        "called by their number",
    ),
    "no place": (_no_place_for_the_name, "has no {c}"),
    "classes": (_too_few_classes, "class 2, but classnames.txt has 2"),
    "image": (_a_cut_image, "an image that cannot be decoded"),
    "labels": (_captions_for_labels, "a label that is no number"),
    "type": (
        lambda folder: (folder / "dataset_type.txt").write_text("ranking"),
        "expected classification or retrieval",
    ),
    "retrieval": (lambda folder: (folder / "dataset_type.txt").write_text("retrieval"), "no caption"),
}


@pytest.mark.parametrize("name", BAD_TESTS)
def test_a_wrong_test_set_is_refused(tmp_path, name):
    spoil, said = BAD_TESTS[name]
    spoil(write_test_set(tmp_path / "birds"))
    with pytest.raises(LocalDataError, match=re.escape(said)) as refused:
        index_own_test_set(str(tmp_path / "birds"), tmp_path / "data/test/birds")
    assert "\n" not in str(refused.value)


def test_a_test_set_is_linked_and_nothing_is_written_beside_it(tmp_path):
    folder = write_test_set(tmp_path / "birds")
    before = sorted(folder.rglob("*"))
    path = index_own_test_set(str(folder), tmp_path / "data/test/birds")
    assert read_manifest(path.parent)["n"] == 24 and sorted(folder.rglob("*")) == before
    assert path.read_bytes() == index_own_test_set(str(folder), path.parent).read_bytes()


# ---------------------------------------------------------------------------------------------------- configuration


def test_other_data_inherits_nothing_of_where_the_old_data_is_from(tmp_path):
    home = clone(tmp_path / "home")
    scale = home / "config/scales/mine.yaml"
    scale.write_text("extends: paper\ndata: {name: my-photos}\n")
    with pytest.raises(ConfigError, match=r"data\.kind: missing; my-photos is other data than laion-400m"):
        load_scale("mine", home / "config")
    own = "{kind: local, name: my-photos, files: /nowhere, shards: 64, tests: {birds: /nowhere}}"
    scale.write_text(
        f"extends: paper\ndata: {own}\nevaluation: {{benchmarks: {{birds: birds}}}}\nexperiments: [table11]\n"
    )
    found = load_plan({"scale": "mine"}, home).scale
    assert (found.data.download, found.data.lanes, found.data.decode) == (None, 64, "scaled")
    assert found.sources == {} and found.negatives is None and list(found.evaluation.benchmarks) == ["birds"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"files": None}, "`files`"),
        ({"shards": None}, "`shards`"),
        ({"download": {"repository": "a/b"}}, "`download`"),
        ({"resident": True}, "`resident`"),
        ({"kind": "webdataset"}, "`files`"),
        ({"tests": {"Birds": "/x"}}, "tests"),
    ],
)
def test_what_does_not_belong_to_own_data_is_refused(values, said):
    known = {"kind": "local", "name": "mine", "files": "/x", "shards": 8}
    with pytest.raises(ValueError, match=said):
        Data.model_validate(known | values)


def test_the_text_tower_has_the_entries_of_the_own_vocabulary(tmp_path):
    home = clone(tmp_path / "home")
    write_shards(tmp_path / "here", 2, 2)
    assert init(home, tmp_path / "here", write_test_set(tmp_path / "birds")).returncode == 0
    stages = load_plan({"scale": "mine"}, home).stages.values()
    assert {stage.model_config["text_cfg"]["vocab_size"] for stage in stages} == {300}


# ------------------------------------------------------------------------------------------------------ clipa init


def test_init_writes_what_can_be_planned_and_tells_the_cost(tmp_path):
    home = clone(tmp_path / "home")
    write_shards(tmp_path / "here", 4, 6)
    write_tar(tmp_path / "here/00000.tar", [*good(5), {"jpg": picture(1)[:300], "txt": b"words"}])
    test = write_test_set(tmp_path / "birds")
    done = init(
        home, f"{tmp_path}/here/{{00000..00003}}.tar", test, "--text", "syntax8", "--image", "block49"
    )
    assert done.returncode == 0, done.stderr
    assert "4 shards" in done.stdout and "about 24 in all" in done.stdout
    assert "1 are bad: 1 with an image that cannot be decoded" in done.stdout
    for name in ("scales/mine.yaml", "scales/mine-smoke.yaml", "experiments/mine.yaml"):
        assert f"config/{name}" in done.stdout and len((home / "config" / name).read_text().splitlines()) < 40
    plan = load_plan({"scale": "mine-smoke", "seeds": [0]}, home)
    assert [run.slug for run in plan.runs("mine")] == ["B16-none-syntax32", "B16-block49-syntax8"]
    assert sum(stage.schedule.steps for stage in plan.job(plan.runs("mine")[1], 0).stages) == 50
    said = (home / "config/scales/mine.yaml").read_text().partition("\n")[0]
    words = shlex.split(said.removeprefix("# Written by: clipa "))
    assert run(home, *words, "--replace").returncode == 0  # the same again
    assert (home / "config/scales/mine.yaml").read_text().partition("\n")[0] == said
    again = init(home, tmp_path / "here", test)
    assert again.returncode == 1 and "--replace" in again.stderr
    assert init(home, tmp_path / "here", test, "--replace").returncode == 0


def test_init_for_gpus_extends_the_papers_scale(tmp_path):
    home = clone(tmp_path / "home")
    write_shards(tmp_path / "here", 4, 6)
    words = ("--gpus", "2", "--samples", "2560000", "--card", "H100-80", "--model", "L/16")
    done = init(home, tmp_path / "here", "imagenet1k", *words)
    assert done.returncode == 0, done.stderr
    plan = load_plan({"scale": "mine", "seeds": [0]}, home)
    assert (plan.scale.processes, plan.scale.resources.card, plan.scale.precision) == (2, "H100-80", "bf16")
    assert plan.scale.pretrain.batch_size == 1024 and plan.scale.pretrain.steps == 2500
    assert "GPU-hours" in done.stdout


WRONG = {
    "glob": ({"shards": "none-*.tar"}, "no file is called"),
    "empty": ({"samples": []}, "an empty tar"),
    "captions": ({"samples": [{"jpg": picture(1)}]}, "1 with no caption"),
    "images": (
        {"samples": [{"jpg": picture(1)[:300], "txt": b"w"}]},
        "1 with an image that cannot be decoded",
    ),
    "test": ({"test": "nowhere"}, "no such folder"),
    "model": ({"words": ["--model", "X/99"]}, "models: X/99"),
    "run": ({"words": ["--image", "shrink9"]}, "names no run"),
    "reduction": ({"words": ["--image", "none", "--text", "truncation32"]}, "nothing is reduced"),
    "vocabulary": ({"words": ["--vocabulary", "many"]}, "expected bert, or a number"),
    "samples": ({"words": ["--samples", "-5"]}, "--samples -5: expected 1 or more"),
    "batch": ({"words": ["--batch", "0"]}, "--batch 0: expected 1 or more"),
    "large batch": ({"words": ["--batch", "64"]}, "--batch 64: more than the 19 samples of pre-training"),
    "unquoted pattern": ({"words": ["--shards", "a.tar", "b.tar"]}, "2 values, where one is expected; put a"),
    "image size": (
        {"words": ["--image", "resize100"]},
        "no entry for 100 pixels (it has 64, 84, 96, 112, 160, 224, 336)",
    ),
    "patches": ({"words": ["--image", "random7"]}, "no entry for 7 of 196 patches (it has "),
    "name": ({"words": ["--name", "???"]}, "no letter or digit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_init_refuses_in_one_line_and_leaves_nothing(tmp_path, name, monkeypatch, capsys):
    wrong, said = WRONG[name]
    home = clone(tmp_path / "home")
    write_tar(tmp_path / "here/00000.tar", wrong.get("samples", good(3)))
    test = wrong.get("test") or write_test_set(tmp_path / "birds")
    before = sorted(home.rglob("*"))
    monkeypatch.chdir(home)
    shards = str(tmp_path / "here" / wrong.get("shards", "*.tar"))
    words = ["--name", "mine", *VOCABULARY, *wrong.get("words", ())]
    code, told = main(["init", "--shards", shards, "--test", str(test), *words]), capsys.readouterr().err
    assert code == 1 and told.count("\n") == 1 and told.startswith("clipa init: ") and said in told, told
    assert sorted(home.rglob("*")) == before


def test_init_without_a_terminal_names_what_is_missing(tmp_path):
    done = run(clone(tmp_path / "home"), "init")
    assert done.returncode == 1 and done.stderr.startswith("clipa init: --shards is missing")


# ------------------------------------------------------------------------------------------- from shards to a drop


def test_own_data_are_trained_on_evaluated_and_compared(tmp_path):
    """The smoke run's stages with few samples: index, vocabulary, both runs, and the drop with its figure."""
    home = clone(tmp_path / "home")
    write_shards(tmp_path / "here", 4, 24)
    assert (
        init(home, tmp_path / "here", write_test_set(tmp_path / "birds"), "--model", "S/16").returncode == 0
    )
    scale = home / "config/scales/mine-smoke.yaml"
    scale.write_text(
        re.sub(r"samples: \d+", "samples: 64", scale.read_text()).replace(
            "warmup_steps: 4", "warmup_steps: 1"
        )
    )
    asked = ("--scale", "mine-smoke")
    for words in (("index", "train"), ("index", "birds"), ("vocabulary",)):
        done = run(home, *words, *asked)
        assert done.returncode == 0, done.stderr
    for name in ("S16-none-truncation32", "S16-resize112-truncation16"):
        done = run(home, "evaluate", *asked, "--run", name, "--train")
        assert done.returncode == 0, done.stderr
    records = sorted(str(path) for path in home.glob("results/runs/mine-smoke/*/evaluation/*/records.json"))
    done = run(home, "drop", *records, "--output", "mine.pdf")
    assert done.returncode == 0, done.stderr
    assert re.search(r"S/16 +full length +[\d.]+ ± [\d.]+ +– +1 seed", done.stdout), done.stdout
    rows = re.findall(r"resize112, truncation16: (before|after) fine-tuning .*\[", done.stdout)
    assert rows == ["before", "after"] and "birds, acc1 (n = 24)" in done.stdout
    assert all((home / f"mine.{kind}").stat().st_size > 1000 for kind in ("pdf", "svg", "png"))
    alone = run(home, "drop", records[1])
    assert alone.returncode == 1 and "no records of S16-none-truncation32" in alone.stderr


def test_the_workflow_links_own_data_and_downloads_only_what_is_asked_for(tmp_path):
    home = clone(tmp_path / "home")
    for name in ("Snakefile", "workflow", "profiles", "src", "envs"):
        (home / name).symlink_to(ROOT / name)
    write_shards(tmp_path / "here", 2, 4)
    assert init(home, tmp_path / "here", write_test_set(tmp_path / "birds"), "--gpus", "1").returncode == 0
    rules = {
        "index_local",
        "index_own_test_set",
        "vocabulary",
        "train",
        "evaluate",
        "draw_own",
        "measure_mine",
    }
    command = [sys.executable, "-m", "snakemake", "-n", "measure_mine", "--config", "scale=mine", "seeds=[0]"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"(?m)^(\w+) +\d+$", done.stdout)) - {"total"} == rules
    scale = home / "config/scales/mine.yaml"
    scale.write_text(re.sub("vocabulary_size: .*", "vocabulary_size: null", scale.read_text()))
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    found = set(re.findall(r"(?m)^(\w+) +\d+$", done.stdout)) - {"total"}
    assert found == rules | {"download_vocabulary"}, done.stdout + done.stderr


def test_a_job_that_fails_says_why_where_the_workflow_was_started(tmp_path):
    """And not only in its log: the second shard, which `clipa init` does not read, has no captions."""
    home = clone(tmp_path / "home")
    for name in ("Snakefile", "workflow", "profiles", "src", "envs"):
        (home / name).symlink_to(ROOT / name)
    write_shards(tmp_path / "here", 2, 2)
    assert init(home, tmp_path / "here", write_test_set(tmp_path / "birds")).returncode == 0
    write_tar(tmp_path / "here/00001.tar", [{"jpg": picture(1)}] * 3)
    command = [sys.executable, "-m", "snakemake", "measure_mine", "--until", "index_local", "--cores", "1"]
    done = subprocess.run([*command, "--config", "scale=mine"], cwd=home, capture_output=True, text=True)
    said = f"{tmp_path}/here/00001.tar: no good sample among the first 3: 3 with no caption"
    assert done.returncode == 1 and f"clipa index: {said}" in done.stderr, done.stderr
