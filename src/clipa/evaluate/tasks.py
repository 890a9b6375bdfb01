"""Zero-shot classification, retrieval and caption selection, with the outcome of every item.

The first two are CLIP_benchmark's. Its command line gives one mean per data set, but paired statistics need to know
which items were right: so its functions are called one by one, as its own ``evaluate`` functions call them, and tests
hold that both give the same number.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import open_clip
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from tqdm import tqdm

import clipa.models  # noqa: F401  gives timm the small ConvNeXts that an export names
from clipa.config import Augmentation
from clipa.data.samples import (
    IMAGES,
    BadSample,
    RawSample,
    Reason,
    captions_of,
    image_of,
    label_of,
    lines_of,
    metadata_of,
    samples_of,
)
from clipa.data.shards import ShardError, check_bytes, file_sha256, named_shards
from clipa.files import read_json
from clipa.resolved import fingerprint

KINDS = ("relation", "attribute", "order")
# ARO leaves smaller pairs of attributes out of its mean (dataset_zoo/aro_datasets.py, VG_Attribution); of relations
# it leaves out some by name, whose items have no group (clipa.data.aro).
SMALLEST_GROUP = {"attribute": 25}
SELECTION_VERSION = 1
"""Raised when the same model and items would give other outcomes; part of the protocol's hash."""

# One line per benchmark is reported by the caller; CLIP_benchmark's bars per class and batch would bury it.
_silent = functools.partial(tqdm, disable=True)
zeroshot_classification.tqdm = _silent
zeroshot_retrieval.tqdm = _silent


class EvaluationError(ValueError):
    """A model or a test set is missing or does not fit; one line that says where and what to do."""


@dataclass(frozen=True)
class TestSet:
    """A test set on disk: CLIP_benchmark's local webdataset layout and the manifest that was written last."""

    __test__ = False  # for pytest: not a class of tests

    directory: Path
    kind: str
    n: int
    fingerprint: str
    shards: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.directory.name


@dataclass(frozen=True)
class Measurement:
    """One metric on one test set: ``value`` in percent, ``outcomes`` per item (bool: correct; int: rank, 0 best).

    ``beside`` holds percentages that do not follow from the outcomes alone, by name: they are logged, not recorded.
    """

    metric: str
    value: float
    outcomes: numpy.ndarray
    correct: numpy.ndarray
    beside: dict[str, float] = field(default_factory=dict)


@dataclass
class Candidate:
    """A model to evaluate, with its preprocessing and tokenizer."""

    model: torch.nn.Module
    tokenizer: Any
    preprocess: Compose
    device: str
    batch_size: int
    classifiers: dict[str, Tensor] = field(default_factory=dict)


def open_test_set(directory: Path) -> TestSet:
    """The test set in ``directory``.

    Raises EvaluationError when its manifest is missing or broken, or when class names, templates or type are not
    those that it was written for. Shards are checked when they are read.
    """
    try:
        manifest = read_json(directory / "manifest.json")
        declared = directory / "dataset_type.txt"  # optional: CLIP_benchmark's default is classification
        kind = declared.read_text(encoding="utf-8").strip() if declared.exists() else "classification"
        _check_layout(directory, manifest)
        shards = named_shards(manifest)
        return TestSet(directory, kind, int(manifest["n"]), fingerprint(shards), shards)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{directory}: not a finished test set ({error}); draw or download it again"
        ) from None


def _check_layout(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare the small files of the layout with the manifest: sha256 of each (drawn), or one digest of all."""
    files = manifest.get("files", {})
    if isinstance(files, dict):
        wrong = [name for name, digest in files.items() if file_sha256(directory / name) != digest]
    else:
        content = {name: manifest[name] for name in ("name", "n", "shards")}
        texts = {name: (directory / name).read_text(encoding="utf-8") for name in files}
        wrong = files if fingerprint({**content, "files": texts}) != manifest["fingerprint"] else []
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not what the manifest was written for")


def load_candidate(
    directory: Path,
    image_size: int,
    text_tokens: int,
    augmentation: Augmentation,
    device: str,
    batch_size: int,
) -> Candidate:
    """The exported model in ``directory`` (an open_clip ``local-dir:``), in fp32, ready to be evaluated.

    Raises EvaluationError when the folder is missing or was exported for another image size or text length.
    """
    try:
        configuration = read_json(directory / "open_clip_config.json")["model_cfg"]
    except (OSError, ValueError, KeyError):
        raise EvaluationError(f"{directory}: no exported model; train the stage first") from None
    found = (configuration["vision_cfg"]["image_size"], configuration["text_cfg"]["context_length"])
    if found != (image_size, text_tokens):
        raise EvaluationError(
            f"{directory}: exported for {found[0]} pixels and {found[1]} text tokens, "
            f"expected {image_size} and {text_tokens}; train the stage again"
        )
    if "hf_model_name" in configuration["text_cfg"]:
        raise EvaluationError(f"{directory}: names a text tower from elsewhere; train the stage again")
    name = f"local-dir:{directory}"
    try:
        model = open_clip.create_model(name, precision="fp32", device=device).eval()
        tokenizer = open_clip.get_tokenizer(name)
    except (
        Exception
    ) as error:  # of safetensors, tokenizers, torch: in any case the folder holds no such model
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"{directory}: cannot be loaded ({reason}); train the stage again") from None
    return Candidate(model, tokenizer, preprocessing(image_size, augmentation), device, batch_size)


def preprocessing(image_size: int, augmentation: Augmentation) -> Compose:
    """PIL image → normalised float [3, S, S]: shorter side to S (bilinear, antialiased), centre crop of S.

    As the released code evaluates S/16, B/16 and L/16. The paper says 256 → crop 224 (A.3); no released
    configuration does that, and on square images it would cut off the edge of the scene.
    """
    return Compose(
        [
            Resize(image_size, InterpolationMode.BILINEAR, antialias=True),
            CenterCrop(image_size),
            ToTensor(),
            Normalize(augmentation.mean, augmentation.std),
        ]
    )


def describe_preprocessing(augmentation: Augmentation) -> dict[str, Any]:
    """The preprocessing in words, for the protocol's hash; the pixels of each stage are in its record's ``actual``."""
    return {
        "resize": "shorter side to the stage's pixels, bilinear, antialias",
        "crop": "centre, the stage's pixels",
        "mean": list(augmentation.mean),
        "std": list(augmentation.std),
        "precision": "fp32",
    }


def classification(candidate: Candidate, test_set: TestSet) -> tuple[list[Measurement], dict[str, Any]]:
    """Top-1 accuracy over all prompts of the test set; returns it with what the protocol depends on.

    The class embedding is the renormalised mean over templates (CLIP_benchmark). Prompts are encoded once per
    model for all test sets that share classes and templates.
    """
    classes, templates = (
        _lines(test_set.directory / f"{name}.txt")
        for name in ("classnames", "zeroshot_classification_templates")
    )
    prompts = {"classnames": classes, "templates": templates}
    key = fingerprint(prompts)
    if key not in candidate.classifiers:
        candidate.classifiers[key] = zeroshot_classification.zero_shot_classifier(
            candidate.model, candidate.tokenizer, classes, templates, candidate.device, amp=False
        )
    logits, target = zeroshot_classification.run_classification(
        candidate.model,
        candidate.classifiers[key],
        ((images, torch.tensor(labels)) for images, labels in _batches(candidate, test_set, "cls")),
        candidate.device,
        amp=False,
    )
    check_count(test_set, len(target))
    if int(target.max()) >= len(classes):
        raise EvaluationError(
            f"{test_set.directory}: label {int(target.max())}, but {len(classes)} class names; make the test set again"
        )
    # Of equal logits the first of the top 5 counts, as in CLIP_benchmark's own acc1.
    k = 5 if len(classes) >= 5 else 1
    correct = (logits.topk(k, 1, True, True)[1][:, 0] == target).numpy()
    # Not CLIP_benchmark's accuracy(), which gives the same number, but stops with an error from NumPy 2.4 on.
    return [Measurement("acc1", 100 * float(correct.mean()), correct, correct)], prompts


def retrieval(candidate: Candidate, test_set: TestSet) -> tuple[list[Measurement], dict[str, Any]]:
    """Recall at 1 in both directions: image retrieval over all texts, text retrieval over all images.

    Outcomes are ranks of the best right answer, 0 the best, so that recall at any k can be computed later.
    """
    loader = _batches(candidate, test_set, "txt")
    images, texts, image_of_text = [], [], []
    for batch, captions, indices in zeroshot_retrieval.dataloader_with_indices(loader):
        tokens = candidate.tokenizer([caption for item in captions for caption in item])
        image_of_text += [int(index) for index, item in zip(indices, captions, strict=True) for _ in item]
        images.append(image_features(candidate, batch))
        texts.append(text_features(candidate, tokens))
    scores = torch.cat(texts) @ torch.cat(images).t()
    check_count(test_set, scores.shape[1])
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), image_of_text] = True
    measurements = []
    for direction, table, truth in (("image", scores, positive), ("text", scores.T, positive.T)):
        found = zeroshot_retrieval.batchify(
            zeroshot_retrieval.recall_at_k, table, truth, candidate.batch_size, candidate.device, k=1
        )
        correct = (found > 0).numpy()
        ranks = _ranks(table, truth, correct)
        measurements.append(
            Measurement(f"{direction}_retrieval_recall@1", 100 * float(correct.mean()), ranks, correct)
        )
    return measurements, {"captions": "all of an image's"}


def image_features(candidate: Candidate, images: Tensor) -> Tensor:
    """Normalised embeddings [B, D] on the CPU of images [B, 3, S, S]."""
    with torch.no_grad():
        return candidate.model.encode_image(images.to(candidate.device), normalize=True).cpu()


def text_features(candidate: Candidate, tokens: Tensor) -> Tensor:
    """Normalised embeddings [B, D] on the CPU of token ids [B, T]."""
    with torch.no_grad():
        return candidate.model.encode_text(tokens.to(candidate.device), normalize=True).cpu()


def check_count(test_set: TestSet, found: int) -> None:
    """Raise EvaluationError unless as many items were read as the manifest says (a shard may be truncated)."""
    if found != test_set.n:
        raise EvaluationError(
            f"{test_set.directory}: {found} items read, {test_set.n} expected; delete the folder and make it again"
        )


def _selection_of(sample: RawSample) -> dict[str, Any]:
    """A caption-selection item: its kind, captions (the right one first) and group. Raises BadSample."""
    facts, captions = metadata_of(sample), captions_of(sample)
    kind, group = facts.get("kind"), facts.get("group")
    if len(captions) < 2 or kind not in KINDS or not isinstance(group, str | None):
        raise BadSample(Reason.METADATA, f"kind {kind!r}, {len(captions)} captions")
    return {"kind": kind, "captions": captions, "group": group}


_DECODERS: dict[str, Callable[[RawSample], Any]] = {
    "cls": label_of,
    "txt": lines_of,
    "json": _selection_of,
}


def _batches(candidate: Candidate, test_set: TestSet, ending: str) -> Iterator[tuple[Tensor, list[Any]]]:
    """Preprocessed images [B, 3, S, S] with the member ``ending`` of each sample, in the order of the shards."""
    items = _items(test_set, ending)
    while batch := list(itertools.islice(items, candidate.batch_size)):
        yield torch.stack([candidate.preprocess(image) for image, _ in batch]), [said for _, said in batch]


def _items(test_set: TestSet, ending: str) -> Iterator[tuple[Image.Image, Any]]:
    """The image and the decoded member ``ending`` of every sample. Every shard is checked against the manifest first.

    Raises EvaluationError for a shard of other bytes, and for a sample that lacks either or cannot be decoded.
    """
    for name, digest in sorted(test_set.shards, key=lambda shard: int(Path(shard[0]).stem)):
        shard, key = test_set.directory / "test" / name, ""
        try:
            check_bytes(shard, digest, cure="make the test set again")
            for sample in samples_of(shard, (*IMAGES, ending)):
                key = sample.key
                yield image_of(sample), _DECODERS[ending](sample)
        except ShardError as error:
            raise EvaluationError(str(error)) from None
        except BadSample as error:
            raise EvaluationError(
                f"{shard}: sample {key!r} cannot be read: {error}; make the test set again"
            ) from None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); make the test set again") from None


def _ranks(scores: Tensor, positive: Tensor, correct: numpy.ndarray) -> numpy.ndarray:
    """How many wrong answers score higher than the best right one, per row; 0 exactly where recall at 1 has a hit.

    Among equal scores CLIP_benchmark's top-k picks one; the ranks follow its pick.
    """
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    higher = (scores > best).sum(dim=1).numpy()
    return numpy.where(correct, 0, numpy.maximum(higher, 1))


# --------------------------------------------------------------------------------------------- caption selection


def caption_selection(
    candidate: Candidate, test_set: TestSet, kind: str = ""
) -> tuple[list[Measurement], dict[str, Any]]:
    """Select the right caption of an image among wrong ones of the same words, as in ARO (Yuksekgonul et al. 2023).

    CLIP_benchmark has no ARO. An item is right when the right caption alone scores highest; a tie loses, as in ARO's
    relation and attribute sets. Each kind of item has a metric of its own, since chance differs (1/2, 1/2, 1/5):
    ``acc1`` of one ``kind``, or ``relation_acc1`` … of all.

    ARO's number for its two Visual Genome sets is a mean over groups of items (:func:`macro_accuracy`). It does not
    follow from the items' outcomes, as a record's value must; so it is logged beside ``acc1``, as ``acc1_macro``.
    Raises EvaluationError where the test set has no items of ``kind``.
    """
    items: list[dict[str, Any]] = []
    correct: list[bool] = []
    batch: list[Tensor] = []
    read = 0
    for image, facts in _items(test_set, "json"):
        read += 1
        if kind and facts["kind"] != kind:
            continue
        batch.append(candidate.preprocess(image))
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


def _select(candidate: Candidate, batch: list[Tensor], items: list[dict[str, Any]]) -> list[bool]:
    """Whether each item's right caption, the first, has the highest score."""
    images = image_features(candidate, torch.stack(batch))
    captions = [caption for facts in items for caption in facts["captions"]]
    texts = text_features(candidate, candidate.tokenizer(captions))
    correct, start = [], 0
    for image, facts in zip(images, items, strict=True):
        scores = texts[start : start + len(facts["captions"])] @ image
        correct.append(bool(scores[0] > scores[1:].max()))
        start += len(facts["captions"])
    return correct
