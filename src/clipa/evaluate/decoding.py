"""Test images decoded once: resized pixels in bytes on disk, which all checkpoints of that size share and map.

A set's folder is named by its content and by what was done with the images. It holds parts of at most a thousand images
(``<shard>-<part>-<sha256>.safetensors``) and, for each shard that is complete, ``<shard>.json`` with its parts' names.
A kill costs the shard that was being decoded. Parts are compared with their names before they are used, and made again
where they do not fit. The folder may be deleted at any time.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import PIL
import torch
from open_clip.transform import CenterCropOrPad, ResizeKeepRatio
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from clipa.checkpoint import is_sealed, write_sealed
from clipa.data.shards import in_processes, progress_bar
from clipa.evaluate.testsets import TestSet, read_shard
from clipa.files import parsed, read_json, write_json_atomically
from clipa.locks import directory_lock
from clipa.protocols import Pixels

PART = 1000
"""Images of a part: 150 MB at 224 pixels."""
_VERSION = 1  # raised when the same shards would give other bytes
_WORTH_PROCESSES = 4000  # images; to start a process takes as long as to decode some thousand


class Part(NamedTuple):
    """Some items of a test set: ``pixels`` [n, 3, S, S] uint8, and what each sample says is right.

    ``digest`` names the bytes of the pixels; None where they were not kept.
    """

    pixels: Tensor
    said: list[Any]
    digest: str | None


def resizing(pixels: Pixels) -> Compose:
    """PIL image → PIL image of ``pixels.size`` × ``pixels.size``, as :class:`clipa.protocols.Pixels` says."""
    how = InterpolationMode(pixels.interpolation)
    if pixels.mode == "squash":
        return Compose([Resize((pixels.size, pixels.size), how, antialias=True)])
    if pixels.mode == "longest":
        longest = ResizeKeepRatio(pixels.size, interpolation=how, longest=1)
        return Compose([longest, CenterCropOrPad(pixels.size)])
    return Compose([Resize(pixels.side, how, antialias=True), CenterCrop(pixels.size)])


def parts_of(test_set: TestSet, pixels: Pixels, keep: Path | None) -> Iterator[Part]:
    """All items of a test set, in order: from below ``keep`` if they are there and intact, else decoded.

    What is decoded is kept there for the next checkpoint. Where it cannot be (a full disk, a folder of others) it
    is said, and nothing is kept. Raises EvaluationError as :func:`clipa.evaluate.testsets.read_shard`.
    """
    if keep is None:
        yield from _decoded(test_set, pixels)
        return
    folder = keep / f"{test_set.name}-{test_set.fingerprint[:12]}-{_name(pixels)}"
    try:
        parts = _kept(test_set, pixels, folder)
    except OSError as error:
        print(f"{folder}: decoded images are not kept ({error})", file=sys.stderr, flush=True)
        yield from _decoded(test_set, pixels)
        return
    for path in parts:
        tensors = load_file(path)
        yield Part(tensors["pixels"], _from_bytes(tensors["said"]), path.stem.rpartition("-")[2])


def _name(pixels: Pixels) -> str:
    """Of a folder: what the bytes depend on besides the set. PIL decides how JPEGs are decoded and images resized."""
    return (
        f"{pixels.size}-{pixels.mode}{pixels.side}-{pixels.interpolation}-pillow{PIL.__version__}-v{_VERSION}"
    )


def _kept(test_set: TestSet, pixels: Pixels, folder: Path) -> list[Path]:
    """The parts of all shards; those that are not there, or damaged, are decoded, by one process at a time."""
    found = {name: _intact(folder, name) for name, _ in test_set.shards}
    if None in found.values():
        with directory_lock(folder, f"decoding {test_set.name}"):
            found = {name: parts or _intact(folder, name) for name, parts in found.items()}
            jobs = [
                (test_set, name, sha256, pixels, folder)
                for name, sha256 in test_set.shards
                if found[name] is None
            ]
            processes = min(len(os.sched_getaffinity(0)), test_set.n // _WORTH_PROCESSES)
            with progress_bar(f"decoding {test_set.name}", len(jobs), "shard", disable=len(jobs) < 2) as bar:
                for (_, name, *_), parts in zip(jobs, in_processes(_write, jobs, processes), strict=True):
                    found[name] = parts
                    bar.update()
    return [part for parts in found.values() for part in parts]


def _intact(folder: Path, shard: str) -> list[Path] | None:
    """The parts of a shard, if it is complete and every part is what its name says."""
    index = folder / f"{shard}.json"
    try:
        parts = [folder / Path(name).name for name in read_json(index)]
        if all(is_sealed(path) for path in parts):
            return parts
        print(f"{index}: a part is damaged; decoding the shard again", file=sys.stderr, flush=True)
    except FileNotFoundError:
        pass
    except (ValueError, TypeError) as error:
        print(f"{index}: cannot be read ({error}); decoding the shard again", file=sys.stderr, flush=True)
    return None


def _write(test_set: TestSet, name: str, sha256: str, pixels: Pixels, folder: Path) -> list[Path]:
    """Decode one shard into ``folder``; returns its parts. Runs in a process of its own."""
    torch.set_num_threads(1)
    for old in (*folder.glob(f"{name}-*"), *folder.glob(f".{name}-*")):  # damaged, or of a kill
        old.unlink(missing_ok=True)
    parts = []
    for number, (images, said) in enumerate(_read(test_set, name, sha256, pixels)):
        tensors = {"pixels": images, "said": _to_bytes(said)}
        parts.append(write_sealed(folder, f"{name}-{number:04d}", tensors))
    write_json_atomically(folder / f"{name}.json", [path.name for path in parts])
    return parts


def _decoded(test_set: TestSet, pixels: Pixels) -> Iterator[Part]:
    for name, sha256 in test_set.shards:
        for images, said in _read(test_set, name, sha256, pixels):
            yield Part(images, said, None)


def _read(
    test_set: TestSet, name: str, sha256: str, pixels: Pixels
) -> Iterator[tuple[Tensor, Sequence[Any]]]:
    resized = resizing(pixels)
    items = read_shard(test_set.directory, name, sha256, test_set.ending)
    while batch := list(itertools.islice(items, PART)):
        yield torch.stack([_bytes_of(image, resized) for image, _ in batch]), [said for _, said in batch]


def _bytes_of(image: Image.Image, resized: Callable[[Image.Image], Image.Image]) -> Tensor:
    """[3, S, S] uint8."""
    return torch.from_numpy(numpy.array(resized(image))).permute(2, 0, 1)


def _to_bytes(said: Sequence[Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)


def _from_bytes(content: Tensor) -> list[Any]:
    return parsed(content.numpy().tobytes())
