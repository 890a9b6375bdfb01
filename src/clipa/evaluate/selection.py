"""Caption selection as in ARO (Yuksekgonul et al., 2023): a picture, its right caption, wrong ones of the same words.

CLIP_benchmark has no ARO. An item is right when the right caption alone scores highest; a tie loses, as in ARO's
relation and attribute sets. Each kind of item is a metric of its own, since chance differs (1/2, 1/2, 1/5).

ARO's number for its two Visual Genome sets is a mean over groups of items (relations, pairs of attributes). It does
not follow from the outcomes of the items, as a record's value must; so it stands beside ``acc1``, in the log.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
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
# ARO leaves smaller pairs of attributes out of its mean (dataset_zoo/aro_datasets.py, VG_Attribution); of relations
# it leaves out some by name, whose items have no group (clipa.data.aro).
SMALLEST_GROUP = {"attribute": 25}
VERSION = 1
"""Raised when the same model and items would give other outcomes; part of the protocol's hash."""


def evaluator() -> str:
    return f"clipa selection {VERSION}"


def selection(
    candidate: Candidate, test_set: TestSet, kind: str = ""
) -> tuple[list[Measurement], dict[str, Any]]:
    """``acc1`` over the items of one ``kind``, with what the protocol depends on; without one, a measurement per kind,
    ``relation_acc1`` …. Where items name their group, ``acc1_macro`` (:func:`macro_accuracy`) is beside it.
    EvaluationError where the test set has no such items.
    """
    items: list[dict[str, Any]] = []
    correct: list[bool] = []
    batch: list[torch.Tensor] = []
    read = 0
    for picture, facts in _items(test_set):
        read += 1
        if kind and facts["kind"] != kind:
            continue
        batch.append(candidate.preprocess(picture))
        items.append(facts)
        if len(batch) == candidate.batch_size:
            correct += _select(candidate, batch, items[-len(batch) :])
            batch = []
    if batch:
        correct += _select(candidate, batch, items[-len(batch) :])
    check_count(test_set, read)
    measurements = []
    for name in [kind] if kind else KINDS:
        chosen = [i for i, facts in enumerate(items) if facts["kind"] == name]
        if not chosen:
            continue
        outcomes = numpy.array([correct[i] for i in chosen], dtype=bool)
        metric = "acc1" if kind else f"{name}_acc1"
        groups = [items[i].get("group") for i in chosen]
        macro = macro_accuracy(outcomes, groups, SMALLEST_GROUP.get(name, 1))
        beside = {} if macro is None else {f"{metric}_macro": macro}
        measurements.append(Measurement(metric, 100 * float(outcomes.mean()), outcomes, outcomes, beside))
    if kind and not measurements:
        raise EvaluationError(f"{test_set.directory}: no items of kind {kind!r}")
    return measurements, {"ties": "lose"}


def macro_accuracy(correct: numpy.ndarray, groups: Sequence[str | None], smallest: int) -> float | None:
    """The mean, in percent, of the accuracies of groups that have at least ``smallest`` items; None without any.

    ``correct`` is bool [n] (a record's outcomes, in the order of the test set), ``groups`` the group of each item.
    Items without a group do not count.
    """
    by_group: dict[str, list[bool]] = {}
    for right, group in zip(correct, groups, strict=True):
        if group is not None:
            by_group.setdefault(group, []).append(bool(right))
    shares = [sum(group) / len(group) for group in by_group.values() if len(group) >= smallest]
    return 100 * sum(shares) / len(shares) if shares else None


def _select(candidate: Candidate, pictures: list[torch.Tensor], items: list[dict[str, Any]]) -> list[bool]:
    images = image_features(candidate, torch.stack(pictures))
    captions = [caption for facts in items for caption in facts["captions"]]
    texts = text_features(candidate, candidate.tokenizer(captions))
    correct, start = [], 0
    for image, facts in zip(images, items, strict=True):
        scores = texts[start : start + len(facts["captions"])] @ image
        correct.append(bool(scores[0] > scores[1:].max()))
        start += len(facts["captions"])
    return correct


def _items(test_set: TestSet) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """(picture, {"kind", "captions": [right, wrong, …], perhaps "group"}) of every item, in the order of the shards."""
    folder = test_set.directory / "test"
    for index in range(int((folder / "nshards.txt").read_text(encoding="utf-8"))):
        shard = folder / f"{index}.tar"
        picture = None
        try:
            with tarfile.open(shard, mode="r:") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if member.name.endswith((".jpg", ".png")):
                        picture = Image.open(content).convert("RGB")
                    elif member.name.endswith(".json") and picture is not None:
                        yield picture, json.loads(content.read())
                        picture = None
        except (OSError, ValueError, tarfile.TarError) as error:
            raise EvaluationError(
                f"{shard}: cannot be read ({error}); delete the folder and make it again"
            ) from None
