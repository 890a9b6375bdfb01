"""CLIP_benchmark through its Python API: zero-shot classification and retrieval, with every item's outcome kept.

Its command line gives one mean per data set; paired statistics need to know which items were right. So its pieces
are called one by one, as its own ``evaluate`` functions call them, and tests hold that both give the same number.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import open_clip
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from tqdm import tqdm

from clipa.config import Augmentation
from clipa.provenance import packages
from clipa.stages import fingerprint

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

    @property
    def name(self) -> str:
        return self.directory.name


@dataclass(frozen=True)
class Measurement:
    """One metric on one test set: ``value`` in percent, ``outcomes`` per item (bool: correct; int: rank, 0 best).

    ``beside`` holds percentages that do not follow from the outcomes alone, by name: they are said, not recorded.
    """

    metric: str
    value: float
    outcomes: numpy.ndarray
    correct: numpy.ndarray
    beside: dict[str, float] = field(default_factory=dict)


@dataclass
class Candidate:
    """A model under test, with what turns pictures and sentences into its input."""

    model: torch.nn.Module
    tokenizer: Any
    preprocess: Compose
    device: str
    batch_size: int
    classifiers: dict[str, Tensor] = field(default_factory=dict)


def evaluator() -> str:
    """Name and version of the evaluating library, as provenance and protocols give it."""
    return f"clip-benchmark {packages(('clip-benchmark',))['clip-benchmark']}"


def open_test_set(directory: Path) -> TestSet:
    """The test set in ``directory``. Raises EvaluationError when its manifest is missing or broken."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        declared = directory / "dataset_type.txt"  # optional: CLIP_benchmark's default is classification
        kind = declared.read_text(encoding="utf-8").strip() if declared.exists() else "classification"
        content = [(shard["name"], shard["sha256"]) for shard in manifest["shards"]]
        return TestSet(directory, kind, int(manifest["n"]), fingerprint(content))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{directory}: not a finished test set ({error}); draw or download it again"
        ) from None


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
        configuration = json.loads((directory / "open_clip_config.json").read_text(encoding="utf-8"))[
            "model_cfg"
        ]
    except (OSError, ValueError, KeyError):
        raise EvaluationError(f"{directory}: no exported model; train the stage first") from None
    found = (configuration["vision_cfg"]["image_size"], configuration["text_cfg"]["context_length"])
    if found != (image_size, text_tokens):
        raise EvaluationError(
            f"{directory}: exported for {found[0]} pixels and {found[1]} text tokens, "
            f"expected {image_size} and {text_tokens}; train the stage again"
        )
    name = f"local-dir:{directory}"
    model = open_clip.create_model(name, precision="fp32", device=device).eval()
    tokenizer = open_clip.get_tokenizer(name)
    return Candidate(model, tokenizer, preprocessing(image_size, augmentation), device, batch_size)


def preprocessing(image_size: int, augmentation: Augmentation) -> Compose:
    """PIL picture → normalised float [3, S, S]: shorter side to S (bilinear, antialiased), centre crop of S.

    As the released code evaluates S/16, B/16 and L/16. The paper says 256 → crop 224 (A.3); no released
    configuration does that, and on square pictures it would cut off the edge of the scene.
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
    """The same in words, for the protocol's hash; the pixels of each stage are in its record's ``actual``."""
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
    dataset = _dataset(candidate, test_set, "zeroshot_classification")
    classes, templates = dataset.classes, dataset.templates
    prompts = {"classnames": classes, "templates": templates}
    key = fingerprint(prompts)
    if key not in candidate.classifiers:
        candidate.classifiers[key] = zeroshot_classification.zero_shot_classifier(
            candidate.model, candidate.tokenizer, classes, templates, candidate.device, amp=False
        )
    logits, target = zeroshot_classification.run_classification(
        candidate.model, candidate.classifiers[key], _loader(dataset, candidate), candidate.device, amp=False
    )
    check_count(test_set, len(target))
    # Of equal logits the first of the top 5 counts, as in CLIP_benchmark's own acc1.
    k = 5 if len(classes) >= 5 else 1
    correct = (logits.topk(k, 1, True, True)[1][:, 0] == target).numpy()
    # Not CLIP_benchmark's accuracy(), which gives the same number, but stops with an error from NumPy 2.4 on.
    return [Measurement("acc1", 100 * float(correct.mean()), correct, correct)], prompts


def retrieval(candidate: Candidate, test_set: TestSet) -> tuple[list[Measurement], dict[str, Any]]:
    """Recall at 1 in both directions: image retrieval over all texts, text retrieval over all images.

    Outcomes are ranks of the best right answer, 0 the best, so that recall at any k can be had later.
    """
    loader = _loader(_dataset(candidate, test_set, "zeroshot_retrieval"), candidate)
    images, texts, image_of_text = [], [], []
    for pictures, captions, indices in zeroshot_retrieval.dataloader_with_indices(loader):
        tokens = candidate.tokenizer([caption for item in captions for caption in item])
        image_of_text += [int(index) for index, item in zip(indices, captions, strict=True) for _ in item]
        images.append(image_features(candidate, pictures))
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


def image_features(candidate: Candidate, pictures: Tensor) -> Tensor:
    """Normalised embeddings [B, D] on the CPU of pictures [B, 3, S, S]."""
    with torch.no_grad():
        return candidate.model.encode_image(pictures.to(candidate.device), normalize=True).cpu()


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


def _dataset(candidate: Candidate, test_set: TestSet, task: str) -> Any:
    return build_dataset(
        f"wds/{test_set.name}",
        root=str(test_set.directory),
        transform=candidate.preprocess,
        split="test",
        task=task,
    )


def _loader(dataset: Any, candidate: Candidate) -> torch.utils.data.DataLoader:
    """As CLIP_benchmark's command line builds it for webdatasets; pictures are small, so no worker processes."""
    return torch.utils.data.DataLoader(
        dataset.batched(candidate.batch_size), batch_size=None, shuffle=False, num_workers=0
    )


def _ranks(scores: Tensor, positive: Tensor, correct: numpy.ndarray) -> numpy.ndarray:
    """How many wrong answers score higher than the best right one, per row; 0 exactly where recall at 1 has a hit.

    Among equal scores CLIP_benchmark's top-k picks one; the ranks follow its pick.
    """
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    higher = (scores > best).sum(dim=1).numpy()
    return numpy.where(correct, 0, numpy.maximum(higher, 1))
