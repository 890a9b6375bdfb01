"""The table of vocabulary entries' parts of speech, and both loaders under the recipe `released`, which reads it."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from clipa.config import Augmentation
from clipa.data import annotation, resident
from clipa.data.annotation import (
    ENTRIES,
    WORLD,
    annotate,
    entries_of,
    gold_captions,
    load_entry_parts,
    tags_of_first_pieces,
    words_of,
    write_entry_tags,
)
from clipa.data.shards import read_manifest
from clipa.data.stream import Lane, StreamSpec, batches, mask_key
from clipa.data.vocabulary import (
    VocabularyError,
    adopt_bert_vocabulary,
    begins_words,
    encode,
    encode_reduced,
    load_tokenizer,
    train_vocabulary,
    word_pieces,
)
from clipa.reductions.noise import uniform
from clipa.reductions.texts import ADJECTIVE, NOUN, OTHER, VERB
from clipa.resolved import data_slug
from small_training import tiny_scale
from small_world import draw_small_world
from test_reductions_released import as_released
from written_shards import write_shards

PIECES = "[PAD] [UNK] [CLS] [SEP] a cat ##s fluffy wind ##ow ##sill can canoe sleep ##ing is on the quickly lisbon red"
TAGS = "X X X X DET NOUN X ADJ NOUN X X AUX NOUN VERB X AUX ADP DET ADV PROPN ADJ"


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    """A BERT vocabulary of a few pieces with a table of its entries."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES.split()) + "\n", encoding="utf-8")
    made = adopt_bert_vocabulary(tmp_path / "vocab.txt", tmp_path / "vocabulary").parent
    write_entry_tags(made, {"name": "by hand"}, PIECES.split(), TAGS.split())
    return made


# ----------------------------------------------------------------------------------------------------------- the table


def test_auxiliaries_are_verbs_and_modals_are_not(vocabulary):
    part = dict(zip(PIECES.split(), load_entry_parts(vocabulary).tolist(), strict=True))
    assert {entry for entry in part if part[entry] == NOUN} == {"cat", "wind", "canoe", "lisbon"}
    assert {entry for entry in part if part[entry] == ADJECTIVE} == {"fluffy", "red"}
    assert {entry for entry in part if part[entry] == VERB} == {"sleep", "is"}
    assert {part["can"], part["quickly"], part["##ing"], part["[UNK]"]} == {OTHER}
    noun = [
        tag.replace("AUX", "NOUN") for tag in TAGS.split()
    ]  # a can of beans: only the auxiliary is a modal
    write_entry_tags(vocabulary, {}, PIECES.split(), noun)
    assert load_entry_parts(vocabulary)[PIECES.split().index("can")] == NOUN


def test_a_table_that_cannot_be_used_says_what_to_do(vocabulary):
    table = vocabulary / ENTRIES
    table.write_text('{"tags": ["NOUN"')
    with pytest.raises(VocabularyError, match=r"entries\.json: broken: .*python -m clipa annotate"):
        load_entry_parts(vocabulary)
    write_entry_tags(vocabulary, {}, PIECES.split(), TAGS.split())
    tokenizer = vocabulary / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(VocabularyError, match="of another vocabulary: tag the entries again"):
        load_entry_parts(vocabulary)
    table.unlink()
    with pytest.raises(VocabularyError, match=r"entries\.json: missing: .*python -m clipa annotate"):
        load_entry_parts(vocabulary)


def test_an_entry_is_what_the_words_that_begin_with_it_are_most_often(vocabulary):
    counts = {
        ("Cats", "NOUN"): 3,  # cat ##s
        ("cat", "ADJ"): 2,
        ("CAT", "ADJ"): 2,
        ("wind", "VERB"): 4,
        ("windowsills", "NOUN"): 5,
        ("red", "NOUN"): 1,
        ("red", "ADJ"): 1,
        ("sss", "NOUN"): 1,  # [UNK]
        ("\u0301", "ADJ"): 1,  # a lone accent: no piece at all
    }
    tags = dict(zip(PIECES.split(), tags_of_first_pieces(load_tokenizer(vocabulary), counts), strict=True))
    assert (tags["cat"], tags["wind"], tags["red"], tags["[UNK]"]) == ("ADJ", "NOUN", "ADJ", "NOUN")
    assert {tags[entry] for entry in ("##s", "##ow", "lisbon", "[PAD]")} == {"X"}


# ---------------------------------------------------------------------------------------------------------- annotation


@pytest.fixture(scope="module")
def untagged(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("untagged")
    write_shards(root / "train", 3, 200)
    train_vocabulary(root, 160)
    return root


def copied(untagged: Path, root: Path) -> Path:
    shutil.copytree(untagged, root, dirs_exist_ok=True)
    return root


def files_of(root: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob(pattern)}


def table_of(root: Path) -> dict:
    return json.loads((root / "vocabulary" / ENTRIES).read_text(encoding="utf-8"))


def test_each_entry_is_tagged_alone_by_the_tagger_of_the_captions(untagged, tmp_path):
    root = copied(untagged, tmp_path)
    annotate(root, processes=1)
    table = table_of(root)
    entries = entries_of(load_tokenizer(root / "vocabulary"))
    assert list(table["tags"]) == entries and len(entries) == 160
    assert table["tagger"] == json.loads((root / "train" / "annotation.json").read_text())["tagger"]
    import spacy
    from spacy.tokens import Doc

    tagger = spacy.load(root / "tagger")
    for entry in entries:
        alone = tagger(Doc(tagger.vocab, words=words_of(entry)))
        assert table["tags"][entry] == alone[-1].tag_, entry
    assert [table["tags"][word] for word in ("umbrella", "purple")] == ["NOUN", "ADJ"]


def test_the_vocabulary_changes_neither_sidecars_nor_manifest(untagged, tmp_path):
    with_one, without = copied(untagged, tmp_path / "with"), copied(untagged, tmp_path / "without")
    shutil.rmtree(without / "vocabulary")
    for root in (with_one, without):
        annotate(root, 1, WORLD)
    assert files_of(with_one, "train/*") == files_of(without, "train/*")
    assert (with_one / "vocabulary" / ENTRIES).is_file() and not (without / "vocabulary").exists()


def test_gold_tags_become_those_of_the_entries(untagged, tmp_path):
    """In any number of processes; counted over all shards."""
    roots = [copied(untagged, tmp_path / name) for name in ("one", "two")]
    for processes, root in enumerate(roots, 1):
        annotate(root, processes, WORLD)
    table = table_of(roots[0])
    assert files_of(roots[0], "vocabulary/*.json") == files_of(roots[1], "vocabulary/*.json")
    counts = Counter()
    for shard in sorted((untagged / "train").glob("*.tar")):
        for words, tags in gold_captions(shard):
            counts.update(zip(words, tags, strict=True))
    tokenizer = load_tokenizer(untagged / "vocabulary")
    assert list(table["tags"].values()) == tags_of_first_pieces(tokenizer, counts)
    found = [table["tags"][word] for word in ("umbrella", "purple", "is", ",")]
    assert found == ["NOUN", "ADJ", "AUX", "PUNCT"]


def test_an_interrupted_annotation_leaves_no_table_of_before_and_ends_the_same(
    untagged, tmp_path, monkeypatch
):
    root = copied(untagged, tmp_path)
    annotate(root, 1, WORLD)
    whole = files_of(root, "train/*") | files_of(root, "vocabulary/*.json")
    write_entry_tags(root / "vocabulary", {"name": "of before"}, ["a"], ["DET"])
    for broken in ("_annotate_shard", "_tag_counts", "write_entry_tags"):
        with monkeypatch.context() as patch:

            def stop(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(annotation, broken, stop)
            with pytest.raises(KeyboardInterrupt):
                annotate(root, 1, WORLD)
        assert not (root / "vocabulary" / ENTRIES).exists()
        assert not (root / "train" / "annotation.json").exists()
    annotate(root, 1, WORLD)
    assert files_of(root, "train/*") | files_of(root, "vocabulary/*.json") == whole


# ------------------------------------------------------------------------------------------------------------ encoding


def encoded(vocabulary, caption, length, reduction, noise=None, entry_parts=None) -> list[str]:
    """The pieces that are kept."""
    drawn = None if noise is None else lambda count: numpy.array([[*noise, *[0.99] * count][:count]])
    ids = encode_reduced(
        *(load_tokenizer(vocabulary), [caption], length, reduction, None, drawn),
        recipe="released",
        entry_parts=entry_parts,
    )
    assert ids.shape == (1, length) and PIECES.split()[ids[0, 0]] == "[CLS]"
    return [PIECES.split()[i] for i in ids[0, 1:] if i]


def test_syntax_looks_words_up_by_their_first_piece(vocabulary):
    parts = load_entry_parts(vocabulary)
    caption = "The cat is quickly on Windowsills"
    kept = [encoded(vocabulary, caption, n, "syntax", entry_parts=parts) for n in (2, 3, 4, 6)]
    assert kept[0] == ["cat"]
    assert kept[1] == ["cat", "wind"]  # both nouns; the second is cut after it was chosen
    assert kept[2] == ["cat", "is", "wind"]  # then the verb, before "the"
    assert kept[3] == ["the", "cat", "is", "quickly", "wind"]
    # "canoe" is an entry of its own; "can" alone is a modal, so behind the verb.
    assert encoded(vocabulary, "can a canoe sleep", 3, "syntax", entry_parts=parts) == ["canoe", "sleep"]
    with pytest.raises(VocabularyError, match="needs the part of speech of every entry"):
        encoded(vocabulary, caption, 4, "syntax")


def test_random_and_block_count_words(vocabulary):
    caption = "a windowsills cat on the red"  # six words, nine pieces
    noise = [0.5, 0.4, 0.3, 0.2, 0.6, 0.7, 0.0, 0.0, 0.0]
    assert encoded(vocabulary, caption, 4, "random", noise) == ["##sill", "##ow", "wind"]
    assert encoded(vocabulary, caption, 4, "block", noise) == ["##ow", "##sill", "##s"]
    assert encoded(vocabulary, caption, 7, "random", noise) == ["a", "wind", "##ow", "##sill", "##s", "cat"]


@pytest.mark.parametrize("reduction", ["truncation", "random", "block", "syntax"])
def test_short_captions_are_those_of_plain_encoding(vocabulary, reduction):
    tokenizer, captions = load_tokenizer(vocabulary), ["", "a cat", "windowsills cats", "red " * 5]
    found = encode_reduced(
        *(tokenizer, captions, 6, reduction, None, lambda count: uniform(1, numpy.arange(4), count)),
        recipe="released",
        entry_parts=load_entry_parts(vocabulary),
    )
    assert numpy.array_equal(found, encode(tokenizer, captions, 6))


def test_words_can_be_counted_from_pieces_alone(untagged):
    """As the loader on the device does: a piece begins a word unless its entry begins with ##."""
    tokenizer = load_tokenizer(untagged / "vocabulary")
    captions = [
        "[CLS] ab and [UNK] ba",
        "## zz #a",
        "zqj!a\u0301b 你好",
        "",
        "12px-free [PAD]wx",
        "aeroplane " * 3,
    ]
    pieces, parts, words = word_pieces(tokenizer, captions, length=40)
    counted = begins_words(tokenizer)[pieces].cumsum(1) - 1
    present = numpy.arange(40) < [[len(tokenizer.encode(caption).ids) - 1] for caption in captions]
    assert (parts[present] == OTHER).all() and (words[~present] == 0).all()
    assert (counted[present] == words[present]).all() and words.max() > 3


# ------------------------------------------------------------------------------------------------------------- loaders


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> StreamSpec:
    """256 pictures in eight shards, tagged with the world's own tags; read as released, without any sidecar."""
    root = tmp_path_factory.mktemp("loaders")
    draw_small_world(tiny_scale(), root, ())
    data = root / "data" / data_slug(tiny_scale().data)
    annotate(data, 1, WORLD)
    shards = tuple((shard["name"], shard["samples"]) for shard in read_manifest(data / "train")["shards"])
    bare = root / "bare"
    bare.mkdir()
    for name, _ in shards:
        (bare / name).symlink_to(data / "train" / name)
    return StreamSpec(
        *(bare, shards, 3, "pretrain", 4, 16, 32, 24, 8, Augmentation(), data / "vocabulary"),
        text_recipe="released",
    )


@pytest.mark.parametrize("reduction", ["truncation", "random", "block", "syntax"])
@pytest.mark.parametrize("length", [16, 8, 4])
def test_both_loaders_give_what_the_released_procedure_gives(spec: StreamSpec, reduction: str, length: int):
    chosen = replace(spec, text_reduction=reduction, text_tokens=length)
    tokenizer, tags = load_tokenizer(spec.vocabulary), table_of(spec.vocabulary.parent)["tags"]
    assert tags["can"] == "AUX"
    tags = ["MD" if entry == "can" else tag for entry, tag in tags.items()]  # the world's one modal
    lanes = [iter(Lane(chosen, lane, 0)) for lane in range(spec.lanes)]
    reduced = 0
    for theirs, ours in zip(batches(chosen, 0, 2), resident.batches(chosen, 0, 2), strict=True):
        assert ours[1].dtype == torch.int64 and numpy.array_equal(theirs[1], ours[1].numpy())
        samples = [next(lane) for _ in range(spec.batch_size // spec.lanes) for lane in lanes]
        for sample, row in zip(samples, theirs[1], strict=True):
            encoding = tokenizer.encode(sample.caption)
            ids, words = encoding.ids[1:], encoding.word_ids[1:]
            firsts = [words.index(number) for number in range(max(words) + 1)]
            caption = [(words.count(n), tags[ids[first]]) for n, first in enumerate(firsts)]
            noise = uniform(mask_key(3, "pretrain", "text mask"), numpy.array([sample.position]), len(ids))
            kept = as_released(reduction, caption, length, noise[0])
            assert [token for token in row[1:].tolist() if token] == [ids[index] for index in kept]
            reduced += kept != list(range(len(kept)))
    assert reduced > 5 or reduction == "truncation" or length == 16


@pytest.mark.parametrize("reduction", ["random", "block", "syntax"])
def test_the_recipes_differ_and_workers_do_not(spec: StreamSpec, reduction: str):
    chosen = replace(spec, text_reduction=reduction, text_tokens=6)
    alone = [tokens for _, tokens, _ in batches(chosen, 0, 2)]
    assert all(
        numpy.array_equal(one, two[1])
        for one, two in zip(alone, batches(chosen, 0, 2, workers=2), strict=True)
    )
    tagged = replace(chosen, directory=spec.vocabulary.parent / "train", text_recipe="paper")
    assert not numpy.array_equal(alone[0], next(batches(tagged, 0, 1))[1])
    assert StreamSpec.__dataclass_fields__["text_recipe"].default == "paper"


def test_both_recipes_share_what_is_on_the_device(spec: StreamSpec):
    """Whichever comes first: the captions' own tags are there for the other."""
    released = replace(spec, directory=spec.vocabulary.parent / "train", text_reduction="syntax")
    paper = replace(released, text_recipe="paper")
    assert resident.load_world(released) is resident.load_world(paper)
    for chosen in (released, paper):
        assert numpy.array_equal(
            next(batches(chosen, 0, 1))[1], next(resident.batches(chosen, 0, 1))[1].numpy()
        )


def test_without_a_table_syntax_as_released_is_refused(spec: StreamSpec, tmp_path: Path):
    shutil.copy(spec.vocabulary / "tokenizer.json", tmp_path)
    for reduction in ("random", "block", "truncation"):
        chosen = replace(spec, vocabulary=tmp_path, text_reduction=reduction)
        assert next(batches(chosen, 0, 1))[1].shape == (32, 8)
    chosen = replace(spec, vocabulary=tmp_path, text_reduction="syntax")
    for read in (batches, resident.batches):
        with pytest.raises(VocabularyError, match=r"entries\.json: missing: .*python -m clipa annotate"):
            next(iter(read(chosen, 0, 1)))


def test_an_unknown_recipe_is_refused(spec: StreamSpec):
    with pytest.raises(ValueError, match=r"no text recipe 'printed' \(known: paper, released\)"):
        replace(spec, text_recipe="printed")
