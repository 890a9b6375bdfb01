"""Parts of speech, which syntax masking goes by: of every training caption, and of the vocabulary's entries.

Syntax masking (§3.2) keeps nouns first, then adjectives, then other words. Captions are tagged once, by spaCy, before
any training, in sidecar files beside the shards: ``train/<shard>.pos.jsonl`` has one line per sample, ``{"key",
"captions": [{"words", "tags"}, …]}``, with Universal POS tags and words as BERT's basic tokenizer splits them.
``train/annotation.json`` is written last.

The embedded world knows the part of speech of each word it writes. A small tagger is trained on these gold tags and
then tags all captions, as an installed pipeline (``en_core_web_sm``) tags real ones. Where spaCy is not installed (the
mini scale may run on such a machine) the gold tags themselves become the sidecars.

The released code tags no captions. It tags the entries of the vocabulary once, each as a text of its own, and takes a
word for what the entry of its first piece is. ``<data>/vocabulary/entries.json`` has these tags: ``{"tagger",
"tokenizer", "tags": {entry: tag, …}, "digest"}``, in the order of the ids. An entry of several words (``[UNK]``,
``##ing``: brackets and hashes are words) has the tag of the last one, as there. Gold tags belong to words, so there an
entry has the most frequent tag of the words that begin with it.

The released code sorts by Penn's tags: VB* is verbs and the auxiliaries be, have and do; modals are MD, hence
"other". Universal POS calls all of these auxiliaries AUX, so modals are told apart by a list of them.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from clipa.data.samples import (
    ANNOTATION,
    TAGS,
    TEXTS,
    BadSample,
    RawSample,
    Reason,
    captions_of,
    metadata_of,
    named,
    read_shard,
    samples_of,
    tagged_lines,
)
from clipa.data.shards import (
    Entry,
    check_bytes,
    file_sha256,
    in_processes,
    progress_bar,
    read_manifest,
    writing,
)
from clipa.data.vocabulary import MANIFEST as VOCABULARY
from clipa.data.vocabulary import VocabularyError, load_tokenizer
from clipa.files import check_digest, naming, read_json, with_digest, write_json_atomically
from clipa.locks import directory_lock
from clipa.reductions import texts
from clipa.resolved import fingerprint

if TYPE_CHECKING:
    from spacy.language import Language
    from tokenizers import Tokenizer

MANIFEST = ANNOTATION
ENTRIES = "entries.json"
UNSEEN = "X"
"""Universal POS of what has no part of speech: an entry without a word, or one that no tagged word begins with."""
MODALS = frozenset(
    ["can", "cannot", "could", "may", "might", "must", "ought", "shall", "should", "will", "would"]
)
GOLD = "gold"
WORLD = "world"
TAGGER_SEED = 0
TRAINING_CAPTIONS = 2000
HELD_OUT_CAPTIONS = 2000
_EPOCHS = 4
_BATCH = 64
_LEARNING_RATE = 0.005

# Two layers see two words to each side: enough for a closed set of sentences, and 150,000 words a second.
_TAGGER = {
    "model": {
        "@architectures": "spacy.Tagger.v2",
        "tok2vec": {
            "@architectures": "spacy.Tok2Vec.v2",
            "embed": {
                "@architectures": "spacy.MultiHashEmbed.v2",
                "width": 32,
                "attrs": ["NORM", "SHAPE"],
                "rows": [1000, 200],
                "include_static_vectors": False,
            },
            "encode": {
                "@architectures": "spacy.MaxoutWindowEncoder.v2",
                "width": 32,
                "window_size": 1,
                "maxout_pieces": 2,
                "depth": 2,
            },
        },
    }
}


class AnnotationError(ValueError):
    """Captions or a tagger are missing or do not fit; one line that says where and what to do."""


def annotate(data_directory: Path, processes: int, tagger: str = GOLD) -> Path:
    """Tag the captions of ``<data_directory>/train`` in ``processes`` processes; returns ``train/annotation.json``.

    ``tagger`` is "gold" (train a small one on the world's own tags first), "world" (take these tags themselves) or the
    name of an installed spaCy pipeline (``en_core_web_sm``). Shards that an interrupted call has finished with the same
    tagger are not tagged again. The entries of ``<data_directory>/vocabulary``, where there is one, are tagged after
    the captions. A sample with a bad caption gets a line without captions, and is counted on standard error. Raises
    AnnotationError when there are no shards, or when the pipeline is not installed; ShardError for shards that are not
    their manifest's.
    """
    train, vocabulary = (Path(data_directory) / name for name in ("train", "vocabulary"))
    manifest = read_manifest(train)
    shards = manifest["shards"]
    if not shards:
        raise AnnotationError(f"{train}: no shards to annotate; draw the world (or download the data) first")
    with writing(train / MANIFEST, "annotation", pattern="*.pos.jsonl", key="sidecars") as parts:
        if tagger == GOLD:
            pipeline = str(Path(data_directory) / "tagger")
            about = train_tagger(Path(data_directory), Path(pipeline), shards)
        elif tagger == WORLD:
            about, pipeline = {"name": "the world's own tags"}, WORLD
        else:
            about, pipeline = {"name": tagger, "version": _installed_version(tagger)}, tagger
        # What a finished call has made may be of other shards: all of it is made again.
        for made in (train / MANIFEST, vocabulary / ENTRIES):
            made.unlink(missing_ok=True)
        header = {"tagger": about, "train": fingerprint(manifest)}
        parts.resume(header)
        jobs = {Path(shard["name"]).stem + ".pos.jsonl": (train, shard, pipeline) for shard in shards}
        with progress_bar("parts of speech", len(shards), "shard") as bar:
            entries = parts.write(_annotate_shard, jobs, processes, lambda entry: bar.update())
        if (vocabulary / VOCABULARY).is_file():
            sidecars = [(train / entry["name"], entry["sha256"]) for entry in entries]
            _annotate_entries(vocabulary, sidecars, pipeline, about, processes)
        words, captions = (sum(entry[key] for entry in entries) for key in ("words", "captions"))
        bad = sum((Counter(entry.get("bad_samples", {})) for entry in entries), Counter())
        if bad:
            print(f"{train}: {bad.total()} samples without tags: {named(bad)}", file=sys.stderr)
        return parts.finish(
            with_digest({**header, "words": words, "captions": captions, "sidecars": entries})
        )


def train_tagger(data_directory: Path, out: Path, shards: list[Entry]) -> dict[str, Any]:
    """Train a small spaCy tagger on gold tags of the training ``shards`` and save it in ``out``.

    Returns its description: seed, number of captions, accuracy (share of words) on captions of another shard (or of
    the same one's end) than those it learnt from. Runs on one thread from a fixed seed: same captions, same tagger.
    """
    first, last = (data_directory / "train" / shards[place]["name"] for place in (0, -1))
    for path, entry in ((first, shards[0]), (last, shards[-1])):
        check_bytes(path, entry["sha256"])
    captions = list(islice(gold_captions(first), TRAINING_CAPTIONS + HELD_OUT_CAPTIONS))
    if len(shards) > 1:
        learnt = captions[:TRAINING_CAPTIONS]
        held_out = list(islice(gold_captions(last), HELD_OUT_CAPTIONS))
    else:
        learnt, held_out = captions[: len(captions) // 2], captions[len(captions) // 2 :]
    nlp = _fit(learnt)
    documents = _tagged(nlp, (words for words, _ in held_out))
    right = [
        token.tag_ == tag
        for document, (_, tags) in zip(documents, held_out, strict=True)
        for token, tag in zip(document, tags, strict=True)
    ]
    with naming(out):
        nlp.to_disk(out)
    return {
        "name": "trained on the world's gold tags",
        "version": _installed_version("spacy"),
        "seed": TAGGER_SEED,
        "captions": len(learnt),
        "held_out_captions": len(held_out),
        "accuracy": round(sum(right) / max(1, len(right)), 6),
    }


def gold_captions(shard: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(words, tags) of every good caption of one drawn shard. Raises AnnotationError where they do not go together."""
    for sample in samples_of(shard, TEXTS):
        try:
            captions, gold = captions_of(sample), metadata_of(sample).get("pos")
        except BadSample:
            continue
        yield from _gold(f"{shard}: sample {sample.key}", captions, gold)


def _gold(where: str, captions: list[str], gold: Any) -> Iterator[tuple[list[str], list[str]]]:
    """Words and gold tags of a sample's captions."""
    if gold is None:
        raise AnnotationError(f"{where} has no gold tags; name an installed tagger, as en_core_web_sm")
    if not isinstance(gold, list) or len(gold) != len(captions):
        raise AnnotationError(f"{where}: not one list of gold tags for each caption; draw it again")
    for caption, tags in zip(captions, gold, strict=True):
        words = words_of(caption)
        if not isinstance(tags, list) or len(words) != len(tags):
            count = len(tags) if isinstance(tags, list) else "no"
            raise AnnotationError(f"{where}: {len(words)} words but {count} tags in {caption!r}")
        yield words, tags


def words_of(caption: str) -> list[str]:
    """The words of a caption as BERT's basic tokenizer splits them, letter case and accents kept."""
    normaliser, splitter = _word_splitter()
    return [word for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(caption))]


def word_spans(caption: str) -> list[tuple[int, int]]:
    """Where the words of :func:`words_of` are: (first, end) of each, in characters of the caption as it is written."""
    from tokenizers import PreTokenizedString

    normaliser, splitter = _word_splitter()
    text = PreTokenizedString(caption)
    text.normalize(normaliser.normalize)
    splitter.pre_tokenize(text)
    return [span for _, span, _ in text.get_splits("original", "char")]


@cache
def _word_splitter() -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    # Taggers recognise proper nouns by capitals, so case stays; it does not change where words begin and end.
    return normalizers.BertNormalizer(lowercase=False, strip_accents=False), pre_tokenizers.BertPreTokenizer()


def _fit(captions: list[tuple[list[str], list[str]]]) -> Language:
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    _one_thread()
    spacy.util.fix_random_seed(TAGGER_SEED)
    nlp = spacy.blank("en")
    nlp.add_pipe("tagger", config=_TAGGER)
    examples = [
        Example(Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=words, tags=tags))
        for words, tags in captions
    ]
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = _LEARNING_RATE
    order = random.Random(TAGGER_SEED)
    for _ in range(_EPOCHS):
        order.shuffle(examples)
        for start in range(0, len(examples), _BATCH):
            nlp.update(examples[start : start + _BATCH], sgd=optimizer)
    return nlp


def _tagged(nlp: Language, sentences: Iterator[list[str]]) -> Iterator[Any]:
    from spacy.tokens import Doc

    return nlp.pipe((Doc(nlp.vocab, words=words) for words in sentences), batch_size=500)


def _one_thread() -> None:
    import torch  # spaCy's thinc imports it anyway, and would let it use every core in each process

    torch.set_num_threads(1)


def _annotate_shard(name: str, train: Path, shard: Entry, pipeline: str) -> tuple[bytes, Entry]:
    """The sidecar ``name`` of one shard, and its manifest entry."""
    bad: Counter[Reason] = Counter()
    samples = [(sample.key, _captions(sample, bad)) for sample in read_shard(train, shard, TEXTS)]
    if pipeline == WORLD:
        annotations = gold_captions(train / shard["name"])
    else:
        annotations = tagged_captions(pipeline, [caption for _, captions in samples for caption in captions])
    lines, count = [], 0
    for key, captions in samples:
        annotated = [{"words": words, "tags": tags} for words, tags in islice(annotations, len(captions))]
        for unknown in {tag for caption in annotated for tag in caption["tags"] if tag not in TAGS}:
            raise AnnotationError(
                f"{train / shard['name']}: sample {key} is tagged {unknown!r}, which is no universal part of speech"
            )
        count += sum(len(caption["words"]) for caption in annotated)
        row = {"key": key, "captions": annotated}
        lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    entry = {
        "shard": shard["name"],
        "name": name,
        "samples": len(samples),
        "captions": sum(len(captions) for _, captions in samples),
        "words": count,
        **({"bad_samples": dict(bad)} if bad else {}),
    }
    return "".join(lines).encode("utf-8"), entry


def _captions(sample: RawSample, bad: Counter[Reason]) -> list[str]:
    """A sample's captions; none of a bad one, which is counted."""
    try:
        return captions_of(sample)
    except BadSample as error:
        bad[error.reason] += 1
        return []


def tagged_captions(pipeline: str, captions: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """(words, tags) of each caption, by a spaCy pipeline: an installed one's name, or the folder of a saved one.

    Words are those of :func:`words_of`, tags Universal POS. Raises AnnotationError when it is not installed.
    """
    nlp = _load(pipeline)
    for document in _tagged(nlp, (words_of(caption) for caption in captions)):
        yield [token.text for token in document], [token.pos_ or token.tag_ for token in document]


def describe_pipeline(pipeline: str) -> dict[str, str]:
    """Name and version of a spaCy pipeline, as :func:`tagged_captions` takes it. Raises AnnotationError likewise."""
    about = _load(pipeline).meta
    return {"name": f"{about['lang']}_{about['name']}", "version": about["version"]}


@cache
def _load(pipeline: str) -> Language:
    import spacy

    _one_thread()
    try:
        # Only tags are needed; the parser and the entity recogniser would take three quarters of the time.
        return spacy.load(pipeline, exclude=["parser", "ner", "lemmatizer"])
    except OSError:
        raise _not_installed(pipeline) from None


def _installed_version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        raise _not_installed(name) from None


def _not_installed(pipeline: str) -> AnnotationError:
    return AnnotationError(
        f"spaCy pipeline {pipeline!r} is not installed; install it (python -m spacy download {pipeline})"
    )


# ----------------------------------------------------------------------------------------- entries of a vocabulary


def load_entry_parts(vocabulary: Path) -> numpy.ndarray:
    """What each entry is to syntax masking as released: int64 [V] by id (:mod:`clipa.reductions.texts`).

    Raises VocabularyError where the table is missing, broken, or that of another vocabulary.
    """
    path = Path(vocabulary) / ENTRIES
    try:
        table = read_json(path)
        check_digest(table)
        tags, tokenizer = table["tags"], table["tokenizer"]
        if not TAGS.issuperset(tags.values()):
            raise ValueError("a tag that is no part of speech")
    except FileNotFoundError:
        raise VocabularyError(
            f"{path}: missing: tag the vocabulary's entries first (python -m clipa annotate)"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VocabularyError(f"{path}: broken: tag the entries again (python -m clipa annotate)") from None
    if tokenizer != _tokenizer_sha256(vocabulary):
        raise VocabularyError(
            f"{path}: of another vocabulary: tag the entries again (python -m clipa annotate)"
        )
    return numpy.array([_part(entry, tag) for entry, tag in tags.items()], numpy.int64)


def _part(entry: str, tag: str) -> int:
    """NOUN, ADJECTIVE, VERB or OTHER."""
    if tag == "AUX" and entry in MODALS:
        return texts.OTHER
    return texts.RELEASED_PARTS_OF_TAGS.get(tag, texts.OTHER)


def _tokenizer_sha256(vocabulary: Path) -> str | None:
    return file_sha256(Path(vocabulary) / "tokenizer.json")


def _annotate_entries(
    vocabulary: Path, sidecars: list[tuple[Path, str]], pipeline: str, about: dict[str, Any], processes: int
) -> None:
    """Write the table of the vocabulary's entries; each is tagged alone, or counted in ``sidecars`` (WORLD)."""
    with directory_lock(vocabulary, "annotation"):
        tokenizer = load_tokenizer(vocabulary)
        entries = entries_of(tokenizer)
        if pipeline == WORLD:
            counts: Counter[tuple[str, str]] = Counter()
            for found in in_processes(_tag_counts, sidecars, processes):
                counts.update(found)
            tags = tags_of_first_pieces(tokenizer, counts)
        else:
            tags = [tags[-1] if tags else UNSEEN for _, tags in tagged_captions(pipeline, entries)]
        write_entry_tags(vocabulary, about, entries, tags)


def _tag_counts(sidecar: Path, sha256: str) -> Counter[tuple[str, str]]:
    """How often each (word, tag) stands in a sidecar."""
    counts: Counter[tuple[str, str]] = Counter()
    for _, tagged in tagged_lines(sidecar, sha256):
        for words, tags in tagged:
            counts.update(zip(words, tags, strict=True))
    return counts


def entries_of(tokenizer: Tokenizer) -> list[str]:
    """The entries of a vocabulary in the order of their ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def tags_of_first_pieces(tokenizer: Tokenizer, counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Each entry's tag: the most frequent one of the words that begin with it, of equals the first by name.

    ``counts``: how often each (word, tag) occurs. Entries that begin no word are UNSEEN.
    """
    words = sorted({word for word, _ in counts})
    encodings = tokenizer.encode_batch(words, add_special_tokens=False)
    first = {word: encoding.ids[0] for word, encoding in zip(words, encodings, strict=True) if encoding.ids}
    found = [Counter() for _ in range(tokenizer.get_vocab_size())]
    for (word, tag), count in counts.items():
        if word in first:
            found[first[word]][tag] += count
    return [min(tags, key=lambda tag: (-tags[tag], tag)) if tags else UNSEEN for tags in found]


def write_entry_tags(
    vocabulary: Path, about: Mapping[str, Any], entries: Sequence[str], tags: Sequence[str]
) -> Path:
    """Write the table of a vocabulary directory; ``about`` describes the tagger. Returns its path."""
    path = Path(vocabulary) / ENTRIES
    table = {
        "tagger": about,
        "tokenizer": _tokenizer_sha256(vocabulary),
        "tags": dict(zip(entries, tags, strict=True)),
    }
    write_json_atomically(path, with_digest(table))
    return path
