"""Images a second of one core: this repository's loader beside open_clip_train's, and what scaled decoding changes.

    PYTHONPATH=src python benchmarks/loader_open_clip.py

Draws pictures with the spectrum of photographs (noise of several octaves, edges, grain) and packs them as img2dataset
packs 256-pixel images. Both loaders then read the same shards in one process, in turn, measured in CPU time, so other
work on the machine changes little. open_clip_train's is its WebDataset pipeline with its own training transform
(crops of 40 to 100 %) and tokenizer. It ends with normalised floats; ours with bytes, since the device normalises.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
from PIL import Image
from webdataset import TarWriter

from clipa.config import Augmentation
from clipa.data.download import index_training
from clipa.data.prepared import prepare, reduced
from clipa.data.samples import Box, decoded, decoded_for
from clipa.data.shards import Expected, read_manifest
from clipa.data.stream import StreamSpec, batches, crop_box, sample_noise
from clipa.data.vocabulary import train_vocabulary
from clipa.sources import Prepared

LANES, BATCH, TOKENS = 8, 256, 32
PREPARED = tuple(
    Prepared(short_side=side, quality=quality)
    for side, quality in ((112, 90), (80, 90), (112, "raw"), (80, "raw"))
)
WORDS = (
    "the",
    "a",
    "photo",
    "of",
    "red",
    "old",
    "house",
    "by",
    "sea",
    "in",
    "summer",
    "with",
    "two",
    "people",
    "dog",
)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Noise whose amplitude falls with frequency as in photographs, six straight edges, and a camera's grain."""
    draw = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 8):
        coarse = draw.normal(size=(2**octave + 1, 2**octave + 1, 3)).astype(np.float32) * 0.6**octave
        for channel in range(3):
            plane = Image.fromarray(np.ascontiguousarray(coarse[..., channel]))
            pixels[..., channel] += np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:height, :width] / min(width, height)
    for _ in range(6):
        a, b, c = (*draw.normal(size=2), draw.uniform(-0.5, 0.5))
        side = (columns - 0.5) * a + (rows - 0.5) * b > c
        pixels += side[..., None] * draw.normal(size=3).astype(np.float32) * 0.4
    pixels += draw.normal(size=pixels.shape).astype(np.float32) * 0.02
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 120
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ speed


def write_data(directory: Path, images: int, samples: int) -> None:
    """Shards as img2dataset writes them: 256 pixels, JPEG of quality 95, a caption, and metadata; and a vocabulary."""
    train = directory / "train"
    train.mkdir()
    content = [jpeg(picture(256, 256, seed), 95) for seed in range(images)]
    draw = np.random.default_rng(0)
    for shard in range(LANES):
        with TarWriter(f"{train}/{shard:05d}.tar") as tar:
            for number in range(samples):
                key, caption = f"{shard:05d}{number:04d}", " ".join(draw.choice(WORDS, draw.integers(6, 20)))
                facts = {
                    "caption": caption,
                    "url": f"https://example.org/{key}.jpg",
                    "key": key,
                    "width": 256,
                }
                image = content[(shard + number * 7) % images]
                tar.write({"__key__": key, "jpg": image, "json": facts, "txt": caption})
    index_training(train)
    train_vocabulary(directory, 400)


def ours(directory: Path, size: int, **chosen: object) -> Iterator:
    shards = read_manifest(directory)["shards"]
    named = tuple((shard["name"], shard["samples"]) for shard in shards)
    expected = tuple(Expected(shard["sha256"]) for shard in shards)
    vocabulary = directory.parent / "vocabulary"
    order = (0, "pretrain", LANES, 1000, BATCH, size, TOKENS)
    spec = StreamSpec(directory, named, *order, Augmentation(), vocabulary, expected=expected)
    return batches(replace(spec, **chosen), 0, 10**6)


def theirs(directory: Path, size: int) -> Iterator:
    """open_clip_train's own pipeline over the same shards."""
    import open_clip
    from open_clip_train.data import get_wds_dataset

    asked = SimpleNamespace(
        train_data=f"{directory}/{{00000..{LANES - 1:05d}}}.tar",
        train_num_samples=10**8,
        train_data_upsampling_factors=None,
        seed=0,
        workers=0,
        world_size=1,
        batch_size=BATCH,
    )
    cropped = open_clip.AugmentationCfg(scale=(0.4, 1.0))
    preprocess = open_clip.image_transform(size, True, aug_cfg=cropped)
    tokenizer = open_clip.SimpleTokenizer(context_length=TOKENS)
    return iter(get_wds_dataset(asked, preprocess, True, tokenizer=tokenizer).dataloader)


def rates(loaders: dict[str, Iterator], rounds: int, steps: int) -> dict[str, list[float]]:
    """Images per second of CPU time, of each loader in each round; a round has ``steps`` batches of every loader."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        next(loader)
    for _ in range(rounds):
        for name, loader in loaders.items():
            began = time.process_time()
            for _ in range(steps):
                next(loader)
            found[name].append(steps * BATCH / (time.process_time() - began))
    return found


# ------------------------------------------------------------------------------------------------------- difference


def differences(
    content: list[bytes], target: int, made: Callable[[bytes, Box], tuple[Image.Image, Box]]
) -> list:
    """What ``made`` changes, in grey levels of 255: of each crop the absolute differences, four crops an image."""
    changed = []
    for number, image in enumerate(content):
        for row in sample_noise(0, "pretrain", number * 4, 4):
            whole = decoded(image)
            box = crop_box(*whole.size, Augmentation(), row)
            full, other = (
                np.asarray(one.resize((target, target), Image.Resampling.BILINEAR, box=part)).astype(int)
                for one, part in ((whole, box), made(image, box))
            )
            changed.append(np.abs(full - other))
    return changed


def print_differences(images: int) -> None:
    """The same part of the same picture, decoded in full and otherwise."""
    print("\nstored       quality  target  other           crops that change  mean  99.9 %  max")
    for height, width in ((256, 256), (256, 384), (512, 768)):
        pictures = [picture(width, height, 1000 + seed) for seed in range(images)]
        for stored in (75, 85, 95):
            content = [jpeg(one, stored) for one in pictures]
            for target in (64, 112):
                others = {"scaled": partial(scaled, target)}
                for asked in PREPARED if target == 64 else ():
                    others[asked.folder] = partial(prepared, asked)
                for name, made in others.items():
                    changed = differences(content, target, made)
                    share, values = np.mean([one.any() for one in changed]), np.stack(changed)
                    print(
                        f"{width}×{height:3}  {stored:10}  {target:6}  {name:14}  {share:17.0%}  {values.mean():4.2f}"
                        f"  {np.percentile(values, 99.9):6.0f}  {values.max():3}",
                        flush=True,
                    )


def scaled(target: int, content: bytes, box: Box) -> tuple[Image.Image, Box]:
    return decoded_for(content, lambda *_: box, target)


def prepared(asked: Prepared, content: bytes, box: Box) -> tuple[Image.Image, Box]:
    """The prepared image, and the same box in it."""
    by = min(decoded(content).size) / asked.short_side
    return decoded(reduced(content, asked)[1]), tuple(edge / by for edge in box)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=128, help="different images (default: 128)")
    options.add_argument("--samples", type=int, default=128, help="of each shard (default: 128)")
    options.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    options.add_argument(
        "--steps", type=int, default=4, help="batches of each loader in a round (default: 4)"
    )
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, chosen.images, chosen.samples)
        for asked in PREPARED:
            prepare(root, asked, root / "vocabulary")
        print("\npixels  loader              images/s of a core  × open_clip", flush=True)
        for size in (64, 112, 224):
            loaders = {"open_clip": theirs(root / "train", size)}
            for how in ("full", "scaled"):
                loaders[how] = ours(root / "train", size, decode=how)
            for asked in PREPARED if size == 64 else ():
                loaders[asked.folder] = ours(root / asked.folder, size, prepared=True)
            found = rates(loaders, chosen.rounds, chosen.steps)
            for name, values in found.items():
                ratio = median(a / b for a, b in zip(values, found["open_clip"], strict=True))
                print(f"{size:6}  {name:18}  {median(values):18.0f}  {ratio:11.2f}", flush=True)
    print_differences(chosen.images // 8)


if __name__ == "__main__":
    main()
