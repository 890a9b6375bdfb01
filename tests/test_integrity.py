"""Bytes are checked when they are read: test sets, exported models; and nothing from elsewhere runs code or hangs."""

import gc
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipa.cli.verify import report
from clipa.config import Project
from clipa.data import shards
from clipa.data.download import index_training
from clipa.data.shards import Expected, ShardError, read_manifest
from clipa.data.stream import batches
from clipa.data.vocabulary import VocabularyError
from clipa.evaluate import evaluate_run
from clipa.evaluate.testsets import EvaluationError, open_test_set
from clipa.inputs import OtherInputs, expected_of
from clipa.locks import directory_lock
from clipa.published.formulas import evaluate
from clipa.published.quantities import FormulaError, Published
from clipa.records import RecordError, read_records, write_records
from clipa.resolved import UnfinishedStage, data_slug, finished, write
from clipa.stages import resolve, stages_of
from clipa.study import Run
from clipa.train import stream_spec, train_stage
from fabricated import measured_record
from small_training import resolved, tiny_stages
from small_world import draw_small_world, finish_untrained, small_scale

ROOT = Path(__file__).resolve().parent.parent
RUN = Run("S/16", "resize", 64)


def scale():
    return small_scale(training_images=256, images_per_shard=32)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A drawn test set and two untrained stages."""
    root = tmp_path_factory.mktemp("foreign")
    project = draw_small_world(scale(), root, ("plain",))
    for stage in stages_of(RUN, scale(), 0):
        finish_untrained(stage, project)
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "copy")
    return tmp_path / "copy"


def home_of(root: Path) -> Path:
    return root / "data" / data_slug(scale().data) / "test" / "plain"


def evaluated(root: Path) -> list[dict]:
    project = Project(data_directory=str(root / "data"), runs_directory=str(root / "runs"))
    path = evaluate_run(stages_of(RUN, scale(), 0), project)
    return json.loads(path.read_text(encoding="utf-8"))["records"]


def rewrite(root: Path, change) -> None:
    """Change the members of the first shard, and let the manifest name the new bytes."""
    home = home_of(root)
    shard, manifest = home / "test" / "0.tar", home / "manifest.json"
    with tarfile.open(shard) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(shard, "w") as archive:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content), encoding="utf-8")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("ending", ["pyd", "pickle", "npy", "pth", "ten"])
def test_a_member_that_unpickles_is_not_decoded(root, ending):
    before, mark = evaluated(root), root / "executed"
    shutil.rmtree(root / "runs" / "micro-v1" / RUN.slug / "evaluation")
    bomb = pickle.dumps(Touch(str(mark)))

    def with_bombs(members):
        return [pair for name, content in members for pair in add(name, content)]

    def add(name, content):
        stem, _, kind = name.partition(".")
        return [(name, content)] + ([(f"{stem}.{ending}", bomb)] if kind == "cls" else [])

    rewrite(root, with_bombs)
    after = evaluated(root)
    assert not mark.exists()
    assert [record["outcomes"] for record in after] == [record["outcomes"] for record in before]


def test_other_bytes_than_the_manifest_names_are_refused(root):
    shard = home_of(root) / "test" / "0.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"0\.tar: sha256 is \w{16}, its manifest names"):
        evaluated(root)


def test_relabelled_items_are_refused(root):
    manifest = home_of(root) / "manifest.json"
    before = manifest.read_bytes()
    rewrite(root, lambda members: [(n, b"0" if n.endswith("cls") else c) for n, c in members])
    manifest.write_bytes(before)
    with pytest.raises(EvaluationError, match="its manifest names"):
        evaluated(root)


def test_reversed_class_names_are_refused(root):
    names = home_of(root) / "classnames.txt"
    names.write_text(
        "\n".join(reversed(names.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8"
    )
    with pytest.raises(EvaluationError, match=r"classnames\.txt: not what the manifest was written for"):
        open_test_set(home_of(root))


def test_a_sample_that_cannot_be_decoded_is_named(root):
    rewrite(root, lambda members: [(n, b"x" if n == members[0][0] else c) for n, c in members])
    with pytest.raises(EvaluationError, match=r"0\.tar: sample '.+' cannot be read"):
        evaluated(root)


@pytest.mark.parametrize("formula", ["9**9**9", "2**-100000000", "(1/3)**99999999", "10**400*10**400"])
def test_a_formula_ends(formula):
    began = time.monotonic()
    try:
        evaluate(formula, Published([]))
    except FormulaError as error:
        assert "exponent" in str(error)
    assert time.monotonic() - began < 1


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    target = tmp_path / "precious"
    target.write_text("content", encoding="utf-8")
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / ".lock").symlink_to(target)
    with pytest.raises(OSError, match=r"\.lock"), directory_lock(tmp_path / "stage", "a test"):
        pass
    assert target.read_text(encoding="utf-8") == "content"


# ------------------------------------------------------------------------------------------------- exported models


def exported(root: Path, stage: int) -> Path:
    return root / "runs" / stages_of(RUN, scale(), 0)[stage].directory / "open_clip"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "tokenizer.json", "open_clip_config.json"])
def test_a_model_of_other_bytes_is_not_evaluated(root, name):
    flip(exported(root, 1) / name)
    with pytest.raises(
        UnfinishedStage, match=rf"{re.escape(name)}: sha256 is \w{{16}}, stage.json names \w{{16}};"
    ):
        evaluated(root)


def test_weights_beside_the_exported_ones_are_refused(root):
    """open_clip takes what it finds: a pickle where safetensors are gone."""
    weights = exported(root, 1) / "open_clip_model.safetensors"
    weights.rename(weights.with_name("open_clip_pytorch_model.bin"))
    with pytest.raises(UnfinishedStage, match=r"open_clip_model\.safetensors: sha256 is none"):
        evaluated(root)


def test_a_parent_of_other_bytes_is_not_trained_on(root):
    stage = stages_of(RUN, scale(), 0)[1]
    (root / "runs" / stage.directory / "stage.json").unlink()
    flip(exported(root, 0) / "open_clip_model.safetensors")
    project = Project(data_directory=str(root / "data"), runs_directory=str(root / "runs"))
    with pytest.raises(UnfinishedStage, match=r"open_clip_model\.safetensors: sha256 is"):
        train_stage(resolve(stage, project))


# ---------------------------------------------------------------------------------------------------- training data


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory) -> Path:
    """The data of twelve small steps."""
    root = tmp_path_factory.mktemp("tiny")
    draw_small_world(tiny_stages()[0].scale, root, ())
    return root


@pytest.fixture
def tiny(tiny_world: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_world, tmp_path / "copy")
    return tmp_path / "copy"


def data_of(root: Path) -> Path:
    return next((root / "data").iterdir())


def test_a_shard_of_other_bytes_is_not_trained_on(tiny):
    for shard in (data_of(tiny) / "train").glob("*.tar"):
        flip(shard)
    with pytest.raises(
        ShardError, match=r"\.tar: sha256 is \w{16}, its manifest names \w{16}; draw or download"
    ):
        train_stage(resolved(tiny_stages()[0], tiny))


def test_a_tokenizer_of_other_bytes_is_not_trained_with(tiny):
    flip(data_of(tiny) / "vocabulary" / "tokenizer.json")
    with pytest.raises(VocabularyError, match=r"tokenizer\.json: sha256 is \w{16}, its manifest names"):
        train_stage(resolved(tiny_stages()[0], tiny))


def test_a_stage_is_not_resumed_on_other_data(tiny):
    """Nor entered again when it is finished: its stage.json would name data that the model never saw."""
    stage = resolved(tiny_stages()[0], tiny)
    made = train_stage(stage).read_bytes()
    manifest = data_of(tiny) / "train" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["shards"].reverse()
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        OtherInputs, match=r"was trained on training data \w{12}, .*manifest\.json is \w{12};"
    ):
        train_stage(stage)
    assert (stage.directory / "stage.json").read_bytes() == made


# -------------------------------------------------------------------------------------------------- integrity modes


def damage(path: Path) -> None:
    """One bit, behind the back of whoever trusts inode, size and time."""
    state = path.stat()
    with open(path, "r+b") as file:
        file.seek(state.st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_once_trusts_inode_size_and_time_and_always_does_not(tiny):
    path = next((data_of(tiny) / "train").glob("*.tar"))
    sha256 = shards.file_sha256(path)
    for again in (False, True):
        Expected(sha256, again=again).check(path)
    damage(path)
    Expected(sha256).check(path)
    with pytest.raises(ShardError, match="sha256 is"):
        Expected(sha256, again=True).check(path)


def test_by_size_only_a_sample_of_the_shards_is_hashed(tiny):
    train = data_of(tiny) / "train"
    index_training(train)
    stage = resolved(tiny_stages()[0], tiny).model_copy(update={"integrity": "manifest"})
    hashed = []
    for seed in range(60):
        content = stage.content.model_copy(update={"seed": seed})
        expected = expected_of(
            stage.model_copy(update={"content": content}), read_manifest(train), tags=False
        )
        hashed += [number for number, one in enumerate(expected) if one.size is None]
    assert 0 < len(hashed) < 60 * len(expected) / 20  # about one in 64, other ones for other seeds
    by_size = next(one for one in expected if one.size is not None)
    path = next(path for path in train.glob("*.tar") if shards.file_sha256(path) == by_size.sha256)
    damage(path)
    by_size.check(path)  # the price of this mode
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ShardError, match=rf"{path.name}: \d+ bytes, its manifest names {by_size.size}"):
        by_size.check(path)


def test_a_manifest_without_sizes_is_hashed(tiny):
    stage = resolved(tiny_stages()[0], tiny).model_copy(update={"integrity": "manifest"})
    manifest = read_manifest(stage.training_data)
    assert all(one.size is None for one in expected_of(stage, manifest, tags=False))


def test_each_process_hashes_the_shards_of_its_own_lanes(tiny, monkeypatch):
    spec = stream_spec(resolved(tiny_stages()[0], tiny))[0]
    opened = {}
    for rank in (0, 1):
        monkeypatch.setattr(shards, "_CHECKED", seen := set())
        for _ in batches(spec, 0, 12, rank, 2):  # three quarters of an epoch
            pass
        opened[rank] = {path.name for path, *_ in seen if path.suffix == ".tar"}
    assert opened[0] and opened[1] and not opened[0] & opened[1]


def test_a_loaders_worker_says_it_in_one_line_too(tiny):
    for path in (data_of(tiny) / "train").glob("*.tar"):
        damage(path)
    stage = resolved(tiny_stages(workers=2)[0], tiny, "workers")
    command = [sys.executable, "-m", "clipa", "train", str(write(stage))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "sha256 is" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_workers_end_with_the_error_and_not_at_some_later_collection(tiny):
    """Otherwise a program that ends with this error waits two minutes for workers, which then die of an alarm."""
    damage(next(iter(sorted((data_of(tiny) / "train").glob("*.tar")))))
    spec = stream_spec(resolved(tiny_stages()[0], tiny))[0]
    gc.collect()
    gc.disable()
    try:
        try:
            for _ in batches(spec, 0, 50, workers=2):
                pass
            raise AssertionError("the damage was not found")
        except ShardError as error:
            assert "sha256 is" in str(error)
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------------------------- verify


def verified(*paths: Path) -> tuple[str, int]:
    return report(list(paths))


def test_the_recorded_results_fit():
    text, code = verified(ROOT / "results" / "recorded")
    assert code == 0, text
    files = list((ROOT / "results" / "recorded").rglob("*.json"))
    counts = {path: len(json.loads(path.read_text(encoding="utf-8"))["records"]) for path in files}
    assert re.search(rf"(?m)^record +{sum(counts.values())} +0$", text)
    assert sum(count for path, count in counts.items() if "micro-v1" in path.parts) == 454


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": 99.0}, "field value is 99.0, its outcomes give"),
        ({"seed": 1}, "id should be"),
        ({"stage_fingerprint": "896b14b8b95d"}, "trained as 896b14b8b95d"),
        (
            {"dataset": {"name": "ImageNet-1k"}},
            "data set is ImageNet-1k; at scale micro-v1, imagenet1k is measured on",
        ),
        ({"provenance": {"commit": "0" * 40}}, "commit 000000000000 is not in this repository"),
    ],
)
def test_a_tampered_record_does_not_fit(tmp_path, change, says):
    name = "results/recorded/micro-v1/S16-resize64-truncation32"
    [source] = (ROOT / name).glob("seed0-*.json")
    content = json.loads(source.read_text(encoding="utf-8"))
    for key, value in change.items():
        record = content["records"][-1]
        record[key] = record[key] | value if isinstance(value, dict) else value
    copy = tmp_path / name / source.name
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps(content), encoding="utf-8")
    said, code = verified(tmp_path)
    assert code == 1 and says in said and str(copy) in said


def test_a_copy_is_checked_wherever_it_is(tmp_path):
    """Also below a folder of another name, and a file of another name; what holds nothing to check is no success."""
    name = "S16-resize64-truncation32"
    shutil.copytree(ROOT / "results" / "recorded" / "micro-v1" / name, tmp_path / "copy" / "micro-v1" / name)
    text, code = report([tmp_path / "copy"])
    assert code == 0 and re.search(r"(?m)^record +[1-9]\d* +0$", text), text
    file = next((tmp_path / "copy").rglob("seed0-*.json"))
    values = json.loads(file.read_text("utf-8"))
    values["records"][0]["value"] += 1
    for place in (file, tmp_path / "mine.json"):
        place.write_text(json.dumps(values), "utf-8")
        text, code = report([place])
        assert code == 1 and str(place) in text, text
    file.write_text("garbage", "utf-8")
    assert report([file.parent])[1] == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "other.json").write_text("{}", "utf-8")
    assert report([tmp_path / "empty"]) == (
        f"{tmp_path / 'empty'}: nothing to check: no stages, measured records or data",
        1,
    )


def test_stages_and_data_on_disk_are_walked(tiny):
    train_stage(stage := write_resolved(tiny))
    text, code = verified(tiny)
    assert code == 0 and re.search(r"(?m)^stage +1 +0$", text), text
    flip(stage.directory / "open_clip" / "open_clip_model.safetensors")
    flip(next((data_of(tiny) / "train").glob("*.tar")))
    text, code = verified(tiny)
    assert code == 1 and "open_clip_model.safetensors: sha256 is" in text and ".tar: sha256 is" in text


def write_resolved(root: Path):
    stage = resolved(tiny_stages()[0], root)
    write(stage)
    return stage


# ------------------------------------------------------------------------------- documents that name their own digest


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A records file, as an evaluation writes it."""
    path = tmp_path_factory.mktemp("records") / "records.json"
    right = numpy.random.default_rng(0).random(64) < 0.5
    write_records(path, [measured_record("S/16", "resize64", "pretrain", 0, right)])
    return path


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_no_flipped_bit_of_a_records_file_is_taken_for_other_records(measured, tmp_path, place, bit):
    records, content = read_records(measured), bytearray(measured.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    copy = tmp_path / "records.json"
    copy.write_bytes(content)
    try:
        assert read_records(copy) == records  # white space
    except RecordError as error:
        assert str(error).startswith(f"{copy}: ") and "\n" not in str(error)


@pytest.mark.parametrize("name", ["vocabulary", "data_fingerprint", "seconds"])
def test_another_name_in_stage_json_is_noticed(root, name):
    path = sorted(root.rglob("stage.json"))[0]
    path.write_text(
        path.read_text(encoding="utf-8").replace(f'"{name}"', f'"{name[:-1]}x"'), encoding="utf-8"
    )
    with pytest.raises(UnfinishedStage, match=r"stage\.json: "):
        finished(path.parent, path.parent.name.rpartition("-")[2])


@pytest.mark.parametrize("name", ["manifest.json", "vocabulary.json"])
def test_json_that_is_too_deep_is_a_finding_of_verify(tmp_path, name):
    (tmp_path / name).write_bytes(b"[" * 20_000)
    text, code = report([tmp_path])
    assert code == 1 and "nested too deeply" in text
