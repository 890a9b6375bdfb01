"""What NegCLIP trains on (Table 14; Yuksekgonul et al. 2023): captions with two words exchanged, and like pictures.

From a training set and its parts of speech (:mod:`clipa.data.annotation`) a second one is made, ``negclip/``: shards
that the loader reads in sequence like all others (:mod:`clipa.data.pairs`), since every sample brings along whatever
may be drawn with it. A sample is ``<key>.jpg``, ``<key>.neighbour0.jpg`` … ``neighbour2.jpg`` and ``<key>.json``::

    {"captions": [c, …], "negatives": [[n, …], …], "neighbours": [{"key", "captions", "negatives"}, …]}

with one to five negatives for every caption. Captions without a negative are left out, and so are pictures without
such a caption, or that cannot be decoded; neighbours are pictures that are in.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise, repeat, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.data.annotation import word_spans, words_of
from clipa.data.neighbours import Encoder, encoder_of, nearest, pixel_features, pooled
from clipa.data.processes import in_processes
from clipa.data.shards import tar_bytes
from clipa.data.stream import captions_of, read_manifest
from clipa.files import write_bytes_atomically, write_json_atomically
from clipa.locks import directory_lock
from clipa.runs import fingerprint

FOLDER = "negclip"
NEIGHBOURS = 3
AT_MOST = 5
KINDS = (("NOUN", "PROPN"), ("ADJ",), ("VERB",), ("ADV",))
"""Universal POS tags of words that may change places with one another."""

_VERSION = 1  # raised when the same captions, tags and pictures would give other shards
_ROWS_PER_SHARD = 256
_SHARDS = 64  # at least, where there are as many rows: the loader needs one a lane
_ENCODED_AT_ONCE = 64


class NegativesError(ValueError):
    """What negatives are made from is missing or does not fit; one line that says where and what to do."""


# ----------------------------------------------------------------------------------------------------- captions


def negative_captions(caption: str, tags: Sequence[str]) -> list[str]:
    """At most five texts that are ``caption`` with two different words of one kind in each other's place.

    ``tags`` has the Universal POS tag of every word (:func:`clipa.data.annotation.words_of`). Words carry their
    letter case along; spaces and punctuation stay. Words that the text tower cannot tell apart (it sees neither case
    nor accents) are not exchanged. Order: the first exchange of each kind (nouns, adjectives, verbs, adverbs), then
    the second of each, …; within a kind, words with fewer others of the kind between them first, then from left to
    right. So the five are of many kinds, and change the text in many places. Raises NegativesError for another number
    of tags than words.
    """
    words, spans = words_of(caption), word_spans(caption)
    if len(words) != len(tags):
        raise NegativesError(f"{len(words)} words but {len(tags)} tags in {caption!r}")
    negatives: list[str] = []
    by_turns = zip_longest(*(_exchanges(words, tags, kind) for kind in KINDS))
    for i, j in filter(None, chain.from_iterable(by_turns)):
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
    for distance in range(1, len(places)):
        for i, j in zip(places, places[distance:], strict=False):
            if _seen(words[i]) != _seen(words[j]):
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
    """A picture that is in: where its JPEG lies in the training shards, its colours, captions and their negatives."""

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
    data_directory: Path, processes: int, neighbours: str = "pixels", rows: int | None = None
) -> Path:
    """Make ``<data_directory>/negclip`` from ``train`` and its parts of speech; returns its ``manifest.json``.

    ``neighbours``: ``pixels``, or an open_clip model and its weights, ``ViT-B-32/openai``
    (:mod:`clipa.data.neighbours`). ``rows``: only the first so many pictures that can be in, in the order of the
    shards. The manifest has the form of ``train``'s and comes last; the same input gives the same bytes for any
    number of processes. What is finished and whole is kept, anything else made again. Raises NegativesError,
    NeighboursError, or ShardError where ``train`` has no manifest.
    """
    train, out = Path(data_directory) / "train", Path(data_directory) / FOLDER
    if rows is not None and rows <= NEIGHBOURS:
        raise NegativesError(f"rows {rows}: with {NEIGHBOURS} neighbours each, {NEIGHBOURS + 1} are needed")
    manifest = read_manifest(train)
    made_from = {
        "version": _VERSION,
        "train": fingerprint(manifest),
        "parts_of_speech": fingerprint(_sidecars(train)),
        "neighbours": neighbours,
        "rows": rows,
    }
    with directory_lock(out, "negatives"):
        if not _finished(out, made_from):
            encoder = encoder_of(neighbours)  # first: it may not be there
            (out / "manifest.json").unlink(missing_ok=True)
            for leftover in (*out.glob("*.tar"), *out.glob(".*.tmp")):
                leftover.unlink()
            chosen = _rows(train, manifest["shards"], processes, rows)
            if len(chosen) <= NEIGHBOURS:
                raise NegativesError(
                    f"{train}: {len(chosen)} pictures have a caption with two words to exchange; "
                    f"with {NEIGHBOURS} neighbours each, {NEIGHBOURS + 1} are needed"
                )
            features = _features(train, chosen, encoder)
            shards = _write_shards(train, out, chosen, nearest(features, NEIGHBOURS), processes)
            content = {"world": manifest.get("world"), "made_from": made_from, "shards": shards}
            write_json_atomically(out / "manifest.json", {"fingerprint": fingerprint(content), **content})
    return out / "manifest.json"


def _sidecars(train: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((train / ANNOTATED).read_text(encoding="utf-8"))["sidecars"]
    except FileNotFoundError:
        raise NegativesError(
            f"{train / ANNOTATED}: missing: tag the captions first (python -m clipa annotate)"
        ) from None


def _finished(out: Path, made_from: dict[str, Any]) -> bool:
    """Whether ``out`` is what would be made now, down to the last byte."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        return manifest.get("made_from") == made_from and all(
            hashlib.sha256((out / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
            for shard in manifest["shards"]
        )
    except FileNotFoundError:
        return False


def _rows(train: Path, shards: list[dict[str, Any]], processes: int, limit: int | None) -> list[Row]:
    """The pictures that are in, in the order of the shards, ``limit`` at most. Shards beyond it are not read."""
    found: list[Row] = []
    at_once = len(shards) if limit is None else max(1, processes)
    with _bar("negative captions", len(shards), "shard") as bar:
        for first in range(0, len(shards), at_once):
            jobs = [
                (train / shard["name"], shard["samples"], limit) for shard in shards[first : first + at_once]
            ]
            by_shard = {}
            for name, rows in in_processes(_rows_of_shard, jobs, processes):
                by_shard[name] = rows
                bar.update()
            found += chain.from_iterable(by_shard[path.name] for path, _, _ in jobs)
            if limit is not None and len(found) >= limit:
                break
    return found[:limit]


def _rows_of_shard(shard: Path, samples: int, limit: int | None) -> tuple[str, list[Row]]:
    """The shard's name, and the first ``limit`` of its pictures that can be in (in a worker process)."""
    rows: list[Row] = []
    read = 0
    try:
        for row in _rows_in(shard):
            read += 1
            if row:
                rows.append(row)
            if len(rows) == limit:
                return shard.name, rows
    except (tarfile.TarError, EOFError) as error:
        raise NegativesError(f"{shard}: unreadable after {read} samples ({error}); make it again") from None
    if read != samples:
        raise NegativesError(f"{shard}: {read} samples, the manifest says {samples}; make it again")
    return shard.name, rows


def _rows_in(shard: Path) -> Iterator[Row | None]:
    """Every sample of a shard as a row, None for one that cannot be in."""
    sidecar = shard.with_suffix(".pos.jsonl")
    with open(sidecar, encoding="utf-8") as lines, tarfile.open(shard, "r:") as archive:
        for (key, members), line in zip(_samples(archive), chain(lines, repeat(None)), strict=False):
            tagged = json.loads(line) if line else {"key": "the end"}
            if tagged["key"] != key:
                raise NegativesError(
                    f"{sidecar}: {tagged['key']} where {key} is expected: tag the captions again"
                )
            yield _row(shard.name, key, archive, members, tagged["captions"])


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Key and members by ending of every sample of a shard, as webdataset groups them."""
    key, members = None, {}
    for member in archive:
        name, _, ending = member.name.partition(".")
        if name != key and members:
            yield key, members
            members = {}
        key = name
        members[ending] = member
    if members:
        yield key, members


def _row(
    shard: str,
    key: str,
    archive: tarfile.TarFile,
    members: dict[str, tarfile.TarInfo],
    tagged: list[dict[str, Any]],
) -> Row | None:
    """What is in of one sample; None if nothing is."""
    raw = {ending: archive.extractfile(member).read() for ending, member in members.items()}
    captions, negatives = [], []
    for caption, words in zip(captions_of(raw), tagged, strict=True):
        made = negative_captions(caption, words["tags"])
        if made:
            captions.append(caption)
            negatives.append(made)
    if not captions or "jpg" not in raw:
        return None
    try:
        fields = pooled(raw["jpg"])
    except OSError:
        return None
    place = members["jpg"]
    return Row(shard, key, place.offset_data, place.size, fields, captions, negatives)


def _features(train: Path, rows: list[Row], encoder: Encoder | None) -> np.ndarray:
    """Features of all pictures, float64 [N, D]."""
    if encoder is None or not rows:
        return pixel_features(row.fields for row in rows)
    parts = []
    with _bar("image features", len(rows), "image") as bar:
        for first in range(0, len(rows), _ENCODED_AT_ONCE):
            some = rows[first : first + _ENCODED_AT_ONCE]
            parts.append(encoder(row.jpeg(train) for row in some))
            bar.update(len(some))
    return np.concatenate(parts)


def _write_shards(
    train: Path, out: Path, rows: list[Row], neighbours: np.ndarray, processes: int
) -> list[dict[str, Any]]:
    """Write all shards, of nearly equal length; returns their manifest entries."""
    count = min(len(rows), max(_SHARDS, -(-len(rows) // _ROWS_PER_SHARD)))
    ends = [index * len(rows) // count for index in range(count + 1)]
    jobs = []
    for index, (first, end) in enumerate(pairwise(ends)):
        groups = [[rows[i], *(rows[other] for other in neighbours[i])] for i in range(first, end)]
        jobs.append((train, out / f"{index:05d}.tar", groups))
    with _bar("pictures and neighbours", count, "shard") as bar:
        entries = []
        for entry in in_processes(_write_shard, jobs, processes):
            entries.append(entry)
            bar.update()
    return sorted(entries, key=lambda entry: entry["name"])


def _write_shard(train: Path, path: Path, groups: list[list[Row]]) -> dict[str, Any]:
    """Write one shard (in a worker process); returns its manifest entry."""
    members = []
    for own, *others in groups:
        facts = {**own.texts(), "neighbours": [{"key": other.key, **other.texts()} for other in others]}
        text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
        members.append((f"{own.key}.jpg", own.jpeg(train)))
        members += [(f"{own.key}.neighbour{i}.jpg", other.jpeg(train)) for i, other in enumerate(others)]
        members.append((f"{own.key}.json", text.encode("utf-8")))
    content = tar_bytes(members)
    write_bytes_atomically(path, content)
    return {"name": path.name, "samples": len(groups), "sha256": hashlib.sha256(content).hexdigest()}


def _bar(what: str, total: int, unit: str) -> Any:
    from tqdm import tqdm

    seconds = 0.5 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, unit=unit, mininterval=seconds)
