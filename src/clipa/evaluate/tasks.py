"""Zero-shot classification, retrieval and caption selection, with the outcome of every item.

The first two are CLIP_benchmark's. Its command line gives one mean per data set, but paired statistics need to know
which items were right: so its functions are called one by one, as its own ``evaluate`` functions call them, on
embeddings that are there (:class:`_Known`), and tests hold that both give the same number.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor
from tqdm import tqdm

from clipa.evaluate.candidates import Candidate, normalised, prompts_of
from clipa.evaluate.testsets import KINDS, EvaluationError, TestSet
from clipa.protocols import Protocol
from clipa.records import encode_groups, encode_outcomes, value_and_error
from clipa.schema import Groups

# ARO leaves smaller pairs of attributes out of its mean (dataset_zoo/aro_datasets.py, VG_Attribution); of relations
# it leaves out some by name, whose items have no group (clipa.data.aro).
SMALLEST_GROUP = {"attribute": 25}
SELECTION_VERSION = 1
"""Raised when the same model and items would give other outcomes; part of the protocol's hash."""


class _WhenCalled(ModuleType):
    """Stands for ``sklearn.metrics``, which is imported when one of its functions is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **options: getattr(importlib.import_module(self.__name__), name)(
            *values, **options
        )


@functools.cache
def _clip_benchmark(task: str) -> ModuleType:
    """CLIP_benchmark's functions of a task.

    Its module of classification imports scikit-learn, more than a second of CPU time, for reports that are not asked
    for here: that waits for the first call. One line per benchmark is reported by the caller; CLIP_benchmark's bars
    per class and batch would bury it.
    """
    reports = "sklearn.metrics"
    stands_in = sys.modules.setdefault(reports, _WhenCalled(reports))
    try:
        module = importlib.import_module(f"clip_benchmark.metrics.zeroshot_{task}")
    finally:
        if isinstance(stands_in, _WhenCalled):
            del sys.modules[reports]
    module.tqdm = functools.partial(tqdm, disable=True)
    return module


@dataclass(frozen=True)
class Measurement:
    """One metric on one test set: ``outcomes`` per item (bool: correct; int: rank, 0 best).

    ``groups``: of a mean over groups of items.
    """

    metric: str
    outcomes: numpy.ndarray
    groups: Groups | None = None

    @property
    def content(self) -> dict[str, Any]:
        """What a record holds of it: metric, value and its error over items, outcomes, perhaps groups."""
        content = {"metric": self.metric, "outcomes": encode_outcomes(self.outcomes)}
        if self.groups is not None:
            content["groups"] = self.groups
        value, error = value_and_error(content)
        return {"value": value, "standard_error": error, **content}


class _Known:
    """Stands for a model in CLIP_benchmark's functions: images are embeddings, texts rows of ``table`` [n, D]."""

    def __init__(self, table: Tensor | None = None) -> None:
        self._table = table

    def encode_image(self, features: Tensor) -> Tensor:
        return features

    def encode_text(self, rows: Tensor) -> Tensor:
        return self._table[rows]


def conditions_of(test_set: TestSet) -> dict[str, Any]:
    """What a test set's protocol depends on besides model and images: its prompts, or how captions are used."""
    if test_set.kind == "retrieval":
        return {"captions": "all of an image's"}
    if test_set.kind == "order":
        return {"ties": "lose"}
    return {
        "classnames": test_set.lines("classnames"),
        "templates": test_set.lines("zeroshot_classification_templates"),
    }


def measure(
    candidate: Candidate, test_set: TestSet, protocol: Protocol, items: str = ""
) -> list[Measurement]:
    """What a test set's kind is measured by; ``items``: of caption selection (ARO) the kind that a benchmark is about.

    Raises EvaluationError for a test set that is not as its manifest says.
    """
    if test_set.kind == "order":
        return caption_selection(candidate, test_set, items, protocol.order_ties == "win")
    if test_set.kind == "retrieval":
        return retrieval(candidate, test_set, protocol.recall)
    return classification(candidate, test_set, protocol)


def classification(candidate: Candidate, test_set: TestSet, protocol: Protocol) -> list[Measurement]:
    """Top-1 accuracy over all prompts of the test set.

    The class embedding is the renormalised mean over prompts (CLIP_benchmark).
    """
    classes = test_set.lines("classnames")
    classifier = _classifier(candidate, classes, conditions_of(test_set)["templates"], protocol)
    logits, target = _clip_benchmark("classification").run_classification(
        _Known(),
        classifier,
        ((images, torch.tensor(labels)) for images, labels in candidate.images_of(test_set)),
        "cpu",
        amp=False,
    )
    if int(target.max()) >= len(classes):
        raise EvaluationError(
            f"{test_set.directory}: label {int(target.max())}, but {len(classes)} class names; make the test set again"
        )
    # Of equal logits the first of the top 5 counts, as in CLIP_benchmark's own acc1.
    k = 5 if len(classes) >= 5 else 1
    correct = (logits.topk(k, 1, True, True)[1][:, 0] == target).numpy()
    # Not CLIP_benchmark's accuracy(), which gives the same number, but stops with an error from NumPy 2.4 on.
    return [Measurement("acc1", correct)]


def _classifier(
    candidate: Candidate, classes: Sequence[str], templates: Sequence[str], protocol: Protocol
) -> Tensor:
    """Class embeddings [D, classes] by CLIP_benchmark, which asks for the prompts of a class at a time: here for its
    number, and it gets the rows of the class's prompts.
    """
    prompts = [prompts_of(name, templates, protocol) for name in classes]
    table = candidate.texts_of([prompt for of_class in prompts for prompt in of_class])
    size = len(prompts[0])

    def rows(asked: list[str]) -> Tensor:
        first = int(asked[0]) * size
        return torch.arange(first, first + size)

    numbers = [str(number) for number in range(len(classes))]
    metrics = _clip_benchmark("classification")
    return metrics.zero_shot_classifier(_Known(table), rows, numbers, ["{c}"], "cpu", amp=False)


def retrieval(candidate: Candidate, test_set: TestSet, recall: Sequence[int] = (1,)) -> list[Measurement]:
    """Recall at each k of ``recall``, both ways: image retrieval over all texts, text retrieval over all images.

    Outcomes are ranks of the best right answer, 0 the best, so that recall at any k can be computed later.
    """
    metrics = _clip_benchmark("retrieval")
    images, captions, image_of_text = [], [], []
    number = 0
    for features, said in candidate.images_of(test_set):
        images.append(features)
        for of_image in said:
            captions += of_image
            image_of_text += [number] * len(of_image)
            number += 1
    scores = normalised(candidate.texts_of(captions)) @ normalised(torch.cat(images)).t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), image_of_text] = True
    measurements = []
    for direction, table, truth in (("image", scores, positive), ("text", scores.T, positive.T)):
        for k in recall:
            if k > table.shape[1]:
                raise EvaluationError(f"{test_set.directory}: recall at {k} of {table.shape[1]} candidates")
            found = metrics.batchify(
                metrics.recall_at_k, table, truth, candidate.batch_size, candidate.device, k=k
            )
            correct = (found > 0).numpy()
            ranks = _ranks(table, truth, correct, k)
            measurements.append(Measurement(f"{direction}_retrieval_recall@{k}", ranks))
    return measurements


def _ranks(scores: Tensor, positive: Tensor, correct: numpy.ndarray, k: int) -> numpy.ndarray:
    """How many wrong answers score higher than the best right one, per row; below k exactly where recall at k hits.

    Among equal scores CLIP_benchmark's top-k picks some; the ranks follow its pick.
    """
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    higher = (scores > best).sum(dim=1).numpy()
    return numpy.where(correct, numpy.minimum(higher, k - 1), numpy.maximum(higher, k))


# --------------------------------------------------------------------------------------------- caption selection


def caption_selection(
    candidate: Candidate, test_set: TestSet, kind: str = "", order_ties_win: bool = False
) -> list[Measurement]:
    """Select the right caption of an image among wrong ones of the same words, as in ARO (Yuksekgonul et al. 2023).

    CLIP_benchmark has no ARO. An item is right when the right caption alone scores highest; a tie loses, as in ARO's
    relation and attribute sets. In ARO's order sets it wins (``order_ties_win``). Each kind of item has a metric of its
    own, since chance differs (1/2, 1/2, 1/5): ``acc1`` of one ``kind``, or ``relation_acc1`` … of all.

    ARO's number for its two Visual Genome sets is a mean over groups of items, ``acc1_macro`` beside ``acc1``
    (:func:`clipa.records.value_and_error`). Items without a group, which ARO leaves out of it, are in ``acc1`` alone.
    Raises EvaluationError where the test set has no items of ``kind``.
    """
    items: list[dict[str, Any]] = []
    correct: list[bool] = []
    for facts, image in _chosen(candidate, test_set, kind):
        scores = normalised(candidate.texts_of(facts["captions"])) @ image
        tie_wins = order_ties_win and facts["kind"] == "order"
        best_wrong = scores[1:].max()
        correct.append(bool(scores[0] >= best_wrong if tie_wins else scores[0] > best_wrong))
        items.append(facts)
    measurements = []
    for name in [kind] if kind else KINDS:
        chosen = [i for i, facts in enumerate(items) if facts["kind"] == name]
        if not chosen:
            continue
        outcomes = numpy.array([correct[i] for i in chosen], dtype=bool)
        metric = "acc1" if kind else f"{name}_acc1"
        measurements.append(Measurement(metric, outcomes))
        groups = [items[i].get("group") for i in chosen]
        smallest = SMALLEST_GROUP.get(name, 1)
        if max(Counter(filter(None, groups)).values(), default=0) >= smallest:
            measurements.append(Measurement(f"{metric}_macro", outcomes, encode_groups(groups, smallest)))
    if kind and not measurements:
        raise EvaluationError(f"{test_set.directory}: no items of kind {kind!r}")
    return measurements


def _chosen(candidate: Candidate, test_set: TestSet, kind: str) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The items of a kind (all, without one), each with its image's embedding of length one."""
    for features, said in candidate.images_of(test_set):
        asked = [facts for facts in said if not kind or facts["kind"] == kind]
        if asked:
            candidate.texts_of([caption for facts in asked for caption in facts["captions"]])
        for facts, image in zip(said, normalised(features), strict=True):
            if not kind or facts["kind"] == kind:
                yield facts, image
