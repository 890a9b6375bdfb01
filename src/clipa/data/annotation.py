"""Parts of speech of every training caption, as sidecar files beside the shards (which are never rewritten).

Syntax masking (§3.2) keeps nouns first, then adjectives, then other words. Tags are made once, by spaCy, before any
training: ``train/<shard>.pos.jsonl`` has one line per sample, ``{"key", "captions": [{"words", "tags"}, …]}``, with
Universal POS tags and words as BERT's basic tokenizer splits them. ``train/annotation.json`` is written last.
Where there is a vocabulary, its entries are tagged, too, for the recipe `released` (:mod:`clipa.data.entries`).

The embedded world knows the part of speech of each word it writes. A small tagger learns from these gold tags and
then annotates, so that the path is the one of real captions (there: an installed pipeline, ``en_core_web_sm``). Where
spaCy is not installed (the mini scale may run on such a machine) the gold tags themselves become the sidecars, and an
entry of the vocabulary is what the words that begin with it are most often.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.data.entries import ENTRIES, UNSEEN, entries_of, tags_of_first_pieces, write_entry_tags
from clipa.data.processes import in_processes
from clipa.data.vocabulary import MANIFEST as VOCABULARY
from clipa.data.vocabulary import load_tokenizer, read_scene_facts
from clipa.files import write_json_atomically, write_text_atomically
from clipa.locks import directory_lock

if TYPE_CHECKING:
    from spacy.language import Language

MANIFEST = "annotation.json"
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
    name of an installed spaCy pipeline (``en_core_web_sm``). Shards that an interrupted call has finished are not
    tagged again. The entries of ``<data_directory>/vocabulary``, where there is one, are tagged after the captions.
    Raises AnnotationError when there are no shards, or when the pipeline is not installed.
    """
    train, vocabulary = (Path(data_directory) / name for name in ("train", "vocabulary"))
    shards = sorted(path.name for path in train.glob("*.tar"))
    if not shards:
        raise AnnotationError(f"{train}: no shards to annotate; draw the world (or download the data) first")
    with directory_lock(train, "annotation"):
        if tagger == GOLD:
            out = Path(data_directory) / "tagger"
            about = train_tagger(Path(data_directory), out)
            pipeline = str(out)
        elif tagger == WORLD:
            about, pipeline = {"name": "the world's own tags"}, WORLD
        else:
            about, pipeline = {"name": tagger, "version": _installed_version(tagger)}, tagger
        for made in (train / MANIFEST, vocabulary / ENTRIES):
            made.unlink(missing_ok=True)
        entries = _annotate_shards(train, shards, pipeline, about, processes)
        manifest = {
            "tagger": about,
            "words": sum(entry["words"] for entry in entries),
            "captions": sum(entry["captions"] for entry in entries),
            "sidecars": entries,
        }
        if (vocabulary / VOCABULARY).is_file():
            sidecars = [train / entry["name"] for entry in entries]
            _annotate_entries(vocabulary, sidecars, pipeline, about, processes)
        write_json_atomically(train / MANIFEST, manifest)
        _journal(train).unlink(missing_ok=True)
    return train / MANIFEST


def train_tagger(data_directory: Path, out: Path) -> dict[str, Any]:
    """Train a small spaCy tagger on gold tags of the training shards and save it in ``out``.

    Returns its description: seed, number of captions, accuracy (share of words) on captions of another shard (or of
    the same one's end) than those it learnt from. Runs on one thread from a fixed seed: same captions, same tagger.
    """
    shards = sorted((data_directory / "train").glob("*.tar"))
    captions = list(islice(gold_captions(shards[0]), TRAINING_CAPTIONS + HELD_OUT_CAPTIONS))
    if len(shards) > 1:
        learnt, held_out = (
            captions[:TRAINING_CAPTIONS],
            list(islice(gold_captions(shards[-1]), HELD_OUT_CAPTIONS)),
        )
    else:
        learnt, held_out = captions[: len(captions) // 2], captions[len(captions) // 2 :]
    nlp = _fit(learnt)
    right = words = 0
    for document, (_, tags) in zip(_tagged(nlp, (words for words, _ in held_out)), held_out, strict=True):
        right += sum(token.tag_ == tag for token, tag in zip(document, tags, strict=True))
        words += len(tags)
    nlp.to_disk(out)
    return {
        "name": "trained on the world's gold tags",
        "version": _installed_version("spacy"),
        "seed": TAGGER_SEED,
        "captions": len(learnt),
        "held_out_captions": len(held_out),
        "accuracy": round(right / max(1, words), 6),
    }


def gold_captions(shard: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(words, tags) of every caption of one drawn shard. Raises AnnotationError where they do not go together."""
    for content in read_scene_facts(shard):
        if "pos" not in content:
            raise AnnotationError(
                f"{shard}: sample {content['key']} has no gold tags; name an installed tagger, as en_core_web_sm"
            )
        for caption, tags in zip(content["captions"], content["pos"], strict=True):
            words = words_of(caption)
            if len(words) != len(tags):
                raise AnnotationError(
                    f"{shard}: sample {content['key']}: {len(words)} words but {len(tags)} tags in {caption!r}"
                )
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

    # Taggers tell proper nouns by capitals, so case stays; the words are the same.
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


def _annotate_shards(
    train: Path, shards: list[str], pipeline: str, about: dict[str, Any], processes: int
) -> list[dict[str, Any]]:
    """Sidecars of all ``shards``; entries in shard order. Each finished one is noted in a journal at once."""
    from tqdm import tqdm

    done = _finished(train, about)
    missing = [name for name in shards if name not in done]
    seconds = 0.5 if sys.stderr.isatty() else 10
    bar = tqdm(
        total=len(shards), initial=len(done), desc="parts of speech", unit="shard", mininterval=seconds
    )
    with bar, open(_journal(train), "a", encoding="utf-8") as journal:
        jobs = [(train / name, pipeline) for name in missing]
        for entry in in_processes(_annotate_shard, jobs, processes):
            # The line break first: the last line may have been cut by a kill.
            journal.write("\n" + json.dumps({"tagger": about, **entry}) + "\n")
            journal.flush()
            done[entry["shard"]] = entry
            bar.update()
    return [done[name] for name in shards]


def _annotate_shard(shard: Path, pipeline: str) -> dict[str, Any]:
    """Write the sidecar of one shard; returns its manifest entry."""
    samples = [(content["key"], content["captions"]) for content in read_scene_facts(shard)]
    if pipeline == WORLD:
        annotations = gold_captions(shard)
    else:
        annotations = tagged_captions(pipeline, [caption for _, captions in samples for caption in captions])
    lines, count = [], 0
    for key, captions in samples:
        annotated = [{"words": words, "tags": tags} for words, tags in islice(annotations, len(captions))]
        count += sum(len(caption["words"]) for caption in annotated)
        lines.append(
            json.dumps({"key": key, "captions": annotated}, ensure_ascii=False, separators=(",", ":")) + "\n"
        )
    text = "".join(lines)
    sidecar = shard.with_suffix(".pos.jsonl")
    write_text_atomically(sidecar, text)
    return {
        "shard": shard.name,
        "name": sidecar.name,
        "samples": len(samples),
        "captions": sum(len(captions) for _, captions in samples),
        "words": count,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _annotate_entries(
    vocabulary: Path, sidecars: list[Path], pipeline: str, about: dict[str, Any], processes: int
) -> None:
    """Write the table of the vocabulary's entries; each is tagged alone, or counted in ``sidecars`` (WORLD)."""
    with directory_lock(vocabulary, "annotation"):
        tokenizer = load_tokenizer(vocabulary)
        entries = entries_of(tokenizer)
        if pipeline == WORLD:
            counts: Counter[tuple[str, str]] = Counter()
            for found in in_processes(_tag_counts, [(sidecar,) for sidecar in sidecars], processes):
                counts.update(found)
            tags = tags_of_first_pieces(tokenizer, counts)
        else:
            tags = [tags[-1] if tags else UNSEEN for _, tags in tagged_captions(pipeline, entries)]
        write_entry_tags(vocabulary, about, entries, tags)


def _tag_counts(sidecar: Path) -> Counter[tuple[str, str]]:
    """How often each (word, tag) stands in a sidecar."""
    counts: Counter[tuple[str, str]] = Counter()
    with open(sidecar, encoding="utf-8") as lines:
        for line in lines:
            for caption in json.loads(line)["captions"]:
                counts.update(zip(caption["words"], caption["tags"], strict=True))
    return counts


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
        # Tags are all that is wanted; the parser and the entity recogniser cost three quarters of the time.
        return spacy.load(pipeline, exclude=["parser", "ner", "lemmatizer"])
    except OSError:
        raise AnnotationError(
            f"spaCy pipeline {pipeline!r} is not installed; install it (python -m spacy download {pipeline})"
        ) from None


def _installed_version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        raise AnnotationError(
            f"spaCy pipeline {name!r} is not installed; install it (python -m spacy download {name})"
        ) from None


def _journal(train: Path) -> Path:
    return train / "annotation.journal.jsonl"


def _finished(train: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of shards that an interrupted call has finished with the same tagger and whose sidecars are whole."""
    entries: dict[str, dict[str, Any]] = {}
    try:
        lines = _journal(train).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the line that was being written when the process was killed
            continue
        sidecar = train / entry["name"]
        whole = sidecar.is_file() and hashlib.sha256(sidecar.read_bytes()).hexdigest() == entry["sha256"]
        if entry.pop("tagger") == about and whole:
            entries[entry["shard"]] = entry
    return entries
