"""Caption selection as in ARO (Yuksekgonul et al., 2023): a picture, its right caption, wrong ones of the same words.

CLIP_benchmark has no ARO. An item is right when the right caption alone scores highest; a tie loses, as in ARO's
relation and attribute sets. Each kind of item is a metric of its own, since chance differs (1/2, 1/2, 1/5).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from PIL import Image

from clipa.evaluate.benchmark import (
    Candidate,
    EvaluationError,
    Measurement,
    TestSet,
    check_count,
    image_features,
    text_features,
)

KINDS = ("relation", "attribute", "order")
VERSION = 1
"""Raised when the same model and items would give other outcomes; part of the protocol's hash."""


def evaluator() -> str:
    return f"clipa selection {VERSION}"


def selection(candidate: Candidate, test_set: TestSet) -> tuple[list[Measurement], dict[str, Any]]:
    """One measurement per kind of item, ``relation_acc1`` …, with what the protocol depends on."""
    kinds: list[str] = []
    correct: list[bool] = []
    batch: list[tuple[torch.Tensor, dict[str, Any]]] = []
    for item in _items(test_set):
        batch.append((candidate.preprocess(item[0]), item[1]))
        if len(batch) == candidate.batch_size:
            correct += _select(candidate, batch)
            kinds += [facts["kind"] for _, facts in batch]
            batch = []
    if batch:
        correct += _select(candidate, batch)
        kinds += [facts["kind"] for _, facts in batch]
    check_count(test_set, len(kinds))
    measurements = []
    for kind in KINDS:
        outcomes = numpy.array(
            [right for right, own in zip(correct, kinds, strict=True) if own == kind], dtype=bool
        )
        if outcomes.size:
            measurements.append(Measurement(f"{kind}_acc1", 100 * float(outcomes.mean()), outcomes, outcomes))
    return measurements, {"ties": "lose"}


def _select(candidate: Candidate, batch: list[tuple[torch.Tensor, dict[str, Any]]]) -> list[bool]:
    images = image_features(candidate, torch.stack([picture for picture, _ in batch]))
    captions = [caption for _, facts in batch for caption in facts["captions"]]
    texts = text_features(candidate, candidate.tokenizer(captions))
    correct, start = [], 0
    for image, (_, facts) in zip(images, batch, strict=True):
        scores = texts[start : start + len(facts["captions"])] @ image
        correct.append(bool(scores[0] > scores[1:].max()))
        start += len(facts["captions"])
    return correct


def _items(test_set: TestSet) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """(picture, {"kind", "captions": [right, wrong, …]}) of every item, in the order of the shards."""
    folder = test_set.directory / "test"
    for index in range(int((folder / "nshards.txt").read_text(encoding="utf-8"))):
        shard = folder / f"{index}.tar"
        picture = None
        try:
            with tarfile.open(shard, mode="r:") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if member.name.endswith(".jpg"):
                        picture = Image.open(content).convert("RGB")
                    elif member.name.endswith(".json") and picture is not None:
                        yield picture, json.loads(content.read())
                        picture = None
        except (OSError, ValueError, tarfile.TarError) as error:
            raise EvaluationError(
                f"{shard}: cannot be read ({error}); delete the folder and make it again"
            ) from None
