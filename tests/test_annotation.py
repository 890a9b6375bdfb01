"""Part-of-speech sidecars: aligned with the captions, complete, the same bytes again, and resumed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from clipa.data import annotation
from clipa.data.annotation import AnnotationError, annotate, words_of
from clipa.data.samples import captions_of, metadata_of, samples_of
from clipa.data.shards import ShardError
from written_shards import write_shards

SHARDS = 3


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shards(root / "train", SHARDS, 400)
    assert annotate(root, processes=1) == root / "train" / "annotation.json"
    return root


def copy_shards(root: Path, copy: Path) -> None:
    (copy / "train").mkdir()
    for path in (*(root / "train").glob("*.tar"), root / "train" / "manifest.json"):
        shutil.copy(path, copy / "train")


def sidecar(root: Path, index: int) -> list[dict]:
    text = (root / "train" / f"{index:05d}.pos.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_caption_has_one_tag_per_word_in_its_own_sidecar(annotated):
    for index in range(SHARDS):
        samples = list(samples_of(annotated / "train" / f"{index:05d}.tar"))
        lines = sidecar(annotated, index)
        assert [line["key"] for line in lines] == [sample.key for sample in samples]
        for line, sample in zip(lines, samples, strict=True):
            assert [entry["words"] for entry in line["captions"]] == [
                words_of(caption) for caption in captions_of(sample)
            ]
            assert all(len(entry["words"]) == len(entry["tags"]) for entry in line["captions"])


def test_the_tagger_agrees_with_the_gold_tags_of_captions_it_has_not_seen(annotated):
    right = total = 0
    for line, sample in zip(
        sidecar(annotated, SHARDS - 1), samples_of(annotated / "train/00002.tar"), strict=True
    ):
        for entry, gold in zip(line["captions"], metadata_of(sample)["pos"], strict=True):
            right += sum(tag == expected for tag, expected in zip(entry["tags"], gold, strict=True))
            total += len(gold)
    assert right / total > 0.98
    manifest = json.loads((annotated / "train" / "annotation.json").read_text())
    assert manifest["tagger"]["accuracy"] == pytest.approx(right / total, abs=1e-6)
    assert manifest["captions"] == SHARDS * 800 and manifest["words"] > 5 * manifest["captions"]
    for entry in manifest["sidecars"]:
        content = (annotated / "train" / entry["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]


def test_two_processes_give_the_same_bytes(annotated, tmp_path):
    copy_shards(annotated, tmp_path)
    annotate(tmp_path, processes=2)
    for name in ("annotation.json", *(f"{index:05d}.pos.jsonl" for index in range(SHARDS))):
        assert (tmp_path / "train" / name).read_bytes() == (annotated / "train" / name).read_bytes(), name


def test_an_interrupted_annotation_is_resumed_and_ends_the_same(annotated, tmp_path, monkeypatch):
    """Interrupted in the second shard: the first one is not tagged again, unless its sidecar is damaged."""
    copy_shards(annotated, tmp_path)
    about = json.loads((annotated / "train" / "annotation.json").read_text())["tagger"]

    def trained_before(data, out, shards):
        shutil.copytree(annotated / "tagger", out, dirs_exist_ok=True)
        return about

    monkeypatch.setattr(annotation, "train_tagger", trained_before)
    tagged = []
    original = annotation._annotate_shard

    def stop_at_second(name, train, shard, pipeline):
        tagged.append(shard["name"])
        if len(tagged) in (2, 3):
            raise KeyboardInterrupt
        return original(name, train, shard, pipeline)

    monkeypatch.setattr(annotation, "_annotate_shard", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, processes=1)
    assert not (tmp_path / "train" / "annotation.json").exists()
    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, processes=1)
    assert tagged == ["00000.tar", "00001.tar", "00001.tar"]
    (tmp_path / "train" / "00000.pos.jsonl").write_text("cut")
    annotate(tmp_path, processes=1)
    assert tagged[3:] == ["00000.tar", "00001.tar", "00002.tar"]
    assert not list((tmp_path / "train").glob("*.partial.json"))
    assert (tmp_path / "train/annotation.json").read_bytes() == (
        annotated / "train/annotation.json"
    ).read_bytes()


def test_words_are_those_of_berts_basic_tokenizer():
    assert words_of("Top-rated: anna's CAFÉ, 12px!") == [
        *("Top", "-", "rated", ":", "anna", "'", "s", "CAFÉ", ",", "12px", "!")
    ]
    assert words_of("") == []


def test_refusals_say_what_to_do(annotated, tmp_path):
    with pytest.raises(ShardError, match=r"manifest\.json is missing: draw or download the data first"):
        annotate(tmp_path, processes=1)
    with pytest.raises(AnnotationError, match="'en_no_such_pipeline' is not installed; install it"):
        annotate(annotated, processes=1, tagger="en_no_such_pipeline")
