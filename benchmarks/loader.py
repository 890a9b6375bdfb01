"""Speed of the data loaders: streaming in one process and in several, and resident on the device.

    PYTHONPATH=src python benchmarks/loader.py --device cuda --processes 16

Draws a few images of 128 pixels, as the mini scale has them, into a temporary folder. Rates are of this machine now;
nothing is kept, nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from clipa.config import Augmentation
from clipa.data import resident, stream
from clipa.data.annotation import WORLD, annotate
from clipa.data.drawing import draw_train
from clipa.data.shards import read_manifest
from clipa.data.stream import StreamSpec
from clipa.data.vocabulary import train_vocabulary
from clipa.worlds import WorldParameters


def small_world(directory: Path, images: int, processes: int) -> StreamSpec:
    """A drawn and tagged training set, as stages of the mini scale read it."""
    draw_train(WorldParameters(image_size=128, training_images=images), directory, processes)
    train_vocabulary(directory, 700)
    annotate(directory, processes, WORLD)
    shards = tuple(
        (shard["name"], shard["samples"]) for shard in read_manifest(directory / "train")["shards"]
    )
    crop = Augmentation(crop_area=(0.8, 1.0))
    vocabulary = directory / "vocabulary"
    return StreamSpec(directory / "train", shards, 0, "pretrain", 8, 1000, 512, 112, 32, crop, vocabulary)


def rate(batches: Iterator, size: int, device: str, seconds: float) -> float:
    """Samples a second over about ``seconds``, after one batch to warm up."""
    import torch

    def waited() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    next(batches)
    began, count = waited(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
        if count % 20 == 0:
            waited()
    return count * size / (waited() - began)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--images", type=int, default=8000)
    options.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        spec = small_world(Path(folder), chosen.images, chosen.processes)
        print(f"{chosen.images} images drawn and tagged, vocabulary: {time.perf_counter() - began:.1f} s")
        began = time.perf_counter()
        resident.load_world(spec, chosen.device)
        print(f"read to {chosen.device}: {time.perf_counter() - began:.1f} s\n")
        # Lanes must be a multiple of the loader's processes.
        workers = max(n for n in (1, 2, 4, 8) if n <= chosen.processes)
        print(f"pixels  text           stream, 1 process  stream, {workers} workers  resident  (samples/s)")
        for size, reduction, length in (
            (112, "truncation", 32),
            (56, "truncation", 32),
            (32, "truncation", 16),
            (56, "syntax", 8),
        ):
            case = replace(spec, image_size=size, text_reduction=reduction, text_tokens=length)
            found = [
                rate(stream.batches(case, 0, 10**4), spec.batch_size, "cpu", chosen.seconds),
                rate(stream.batches(case, 0, 10**4, workers=workers), spec.batch_size, "cpu", chosen.seconds),
                rate(
                    resident.batches(case, 0, 10**4, device=chosen.device),
                    spec.batch_size,
                    chosen.device,
                    chosen.seconds,
                ),
            ]
            print(
                f"{size:6}  {reduction:10} {length:3}  {found[0]:17.0f}  {found[1]:17.0f}  {found[2]:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
