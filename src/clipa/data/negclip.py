"""NegCLIP's training set (Table 14; Yuksekgonul et al. 2023): hard negative captions, and similar images.

From a training set and its parts of speech (:mod:`clipa.data.annotation`) a second one is made, ``negclip/``: shards
that the loader reads in sequence like all others (:mod:`clipa.data.stream`), since every sample carries all that may
be drawn with it. A sample is ``<key>.jpg``, ``<key>.neighbour0.jpg`` … ``neighbour2.jpg`` and ``<key>.json``::

    {"captions": [c, …], "negatives": [[n, …], …], "neighbours": [{"key", "captions", "negatives"}, …]}

with one to five negatives for every caption: the caption with two of its words exchanged. Left out are captions without
a negative, images without such a caption, and images that cannot be decoded; neighbours are images that are in the set.

For neighbours the original takes the cosine of CLIP ViT-B/32 image features. Any open_clip model with its weights does
(``ViT-B-32/openai``); ``pixels`` needs no model: colours averaged over 8 × 8 fields, each of the 192 numbers less its
mean over the set and divided by its deviation.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.data.annotation import word_spans, words_of
from clipa.data.samples import (
    BadSample,
    RawSample,
    Reason,
    decoded,
    named,
    read_shard,
    tagged_captions_of,
)
from clipa.data.shards import (
    Entry,
    Members,
    in_processes,
    progress_bar,
    read_manifest,
    tar_bytes,
    writing,
)
from clipa.data.web import digest_of, download
from clipa.downloads import DownloadError, load_downloads
from clipa.resolved import fingerprint

FOLDER = "negclip"
NEIGHBOURS = 3
AT_MOST = 5
KINDS = (("NOUN", "PROPN"), ("ADJ",), ("VERB",), ("ADV",))
"""Universal POS tags of words that may change places with one another."""

PIXELS = "pixels"
FIELDS = 8

_TRIES = 200  # exchanges that a caption gets: one without spaces may refuse millions
_VERSION = 1  # raised when the same captions, tags and images would give other shards
_ROWS_PER_SHARD = 256
_SHARDS = 64  # at least, where there are as many rows: the loader needs one per lane
_ENCODED_AT_ONCE = 64
_CHUNK = 256  # images whose cosines with all others are in memory at once
_LONGEST = 4096  # a vector of whole numbers: two such have products whose sums are below 2²⁴

Encoder = Callable[[Iterable[bytes]], np.ndarray]
"""JPEGs of N images → float64 [N, D], one row an image."""


class NegclipError(ValueError):
    """What the set is made from is missing or does not fit; one line that says where and what to do."""


# ----------------------------------------------------------------------------------------------------- captions


def negative_captions(caption: str, tags: Sequence[str]) -> list[str]:
    """At most five texts that are ``caption`` with two different words of one kind in each other's place.

    ``tags`` has the Universal POS tag of every word (:func:`clipa.data.annotation.words_of`). Words carry their
    letter case along; spaces and punctuation stay. Words that the text tower cannot tell apart (it sees neither case
    nor accents) are not exchanged. Order: the first exchange of each kind (nouns, adjectives, verbs, adverbs), then
    the second of each, …; within a kind, words with fewer others of the kind between them first, then from left to
    right. So the five are of many kinds, and change the text in many places. Raises NegclipError for another number
    of tags than words.
    """
    words, spans = words_of(caption), word_spans(caption)
    if len(words) != len(tags):
        raise NegclipError(f"{len(words)} words but {len(tags)} tags in {caption!r}")
    negatives: list[str] = []
    by_turns = zip_longest(*(_exchanges(words, tags, kind) for kind in KINDS))
    for i, j in islice(filter(None, chain.from_iterable(by_turns)), _TRIES):
        exchanged = list(words)
        exchanged[i], exchanged[j] = words[j], words[i]
        (a, b), (c, d) = spans[i], spans[j]
        negative = caption[:a] + caption[c:d] + caption[b:c] + caption[a:b] + caption[d:]
        # What touches its neighbour without a space (#tag, a Chinese sign) may be another word in another place.
        if words_of(negative) == exchanged:
            negatives.append(negative)
        if len(negatives) == AT_MOST:
            break
    return negatives


def _exchanges(words: list[str], tags: Sequence[str], kind: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Places i < j of different words of one kind: those next to one another first."""
    places = [place for place, tag in enumerate(tags) if tag in kind]
    seen = {place: _seen(words[place]) for place in places}
    if len(set(seen.values())) < 2:  # a long caption of one word has millions of pairs
        return
    for distance in range(1, len(places)):
        for i, j in zip(places, places[distance:], strict=False):
            if seen[i] != seen[j]:
                yield i, j


def _seen(word: str) -> str:
    """The word as the text tower's vocabulary reads it: without case and accents."""
    return _uncased().normalize_str(word)


@cache
def _uncased() -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer()


# ------------------------------------------------------------------------------------------------- the training set


@dataclass(frozen=True)
class Row:
    """An image of the set: where its JPEG lies in the training shards, its colours, captions and their negatives."""

    shard: str
    key: str
    offset: int
    size: int
    fields: bytes
    captions: list[str]
    negatives: list[list[str]]

    def texts(self) -> dict[str, Any]:
        return {"captions": self.captions, "negatives": self.negatives}

    def jpeg(self, train: Path) -> bytes:
        with open(train / self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def write_negatives(
    data_directory: Path, processes: int, neighbours: str = PIXELS, rows: int | None = None
) -> Path:
    """Make ``<data_directory>/negclip`` from ``train`` and its parts of speech; returns its ``manifest.json``.

    ``neighbours``: ``pixels``, or an open_clip model and its weights (:func:`weights_of`). ``rows``: only the first so
    many images that can be in the set, in the order of the shards. The manifest has the form of ``train``'s. What an
    earlier call has made from the same input and is whole is kept. Raises NegclipError, or ShardError where ``train``
    has no manifest.
    """
    train, out = Path(data_directory) / "train", Path(data_directory) / FOLDER
    if rows is not None and rows <= NEIGHBOURS:
        raise NegclipError(f"rows {rows}: with {NEIGHBOURS} neighbours each, {NEIGHBOURS + 1} are needed")
    manifest = read_manifest(train)
    made_from = {
        "version": _VERSION,
        "train": fingerprint(manifest),
        "parts_of_speech": fingerprint(read_manifest(train, ANNOTATED)["sidecars"]),
        "neighbours": neighbours,
        "rows": rows,
    }
    weights = weights_of(neighbours, Path(data_directory).parent / "weights")
    if weights is not None:
        made_from["weights"] = _digest_of(weights)
    header = {"world": manifest.get("world"), "made_from": made_from}
    with writing(out / "manifest.json", "negatives") as parts:
        if parts.resume(header):
            return parts.manifest
        encoder = encoder_of(neighbours, weights)  # first: it may be missing
        chosen = _rows(train, manifest["shards"], processes, rows)
        if len(chosen) <= NEIGHBOURS:
            raise NegclipError(
                f"{train}: {len(chosen)} images have a caption with two words to exchange; "
                f"with {NEIGHBOURS} neighbours each, {NEIGHBOURS + 1} are needed"
            )
        jobs = _jobs(train, chosen, nearest(_features(train, chosen, encoder), NEIGHBOURS))
        with progress_bar("images and neighbours", len(jobs), "shard") as bar:
            shards = parts.write(_shard_of, jobs, processes, lambda entry: bar.update())
        content = header | {"shards": shards}
        return parts.finish({"fingerprint": fingerprint(content), **content})


def _digest_of(weights: Path) -> str:
    try:
        return digest_of(weights, "sha256")
    except OSError as error:
        raise NegclipError(f"{weights}: cannot be read ({error.strerror}); name other weights") from None


def _rows(train: Path, shards: list[dict[str, Any]], processes: int, limit: int | None) -> list[Row]:
    """The images of the set, in the order of the shards, ``limit`` at most. Shards beyond it are not read.

    Bad samples are left out, and counted on standard error.
    """
    found: list[Row] = []
    bad: Counter[Reason] = Counter()
    at_once = len(shards) if limit is None else max(1, processes)
    with progress_bar("negative captions", len(shards), "shard") as bar:
        for first in range(0, len(shards), at_once):
            jobs = [(train, shard, limit) for shard in shards[first : first + at_once]]
            for rows, wrong in in_processes(_rows_of_shard, jobs, processes):
                found += rows
                bad += wrong
                bar.update()
            if limit is not None and len(found) >= limit:
                break
    if bad:
        print(f"{train}: {bad.total()} samples left out: {named(bad)}", file=sys.stderr)
    return found[:limit]


def _rows_of_shard(train: Path, shard: Entry, limit: int | None) -> tuple[list[Row], Counter[Reason]]:
    """The first ``limit`` images of a shard that can be in the set, and counts of bad samples (in a worker process)."""
    rows: list[Row] = []
    bad: Counter[Reason] = Counter()
    for sample in read_shard(train, shard, tagged=True):
        try:
            row = _row(shard["name"], sample)
        except BadSample as error:
            bad[error.reason] += 1
            continue
        if row:
            rows.append(row)
        if len(rows) == limit:
            break
    return rows, bad


def _row(shard: str, sample: RawSample) -> Row | None:
    """The row of one sample; None without a negative. Raises BadSample, or ShardError for lack of tags."""
    captions, negatives = [], []
    for caption, tags in zip(*tagged_captions_of(sample), strict=True):
        made = negative_captions(caption, tags)
        if made:
            captions.append(caption)
            negatives.append(made)
    ending = sample.image_ending()
    if not captions:
        return None
    fields = pooled(sample.members[ending])
    return Row(shard, sample.key, *sample.places[ending], fields, captions, negatives)


def _features(train: Path, rows: list[Row], encoder: Encoder | None) -> np.ndarray:
    """Features of all images, float64 [N, D]."""
    if encoder is None or not rows:
        return pixel_features(row.fields for row in rows)
    parts = []
    with progress_bar("image features", len(rows), "image") as bar:
        for first in range(0, len(rows), _ENCODED_AT_ONCE):
            some = rows[first : first + _ENCODED_AT_ONCE]
            parts.append(encoder(row.jpeg(train) for row in some))
            bar.update(len(some))
    return np.concatenate(parts)


def _jobs(train: Path, rows: list[Row], neighbours: np.ndarray) -> dict[str, tuple]:
    """What each shard is made of, by name; shards are of nearly equal length."""
    count = min(len(rows), max(_SHARDS, -(-len(rows) // _ROWS_PER_SHARD)))
    ends = [index * len(rows) // count for index in range(count + 1)]
    groups = [[row, *(rows[other] for other in near)] for row, near in zip(rows, neighbours, strict=True)]
    return {
        f"{index:05d}.tar": (train, groups[first:end]) for index, (first, end) in enumerate(pairwise(ends))
    }


def _shard_of(name: str, train: Path, groups: list[list[Row]]) -> tuple[bytes, Entry]:
    members: Members = []
    for own, *others in groups:
        facts = {**own.texts(), "neighbours": [{"key": other.key, **other.texts()} for other in others]}
        text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
        members.append((f"{own.key}.jpg", own.jpeg(train)))
        members += [(f"{own.key}.neighbour{i}.jpg", other.jpeg(train)) for i, other in enumerate(others)]
        members.append((f"{own.key}.json", text.encode("utf-8")))
    return tar_bytes(members), {"name": name, "samples": len(groups)}


# ------------------------------------------------------------------------------------------------------ neighbours


def weights_of(name: str, directory: Path) -> Path | None:
    """The safetensors file behind ``<model>/<weights>``; None for ``pixels``, which need none.

    Weights are a file, or the name of open_clip's for the model: then ``<model>-<weights>.safetensors`` of
    config/downloads.yaml, which is downloaded to ``directory`` if it is not there. Raises NegclipError for another
    name, or a file that is no safetensors: open_clip would unpickle it.
    """
    if name == PIXELS:
        return None
    model, slash, weights = name.partition("/")
    if not (model and slash and weights):
        raise NegclipError(
            f"neighbours {name!r}: expected pixels, or an open_clip model and its weights, as ViT-B-32/openai"
        )
    if Path(weights).suffix == ".safetensors":
        return Path(weights)
    if Path(weights).suffix or Path(weights).exists():
        raise NegclipError(
            f"neighbours {name}: {weights} is no .safetensors file, and nothing else is loaded"
        )
    try:
        return download(f"{model}-{weights}.safetensors", directory, load_downloads())
    except DownloadError as error:
        raise NegclipError(
            f"neighbours {name}: no weights ({error}); name another, or pixels, which need none"
        ) from None


def encoder_of(name: str, weights: Path | None) -> Encoder | None:
    """The open_clip encoder of ``<model>/…`` with the safetensors file of :func:`weights_of`; None without one.

    Raises NegclipError for an unknown model, or weights that are not a safetensors file of it.
    """
    if weights is None:
        return None
    import open_clip
    import torch

    model_name, _, tag = name.partition("/")
    known = open_clip.get_pretrained_cfg(model_name, tag) or {}
    config = open_clip.get_model_config(model_name) if model_name in open_clip.list_models() else None
    if (
        config is None or "hf_model_name" in config["text_cfg"]
    ):  # a tower of transformers is downloaded unpinned
        raise NegclipError(
            f"neighbours {name}: open_clip has no model {model_name} that is all its own; name another, or pixels"
        )
    logging.disable(logging.CRITICAL)  # it logs what it raises, and the message below repeats it
    try:
        model, _, prepared = open_clip.create_model_and_transforms(
            model_name,
            pretrained=str(weights),
            force_quick_gelu=bool(known.get("quick_gelu")),
            pretrained_text=False,
            image_mean=known.get("mean"),
            image_std=known.get("std"),
            image_interpolation=known.get("interpolation"),
            image_resize_mode=known.get("resize_mode"),
        )
    except Exception as error:  # of open_clip, safetensors, torch, the file: in any case there are no weights
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NegclipError(
            f"neighbours {name}: {weights} has no weights of {model_name} ({reason}); name others, or pixels"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    model.eval()

    def encode(jpegs: Iterable[bytes]) -> np.ndarray:
        images = [prepared(decoded(jpeg)) for jpeg in jpegs]
        with torch.inference_mode():
            return model.encode_image(torch.stack(images)).double().numpy()

    return encode


def pooled(jpeg: bytes) -> bytes:
    """Colours of an image averaged over 8 × 8 fields, row by row: 192 bytes. BadSample where it cannot be decoded."""
    return decoded(jpeg).resize((FIELDS, FIELDS), Image.Resampling.BOX).tobytes()


def pixel_features(fields: Iterable[bytes]) -> np.ndarray:
    """Standardised colours float64 [N, 192] of what :func:`pooled` gives for N images."""
    values = np.frombuffer(b"".join(fields), np.uint8).reshape(-1, FIELDS * FIELDS * 3).astype(np.float64)
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def nearest(features: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` other rows of ``features`` [N, D] with the largest cosine, best first: int64 [N, count].

    All pairs are compared. Unit vectors are rounded to whole numbers of length at most 4096 (a thousandth of their
    length is lost), so that float32 holds every product and every partial sum exactly: the same neighbours whatever
    the processor, its threads and the chunks; equal cosines go by index. Raises NegclipError if N ≤ count.
    """
    if len(features) <= count:
        raise NegclipError(f"{len(features)} images: each needs {count} others as its neighbours")
    whole = whole_numbers(features)
    found = np.empty((len(whole), count), np.int64)
    for first in range(0, len(whole), _CHUNK):
        cosines = whole[first : first + _CHUNK] @ whole.T
        row = np.arange(len(cosines))
        cosines[row, first + row] = -np.inf
        for place in range(count):
            best = cosines.argmax(axis=1)  # of equal ones the first
            found[first + row, place] = best
            cosines[row, best] = -np.inf
    return found


def whole_numbers(features: np.ndarray) -> np.ndarray:
    """Rows of ``features`` [N, D] at (almost) length 4096, rounded: float32 [N, D] of whole numbers."""
    values = np.asarray(features, np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    # Rounding adds at most half to every number, so at most √D / 2 to the length.
    scale = _LONGEST - np.sqrt(values.shape[1]) / 2
    return np.rint(values / np.where(length > 0, length, 1.0) * scale).astype(np.float32)
