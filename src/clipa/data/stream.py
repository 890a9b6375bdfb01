"""The loader: webdataset shards in, batches out, in an order that is a pure function of (seed, position).

Order of samples (docs/design.md): each epoch's seeded permutation of the shards is dealt to a fixed number of
canonical *lanes*; inside a lane, windows of consecutive samples are permuted; lanes are interleaved, so global
position ``p`` belongs to lane ``p % lanes``. Ranks and workers own whole lanes. Hence sequential reads only,
memory independent of the number of samples, the same order for every number of ranks and workers, and a resume
that re-reads at most one shard per lane. NegCLIP's batches (kind ``negclip``) have two pictures and four captions a
position (:mod:`clipa.data.pairs`), in the same order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipa.config import Augmentation
from clipa.data.augmentation import augmented
from clipa.data.entries import load_entry_parts
from clipa.data.pairs import by_role, pair_of
from clipa.data.vocabulary import encode, encode_reduced, load_tokenizer
from clipa.reductions.noise import uniform
from clipa.reductions.texts import RECIPES

NOISE_PER_SAMPLE = 32
"""Uniform draws that every picture of a sample owns, by position: caption, crop, colours."""
NEGCLIP = "negclip"
"""The kind of stage whose positions are pairs of pictures."""
_STREAMS = {"order": 1, "augmentation": 2, "image mask": 3, "text mask": 4, "neighbour": 5}
_STAGES = {"pretrain": 0, "finetune": 1, NEGCLIP: 2}


class ShardError(RuntimeError):
    """A shard that cannot be read as it was written, or too many undecodable images."""


@dataclass(frozen=True)
class StreamSpec:
    """What a stage reads: everything here, with the position, determines a sample bit for bit.

    ``kind`` is ``pretrain``, ``finetune`` or ``negclip``; for the last, ``directory`` is what
    :func:`clipa.data.negatives.write_negatives` made and ``batch_size`` counts positions.
    """

    directory: Path
    shards: tuple[tuple[str, int], ...]
    seed: int
    kind: str
    lanes: int
    shuffle_window: int
    batch_size: int
    image_size: int
    text_tokens: int
    augmentation: Augmentation
    vocabulary: Path
    text_reduction: str = "truncation"
    text_recipe: str = "paper"

    def __post_init__(self) -> None:
        if self.text_recipe not in RECIPES:
            raise ValueError(f"no text recipe {self.text_recipe!r} (known: {', '.join(RECIPES)})")
        if len(self.shards) < self.lanes:
            raise ShardError(
                f"{self.directory}: {len(self.shards)} shards for {self.lanes} lanes; need one a lane"
            )
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of lanes {self.lanes}")
        if self.kind == NEGCLIP and self.text_reduction != "truncation":
            raise ValueError(
                f"text_reduction {self.text_reduction}: NegCLIP's captions are only ever truncated"
            )

    @property
    def needs_tags(self) -> bool:
        """Whether the captions' own parts of speech are read: the sidecars beside the shards."""
        return self.text_reduction == "syntax" and self.text_recipe == "paper"

    @property
    def needs_entries(self) -> bool:
        """Whether the parts of speech of the vocabulary's entries are read (:mod:`clipa.data.entries`)."""
        return self.text_reduction == "syntax" and self.text_recipe == "released"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The shards of a training set with their sample counts; one clear line when there is none."""
    path = directory / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(
            f"{path} is missing: draw or download the data first (python -m clipa draw --help)"
        ) from None


def generator(seed: int, stream: str, *path: int) -> np.random.Generator:
    """The named random stream ``(seed, stream, …)``; independent of every other path."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[stream], *path]))


def sample_noise(seed: int, kind: str, first: int, count: int, stream: str = "augmentation") -> np.ndarray:
    """Uniform draws in [0, 1) of the samples at positions ``first … first + count - 1``: float64 [count, 32].

    ``stream`` "neighbour": the draws of the second picture that NegCLIP's samples have.
    """
    key = np.random.SeedSequence([seed, _STREAMS[stream], _STAGES[kind]]).generate_state(2, np.uint64)
    blocks = NOISE_PER_SAMPLE // 4  # Philox makes four numbers per step of its counter
    bits = np.random.Philox(key=key, counter=[first * blocks, 0, 0, 0])
    return np.random.Generator(bits).random((count, NOISE_PER_SAMPLE))


def mask_key(seed: int, kind: str, stream: str) -> int:
    """Key of the noise (:mod:`clipa.reductions.noise`) behind a stage's "image mask" or "text mask"."""
    return int(
        np.random.SeedSequence([seed, _STREAMS[stream], _STAGES[kind]]).generate_state(1, np.uint64)[0]
    )


def lane_windows(spec: StreamSpec, lane: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """The lane's endless plan: (epoch, shard, first sample, order of the window's samples). No file is touched."""
    epoch = 0
    while True:
        order = generator(spec.seed, "order", epoch).permutation(len(spec.shards))
        for shard in order[lane :: spec.lanes]:
            samples = spec.shards[shard][1]
            count = -(
                -samples // spec.shuffle_window
            )  # of windows: near-equal, so that none is a lone sample
            for first, end in itertools.pairwise(index * samples // count for index in range(count + 1)):
                window = generator(spec.seed, "order", epoch, int(shard), first)
                yield epoch, int(shard), first, window.permutation(end - first)
        epoch += 1


@dataclass(frozen=True)
class Sample:
    """One sample: image uint8 [3, S, S], its caption, parts of speech of the caption's words where they are needed.

    NegCLIP's have two images, [2, 3, S, S], and three more texts.
    """

    image: np.ndarray
    caption: str
    tags: list[str] | None
    position: int
    replaced: bool
    more: tuple[str, ...] = ()


class Lane:
    """Reads one lane from its ``start``-th sample on."""

    def __init__(self, spec: StreamSpec, lane: int, start: int) -> None:
        self.spec, self.lane, self.position = spec, lane, start

    def __iter__(self) -> Iterator[Sample]:
        before = 0
        reader: _ShardReader | None = None
        for _epoch, shard, first, order in lane_windows(self.spec, self.lane):
            if before + len(order) <= self.position:
                before += len(order)
                continue
            if reader is None or reader.index != shard or reader.next > first:
                reader = _ShardReader(self.spec, shard)
            window = reader.window(first, len(order))
            for place in range(self.position - before, len(order)):
                yield self._sample(window, order, place)
                self.position += 1
            before += len(order)

    def _sample(self, window: list[dict[str, bytes]], order: np.ndarray, place: int) -> Sample:
        """The sample at ``place`` of the permuted window; an undecodable one gives way to the next decodable."""
        position = self.position * self.spec.lanes + self.lane
        noise = _noise(self.spec, position)
        for step in range(len(order)):
            raw = window[order[(place + step) % len(order)]]
            try:
                if self.spec.kind == NEGCLIP:
                    images, texts = pair_of(raw, self.spec.image_size, self.spec.augmentation, noise)
                    return Sample(images, texts[0], None, position, step > 0, texts[1:])
                image = augmented(raw["jpg"], self.spec.image_size, self.spec.augmentation, noise[0])
                return Sample(image, *_caption(raw, noise[0, 0]), position, step > 0)
            except (OSError, KeyError, ValueError):
                continue
        raise ShardError(f"{self.spec.directory}: no sample of a window of {len(order)} can be decoded")


def _noise(spec: StreamSpec, position: int) -> np.ndarray:
    """The rows of noise of the pictures at a position: float64 [1, 32], NegCLIP [2, 32]."""
    own = sample_noise(spec.seed, spec.kind, position, 1)
    if spec.kind != NEGCLIP:
        return own
    return np.concatenate([own, sample_noise(spec.seed, spec.kind, position, 1, "neighbour")])


class _ShardReader:
    """Sequential reader of one shard (webdataset's tar reader), handing out windows of raw samples."""

    def __init__(self, spec: StreamSpec, index: int) -> None:
        from webdataset.tariterators import tarfile_to_samples

        name, self.samples = spec.shards[index]
        self.index, self.next, self.path = index, 0, spec.directory / name
        self._samples = iter(tarfile_to_samples()(iter([{"url": str(self.path)}])))
        if spec.needs_tags:
            self._samples = _with_tags(self._samples, self.path.with_suffix(".pos.jsonl"))

    def window(self, first: int, size: int) -> list[dict[str, bytes]]:
        samples = []
        try:
            while self.next < first:
                next(self._samples)
                self.next += 1
            for _ in range(size):
                samples.append(next(self._samples))
                self.next += 1
        except StopIteration:
            raise ShardError(
                f"{self.path}: {self.next} samples, the manifest says {self.samples}; draw it again"
            ) from None
        except Exception as error:
            raise ShardError(
                f"{self.path}: unreadable after {self.next} samples ({error}); draw it again"
            ) from None
        return samples


def _with_tags(samples: Iterator[dict[str, bytes]], sidecar: Path) -> Iterator[dict[str, Any]]:
    """The samples of a shard, each with its line of the sidecar of parts of speech as ``pos``."""
    try:
        lines = open(sidecar, encoding="utf-8")  # noqa: SIM115  closed below, when the shard has been read
    except FileNotFoundError:
        raise ShardError(f"{sidecar}: missing: tag the captions first (python -m clipa annotate)") from None
    with lines:
        for sample, line in zip(samples, lines, strict=True):
            tagged = json.loads(line)
            if tagged["key"] != sample["__key__"]:
                raise ShardError(f"{sidecar}: line of {tagged['key']} where {sample['__key__']} is expected")
            yield {**sample, "pos": tagged["captions"]}


def _caption(raw: dict[str, Any], draw: float) -> tuple[str, list[str] | None]:
    """The caption that ``draw`` in [0, 1) chooses among a sample's, and its words' tags if there are any."""
    captions = captions_of(raw)
    chosen = int(draw * len(captions))
    return captions[chosen], raw["pos"][chosen]["tags"] if "pos" in raw else None


def captions_of(raw: dict[str, Any]) -> list[str]:
    """All captions of a sample: those of its facts, or the one of its text."""
    captions = json.loads(raw["json"]).get("captions") if "json" in raw else None
    return captions or [raw["txt"].decode("utf-8")]


def batches(
    spec: StreamSpec, first_step: int, steps: int, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator:
    """Local batches of steps ``first_step … steps - 1``: (images uint8 [b, 3, S, S], tokens int64 [b, T], replaced).

    ``b`` is batch_size / ranks; rank r holds the global positions whose lane ≡ r (mod ranks), in order. NegCLIP:
    images [2b, 3, S, S], own ones and then neighbours; tokens [4b, T], the two's captions and then their negatives.
    """
    if spec.lanes % (ranks * max(workers, 1)):
        raise ValueError(
            f"lanes ({spec.lanes}) must be a multiple of ranks × workers ({ranks} × {max(workers, 1)})"
        )
    if workers == 0:
        for part in _worker_batches(spec, first_step, steps, rank, ranks, 0, 1):
            yield _joined(spec, [part])
        return
    parts = iter(_parallel(spec, first_step, steps, rank, ranks, workers))
    for _ in range(first_step, steps):
        yield _joined(spec, [next(parts) for _ in range(workers)])


def _worker_batches(
    spec: StreamSpec, first_step: int, steps: int, rank: int, ranks: int, worker: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """One worker's part of each batch: images [k, lanes of the worker, 3, S, S], tokens [k, lanes, T], replaced.

    NegCLIP: images [k, lanes, 2, 3, S, S], tokens [k, lanes, 4, T].
    """
    rows = spec.batch_size // spec.lanes
    own = range(rank + ranks * worker, spec.lanes, ranks * workers)
    lanes = [iter(Lane(spec, lane, first_step * rows)) for lane in own]
    tokenizer = load_tokenizer(spec.vocabulary)
    entry_parts = load_entry_parts(spec.vocabulary) if spec.needs_entries else None
    for _ in range(first_step, steps):
        samples = [next(lane) for _ in range(rows) for lane in lanes]
        images = np.stack([sample.image for sample in samples])
        tokens = _tokens(spec, tokenizer, samples, entry_parts)
        shape = (rows, len(lanes))
        yield (
            images.reshape(*shape, *images.shape[1:]),
            tokens.reshape(*shape, *tokens.shape[1:]),
            sum(sample.replaced for sample in samples),
        )


def _tokens(
    spec: StreamSpec, tokenizer: Any, samples: list[Sample], entry_parts: np.ndarray | None
) -> np.ndarray:
    """Token ids [N, T] of the samples' captions under the stage's text reduction (§3.3); NegCLIP: [N, 4, T]."""
    if spec.kind == NEGCLIP:
        texts = [text for sample in samples for text in (sample.caption, *sample.more)]
        return encode(tokenizer, texts, spec.text_tokens).reshape(len(samples), -1, spec.text_tokens)
    captions = [sample.caption for sample in samples]
    if spec.text_reduction == "truncation":
        return encode(tokenizer, captions, spec.text_tokens)
    key = mask_key(spec.seed, spec.kind, "text mask")
    positions = np.array([sample.position for sample in samples], np.int64)
    tags = [sample.tags for sample in samples] if spec.needs_tags else None
    noise = partial(uniform, key, positions)
    return encode_reduced(
        tokenizer,
        captions,
        spec.text_tokens,
        spec.text_reduction,
        tags,
        noise,
        recipe=spec.text_recipe,
        entry_parts=entry_parts,
    )


def _joined(
    spec: StreamSpec, parts: list[tuple[np.ndarray, np.ndarray, int]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Worker parts side by side, back in the order of positions: worker w holds every workers-th lane."""
    sides = (np.stack([np.asarray(part[i]) for part in parts], axis=2) for i in (0, 1))
    images, tokens = (side.reshape(-1, *side.shape[3:]) for side in sides)
    if spec.kind == NEGCLIP:
        images, tokens = by_role(images), by_role(tokens)
    return images, tokens, sum(int(part[2]) for part in parts)


def _parallel(spec: StreamSpec, first_step: int, steps: int, rank: int, ranks: int, workers: int) -> Any:
    """The workers' parts, one process each; DataLoader hands them out in turn: worker 0, 1, …, 0, 1, …"""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Parts(IterableDataset):
        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
            worker = get_worker_info().id
            return _worker_batches(spec, first_step, steps, rank, ranks, worker, workers)

    return DataLoader(Parts(), batch_size=None, num_workers=workers, prefetch_factor=2)
