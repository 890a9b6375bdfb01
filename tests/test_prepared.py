"""The prepared copy of a training set: same samples, same order, same tokens bit for bit; small images, by digest."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from clipa.cli import main
from clipa.config import Augmentation, Project, Scale, load_scale
from clipa.data import prepared
from clipa.data.annotation import WORLD, annotate, load_entry_parts
from clipa.data.drawing import draw_train
from clipa.data.prepared import prepare
from clipa.data.samples import BadSample, Reason, captions_of, decoded, samples_of
from clipa.data.shards import ShardError, read_manifest
from clipa.data.stream import Lane, StreamSpec, batches
from clipa.data.vocabulary import cut, encode, encode_reduced, load_tokenizer, train_vocabulary, word_pieces
from clipa.files import digest, read_json
from clipa.plan import load_plan
from clipa.resolved import data_slug, read, write
from clipa.sources import Prepared
from clipa.stages import Stage, resolve, stages_of
from clipa.study import TEXT_REDUCTIONS, parse_run
from clipa.train import stream_spec, train_stage
from small_training import tiny_scale
from written_shards import write_manifest, write_shards

ROOT = Path(__file__).parents[1]
ASKED = Prepared(short_side=16, quality=90)
LANES, BATCH, BAD = 2, 8, 3
WORDS = st.sampled_from(
    [
        "red",
        "umbrella",
        "Umbrella",
        "[CLS]",
        "[PAD]",
        "##ing",
        "é",
        "日本",
        "zzqj",
        "a-b",
        "",
        "\u200b",
        "12px",
    ]
)
CAPTIONS = st.lists(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=20), min_size=1, max_size=6)


# ------------------------------------------------------------------------------------------------------------ tokens


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words")
    write_shards(root / "train", 2, 40)
    train_vocabulary(root, 150)
    annotate(root, 1, WORLD)
    return root / "vocabulary"


@given(captions=CAPTIONS, length=st.integers(2, 9), seed=st.integers(0, 99))
def test_cut_captions_give_the_tokens_of_the_captions(
    vocabulary: Path, captions: list[str], length: int, seed: int
) -> None:
    tokenizer, entries = load_tokenizer(vocabulary), load_entry_parts(vocabulary)
    stored = json.loads(json.dumps([list(one) for one in cut(tokenizer, captions)]))
    pieces = [prepared.Pieces(*one) for one in stored]
    tags = [["NOUN", "ADJ", "X"] * 40 for _ in captions]
    assert np.array_equal(encode(tokenizer, captions, length), encode(tokenizer, pieces, length))
    for reduction, recipe in product(TEXT_REDUCTIONS, ("paper", "released")):

        def noise(count: int) -> np.ndarray:
            return np.random.default_rng(seed).random((len(captions), count))

        asked = (length, reduction, tags, noise, recipe, entries)
        assert np.array_equal(
            encode_reduced(tokenizer, captions, *asked), encode_reduced(tokenizer, pieces, *asked)
        )
    whole, again = word_pieces(tokenizer, captions), word_pieces(tokenizer, pieces)
    assert all(np.array_equal(one, other) for one, other in zip(whole, again, strict=True))


@given(captions=CAPTIONS, length=st.integers(1, 9))
def test_tokens_are_the_tokenizers_own(vocabulary: Path, captions: list[str], length: int) -> None:
    """Its plain call, caption by caption."""
    tokenizer = load_tokenizer(vocabulary)
    ids = [tokenizer.encode(caption).ids[:length] for caption in captions]
    assert encode(tokenizer, captions, length).tolist() == [row + [0] * (length - len(row)) for row in ids]


# --------------------------------------------------------------------------------------------------------- the copy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn shards as if they were downloaded, three images of them damaged; parts of speech; the copy."""
    root = tmp_path_factory.mktemp("prepared")
    data = root / "data" / data_slug(web_scale().data)
    draw_train(tiny_scale().data.world, data)
    first = data / "train" / "00000.tar"
    content, places = bytearray(first.read_bytes()), [one.places["jpg"] for one in samples_of(first)]
    for place, size in places[1 : 1 + BAD]:
        content[place : place + size] = bytes(size)
    first.write_bytes(content)
    write_manifest(
        data / "train", {one["name"]: one["samples"] for one in read_manifest(data / "train")["shards"]}
    )
    train_vocabulary(data, 700)
    annotate(data, 1, WORLD)
    prepare(data, ASKED, data / "vocabulary")
    return root


def web_scale(**changes: object) -> Scale:
    values = tiny_scale().model_dump()
    values["data"] |= {"kind": "webdataset", "name": "web", "shards": 8, "world": None, "prepared": ASKED}
    values["data"] |= changes
    return Scale.model_validate(values)


def data_of(world: Path) -> Path:
    return world / "data" / data_slug(web_scale().data)


def spec_of(world: Path, folder: str, **changes: object) -> StreamSpec:
    directory = data_of(world) / folder
    shards = tuple((one["name"], one["samples"]) for one in read_manifest(directory)["shards"])
    order = (shards, 3, "pretrain", LANES, 16, BATCH, 12, 6)
    whole = Augmentation(
        crop_area=(1, 1), crop_ratio=(1, 1)
    )  # crops begin at whole pixels, here of other images
    spec = StreamSpec(directory, *order, whole, data_of(world) / "vocabulary")
    if folder != "train":
        changes = {"prepared": True, "sidecars": data_of(world) / "train", **changes}
    return replace(spec, **changes)


def test_a_prepared_set_has_the_same_samples_in_the_same_order(world: Path) -> None:
    train, out = data_of(world) / "train", data_of(world) / ASKED.folder
    names = [one["name"] for one in read_manifest(train)["shards"]]
    assert [one["name"] for one in read_manifest(out)["shards"]] == names
    bad = 0
    for name in names:
        for before, after in zip(samples_of(train / name), samples_of(out / name), strict=True):
            assert before.key == after.key
            if "jpg" not in after.members:
                assert after.members == {"json": b"{}"}
                bad += 1
                continue
            assert captions_of(before) == captions_of(after)
            image = Image.open(io.BytesIO(after.members["jpg"]))
            assert image.size == (16, 16) and image.format == "JPEG"
    assert bad == BAD


@pytest.mark.parametrize(
    ("reduction", "recipe"),
    [*product(("truncation", "random", "block", "syntax"), ("paper",)), ("syntax", "released")],
)
def test_training_reads_the_same_tokens_and_nearly_the_same_pixels(
    world: Path, reduction: str, recipe: str
) -> None:
    asked = {"text_reduction": reduction, "text_recipe": recipe}
    steps = 32  # all of them once
    whole, small = (
        list(batches(spec_of(world, folder, **asked), 0, steps)) for folder in ("train", ASKED.folder)
    )
    for (images, tokens, replaced), (others, other_tokens, other_replaced) in zip(whole, small, strict=True):
        assert np.array_equal(tokens, other_tokens)
        assert replaced.sum() == other_replaced.sum()
        assert np.abs(images.astype(int) - others).mean() < 5
    assert sum(one[2].sum() for one in whole) == BAD


def test_it_is_read_alike_by_any_number_of_workers_and_after_a_resume(world: Path) -> None:
    spec = spec_of(world, ASKED.folder)
    alone = list(batches(spec, 0, 6))
    for made in (list(batches(spec, 0, 6, workers=2)), [*alone[:2], *batches(spec, 2, 6)]):
        for one, other in zip(alone, made, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_captions_come_cut(world: Path) -> None:
    samples = [sample for sample, _ in zip(Lane(spec_of(world, ASKED.folder), 0, 0), range(20), strict=False)]
    assert all(isinstance(sample.caption, prepared.Pieces) for sample in samples)


def test_the_manifest_names_what_it_was_made_from(world: Path) -> None:
    manifest = read_manifest(data_of(world) / ASKED.folder)
    made = manifest["made_from"]
    assert made["train"] == digest(read_manifest(data_of(world) / "train"))
    assert (made["short_side"], made["quality"]) == (16, 90)
    tokenizer = read_json(data_of(world) / "vocabulary" / "vocabulary.json")["sha256"]["tokenizer.json"]
    assert made["vocabulary"] == tokenizer
    assert manifest["shards"][0]["bad_samples"] == {Reason.IMAGE: BAD}


@pytest.mark.parametrize(
    ("size", "kind", "kept"),
    [
        ((300, 200), "JPEG", (24, 16)),
        ((160, 400), "PNG", (16, 40)),
        ((16, 90), "PNG", None),
        ((9, 9), "WEBP", None),
    ],
)
def test_images_keep_their_shape_and_are_never_enlarged(
    size: tuple[int, int], kind: str, kept: tuple[int, int] | None
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "orange").save(buffer, kind)
    made = prepared.reduced(buffer.getvalue(), ASKED)
    raw = prepared.reduced(buffer.getvalue(), Prepared(short_side=16, quality="raw"))
    if kept is None:
        assert made is raw is None
    else:
        image = Image.open(io.BytesIO(made[1]))
        assert (made[0], image.format, image.size) == ("jpg", "JPEG", kept)
        assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3  # chroma at full size
        whole = decoded(buffer.getvalue()).resize(kept, Image.Resampling.LANCZOS)
        assert raw[0] == "ppm" and decoded(raw[1]).tobytes() == whole.tobytes()


def test_a_raw_copy_is_read_as_the_images_that_it_was_made_of(world: Path, tmp_path: Path) -> None:
    copy, asked = tmp_path / "data", Prepared(short_side=32, quality="raw")
    shutil.copytree(data_of(world), copy, ignore=shutil.ignore_patterns("prepared-*"))
    assert prepare(copy, asked, copy / "vocabulary").parent.name == "prepared-32-raw"
    spec = replace(spec_of(world, ASKED.folder), directory=copy / "prepared-32-raw", image_size=32)
    shards = tuple((one["name"], one["samples"]) for one in read_manifest(spec.directory)["shards"])
    small = {
        decoded(sample.image()).resize((32, 32), Image.Resampling.LANCZOS).tobytes()
        for name, _ in shards
        for sample in samples_of(copy / "train" / name)
        if any(sample.members["jpg"])
    }
    images = next(iter(batches(replace(spec, shards=shards), 0, 1)))[0]
    assert all(image.transpose(1, 2, 0).tobytes() in small for image in images)


@pytest.mark.parametrize(
    "content",
    [
        b"P6\n2 2\n255\n" + bytes(11),
        b"P6\n2 2\n255\n" + bytes(13),
        b"P6\n2 2\n65535\n" + bytes(24),
        b"P3\n1 1\n255\n1 1 1",
        b"P6\n99999 99999\n255\n123",
    ],
)
def test_other_ppms_are_bad_images(content: bytes) -> None:
    with pytest.raises(BadSample) as error:
        decoded(content)
    assert error.value.reason == Reason.IMAGE


# ---------------------------------------------------------------------------------------------------------- restarts


def test_an_interrupted_call_is_resumed_and_ends_with_the_same_bytes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data_of(world), copy, ignore=shutil.ignore_patterns("prepared-*"))
    with monkeypatch.context() as patched:
        make, calls = prepared._shard_of, []

        def interrupted(*job: object) -> object:
            calls.append(job)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return make(*job)

        patched.setattr(prepared, "_shard_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(copy, ASKED, copy / "vocabulary")
    out = copy / ASKED.folder
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(before) == 3 and not (out / "manifest.json").exists()
    prepare(copy, ASKED, copy / "vocabulary", processes=2)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    whole = data_of(world) / ASKED.folder
    names = [path.name for path in sorted(whole.iterdir()) if not path.name.startswith(".")]
    assert [path.name for path in sorted(out.iterdir()) if not path.name.startswith(".")] == names
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_other_shards_or_another_vocabulary_make_it_again(world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data_of(world), copy)
    manifest = copy / ASKED.folder / "manifest.json"
    before = manifest.read_bytes()
    assert prepare(copy, ASKED, copy / "vocabulary") == manifest and manifest.read_bytes() == before
    train_vocabulary(copy, 600)
    prepare(copy, ASKED, copy / "vocabulary")
    assert manifest.read_bytes() != before


# ------------------------------------------------------------------------------------------------------------ stages


def stages(run: str = "S16-resize64-truncation32", **changes: object) -> list[Stage]:
    return stages_of(parse_run(run), web_scale(**changes), 0)


def test_stages_whose_crops_are_large_enough_read_it_and_say_so() -> None:
    pretrained, finetuned = stages()
    assert (pretrained.training_set, finetuned.training_set) == (ASKED.folder, "train")
    plain = stages(prepared=None)
    assert pretrained.content == {**plain[0].content, "prepared": {"short_side": 16, "quality": 90}}
    assert "prepared" not in finetuned.content
    assert pretrained.fingerprint != plain[0].fingerprint
    # 16 pixels, crops of 80 %: 14.3; the run's 112 pixels are 24 at this scale.
    assert stages("S16-resize112-truncation32")[0].training_set == "train"


def test_at_the_papers_scale_112_pixels_serve_targets_of_64() -> None:
    scale = load_scale("paper", ROOT / "config")
    data = scale.data.model_copy(update={"prepared": Prepared(short_side=112, quality=90)})
    scale = scale.model_copy(update={"data": data})
    sets = {
        run: stages_of(parse_run(run), scale, 0)[0].training_set
        for run in ("S16-resize64-truncation32", "S16-resize96-truncation32", "S16-random49-truncation32")
    }
    assert list(sets.values()) == ["prepared-112-q90", "train", "train"]


def test_a_run_trains_on_it_and_fine_tunes_on_the_whole_images(world: Path) -> None:
    named = digest(read_manifest(data_of(world) / "train"))
    project = Project(data_directory=str(world / "data"), runs_directory=str(world / "runs"))
    pretrained, finetuned = (resolve(stage, project) for stage in stages(manifest=named))
    for stage in (pretrained, finetuned):
        again = read(write(stage))
        assert again == stage
        train_stage(again)
    made = read_json(pretrained.directory / "stage.json")
    assert made["inputs"]["train"] == named
    assert made["inputs"]["data"] == digest(read_manifest(data_of(world) / ASKED.folder))
    assert read_json(finetuned.directory / "stage.json")["inputs"]["data"] == named


def test_syntax_masking_reads_the_parts_of_speech_beside_the_whole_images(world: Path) -> None:
    project = Project(data_directory=str(world / "data"), runs_directory=str(world / "runs"))
    stage = resolve(stages("S16-resize64-syntax8")[0], project)
    spec, inputs = stream_spec(stage)
    assert "parts_of_speech" in inputs and spec.sidecars == data_of(world) / "train"
    assert next(iter(batches(spec, 0, 1)))[1].shape == (16, 8)


def test_another_vocabulary_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    train_vocabulary(data_of(tmp_path), 600)
    project = Project(data_directory=str(tmp_path / "data"), runs_directory=str(tmp_path / "runs"))
    with pytest.raises(
        ShardError, match=r"prepared-16-q90: its captions were cut with vocabulary .*prepare it again"
    ):
        stream_spec(resolve(stages()[0], project))


# --------------------------------------------------------------------------------------------- command and workflow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the configuration whose paper scale asks for a prepared set of LAION-400M."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    file = tmp_path / "config" / "scales" / "paper.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values["data"]["prepared"] = {"short_side": 112, "quality": 90}
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return tmp_path


def test_the_command_makes_it_and_shows_its_progress(tree: Path) -> None:
    data = tree / "results" / "data" / data_slug(load_scale("paper", tree / "config").data)
    write_shards(data / "train", 2, 5)
    train_vocabulary(data, 90)
    command = [sys.executable, "-m", "clipa", "prepare", "--scale", "paper", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    manifest = Path(done.stdout.strip())
    assert manifest == (data / "prepared-112-q90" / "manifest.json").relative_to(tree)
    assert "prepared images" in done.stderr and "10/10" in done.stderr.replace(".0", "")
    # Those shards' images are none.
    assert f"10 bad samples: 10 with {Reason.IMAGE}" in done.stderr


def test_what_is_missing_is_said_in_one_line(tree: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tree)
    said = {}
    for name, arguments in (
        ("asked", ["--source", "LAION-2B"]),
        ("shards", []),
    ):
        assert main(["prepare", "--scale", "paper", *arguments]) == 1
        said[name] = capsys.readouterr().err
    assert "config/scales/paper.yaml: sources.LAION-2B.prepared: missing" in said["asked"]
    assert "manifest.json is missing: draw or download the data first" in said["shards"]
    assert all(line.count("\n") == 1 for line in said.values())


def test_the_plan_prepares_for_the_stages_that_read_it(tree: Path) -> None:
    for name in ("Snakefile", "workflow", "envs", "src", "profiles", "slurm", "results/published"):
        source, target = ROOT / name, tree / name
        target.parent.mkdir(exist_ok=True, parents=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    command = [sys.executable, "-m", "snakemake", "measure_table11", "--config", "scale=paper", "-n"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"(?m)^prepare +(\d+)$", done.stdout)) == {"1"}
    assert "prepared-112-q90/manifest.json" in done.stdout
    plan = load_plan({"scale": "paper", "experiments": ["table11"]}, tree)
    assert {stage.training_set for stage in plan.stages.values()} >= {"prepared-112-q90", "train"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"prepared": {"short_side": 8, "quality": 90}}, "short_side"),
        ({"prepared": {"short_side": 112, "quality": 101}}, "quality"),
        ({"prepared": {"short_side": True, "quality": 90}}, "a number is expected"),
        ({"prepared": {"short_side": 112, "quality": "best"}}, "quality"),
        ({"prepared": {"short_side": 112}}, "quality"),
        ({"prepared": {"short_side": 112, "quality": 90, "format": "PNG"}}, "format"),
    ],
)
def test_wrong_settings_are_refused(edit: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        web_scale(**edit)


def test_a_drawn_world_has_no_prepared_copy() -> None:
    values = tiny_scale().model_dump()
    values["data"]["prepared"] = ASKED
    with pytest.raises(ValidationError, match="a world is drawn as small as needed"):
        Scale.model_validate(values)
