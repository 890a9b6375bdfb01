"""The whole training set in memory as bytes, batches made from there, in the stream's order.

At 17 image tokens a GPU trains on tens of thousands of images a second, more than any processor decodes and resizes;
and a small model on a CPU costs no more than decoding. So each image is decoded once, and every caption is cut into
word pieces once: for each process on a GPU, for all of them together on a CPU (:mod:`clipa.data.decoded`). A batch
equals the stream's (:mod:`clipa.data.stream`), position by position: the same samples, captions, crops and token ids.
On a CPU PIL resizes, as in the stream. A GPU resizes images itself and rounds as PIL does; a pixel may still differ by
1 of 255.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy
import torch
from PIL import Image
from torch import Tensor

from clipa.config import Augmentation
from clipa.data.annotation import MANIFEST, load_entry_parts
from clipa.data.dealing import own_places
from clipa.data.decoded import kept
from clipa.data.samples import (
    REASONS,
    BadSample,
    RawSample,
    ShardReader,
    captions_of,
    image_of,
    tagged_captions_of,
)
from clipa.data.shards import ShardError, in_processes
from clipa.data.stream import (
    NEGCLIP,
    StreamSpec,
    crop_boxes,
    lane_windows,
    mask_key,
    nothing_good,
    sample_noise,
)
from clipa.data.vocabulary import CLASS, begins_words, load_tokenizer, word_pieces
from clipa.provenance import cores
from clipa.reductions import texts
from clipa.reductions.noise import uniform
from clipa.study import FULL_TEXT_TOKENS

# PIL's weights are whole numbers of 1 / 2^22; sums of rational weights are often exactly half a byte.
_ONE = 1 << 22
_IMAGES_PER_PROCESS = 5000  # fewer are decoded before a second process has started


@dataclass(frozen=True)
class World:
    """A training set on a device: N images, C captions (each image's side by side) of at most L word pieces."""

    images: Tensor  # uint8 [N, H, W, 3]
    pieces: Tensor  # int32 [C, L], without [CLS], zeros after the end
    parts: Tensor  # uint8 [C, L], clipa.reductions.texts
    tagged: bool  # whether `parts` knows nouns and adjectives
    begins: Tensor  # bool [V], whether an entry of the vocabulary begins a word
    class_token: int
    first_caption: numpy.ndarray  # int64 [N]
    captions: numpy.ndarray  # int64 [N], how many; 0 of a bad sample
    wrong: numpy.ndarray  # int64 [N], the place in REASONS of what is wrong with a sample; -1: nothing
    first_sample: numpy.ndarray  # int64 [shards + 1]


def batches(
    spec: StreamSpec,
    first_step: int,
    steps: int,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor, numpy.ndarray]]:
    """As :func:`clipa.data.stream.batches`, but tensors on ``device``: (images uint8 [b, 3, S, S], tokens int64
    [b, T], replaced int64 [R]).

    The first call in a process reads the data; later ones, of other stages too, find it on the device. ValueError
    where colours are to be changed (only crops are made here) or for NegCLIP's pairs; ShardError or VocabularyError for
    data that the stream would refuse.
    """
    if spec.kind == NEGCLIP:
        raise ValueError("data.resident makes no pairs of images: negclip reads clipa.data.stream")
    if spec.augmentation.color_jitter or spec.augmentation.grayscale_probability:
        raise ValueError(
            "data.resident makes crops, and neither colour jitter nor grey: set resident: false for this model"
        )
    places = own_places(spec.lanes, spec.batch_size, rank, world_size)
    world = load_world(spec, device)
    if spec.needs_tags and not world.tagged:
        raise ShardError(
            f"{spec.directory}/{MANIFEST}: missing: tag the captions first (python -m clipa annotate)"
        )
    entry_parts = (
        torch.from_numpy(load_entry_parts(spec.vocabulary)).to(device) if spec.needs_entries else None
    )
    size = spec.batch_size
    samples, wrong = _order(spec, world, first_step * size, steps * size)
    height, width = world.images.shape[1:3]

    def batch(step: int) -> tuple[Tensor, Tensor, numpy.ndarray]:
        own = (step - first_step) * size + places
        sample, noise = samples[own], sample_noise(spec.seed, spec.kind, step * size, size)[places]
        caption = world.first_caption[sample] + (noise[:, 0] * world.captions[sample]).astype(int)
        boxes = crop_boxes(width, height, spec.augmentation, noise)
        # One small array goes to the device.
        decided = torch.from_numpy(numpy.column_stack([sample, caption, step * size + places, boxes]))
        decided = decided.to(device, non_blocking=True)
        if decided.is_cuda:
            whole = world.images[decided[:, 0]].permute(0, 3, 1, 2).contiguous()
            images = cropped(whole, decided[:, 3:], spec.image_size)
        else:
            images = _cropped_by_pil(world.images, sample, boxes, spec.image_size)
        tokens = _tokens(spec, world, entry_parts, decided[:, 1], decided[:, 2])
        # Nothing wrong is -1, and falls into the place after the last reason.
        replaced = numpy.bincount(wrong[own] % (len(REASONS) + 1), minlength=len(REASONS) + 1)[:-1]
        return images, tokens, replaced

    return map(batch, range(first_step, steps))


def _tokens(
    spec: StreamSpec, world: World, entry_parts: Tensor | None, captions: Tensor, positions: Tensor
) -> Tensor:
    """Token ids int64 [b, T] of captions under the stage's text reduction (§3.3)."""
    pieces, parts = world.pieces[captions].long(), world.parts[captions].long()
    words, noise = None, None
    if spec.text_recipe == "released":
        words = world.begins[pieces].cumsum(1) - 1
        if entry_parts is not None:
            parts = torch.where(parts == texts.PADDING, parts, entry_parts[pieces])
    if spec.text_reduction in ("random", "block"):
        noise = uniform(mask_key(spec.seed, spec.kind, "text mask"), positions, parts.shape[1])
    kept = texts.keep(spec.text_reduction, parts, spec.text_tokens, noise, spec.text_recipe, words)
    first = torch.full_like(captions[:, None], world.class_token)
    return torch.cat([first, pieces.gather(1, kept)], dim=1)


# --------------------------------------------------------------------------------------------------------- images


def _cropped_by_pil(images: Tensor, chosen: numpy.ndarray, boxes: numpy.ndarray, size: int) -> Tensor:
    """:func:`cropped` of the ``chosen`` [b] among ``images`` uint8 [N, H, W, 3]; on a CPU up to four times as fast."""
    made = numpy.empty((len(chosen), size, size, 3), numpy.uint8)
    whole = images.numpy()
    for row, (index, box) in enumerate(zip(chosen, boxes.tolist(), strict=True)):
        made[row] = Image.fromarray(whole[index]).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous()


def cropped(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Each image's box, resized to ``size`` with anti-aliased bilinear weights (§3.2): uint8 [b, 3, size, size].

    ``images`` uint8 [b, 3, H, W], ``boxes`` [b, 4]. Like PIL: columns first, rounded to bytes, then rows; the filter
    reaches over the edge of the box, not of the image.
    """
    left, upper, right, lower = boxes.double().unbind(1)
    across = _weights(left, right, images.shape[3], size)  # [b, size, W]
    down = _weights(upper, lower, images.shape[2], size)  # [b, size, H]
    # [b, 3·H, W] · [b, W, size]: a product of matrices for each image, all three colours in one.
    rows = _to_bytes(images.double().flatten(1, 2) @ across.mT)
    return _to_bytes(down[:, None] @ rows.unflatten(1, images.shape[1:3])).to(torch.uint8)


def _weights(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Share of each of ``length`` pixels in each of ``size`` new ones, in 1 / 2^22: float64 [b, size, length].

    The triangle is as wide as a new pixel is, and never narrower than an old one (anti-aliasing).
    """
    scale = (end - start)[:, None] / size  # [b, 1]
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * scale  # [b, size]
    pixel = torch.arange(length, device=start.device)
    distance = ((pixel - centre[..., None] + 0.5) * (1 / scale.clamp(min=1))[..., None]).abs()
    weights = (1 - distance).clamp(min=0)
    return (weights / weights.sum(-1, keepdim=True) * _ONE + 0.5).floor()


def _to_bytes(sums: Tensor) -> Tensor:
    """Sums of bytes times weights as the nearest bytes; whole numbers below 2^53, so a double holds them exactly."""
    return ((sums + _ONE / 2) / _ONE).floor().clamp(0, 255)


# ----------------------------------------------------------------------------------------------------------- order


def _order(spec: StreamSpec, world: World, start: int, end: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The sample at each global position from ``start`` to ``end``, and what is wrong with the one that it replaces."""
    rows = slice(start // spec.lanes, end // spec.lanes)
    lanes = [_lane(spec, world, lane, rows.stop) for lane in range(spec.lanes)]
    samples, wrong = (numpy.stack([lane[i][rows] for lane in lanes], axis=1).ravel() for i in (0, 1))
    return samples, wrong


def _lane(spec: StreamSpec, world: World, lane: int, count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The first ``count`` samples of a lane, each bad one replaced by its window's next, and what is wrong with it."""
    samples, wrong, known = [], [], 0
    for _epoch, shard, first, order in lane_windows(spec, lane):
        if known >= count:
            break
        window = world.first_sample[shard] + first + order
        faults = world.wrong[window]
        good = faults < 0
        if not good.any():
            raise nothing_good(spec.directory, [REASONS[fault] for fault in faults])
        for place in numpy.flatnonzero(~good):
            ahead = (place + numpy.arange(len(window))) % len(window)
            window[place] = (world.first_sample[shard] + first + order)[ahead[good[ahead]][0]]
        samples.append(window)
        wrong.append(faults)
        known += len(window)
    return numpy.concatenate(samples)[:count], numpy.concatenate(wrong)[:count]


# --------------------------------------------------------------------------------------------------------- reading


def load_world(spec: StreamSpec, device: str | torch.device = "cpu") -> World:
    """The training set of ``spec`` on ``device``; decoded once, in as many worker processes as there are cores.

    On a CPU once for all processes (:mod:`clipa.data.decoded`), on a GPU once for this one, whose memory it fills.
    """
    tagged = (spec.directory / MANIFEST).is_file()
    # Without the settings of a stage, so that all stages share one copy.
    reading = replace(
        spec,
        seed=0,
        kind="pretrain",
        batch_size=spec.lanes,
        image_size=0,
        text_tokens=0,
        augmentation=Augmentation(),
        text_reduction="syntax" if tagged else "truncation",
        text_recipe="paper",
    )
    return _load_world(reading, torch.device(device))


@lru_cache(maxsize=1)
def _load_world(reading: StreamSpec, device: torch.device) -> World:
    if device.type == "cpu":
        tensors = kept(reading, lambda: _decode(reading, device))
    else:
        tensors = _decode(reading, device)
    counts = tensors["captions"].numpy()
    return World(
        tensors["images"],
        tensors["pieces"],
        tensors["parts"],
        reading.text_reduction == "syntax",
        tensors["begins"],
        int(tensors["class_token"]),
        numpy.cumsum(counts) - counts,
        counts,
        tensors["wrong"].numpy(),
        numpy.cumsum([0, *(samples for _, samples in reading.shards)]),
    )


def _decode(reading: StreamSpec, device: torch.device) -> dict[str, Tensor]:
    """What a :class:`World` has, by name; what is not looked up by samples or captions stays on the host."""
    sizes = [samples for _, samples in reading.shards]
    first_sample = numpy.cumsum([0, *sizes])
    processes = min(cores(), int(first_sample[-1]) // _IMAGES_PER_PROCESS)
    jobs = [(reading, index) for index in range(len(sizes))]
    images, captions = None, []
    for index, (pixels, *of_shard) in enumerate(in_processes(_read_shard, jobs, processes)):
        captions.append(of_shard)
        if images is None and len(pixels):
            shape = (int(first_sample[-1]), *pixels.shape[1:])
            images = torch.zeros(shape, dtype=torch.uint8, device=device)
        if len(pixels):
            if pixels.shape[1:] != images.shape[1:]:
                raise _several_sizes(reading, index)
            images[first_sample[index] : first_sample[index + 1]] = torch.from_numpy(pixels).to(device)
    if images is None:
        raise ShardError(f"{reading.directory}: no sample is good; draw or download them again")
    pieces, parts, counts, wrong = zip(*captions, strict=True)
    tokenizer = load_tokenizer(reading.vocabulary)
    longest = max(FULL_TEXT_TOKENS - 1, *(rows.shape[1] for rows in pieces))
    return {
        "images": images,
        "pieces": _joined(pieces, longest, 0).to(device),
        "parts": _joined(parts, longest, texts.PADDING).to(device),
        "begins": torch.from_numpy(begins_words(tokenizer)).to(device),
        "class_token": torch.tensor(tokenizer.token_to_id(CLASS)),
        "captions": torch.from_numpy(numpy.concatenate(counts)),
        "wrong": torch.from_numpy(numpy.concatenate(wrong)),
    }


def _joined(rows: Sequence[numpy.ndarray], length: int, fill: int) -> Tensor:
    """Arrays of rows of several lengths, padded to ``length`` and concatenated."""
    padded = [numpy.pad(r, ((0, 0), (0, length - r.shape[1])), constant_values=fill) for r in rows]
    return torch.from_numpy(numpy.concatenate(padded))


def _several_sizes(reading: StreamSpec, index: int) -> ShardError:
    return ShardError(
        f"{reading.directory / reading.shards[index][0]}: images of several sizes, but data.resident needs one: "
        "set resident: false"
    )


def _read_shard(reading: StreamSpec, index: int) -> tuple[numpy.ndarray, ...]:
    """Images uint8 [n, H, W, 3], pieces int32 [c, L], parts uint8 [c, L]; of each sample the number of captions [n]
    and what is wrong with it [n]."""
    name, count = reading.shards[index]
    reader = ShardReader(reading.directory, name, count, reading.needs_tags, reading.expects(index))
    decoded = [_decoded(raw) for raw in reader.window(0, count)]
    known = [entry for entry in decoded if not isinstance(entry, int)]
    wrong = numpy.array([entry if isinstance(entry, int) else -1 for entry in decoded], int)
    if len({entry[0].shape for entry in known}) > 1:
        raise _several_sizes(reading, index)
    blank = numpy.zeros_like(known[0][0]) if known else None
    pixels = (
        numpy.stack([blank if isinstance(entry, int) else entry[0] for entry in decoded]) if known else ()
    )
    counts = numpy.array([0 if isinstance(entry, int) else len(entry[1]) for entry in decoded], int)
    sentences = [sentence for entry in known for sentence in entry[1]]
    tags = [words for entry in known for words in entry[2]] if reading.text_reduction == "syntax" else None
    pieces, parts, _ = word_pieces(load_tokenizer(reading.vocabulary), sentences, tags)
    return pixels, pieces.astype(numpy.int32), parts.astype(numpy.uint8), counts, wrong


def _decoded(raw: RawSample) -> tuple[numpy.ndarray, list[str], list[list[str]]] | int:
    """Pixels [H, W, 3], captions and their words' tags of a sample; of a bad one the place in REASONS of its reason."""
    try:
        pixels = numpy.asarray(image_of(raw))
        captions, tags = (captions_of(raw), []) if raw.tagged is None else tagged_captions_of(raw)
        return pixels, captions, tags
    except BadSample as error:
        return REASONS.index(error.reason)
