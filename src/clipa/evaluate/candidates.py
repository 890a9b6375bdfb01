"""A model to evaluate: how it sees images and texts, and its features, each computed once."""

from __future__ import annotations

import string
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor

import clipa.models  # noqa: F401  gives timm the small ConvNeXts that an export names
from clipa.checkpoint import is_sealed, write_sealed
from clipa.config import Augmentation
from clipa.data.shards import progress_bar
from clipa.evaluate import lengths
from clipa.evaluate.decoding import PART, Part, parts_of, resizing
from clipa.evaluate.testsets import EvaluationError, TestSet
from clipa.evaluate.tokens import tokenizer_of
from clipa.files import read_json
from clipa.protocols import Pixels, Protocol
from clipa.resolved import fingerprint


@dataclass(frozen=True)
class Normal:
    """Mean and standard deviation of pixels by colour, in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        """[n, 3, S, S] uint8 → float32; the same bits as torchvision's ToTensor and Normalize give."""
        mean, std = (
            torch.tensor(one, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
            for one in (self.mean, self.std)
        )
        return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


@dataclass
class Candidate:
    """A model to evaluate, with its preprocessing and tokenizer.

    ``texts``: raw embeddings by text, each encoded once for all test sets. ``decoded``: where resized test images are
    kept for all checkpoints; ``features``: where this one's are kept, None: nowhere.
    """

    model: torch.nn.Module
    tokenizer: Any
    pixels: Pixels
    normal: Normal
    device: str
    batch_size: int
    decoded: Path | None = None
    features: Path | None = None
    texts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def preprocess(self) -> Compose:
        """PIL image → normalised float [3, S, S], for other people's loaders."""
        return Compose([resizing(self.pixels), ToTensor(), Normalize(self.normal.mean, self.normal.std)])

    def seen(self, pixels: Pixels) -> Candidate:
        """The same model with images made otherwise; embeddings of texts are shared."""
        return replace(self, pixels=pixels)

    # ---------------------------------------------------------------------------------------------------- images

    def images_of(self, test_set: TestSet) -> Iterator[tuple[Tensor, list[Any]]]:
        """Raw embeddings [n, D] on the CPU of a test set's images, part by part, with what is said of each.

        Raises EvaluationError for a test set that is not as its manifest says.
        """
        read, few = 0, test_set.n <= 2 * PART
        with progress_bar(f"encoding {test_set.name}", test_set.n, "image", disable=few) as bar:
            for part in parts_of(test_set, self.pixels, self.decoded):
                features = self._features(part)
                read += len(part.said)
                bar.update(len(part.said))
                yield features, part.said
        if read != test_set.n:
            raise EvaluationError(
                f"{test_set.directory}: {read} items read, {test_set.n} expected; delete the folder and make it again"
            )

    def _features(self, part: Part) -> Tensor:
        if part.digest is None:
            return self._encode(part.pixels)
        conditions = [part.digest, self.normal.mean, self.normal.std]
        return self._kept("images", conditions, lambda: self._encode(part.pixels))

    def _encode(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            batches = [
                self.model.encode_image(self.normal(batch.to(self.device)), normalize=False).float().cpu()
                for batch in pixels.split(self.batch_size)
            ]
        return torch.cat(batches)

    # ----------------------------------------------------------------------------------------------------- texts

    def texts_of(self, texts: Sequence[str]) -> Tensor:
        """Raw embeddings [n, D] on the CPU. A text that any test set has asked for is not encoded again."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.texts]
        with progress_bar("encoding texts", len(missing), "text", disable=len(missing) <= 2 * PART) as bar:
            for start in range(0, len(missing), PART):
                part = missing[start : start + PART]
                found = self._kept("texts", part, partial(self._encode_texts, part))
                self.texts.update(zip(part, found, strict=True))
                bar.update(len(part))
        return torch.stack([self.texts[text] for text in texts])

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts of about one length share a batch, which is cut to the longest where the tower allows it."""
        tokens = self.tokenizer(texts)
        needed = lengths.pooled_at(self.model, tokens)
        order = torch.arange(len(tokens)) if needed is None else needed.argsort(stable=True)
        batches = []
        with torch.inference_mode():
            for rows in order.split(self.batch_size):
                length = None if needed is None else int(needed[rows].max()) + 1
                batch = lengths.encode(self.model, tokens[rows].to(self.device), length)
                batches.append(batch.float().cpu())
        return torch.cat(batches)[order.argsort()]

    # ------------------------------------------------------------------------------------------------------ disk

    def _kept(self, what: str, of: Sequence[Any], make: Callable[[], Tensor]) -> Tensor:
        """The embeddings that ``make`` gives of ``of``, from disk if they are there and intact."""
        if self.features is None:
            return make()
        stem = f"{what}-{fingerprint([of, self.device, torch.__version__])}"
        for path in self.features.glob(f"{stem}-*.safetensors"):
            if is_sealed(path):
                return load_file(path)["features"]
            path.unlink(missing_ok=True)
        features = make()
        try:
            self.features.mkdir(parents=True, exist_ok=True)
            write_sealed(self.features, stem, {"features": features})
        except OSError as error:
            print(f"{self.features}: embeddings are not kept ({error})", file=sys.stderr, flush=True)
            self.features = None
        return features


def normalised(features: Tensor) -> Tensor:
    """Rows of length one."""
    return F.normalize(features, dim=-1)


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def prompts_of(name: str, templates: Sequence[str], protocol: Protocol) -> list[str]:
    """The prompts of a class: its name in every template, and what the protocol adds and takes away."""
    prompts = [template.format(c=name) for template in (*templates, *(("{c}",) * protocol.bare_name))]
    if protocol.canonical:
        prompts = [" ".join(prompt.lower().translate(_PUNCTUATION).split()) for prompt in prompts]
    return prompts


def load_candidate(
    directory: Path,
    pixels: Pixels,
    text_tokens: int,
    augmentation: Augmentation,
    device: str,
    batch_size: int,
    decoded: Path | None = None,
) -> Candidate:
    """The exported model in ``directory`` (an open_clip ``local-dir:``), in fp32, ready to be evaluated.

    Raises EvaluationError when the folder is missing or was exported for another image size or text length.
    """
    try:
        configuration = read_json(directory / "open_clip_config.json")["model_cfg"]
    except (OSError, ValueError, KeyError):
        raise EvaluationError(f"{directory}: no exported model; train the stage first") from None
    found = (configuration["vision_cfg"]["image_size"], configuration["text_cfg"]["context_length"])
    if found != (pixels.size, text_tokens):
        raise EvaluationError(
            f"{directory}: exported for {found[0]} pixels and {found[1]} text tokens, "
            f"expected {pixels.size} and {text_tokens}; train the stage again"
        )
    if "hf_model_name" in configuration["text_cfg"]:
        raise EvaluationError(f"{directory}: names a text tower from elsewhere; train the stage again")
    name = f"local-dir:{directory}"
    try:
        model = open_clip.create_model(name, precision="fp32", device=device).eval()
        named = configuration["text_cfg"].get("hf_tokenizer_name")
        tokenizer = tokenizer_of(configuration["text_cfg"], directory if named else None)
    except (
        Exception
    ) as error:  # of safetensors, tokenizers, torch: in any case the folder holds no such model
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"{directory}: cannot be loaded ({reason}); train the stage again") from None
    normal = Normal(augmentation.mean, augmentation.std)
    return Candidate(model, tokenizer, pixels, normal, device, batch_size, decoded)
