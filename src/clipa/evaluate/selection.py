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


def selection(
    candidate: Candidate, test_set: TestSet, kind: str = ""
) -> tuple[list[Measurement], dict[str, Any]]:
    """``acc1`` over the items of one ``kind``, with what the protocol depends on; without one, a measurement per kind,
    ``relation_acc1`` …. EvaluationError where the test set has no such items.
    """
    kinds: list[str] = []
    correct: list[bool] = []
    batch: list[tuple[torch.Tensor, dict[str, Any]]] = []
    read = 0
    for picture, facts in _items(test_set):
        read += 1
        if kind and facts["kind"] != kind:
            continue
        batch.append((candidate.preprocess(picture), facts))
        if len(batch) == candidate.batch_size:
            correct += _select(candidate, batch)
            kinds += [facts["kind"] for _, facts in batch]
            batch = []
    if batch:
        correct += _select(candidate, batch)
        kinds += [facts["kind"] for _, facts in batch]
    check_count(test_set, read)
    measurements = []
    for name in [kind] if kind else KINDS:
        outcomes = numpy.array(
            [right for right, own in zip(correct, kinds, strict=True) if own == name], dtype=bool
        )
        if outcomes.size:
            metric = "acc1" if kind else f"{name}_acc1"
            measurements.append(Measurement(metric, 100 * float(outcomes.mean()), outcomes, outcomes))
    if kind and not measurements:
        raise EvaluationError(f"{test_set.directory}: no items of kind {kind!r}")
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
