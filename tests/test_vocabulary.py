"""Vocabularies: determinism, BERT's layout without [SEP], and agreement with open_clip's tokenizer."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from clipa.data.samples import BadSample, captions_of, samples_of
from clipa.data.shards import ShardError, tar_bytes
from clipa.data.vocabulary import (
    VocabularyError,
    adopt_bert_vocabulary,
    encode,
    load_tokenizer,
    train_vocabulary,
)
from written_shards import write_shards

SIZE = 160
SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shards(root / "train", 2, 150)
    train_vocabulary(root, SIZE)
    return root


def test_special_tokens_size_and_manifest(data):
    tokenizer = load_tokenizer(data / "vocabulary")
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]")] == [0, 1, 2]
    assert sorted(vocabulary.values()) == list(range(SIZE))
    assert "[SEP]" not in vocabulary
    manifest = json.loads((data / "vocabulary" / "vocabulary.json").read_text())
    assert manifest["size"] == SIZE
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((data / "vocabulary" / name).read_bytes()).hexdigest() == digest
    assert manifest["statistics"]["captions"] == 600
    assert manifest["statistics"]["unknown_share"] == 0
    assert manifest["statistics"]["pieces_median"] >= 7


def test_training_gives_the_same_bytes_in_another_process(data, tmp_path):
    """The library's own WordPiece trainer does not: its hash maps are seeded per process."""
    (tmp_path / "train").symlink_to(data / "train")
    command = "import sys, pathlib; from clipa.data.vocabulary import train_vocabulary as train; "
    command += f"train(pathlib.Path(sys.argv[1]), {SIZE})"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", command, str(tmp_path)], check=True, env=environment)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocabulary.json"):
        assert (tmp_path / "vocabulary" / name).read_bytes() == (data / "vocabulary" / name).read_bytes()


def test_encode_puts_class_first_then_pieces_then_zeros(data):
    tokenizer = load_tokenizer(data / "vocabulary")
    ids = encode(tokenizer, ["a red anchor", "", "A RED ANCHOR on a plain background of the umbrella"], 8)
    assert ids.dtype == numpy.int64 and ids.shape == (3, 8)
    assert (ids[:, 0] == 2).all()
    assert (ids[1, 1:] == 0).all()
    pieces = tokenizer.encode("a red anchor", add_special_tokens=False).ids
    assert ids[0].tolist() == [2, *pieces, *[0] * (7 - len(pieces))]
    assert (ids[2, 1:] > 2).all() and ids[2, 1 : 1 + len(pieces)].tolist() == pieces
    assert encode(tokenizer, ["a red anchor"], 2).tolist() == [[2, pieces[0]]]


def test_pieces_are_learnt_from_the_captions(data):
    tokenizer = load_tokenizer(data / "vocabulary")
    assert tokenizer.encode("umbrella", add_special_tokens=False).tokens == ["umbrella"]
    unseen = tokenizer.encode("zzqj", add_special_tokens=False).tokens
    assert unseen[0] == "z" and all(piece.startswith("##") for piece in unseen[1:])
    assert tokenizer.encode("☂", add_special_tokens=False).tokens == ["[UNK]"]


def test_open_clip_tokenizer_of_the_same_folder_gives_the_same_ids(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import open_clip

    from clipa.stages import MODEL_CONFIG_DIRECTORY

    config = json.loads((MODEL_CONFIG_DIRECTORY / "micro-v1-S16.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data / "vocabulary" / name, tmp_path)
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    ours = load_tokenizer(data / "vocabulary")
    captions = write_shards(tmp_path / "train", 1, 100, seed=3)
    captions += ["", "word " * 60, "Naïve CAFÉ, 1234!", "[SEP] and [CLS] in a caption", "你好 ☂"]
    assert (theirs(captions).numpy() == encode(ours, captions, 32)).all()
    for length in (16, 8, 4):
        assert (theirs(captions, context_length=length).numpy() == encode(ours, captions, length)).all()


def test_bert_vocabulary_is_adopted_with_all_of_its_pieces(tmp_path):
    """Seven pieces fit beside [CLS] in eight places: no place goes to a [SEP]."""
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(3)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*"abcdefgh", "photo", "##s", "of", "blue"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    manifest = adopt_bert_vocabulary(tmp_path / "vocab.txt", tmp_path / "vocabulary")
    tokenizer = load_tokenizer(manifest.parent)
    assert tokenizer.get_vocab() == {piece: i for i, piece in enumerate(pieces)}
    ids = encode(tokenizer, ["Photos of a blue b c d e f g"], 8)
    assert [pieces[i] for i in ids[0]] == ["[CLS]", "photo", "##s", "of", "a", "blue", "b", "c"]

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(manifest.parent)
    assert theirs("photos of a").input_ids == [5, 16, 17, 18, 8]
    assert theirs.pad_token_id == 0 and theirs.sep_token_id == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "vocab.txt: missing; download"),
        ("hello\nworld\n", r"not a BERT vocabulary \(no \[PAD\]\)"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", r"\(repeated entries\)"),
        ("[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"\(\[PAD\] is not 0\)"),
    ],
)
def test_a_foreign_vocabulary_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "vocab.txt").write_text(content, encoding="utf-8")
    with pytest.raises(VocabularyError, match=message):
        adopt_bert_vocabulary(tmp_path / "vocab.txt", tmp_path / "vocabulary")
    assert not (tmp_path / "vocabulary" / "vocabulary.json").exists()


def test_refusals_say_what_to_do(data, tmp_path):
    with pytest.raises(ShardError, match=r"manifest\.json is missing: draw or download the data first"):
        train_vocabulary(tmp_path, SIZE)
    with pytest.raises(VocabularyError, match="vocabulary_size 40 is too small"):
        (tmp_path / "train").symlink_to(data / "train")
        train_vocabulary(tmp_path, 40)
    with pytest.raises(VocabularyError, match="make the vocabulary first"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(VocabularyError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_one_caption_of_img2dataset_is_a_list_of_one(tmp_path):
    facts = [{"caption": "a cat", "url": "x"}, {"captions": ["b", "c"], "caption": "b"}, {"caption": None}]
    members = [(f"{i}.json", json.dumps(fact).encode()) for i, fact in enumerate(facts)]
    (tmp_path / "0.tar").write_bytes(tar_bytes(members))
    *good, bad = samples_of(tmp_path / "0.tar")
    assert [captions_of(sample) for sample in good] == [["a cat"], ["b", "c"]]
    with pytest.raises(BadSample, match="no caption"):
        captions_of(bad)
