"""WordPiece vocabularies: trained on the captions of the embedded world, or adopted from bert-base-uncased.

The paper tokenises with BERT's lower-cased WordPiece. A text is [CLS], up to ``length - 1`` pieces, and zeros; there
is no [SEP] (released code, ``clipa_jax/transforms/bert_ops.py``). A vocabulary directory holds ``tokenizer.json``
(the ``tokenizers`` library), ``tokenizer_config.json`` (so that open_clip's HFTokenizer and transformers load the
same folder) and, written last, ``vocabulary.json`` (identity and statistics).
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from clipa.data.samples import TEXTS, BadSample, Reason, captions_of, named, read_shard
from clipa.data.shards import ShardError, check_bytes, file_sha256, read_manifest
from clipa.files import read_json, write_json_atomically, write_text_atomically
from clipa.locks import directory_lock
from clipa.reductions import texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN, CLASS = "[PAD]", "[UNK]", "[CLS]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLASS)
MANIFEST = "vocabulary.json"

# The first letter of a word is moved to a private plane of Unicode while pieces are learnt: see _learn_pieces.
_WORD_START = 0xF0000
_ALWAYS_KNOWN = "abcdefghijklmnopqrstuvwxyz0123456789"


class VocabularyError(ValueError):
    """A vocabulary is missing or broken; one line that says where and what to do."""


def train_vocabulary(data_directory: Path, size: int | None) -> Path:
    """Train a vocabulary of at most ``size`` entries on the captions of ``<data_directory>/train``.

    Returns its manifest, ``<data_directory>/vocabulary/vocabulary.json``. The same captions give the same bytes.
    ``size`` None: bert-base-uncased, adopted from ``<data_directory>/vocabulary/vocab.txt`` (a downloaded file).
    Bad captions are left out, and counted on standard error. Raises VocabularyError when there are no good ones, that
    file is missing, or ``size`` cannot hold the alphabet; ShardError for shards that are not their manifest's.
    """
    out = Path(data_directory) / "vocabulary"
    if size is None:
        return adopt_bert_vocabulary(out / "vocab.txt", out)
    with directory_lock(out, "vocabulary"):
        captions = _captions(Path(data_directory) / "train")
        if not captions:
            raise VocabularyError(
                f"{data_directory}/train: no captions to train a vocabulary on; draw the world first"
            )
        pieces = _learn_pieces(captions, size - len(SPECIAL_TOKENS))
        tokenizer = _build({piece: i for i, piece in enumerate([*SPECIAL_TOKENS, *pieces])})
        return _write(tokenizer, out, separator=PAD, statistics=caption_statistics(tokenizer, captions))


def _captions(train: Path) -> list[str]:
    """All good captions of a training set, in the order of its manifest."""
    captions: list[str] = []
    bad: Counter[Reason] = Counter()
    for entry in read_manifest(train)["shards"]:
        for sample in read_shard(train, entry, TEXTS):
            try:
                captions += captions_of(sample)
            except BadSample as error:
                bad[error.reason] += 1
    if bad:
        print(f"{train}: {bad.total()} samples left out: {named(bad)}", file=sys.stderr)
    return captions


def adopt_bert_vocabulary(vocab_txt: Path, out: Path) -> Path:
    """Convert bert-base-uncased's ``vocab.txt`` (one piece a line) to the layout of this module, in ``out``.

    Read directly, because transformers 5 turns ``BertTokenizerFast(vocab_file=…)`` into a tokenizer of five entries
    that maps everything to [UNK], without an error. Raises VocabularyError for a missing or foreign file.
    """
    vocab_txt, out = Path(vocab_txt), Path(out)
    try:
        pieces = vocab_txt.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise VocabularyError(
            f"{vocab_txt}: missing; download vocab.txt of google-bert/bert-base-uncased to that place"
        ) from None
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    absent = [token for token in (*SPECIAL_TOKENS, "[SEP]") if token not in vocabulary]
    reason = (
        f"no {absent[0]}" if absent else f"{PAD} is not 0" if vocabulary[PAD] != 0 else "repeated entries"
    )
    if absent or len(vocabulary) != len(pieces) or vocabulary[PAD] != 0:
        raise VocabularyError(
            f"{vocab_txt}: not a BERT vocabulary ({reason}); expected bert-base-uncased's vocab.txt"
        )
    with directory_lock(out, "vocabulary"):
        return _write(_build(vocabulary), out, separator="[SEP]", statistics={})


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a vocabulary directory (or of an exported model, which carries the same file).

    Raises VocabularyError where it is missing, damaged, or not the one that vocabulary.json names.
    """
    from tokenizers import Tokenizer

    # One thread suffices: batches are small, and this library's threads do not survive the fork of a loader's worker.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    path, manifest = Path(directory) / "tokenizer.json", Path(directory) / MANIFEST
    try:
        if manifest.is_file():
            digests = read_json(manifest)["sha256"]
            for name in (path.name, "tokenizer_config.json"):
                check_bytes(path.with_name(name), digests[name])
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VocabularyError(
            f"{path}: missing; make the vocabulary first (python -m clipa vocabulary)"
        ) from None
    except ShardError as error:
        raise VocabularyError(str(error)) from None
    except Exception as error:  # the library raises bare Exception for broken JSON
        raise VocabularyError(
            f"{path}: not a tokenizer ({error}); delete the folder and make it again"
        ) from None


class Pieces(NamedTuple):
    """A caption's word pieces, without [CLS]: their ids, and the number of the word of each."""

    ids: list[int]
    words: list[int]


Caption = str | Pieces
"""A caption as text, or as the pieces that :func:`cut` has made of it."""


def cut(tokenizer: Tokenizer, captions: Sequence[Caption]) -> list[Pieces]:
    """The pieces of each caption; those that are cut already stay as they are."""
    encodings = iter(tokenizer.encode_batch([caption for caption in captions if isinstance(caption, str)]))
    return [_pieces(next(encodings)) if isinstance(caption, str) else caption for caption in captions]


def _pieces(encoding: Any) -> Pieces:
    return Pieces(encoding.ids[1:], encoding.word_ids[1:])


def encode(tokenizer: Tokenizer, captions: Sequence[Caption], length: int) -> numpy.ndarray:
    """Token ids of ``captions``: int64 [N, length], [CLS] + up to ``length - 1`` pieces + zeros.

    Equal to what open_clip's HFTokenizer gives for the same directory, for text without HTML entities and mojibake
    (which that class repairs first).
    """
    first, ids = tokenizer.token_to_id(CLASS), numpy.zeros((len(captions), length), numpy.int64)
    uncut = [caption for caption in captions if isinstance(caption, str)]
    encodings = iter(tokenizer.encode_batch_fast(uncut))  # fast: without words and offsets
    for row, caption in zip(ids, captions, strict=True):
        found = next(encodings).ids if isinstance(caption, str) else [first, *caption.ids[: length - 1]]
        row[: len(found)] = found[:length]
    return ids


def encode_reduced(
    tokenizer: Tokenizer,
    captions: Sequence[Caption],
    length: int,
    reduction: str,
    tags: list[list[str]] | None = None,
    noise: Callable[[int], numpy.ndarray] | None = None,
    recipe: str = "paper",
    entry_parts: numpy.ndarray | None = None,
) -> numpy.ndarray:
    """Like :func:`encode`, with ``reduction`` choosing the pieces of captions that are too long (§3.3).

    ``tags`` gives the part of speech of every word (syntax); ``noise(L)`` the first L uniform numbers of each
    caption, [N, L] (random, block). With the variant "released" (:mod:`clipa.reductions.texts`) syntax goes by
    ``entry_parts`` [V], that of every entry (:func:`clipa.data.annotation.load_entry_parts`), and not by ``tags``.
    Raises VocabularyError where there are too few tags, or ``entry_parts`` are needed and not given.
    """
    released = recipe == "released"
    pieces, parts, words = word_pieces(tokenizer, captions, None if released else tags, length - 1)
    if released and reduction == "syntax":
        if entry_parts is None:
            raise VocabularyError("syntax masking as released needs the part of speech of every entry")
        parts = numpy.where(parts == texts.PADDING, parts, entry_parts[pieces])
    kept = texts.keep(reduction, parts, length, noise and noise(pieces.shape[1]), recipe, words)
    first = tokenizer.token_to_id(CLASS)
    return numpy.insert(numpy.take_along_axis(pieces, kept, 1), 0, first, axis=1)


def word_pieces(
    tokenizer: Tokenizer, captions: Sequence[Caption], tags: list[list[str]] | None = None, length: int = 1
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Word pieces of ``captions``, and of each piece's word the part of speech and the number: three int64 [N, L],
    without [CLS].

    Pieces and numbers are padded with zeros, parts with PADDING (:mod:`clipa.reductions.texts`), to the longest
    caption, and at least to ``length``. Without ``tags`` (of every word) every part is OTHER. Raises VocabularyError
    for a caption of too few tags.
    """
    made = cut(tokenizer, captions)
    longest = max([length, *(len(one.ids) for one in made)])
    pieces, words = (numpy.zeros((len(made), longest), numpy.int64) for _ in range(2))
    parts = numpy.full((len(made), longest), texts.PADDING)
    for row, (ids, numbers) in enumerate(made):
        count = len(ids)
        pieces[row, :count], words[row, :count], parts[row, :count] = ids, numbers, texts.OTHER
        if tags is not None:
            if numbers and max(numbers) >= len(tags[row]):
                raise VocabularyError(f"{captions[row]!r}: {max(numbers) + 1} words, {len(tags[row])} tags")
            parts[row, :count] = [texts.PARTS_OF_TAGS.get(tags[row][word], texts.OTHER) for word in numbers]
    return pieces, parts, words


def begins_words(tokenizer: Tokenizer) -> numpy.ndarray:
    """Whether each entry is a word's first piece, bool [V] by id; all others are never one (WordPiece's ``##``)."""
    begins = numpy.ones(tokenizer.get_vocab_size(), bool)
    begins[[i for entry, i in tokenizer.get_vocab().items() if entry.startswith("##")]] = False
    return begins


def caption_statistics(tokenizer: Tokenizer, captions: list[str]) -> dict[str, Any]:
    """Lengths of ``captions`` in pieces ([CLS] not counted), and the share of pieces that are unknown."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    lengths, unknowns = [], 0
    for encoding in tokenizer.encode_batch(captions, add_special_tokens=False):
        lengths.append(len(encoding.ids))
        unknowns += encoding.ids.count(unknown)
    values = numpy.asarray(lengths)
    return {
        "captions": len(captions),
        "pieces_mean": round(float(values.mean()), 3),
        "pieces_median": float(numpy.median(values)),
        "pieces_90th_percentile": float(numpy.percentile(values, 90)),
        "pieces_max": int(values.max()),
        "unknown_share": round(unknowns / max(1, int(values.sum())), 6),
    }


def _learn_pieces(captions: Iterable[str], count: int) -> list[str]:
    """The ``count`` most useful WordPiece entries, most basic first; pieces inside a word start with ``##``.

    The library's own WordPieceTrainer numbers ``##`` letters in the order of a randomly seeded hash map, and ties
    are broken by number, so each process learns another vocabulary. Its BpeTrainer sorts its alphabet. Hence words
    are given to that one with the first letter marked, which says the same as the ``##`` prefix of all others.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = [*_ALWAYS_KNOWN, *(chr(ord(letter) + _WORD_START) for letter in _ALWAYS_KNOWN)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(_marked_words(captions), trainer)
    if learner.get_vocab_size() > count:
        raise VocabularyError(
            f"vocabulary_size {count + len(SPECIAL_TOKENS)} is too small: the letters alone need "
            f"{learner.get_vocab_size() + len(SPECIAL_TOKENS)}"
        )
    learnt = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return [_unmarked(piece) for piece, _ in learnt]


def _marked_words(captions: Iterable[str]) -> Iterator[str]:
    from tokenizers import normalizers, pre_tokenizers

    normaliser, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    for caption in captions:
        words = [word for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(caption))]
        yield " ".join(chr(ord(word[0]) + _WORD_START) + word[1:] for word in words)


def _unmarked(piece: str) -> str:
    if ord(piece[0]) < _WORD_START:
        return "##" + piece
    return chr(ord(piece[0]) - _WORD_START) + piece[1:]


def _build(vocabulary: dict[str, int]) -> Tokenizer:
    """A lower-casing BERT tokenizer that puts [CLS] first and nothing last."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A", special_tokens=[(CLASS, vocabulary[CLASS])]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _write(tokenizer: Tokenizer, out: Path, separator: str, statistics: dict[str, Any]) -> Path:
    """Write the three files, the manifest last. ``separator`` is what transformers calls the [SEP] token.

    No text contains it; but open_clip's ``strip_sep_token`` needs one to exist. [PAD] makes that a no-op.
    """
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "cls_token": CLASS,
        "sep_token": separator,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_text_atomically(out / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json_atomically(out / "tokenizer_config.json", configuration)
    digests = {name: file_sha256(out / name) for name in ("tokenizer.json", "tokenizer_config.json")}
    manifest = {
        "kind": "wordpiece",
        "size": tokenizer.get_vocab_size(),
        "special_tokens": {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS},
        "sha256": digests,
        "statistics": statistics,
    }
    write_json_atomically(out / MANIFEST, manifest)
    return out / MANIFEST
