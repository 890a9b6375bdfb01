"""Parts of speech of a vocabulary's entries, each taken alone: what syntax masking goes by in the recipe `released`.

The released code tags no captions. It tags the entries of the vocabulary once, each as a text of its own, and takes a
word for what the entry of its first piece is. So does ``<data>/vocabulary/entries.json`` (written by
:func:`clipa.data.annotation.annotate`): ``{"tagger", "tokenizer", "tags": {entry: tag, …}}``, Universal POS, in the
order of the ids. An entry of several words (``[UNK]``, ``##ing``: brackets and hashes are words) has the tag of the
last one, as there.

Penn's tags, which the released code sorts by, are coarser in one place and finer in another: VB* is verbs and the
auxiliaries be, have and do; modals are MD, hence "other". Universal POS calls all auxiliaries AUX. Modals are a closed
list of words and entries are words, so the list makes the difference.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from clipa.data.vocabulary import VocabularyError
from clipa.files import write_json_atomically
from clipa.reductions import texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENTRIES = "entries.json"
UNSEEN = "X"
"""Universal POS of what has no part of speech: an entry without a word, or one that no tagged word begins with."""

MODALS = frozenset(
    ["can", "cannot", "could", "may", "might", "must", "ought", "shall", "should", "will", "would"]
)


def entries_of(tokenizer: Tokenizer) -> list[str]:
    """The entries of a vocabulary in the order of their ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def tags_of_first_pieces(tokenizer: Tokenizer, counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Each entry's tag: the most frequent one of the words that begin with it, of equals the first by name.

    For tags that come without a tagger that could look at an entry alone. ``counts``: how often each (word, tag)
    occurs. Entries that begin no word are UNSEEN.
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
    table = dict(zip(entries, tags, strict=True))
    write_json_atomically(path, {"tagger": about, "tokenizer": _digest(vocabulary), "tags": table})
    return path


def load_entry_parts(vocabulary: Path) -> numpy.ndarray:
    """What each entry is to syntax masking as released: int64 [V] by id (:mod:`clipa.reductions.texts`).

    Raises VocabularyError where the table is missing, broken, or that of another vocabulary.
    """
    path = Path(vocabulary) / ENTRIES
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        tags, tokenizer = table["tags"], table["tokenizer"]
    except FileNotFoundError:
        raise VocabularyError(
            f"{path}: missing: tag the vocabulary's entries first (python -m clipa annotate)"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise VocabularyError(f"{path}: broken: tag the entries again (python -m clipa annotate)") from None
    if tokenizer != _digest(vocabulary):
        raise VocabularyError(
            f"{path}: of another vocabulary: tag the entries again (python -m clipa annotate)"
        )
    return numpy.array([_part(entry, tag) for entry, tag in tags.items()], numpy.int64)


def _part(entry: str, tag: str) -> int:
    """NOUN, ADJECTIVE, VERB or OTHER."""
    if tag == "AUX" and entry in MODALS:
        return texts.OTHER
    return texts.RELEASED_PARTS_OF_TAGS.get(tag, texts.OTHER)


def _digest(vocabulary: Path) -> str:
    return hashlib.sha256((Path(vocabulary) / "tokenizer.json").read_bytes()).hexdigest()
