"""NegCLIP's training set: exchanged words, and files that are whole or made again."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipa.data import shards
from clipa.data.annotation import word_spans, words_of
from clipa.data.negclip import (
    KINDS,
    NegclipError,
    nearest,
    negative_captions,
    pixel_features,
    pooled,
    write_negatives,
)
from clipa.data.shards import ShardError
from clipa.files import with_digest
from negclip_world import draw_annotated, samples

SOURCE = Path(__file__).resolve().parent.parent / "src"


# ----------------------------------------------------------------------------------------------------- captions


def exchanged(tagged: str) -> list[str]:
    """Negatives of a caption that is written as word/TAG, with spaces between words."""
    words, tags = zip(*(word.rsplit("/", 1) for word in tagged.split()), strict=True)
    return negative_captions(" ".join(words), tags)


def test_nouns_adjectives_verbs_and_adverbs_change_places():
    assert exchanged("the/DET black/ADJ dog/NOUN and/CCONJ a/DET white/ADJ cat/NOUN") == [
        "the black cat and a white dog",
        "the white dog and a black cat",
    ]
    assert exchanged("he/PRON eats/VERB often/ADV and/CCONJ sleeps/VERB rarely/ADV") == [
        "he sleeps often and eats rarely",
        "he eats rarely and sleeps often",
    ]
    assert exchanged("Anna/PROPN in/ADP town/NOUN") == ["town in Anna"]


def test_order_is_by_turns_of_kinds_then_near_words_then_from_the_left():
    made = exchanged("a/NOUN b/NOUN c/NOUN d/NOUN red/ADJ x/ADV blue/ADJ")
    assert made == [
        "b a c d red x blue",
        "a b c d blue x red",
        "a c b d red x blue",
        "a b d c red x blue",
        "c b a d red x blue",
    ]


def test_spaces_and_punctuation_stay_and_words_carry_their_case():
    caption = "  A Dog,\tand (maybe) the CAT!! #1 "
    tags = ["DET", "NOUN", "PUNCT", "CCONJ", "PUNCT", "ADV", "PUNCT", "DET", "NOUN"]
    tags += ["PUNCT", "PUNCT", "SYM", "NUM"]
    assert negative_captions(caption, tags) == ["  A CAT,\tand (maybe) the Dog!! #1 "]


def test_without_two_different_words_of_a_kind_there_is_none():
    for caption in ("a/DET dog/NOUN", "Dog/NOUN and/CCONJ dog/NOUN", "café/NOUN ,/PUNCT Cafe/NOUN"):
        assert exchanged(caption) == []
    assert negative_captions("", []) == []
    assert exchanged("two/NUM three/NUM of/ADP in/ADP") == []


def test_an_exchange_that_would_make_other_words_is_left_out():
    """Chinese signs are words without spaces around them; beside letters they are not in any place."""
    assert negative_captions("a中 cat", ["DET", "NOUN", "NOUN"]) == []
    assert negative_captions("a 中 cat", ["DET", "NOUN", "NOUN"]) == ["a cat 中"]
    assert negative_captions("cat#dog", ["NOUN", "NOUN", "NOUN"]) == ["dog#cat"]


@pytest.mark.parametrize("caption", ["a中b文" * 500, "a " * 8000])
def test_a_long_caption_without_an_exchange_ends(caption: str):
    """It has millions of pairs of words, and none that may change places."""
    began = time.monotonic()
    assert negative_captions(caption, ["NOUN"] * len(words_of(caption))) == []
    assert time.monotonic() - began < 20


def test_tags_that_do_not_go_with_the_words_are_refused():
    with pytest.raises(NegclipError, match="3 words but 2 tags in 'a b c'"):
        negative_captions("a b c", ["NOUN", "NOUN"])


TAGS = st.sampled_from(["NOUN", "PROPN", "ADJ", "VERB", "ADV", "DET", "PUNCT", "NUM"])
TEXTS = st.text(
    st.one_of(st.sampled_from("abcAB \t,.#é中\u200b\u0301\x00"), st.characters(codec="utf-8")), max_size=40
)


@given(TEXTS)
def test_spans_are_where_the_words_are(caption: str):
    spans, words = word_spans(caption), words_of(caption)
    assert len(spans) == len(words)
    assert all(a[0] < a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert [words_of(caption[first:end]) for first, end in spans] == [[word] for word in words]


@settings(max_examples=300)
@given(TEXTS, st.data())
def test_negatives_hold_the_same_words_in_another_order(caption: str, data: st.DataObject):
    words = words_of(caption)
    tags = data.draw(st.lists(TAGS, min_size=len(words), max_size=len(words)))
    made = negative_captions(caption, tags)
    assert made == negative_captions(caption, list(tags)) and len(made) <= 5
    assert len({text.lower() for text in made} | {caption.lower()}) == len(made) + 1
    kind = {tag: number for number, tags_of in enumerate(KINDS) for tag in tags_of}
    for negative in made:
        others = words_of(negative)
        assert Counter(others) == Counter(words) and Counter(negative) == Counter(caption)
        changed = [i for i, (a, b) in enumerate(zip(words, others, strict=True)) if a != b]
        assert len(changed) == 2 and len({kind[tags[i]] for i in changed}) == 1


# ------------------------------------------------------------------------------------------------ the training set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 pictures in four shards, the third of them no picture; the NegCLIP set is made of all."""
    data = draw_annotated(tmp_path_factory.mktemp("negatives"), pictures=128)
    shard = data / "train" / "00000.tar"
    with tarfile.open(shard) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    members[6] = (members[6][0], b"no picture")
    shard.write_bytes(shards.tar_bytes(members))
    renew(data / "train/manifest.json", "shards")
    write_negatives(data, 1)
    return data


def renew(manifest: Path, key: str) -> None:
    """Let a manifest name the bytes that are there."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for entry in content[key]:
        entry["sha256"] = hashlib.sha256((manifest.parent / entry["name"]).read_bytes()).hexdigest()
    named = with_digest(content) if key == "sidecars" else content
    manifest.write_text(json.dumps(named), encoding="utf-8")


def copied(data: Path, tmp_path: Path) -> Path:
    """The training set in a place of its own, without what is made from it."""
    shutil.copytree(data / "train", tmp_path / "train")
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.name != ".lock")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_sample_brings_what_may_be_drawn_with_it(data):
    train, made = samples(data / "train"), samples(data / "negclip")
    manifest = json.loads((data / "negclip/manifest.json").read_text(encoding="utf-8"))
    sizes = [shard["samples"] for shard in manifest["shards"]]
    assert sum(sizes) == len(made) > 120 and max(sizes) - min(sizes) <= 1 and len(sizes) == 64
    assert "000000002" not in made and list(made) == sorted(made)
    tags = {
        line["key"]: [caption["tags"] for caption in line["captions"]]
        for sidecar in (data / "train").glob("*.pos.jsonl")
        for line in map(json.loads, sidecar.read_text(encoding="utf-8").splitlines())
    }
    expected = {}
    for key, members in train.items():
        captions = json.loads(members["json"])["captions"]
        pairs = [(c, negative_captions(c, t)) for c, t in zip(captions, tags[key], strict=True)]
        kept = [pair for pair in pairs if pair[1]]
        expected[key] = {"captions": [c for c, _ in kept], "negatives": [n for _, n in kept]}
    assert set(made) == {key for key, one in expected.items() if one["captions"]} - {"000000002"}
    order = list(made)
    neighbours = nearest(pixel_features(pooled(train[key]["jpg"]) for key in order), 3)
    for key, row in zip(order, neighbours, strict=True):
        facts = json.loads(made[key]["json"])
        assert made[key]["jpg"] == train[key]["jpg"]
        near = facts.pop("neighbours")
        assert facts == expected[key]
        assert near == [{"key": order[other], **expected[order[other]]} for other in row]
        assert key not in {one["key"] for one in near}
        for i, one in enumerate(near):
            assert made[key][f"neighbour{i}.jpg"] == train[one["key"]]["jpg"]


def test_the_same_bytes_in_two_processes_and_with_fewer_rows_a_beginning(data, tmp_path):
    copy = copied(data, tmp_path)
    write_negatives(copy, 2)
    assert content(copy / "negclip") == content(data / "negclip")
    write_negatives(copy, 2, rows=20)
    assert list(samples(copy / "negclip")) == list(samples(data / "negclip"))[:20]
    fewer = content(copy / "negclip")
    assert len(fewer) == 21  # one shard a row, and the manifest: nothing of the larger set is left
    write_negatives(copy, 1, rows=20)
    shutil.rmtree(copy / "negclip")
    write_negatives(copy, 1, rows=20)
    assert content(copy / "negclip") == fewer


def test_what_is_whole_is_kept_and_what_is_not_is_made_again(data, tmp_path, monkeypatch):
    copy = copied(data, tmp_path)
    shutil.copytree(data / "negclip", copy / "negclip")
    written = []
    write = shards.write_bytes_atomically
    monkeypatch.setattr(
        shards,
        "write_bytes_atomically",
        lambda path, bytes_: (written.append(path.name), write(path, bytes_)),
    )
    write_negatives(copy, 1)
    assert not written
    for spoil in (
        lambda folder: (folder / "00003.tar").unlink(),
        lambda folder: (folder / "00003.tar").write_bytes(b"cut"),
    ):
        spoil(copy / "negclip")
        write_negatives(copy, 1)
        assert written == ["00003.tar"]
        written.clear()
        assert content(copy / "negclip") == content(data / "negclip")


KILLED = """
import os, signal, sys
from pathlib import Path
from clipa.data import shards
from clipa.data.negclip import write_negatives

directory, moment, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
written = []
bytes_, json_, entries = shards.write_bytes_atomically, shards.write_json_atomically, shards.in_processes

def dying(write):
    def dying_write(path, content):
        if not path.name.endswith(".partial.json"):
            written.append(path)
        if len(written) == moment:  # the temporary file is cut
            (path.parent / f".{path.name}.{os.getpid()}.tmp").write_bytes(b"cut")
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)
    return dying_write

def dying_entries(function, jobs, processes):
    for number, entry in enumerate(entries(function, jobs, processes)):
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry

if __name__ == "__main__":
    if processes == 1:
        shards.write_bytes_atomically, shards.write_json_atomically = dying(bytes_), dying(json_)
    else:
        shards.in_processes = dying_entries
    write_negatives(directory, processes)
"""


@pytest.mark.parametrize(("moment", "processes"), [(1, 1), (30, 1), (65, 1), (5, 2)])
def test_killed_and_started_again_it_ends_with_the_same_bytes(data, tmp_path, moment, processes):
    """Killed at the first shard, in the middle, at the manifest; and the parent of two processes."""
    copy = copied(data, tmp_path)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(copy), str(moment), str(processes)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (copy / "negclip/manifest.json").exists()
    if processes == 1:
        assert len(list((copy / "negclip").glob("*.tar"))) == moment - 1
        assert list((copy / "negclip").glob(".*.tmp"))
    write_negatives(copy, processes)
    assert content(copy / "negclip") == content(data / "negclip")


def test_other_tags_or_pictures_are_noticed(data, tmp_path):
    copy = copied(data, tmp_path)
    shutil.copytree(data / "negclip", copy / "negclip")
    sidecar = copy / "train/00000.pos.jsonl"
    sidecar.write_text(sidecar.read_text("utf-8").replace('"ADJ"', '"ADV"', 1), encoding="utf-8")
    renew(copy / "train/annotation.json", "sidecars")
    before = json.loads((copy / "negclip/manifest.json").read_text(encoding="utf-8"))
    after = json.loads(write_negatives(copy, 1).read_text(encoding="utf-8"))
    assert after["made_from"] != before["made_from"] and after["fingerprint"] != before["fingerprint"]


def test_refusals_are_one_line(data, tmp_path):
    with pytest.raises(ShardError, match=r"manifest\.json is missing: draw"):
        write_negatives(tmp_path / "nothing", 1)
    copy = copied(data, tmp_path)
    with pytest.raises(NegclipError, match="rows 3: with 3 neighbours each, 4 are needed"):
        write_negatives(copy, 1, rows=3)
    for name in ("clip", "ViT-B-32/", "/openai"):
        with pytest.raises(NegclipError, match="expected pixels, or an open_clip model and its weights"):
            write_negatives(copy, 1, name)
    for name in ("ViT-B-32/no-such-weights", "no-such-model/openai"):
        with pytest.raises(
            NegclipError, match=rf"{name}: no weights \(config/downloads\.yaml: has no"
        ) as refusal:
            write_negatives(copy, 1, name)
        assert "\n" not in str(refusal.value)
    shard = copy / "train/00001.tar"
    shard.write_bytes(shard.read_bytes()[:30_000])
    with pytest.raises(ShardError, match=r"00001\.tar: sha256 is"):
        write_negatives(copy, 1)
    renew(copy / "train/manifest.json", "shards")
    with pytest.raises(ShardError, match=r"00001\.tar: not a whole tar file: .*download it again"):
        write_negatives(copy, 1)
    sidecar = copy / "train/00000.pos.jsonl"
    sidecar.write_text("".join(sidecar.read_text("utf-8").splitlines(True)[1:]), encoding="utf-8")
    renew(copy / "train/annotation.json", "sidecars")
    with pytest.raises(ShardError, match=r"00000\.pos\.jsonl: 000000001 where 000000000 is expected"):
        write_negatives(copy, 1)
    (copy / "train/annotation.json").unlink()
    with pytest.raises(ShardError, match="tag the captions first"):
        write_negatives(copy, 1)
