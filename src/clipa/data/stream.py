"""The data loader: webdataset shards in, batches out, in an order that is a pure function of (seed, position).

Order of samples (docs/design.md): each epoch's seeded permutation of the shards is dealt to a fixed number of
canonical *lanes*; inside a lane, windows of consecutive samples are permuted; lanes are interleaved, so global
position ``p`` belongs to lane ``p % lanes``. Each batch is dealt to the ranks and their workers by lane
(:mod:`clipa.data.dealing`). Hence sequential reads only, memory independent of the number of samples, the same order
for every number of ranks and workers, and a resume that re-reads at most one shard per lane and reader.

What is random about a sample is drawn from its position's row of noise (:func:`sample_noise`): number 0 chooses the
caption, 1 to 22 place the crop, 23 to 29 change the colours.

A position of NegCLIP's batches (kind ``negclip``) is two images and four captions of a sample of ``negclip/``
(:mod:`clipa.data.negclip`): one of its captions and one of that caption's negatives, one of its three neighbours, and
the same of this neighbour. A batch of B positions is 2B images, own ones first, and 4B texts: own captions, neighbours'
captions, own negatives, neighbours' negatives (:func:`clipa.losses.contrastive_loss`). Each image has a row of noise of
its own; number 30 chooses the negative, and 31 of the first row the neighbour.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from clipa.config import Augmentation
from clipa.data.annotation import load_entry_parts
from clipa.data.dealing import own_places, places_of_workers, rows_by_lane
from clipa.data.samples import (
    REASONS,
    BadSample,
    Box,
    RawSample,
    Reason,
    ShardReader,
    captions_of,
    decoded_for,
    metadata_of,
    named,
    tagged_captions_of,
    texts,
)
from clipa.data.shards import Expected, ShardError
from clipa.data.vocabulary import Caption, Pieces, encode, encode_reduced, load_tokenizer
from clipa.reductions.noise import uniform
from clipa.reductions.texts import RECIPES

NOISE_PER_SAMPLE = 32
"""Uniform draws that every image of a sample owns, by position."""
NEGCLIP = "negclip"
"""The kind of stage whose positions are pairs of images."""
_BLOCKS = NOISE_PER_SAMPLE // 4  # Philox makes four numbers per step of its counter
_CROP_TRIES = 10
_SECONDS_TO_SAVE = 120  # in which a training process that was asked to stop ends its workers
_HUE_SHARE = 0.25  # SimCLR's jitter of strength s: brightness, contrast, saturation 0.8 s, hue 0.2 s
_STREAMS = {"order": 1, "augmentation": 2, "image mask": 3, "text mask": 4, "neighbour": 5}
_STAGES = {"pretrain": 0, "finetune": 1, NEGCLIP: 2}


@dataclass(frozen=True)
class StreamSpec:
    """What a stage reads: everything here, with the position, determines a sample bit for bit.

    ``kind`` is ``pretrain``, ``finetune`` or ``negclip``; for the last, ``directory`` is what
    :func:`clipa.data.negclip.write_negatives` made and ``batch_size`` counts positions.
    """

    directory: Path
    shards: tuple[tuple[str, int], ...]  # name and number of samples
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
    decode: str = "full"  # or scaled: JPEGs no finer than their crops need
    prepared: bool = False  # whether captions are cut already (clipa.data.prepared)
    sidecars: Path | None = None  # where parts of speech are; None: beside the shards
    expected: tuple[Expected, ...] = ()  # of each shard; empty: bytes are not checked

    def __post_init__(self) -> None:
        if self.text_recipe not in RECIPES:
            raise ValueError(f"no text recipe {self.text_recipe!r} (known: {', '.join(RECIPES)})")
        if len(self.shards) < self.lanes:
            raise ShardError(
                f"{self.directory}: {len(self.shards)} shards for {self.lanes} lanes; need one per lane"
            )
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of lanes {self.lanes}")
        if self.kind == NEGCLIP and self.text_reduction != "truncation":
            raise ValueError(
                f"text_reduction {self.text_reduction}: NegCLIP's captions are only ever truncated"
            )

    def expects(self, shard: int) -> Expected | None:
        """What the bytes of a shard must be; None where they are not checked."""
        return self.expected[shard] if self.expected else None

    @property
    def needs_tags(self) -> bool:
        """Whether the captions' own parts of speech are read: the sidecars beside the shards."""
        return self.text_reduction == "syntax" and self.text_recipe == "paper"

    @property
    def needs_entries(self) -> bool:
        """Whether the parts of speech of the vocabulary's entries are read (:mod:`clipa.data.annotation`)."""
        return self.text_reduction == "syntax" and self.text_recipe == "released"


# --------------------------------------------------------------------------------------------------------- order


def generator(seed: int, stream: str, *path: int) -> np.random.Generator:
    """The named random stream ``(seed, stream, …)``; independent of every other path."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[stream], *path]))


def sample_noise(seed: int, kind: str, first: int, count: int, stream: str = "augmentation") -> np.ndarray:
    """Uniform draws in [0, 1) of the samples at positions ``first … first + count - 1``: float64 [count, 32].

    ``stream`` "neighbour": the draws of the second image that NegCLIP's samples have.
    """
    return _noise_from(seed, kind, first, stream).random((count, NOISE_PER_SAMPLE))


def noise_rows(
    seed: int, kind: str, first: int, stride: int, stream: str = "augmentation"
) -> Iterator[np.ndarray]:
    """The rows of :func:`sample_noise` at positions ``first``, ``first + stride``, …, one by one: float64 [32]."""
    numbers = _noise_from(seed, kind, first, stream)
    while True:
        yield numbers.random(NOISE_PER_SAMPLE)
        numbers.bit_generator.advance((stride - 1) * _BLOCKS)


def _noise_from(seed: int, kind: str, first: int, stream: str) -> np.random.Generator:
    key = np.random.SeedSequence([seed, _STREAMS[stream], _STAGES[kind]]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[first * _BLOCKS, 0, 0, 0]))


def mask_key(seed: int, kind: str, stream: str) -> int:
    """Key of the noise (:mod:`clipa.reductions.noise`) behind a stage's "image mask" or "text mask"."""
    return int(
        np.random.SeedSequence([seed, _STREAMS[stream], _STAGES[kind]]).generate_state(1, np.uint64)[0]
    )


def lane_windows(spec: StreamSpec, lane: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """The lane's endless order: (epoch, shard, first sample, order of the window's samples). Reads no file."""
    epoch = 0
    while True:
        order = generator(spec.seed, "order", epoch).permutation(len(spec.shards))
        for shard in order[lane :: spec.lanes]:
            samples = spec.shards[shard][1]
            # Windows are near-equal, so that none is a lone sample.
            count = -(-samples // spec.shuffle_window)
            for first, end in itertools.pairwise(index * samples // count for index in range(count + 1)):
                window = generator(spec.seed, "order", epoch, int(shard), first)
                yield epoch, int(shard), first, window.permutation(end - first)
        epoch += 1


@dataclass(frozen=True)
class Sample:
    """One sample: image uint8 [3, S, S], its caption, parts of speech of the caption's words where they are needed.

    NegCLIP's have two images, [2, 3, S, S], and three more texts. ``replaced``: what is wrong with the sample of this
    position, if this one stands in its place.
    """

    image: np.ndarray
    caption: Caption
    tags: list[str] | None
    position: int
    replaced: Reason | None
    more: tuple[str, ...] = ()


class Lane:
    """Reads one lane from its ``start``-th sample on: of its share of each batch the rows ``own``, or all."""

    def __init__(self, spec: StreamSpec, lane: int, start: int, own: range | None = None) -> None:
        self.spec, self.lane, self.position = spec, lane, start
        self.rows = spec.batch_size // spec.lanes
        self.own = range(self.rows) if own is None else own
        # NegCLIP's second image has a row of noise of its own.
        streams = ("augmentation", "neighbour") if spec.kind == NEGCLIP else ("augmentation",)
        position = start * spec.lanes + lane
        self._noise = [noise_rows(spec.seed, spec.kind, position, spec.lanes, stream) for stream in streams]

    def __iter__(self) -> Iterator[Sample]:
        before, opened = 0, None
        reader: ShardReader | None = None
        for _epoch, shard, first, order in lane_windows(self.spec, self.lane):
            if before + len(order) <= self.position:
                before += len(order)
                continue
            if reader is None or opened != shard or reader.next > first:
                reader = ShardReader(
                    self.spec.directory,
                    *self.spec.shards[shard],
                    self.spec.needs_tags,
                    self.spec.expects(shard),
                    self.spec.sidecars,
                )
                opened = shard
            window = reader.window(first, len(order))
            for place in range(self.position - before, len(order)):
                noise = [next(rows) for rows in self._noise]
                if self.position % self.rows in self.own:
                    yield self._sample(window, order, place, noise)
                self.position += 1
            before += len(order)

    def _sample(
        self, window: list[RawSample], order: np.ndarray, place: int, noise: list[np.ndarray]
    ) -> Sample:
        """The sample at ``place`` of the permuted window; a bad one is replaced by the next good one."""
        position = self.position * self.spec.lanes + self.lane
        wrong: list[Reason] = []
        for step in range(len(order)):
            raw = window[order[(place + step) % len(order)]]
            try:
                if self.spec.kind == NEGCLIP:
                    images, said = pair_of(raw, self.spec, noise)
                    return Sample(images, said[0], None, position, next(iter(wrong), None), said[1:])
                image = augmented(raw.image(), self.spec, noise[0])
                caption = _caption(raw, noise[0][0], self.spec.prepared)
                return Sample(image, *caption, position, next(iter(wrong), None))
            except BadSample as error:
                wrong.append(error.reason)
        raise nothing_good(self.spec.directory, wrong)


def nothing_good(directory: Path, wrong: list[Reason]) -> ShardError:
    """The error for a window that has bad samples only, ``wrong`` with these reasons."""
    return ShardError(f"{directory}: no good sample in a window of {len(wrong)}: {named(Counter(wrong))}")


def _caption(raw: RawSample, draw: float, prepared: bool) -> tuple[Caption, list[str] | None]:
    """The caption that ``draw`` in [0, 1) chooses among a sample's, and its words' tags if there are any."""
    if raw.tagged is None:
        captions, tags = (_cut_captions(raw) if prepared else captions_of(raw)), None
    else:
        captions, tags = tagged_captions_of(raw)
        captions = _cut_captions(raw) if prepared else captions
    chosen = int(draw * len(captions))
    return captions[chosen], tags and tags[chosen]


def _cut_captions(raw: RawSample) -> list[Pieces]:
    """The captions of a sample of a prepared copy. Raises BadSample where it is none."""
    facts = metadata_of(raw)
    try:
        return [Pieces(*one) for one in zip(facts["pieces"], facts["words"], strict=True)]
    except (TypeError, LookupError, ValueError):
        raise BadSample(Reason.METADATA, "no word pieces") from None


# ------------------------------------------------------------------------------------------- images and captions


def augmented(content: bytes, spec: StreamSpec, noise: np.ndarray) -> np.ndarray:
    """Random resized crop of an image file (§3.1), bilinear with anti-aliasing (§3.2): uint8 [3, size, size].

    The crop is sampled as torchvision's RandomResizedCrop does: up to ten tries of area and log-uniform ratio,
    then a centred crop within the ratio bounds. Resizing straight from the crop to the reduced size *is* the
    ``resize`` reduction. Colours are changed after it. Raises BadSample.
    """
    size, augmentation = spec.image_size, spec.augmentation
    target = size if spec.decode == "scaled" else None
    image, box = decoded_for(content, lambda *whole: crop_box(*whole, augmentation, noise), target)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(recoloured(resized, augmentation, noise)).transpose(2, 0, 1)


def crop_box(width: int, height: int, augmentation: Augmentation, noise: np.ndarray) -> Box:
    """The crop of an image, in whole pixels; ``noise`` is the sample's row of :func:`sample_noise`."""
    low, high = _log(augmentation.crop_ratio)
    area_low, area_high = augmentation.crop_area
    areas, places = noise[1 : 1 + _CROP_TRIES].tolist(), noise[21:23].tolist()
    # NumPy's exponential, since the C library's may differ in the last bit; all else is exact in either.
    ratios = np.exp(low + (high - low) * noise[1 + _CROP_TRIES : 1 + 2 * _CROP_TRIES]).tolist()
    for draw, ratio in zip(areas, ratios, strict=True):
        area = width * height * (area_low + (area_high - area_low) * draw)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(places[0] * (width - w + 1)), int(places[1] * (height - h + 1))
            break
    else:
        w = min(width, round(height * augmentation.crop_ratio[1]))
        h = min(height, round(width / augmentation.crop_ratio[0]))
        left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


@lru_cache
def _log(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = np.log(bounds)
    return low, high


def crop_boxes(width: int, height: int, augmentation: Augmentation, noise: np.ndarray) -> np.ndarray:
    """:func:`crop_box` of b images of one size, row by row of ``noise`` [b, 32]: int64 [b, 4]. Slower for one image."""
    low, high = np.log(augmentation.crop_ratio)
    area_low, area_high = augmentation.crop_area
    areas = width * height * (area_low + (area_high - area_low) * noise[:, 1 : 1 + _CROP_TRIES])
    ratios = np.exp(low + (high - low) * noise[:, 1 + _CROP_TRIES : 1 + 2 * _CROP_TRIES])
    widths = np.rint(np.sqrt(areas * ratios)).astype(int)  # [b, tries]
    heights = np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    row, chosen = np.arange(len(noise)), fits.argmax(1)  # the first that fits
    w, h = widths[row, chosen], heights[row, chosen]
    left, upper = (noise[:, 21] * (width - w + 1)).astype(int), (noise[:, 22] * (height - h + 1)).astype(int)
    none = ~fits.any(1)
    if none.any():  # then the largest centred crop within the ratio's bounds
        w[none] = min(width, round(height * augmentation.crop_ratio[1]))
        h[none] = min(height, round(width / augmentation.crop_ratio[0]))
        left[none], upper[none] = (width - w[none]) // 2, (height - h[none]) // 2
    return np.stack([left, upper, left + w, upper + h], axis=1)


def recoloured(image: Image.Image, augmentation: Augmentation, noise: np.ndarray) -> Image.Image:
    """Colour jitter and grey of an RGB image (§4.3, A.2), as torchvision defines them.

    Jitter changes brightness, contrast, saturation and hue in a drawn order, each by a drawn factor.
    """
    strength = augmentation.color_jitter
    if strength and noise[23] < augmentation.color_jitter_probability:
        factors = 1 + strength * (2 * noise[24:27] - 1)
        shift = round(255 * _HUE_SHARE * strength * (2 * noise[27] - 1))
        orders = list(itertools.permutations(range(4)))
        for change in orders[int(noise[28] * len(orders))]:
            if change == 3:
                image = _hue_shifted(image, shift) if shift else image
            else:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
                image = enhance(image).enhance(float(factors[change]))
    if noise[29] < augmentation.grayscale_probability:
        image = image.convert("L").convert("RGB")
    return image


def _hue_shifted(image: Image.Image, shift: int) -> Image.Image:
    """The image with its hue turned by ``shift`` of 255 steps."""
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray((np.asarray(hue).astype(np.int16) + shift).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def pair_of(
    raw: RawSample, spec: StreamSpec, noise: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images uint8 [2, 3, size, size] and the four texts of a raw sample; ``noise`` [2, 32]: own, neighbour's.

    Raises BadSample, also where the sample is none of ``negclip/``.
    """
    facts = metadata_of(raw)
    neighbours = facts.get("neighbours")
    if not isinstance(neighbours, list) or not neighbours:
        raise BadSample(Reason.METADATA, "no neighbours")
    chosen = int(noise[0][31] * len(neighbours))
    images = [
        augmented(raw.image(ending), spec, row)
        for ending, row in zip(("jpg", f"neighbour{chosen}.jpg"), noise, strict=True)
    ]
    (own, own_negative), (other, other_negative) = (
        _texts(of, row) for of, row in zip((facts, neighbours[chosen]), noise, strict=True)
    )
    return np.stack(images), (own, other, own_negative, other_negative)


def _texts(facts: Any, noise: np.ndarray) -> tuple[str, str]:
    """A caption of an image, and one of this caption's negatives. Raises BadSample."""
    try:
        captions, negatives = texts(facts["captions"]), facts["negatives"]
        which = int(noise[0] * len(captions))
        choices = texts(negatives[which])
        return captions[which], choices[int(noise[30] * len(choices))]
    except (TypeError, LookupError):
        raise BadSample(Reason.METADATA, "captions and negatives") from None


def by_role(values: np.ndarray) -> np.ndarray:
    """What b positions have k of, [b, k, …], in k blocks of b: [k × b, …]."""
    return np.moveaxis(values, 1, 0).reshape(-1, *values.shape[2:])


# ------------------------------------------------------------------------------------------------------ batches


def batches(
    spec: StreamSpec, first_step: int, steps: int, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator:
    """Local batches of steps ``first_step … steps - 1``: (images uint8 [b, 3, S, S], tokens int64 [b, T], replaced).

    ``replaced`` int64 [R]: bad samples in whose place others stand, by :data:`~clipa.data.samples.REASONS`. ``b`` is
    batch_size / world_size; which positions these are, in order: :func:`clipa.data.dealing.own_places`.
    NegCLIP: images [2b, 3, S, S], own ones and then neighbours; tokens [4b, T], the captions of both and then their
    negatives.
    """
    parts = places_of_workers(spec.lanes, spec.batch_size, rank, world_size, workers)
    if workers:
        read = iter(_parallel(spec, first_step, steps, parts))
    else:
        read = _worker_batches(spec, first_step, steps, parts[0])
    own = own_places(spec.lanes, spec.batch_size, rank, world_size)
    rows = [np.searchsorted(own, part) for part in parts]
    for _ in range(first_step, steps):
        of_workers = [next(read) for _ in parts]
        for part in of_workers:
            if isinstance(part, Exception):
                try:
                    raise part
                finally:  # the error holds this frame, and both would keep the workers until the next collection
                    del part, of_workers, read
        yield _joined(spec, rows, of_workers)


def _worker_batches(
    spec: StreamSpec, first_step: int, steps: int, places: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One worker's part of each batch, the samples at ``places`` [k]: images [k, 3, S, S], tokens [k, T], replaced.

    NegCLIP: images [k, 2, 3, S, S], tokens [k, 4, T].
    """
    start = first_step * (spec.batch_size // spec.lanes)
    lanes = [
        (iter(Lane(spec, lane, start, own)), own) for lane, own in rows_by_lane(spec.lanes, places).items()
    ]
    tokenizer = load_tokenizer(spec.vocabulary)
    entry_parts = load_entry_parts(spec.vocabulary) if spec.needs_entries else None
    for _ in range(first_step, steps):
        samples = [next(lane) for lane, own in lanes for _ in own]
        wrong = Counter(sample.replaced for sample in samples)
        yield (
            np.stack([sample.image for sample in samples]),
            _tokens(spec, tokenizer, samples, entry_parts),
            np.array([wrong[reason] for reason in REASONS]),
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
    tags = [sample.tags for sample in samples] if spec.needs_tags else None
    positions = np.array([sample.position for sample in samples], np.int64)
    noise = partial(uniform, mask_key(spec.seed, spec.kind, "text mask"), positions)
    asked = (spec.text_tokens, spec.text_reduction, tags, noise, spec.text_recipe, entry_parts)
    return encode_reduced(tokenizer, captions, *asked)


def _joined(
    spec: StreamSpec, rows: list[np.ndarray], parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Worker parts in the order of positions: each sample in its row of the process's batch."""
    joined = []
    for i in (0, 1):
        first = np.asarray(parts[0][i])
        side = np.empty((sum(map(len, rows)), *first.shape[1:]), first.dtype)
        for own, part in zip(rows, parts, strict=True):
            side[own] = np.asarray(part[i])
        joined.append(by_role(side) if spec.kind == NEGCLIP else side)
    return *joined, sum(np.asarray(part[2]) for part in parts)


def _parallel(spec: StreamSpec, first_step: int, steps: int, parts: list[np.ndarray]) -> Any:
    """What is read of each part, one process each; DataLoader hands it out in turn: worker 0, 1, …, 0, 1, …"""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Parts(IterableDataset):
        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray] | Exception]:
            worker = get_worker_info().id
            try:
                yield from _worker_batches(spec, first_step, steps, parts[worker])
            except (
                ShardError,
                ValueError,
                OSError,
            ) as error:  # raised, DataLoader would add a traceback to its text
                yield error

    asked = {"num_workers": len(parts), "prefetch_factor": 2, "worker_init_fn": _outlive_sigterm}
    return DataLoader(Parts(), batch_size=None, **asked)


def _outlive_sigterm(worker: int) -> None:
    """SLURM and torchrun send SIGTERM to all processes of a job. The training process saves then, and would fail first
    if its workers ended at once.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_TO_SAVE))
