"""Checkpoints of others: what ``clipa evaluate --model REF`` names, fetched, checked and loaded.

================================== ===========================================================================
REF                                what it is
================================== ===========================================================================
``local-dir:FOLDER``               a folder in the hub's layout: open_clip_config.json, open_clip_model.safetensors
``hf-hub:OWNER/NAME[@REVISION]``   the same on the Hugging Face hub (or where HF_ENDPOINT points)
``ViT-B-16/laion400m_e32``         an OpenCLIP name and tag whose weights are on the hub
``OpenAI-B32``                     a row of Tables 1 to 3 (config/released.yaml)
``L16-resize64-truncation32``      a run of the scale: its last stage
================================== ===========================================================================

Only safetensors are loaded. Pickled weights are refused, also for torch's weights_only reader: it has had holes, and
all checkpoints of Tables 1 to 3 that are on the hub have safetensors. Sizes in a configuration are bounded before
anything is built from it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipa.evaluate.candidates import Candidate, Normal
from clipa.evaluate.testsets import EvaluationError
from clipa.evaluate.tokens import TOKENIZER, tokenizer_files, tokenizer_of
from clipa.files import digest, read_json, sha256_of
from clipa.protocols import Pixels
from clipa.released import load_released

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_SMALL = 1 << 20  # bytes of a configuration


class _Tower(BaseModel):
    """What sizes a tower; all else is left to open_clip, which refuses what it does not know."""

    model_config = ConfigDict(extra="allow")

    image_size: Annotated[int, Field(ge=8, le=1024)] | list[Annotated[int, Field(ge=8, le=1024)]] = 224
    layers: Annotated[int, Field(ge=1, le=200)] | list[Annotated[int, Field(ge=1, le=200)]] = 12
    width: int = Field(default=512, ge=8, le=8192)
    patch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    mlp_ratio: float = Field(default=4.0, gt=0, le=16)
    context_length: int = Field(default=77, ge=2, le=1024)
    vocab_size: int = Field(default=49408, ge=2, le=1_000_000)


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    embed_dim: int = Field(ge=1, le=8192)
    vision_cfg: _Tower
    text_cfg: _Tower


@dataclass(frozen=True)
class Reference:
    """A checkpoint that is on this disk, not yet loaded.

    ``name`` names files and records; ``reference`` is what was asked for, without a folder of this machine. ``config``
    and ``preprocess`` are open_clip's; ``tokenizer`` is the folder with its files, None: open_clip's own.
    """

    name: str
    reference: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path
    tokenizer: Path | None
    revision: str | None = None

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.config["vision_cfg"]["image_size"]

    @property
    def own(self) -> tuple[Any, Any]:
        """How it says that images are resized: mode and interpolation, in :mod:`clipa.protocols`' words."""
        mode = self.preprocess.get("resize_mode") or PreprocessCfg.resize_mode
        interpolation = self.preprocess.get("interpolation") or PreprocessCfg.interpolation
        # open_clip resizes test images bicubically where a checkpoint says "random".
        return ("shorter" if mode == "shortest" else mode), (
            "bilinear" if interpolation == "bilinear" else "bicubic"
        )

    @property
    def normal(self) -> Normal:
        """Mean and deviation: its own, else open_clip's default, OpenAI's."""
        mean, std = (
            tuple(self.preprocess.get(name) or getattr(PreprocessCfg, name)) for name in ("mean", "std")
        )
        return Normal(mean, std)

    def digests(self) -> dict[str, str]:
        """sha256 of the weights, and one of all that a number depends on. Reads the weights once."""
        weights = sha256_of(self.weights)
        files = {} if self.tokenizer is None else tokenizer_files(self.tokenizer)
        content = {
            "weights": weights,
            "config": self.config,
            "preprocess": {"resize": self.own, "mean": self.normal.mean, "std": self.normal.std},
            "tokenizer": {name: sha256_of(path) for name, path in files.items()},
        }
        return {"weights": weights, "digest": digest(content)}

    def load(self, device: str, batch_size: int, decoded: Path, features: Path) -> Candidate:
        """The model in fp32, with images as it names them. Raises EvaluationError for weights that do not fit.

        ``decoded``, ``features``: as of :class:`Candidate`.
        """
        pixels = Pixels(self.size, self.own[0], self.size, self.own[1])
        try:
            self._check_size()
            model = _build(self.config)
            load_checkpoint(model, str(self.weights), strict=True, device="cpu")
            tokenizer = tokenizer_of(self.config["text_cfg"], self.tokenizer)
        except (
            Exception
        ) as error:  # of safetensors, tokenizers, torch, open_clip: whatever is wrong with files of others
            reason = " ".join(str(error).split()) or type(error).__name__
            raise EvaluationError(f"{self.reference}: cannot be loaded ({reason[:200]})") from None
        return Candidate(
            model.to(device).eval(), tokenizer, pixels, self.normal, device, batch_size, decoded, features
        )

    def _check_size(self) -> None:
        """ValueError where the configuration's model is larger than the weights, before memory is taken for it."""
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in _build(self.config).parameters())
        if 2 * count > self.weights.stat().st_size + _SMALL:  # two bytes a number, at least
            raise ValueError(
                f"its configuration has {count:,} parameters, its weights {self.weights.stat().st_size:,} bytes"
            )


def _build(config: dict[str, Any]) -> torch.nn.Module:
    """open_clip's model of a configuration. Neither initial weights nor anything else is fetched."""
    values = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}}
    if "timm_model_name" not in config["vision_cfg"]:
        del values["vision_cfg"]["timm_model_pretrained"]
    custom = values.pop("custom_text", False)
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**values)


# ------------------------------------------------------------------------------------------------- what REF names


def resolve(reference: str) -> Reference:
    """The checkpoint that ``reference`` names, on this disk: from the hub it is fetched, or taken from its cache.

    Raises EvaluationError, in one line that says what to do, for whatever is not there or is none.
    """
    kind, _, rest = reference.partition(":")
    if kind == "local-dir" and rest:
        folder = Path(rest)
        return _in_folder(folder, _slug(folder.resolve().name), f"local-dir:{folder.resolve().name}")
    if kind == "hf-hub" and rest:
        repository, _, revision = rest.partition("@")
        return _on_the_hub(repository, revision or None, _slug(repository.rpartition("/")[2]), reference)
    row = load_released().get(reference)
    if row is not None:
        if row.why is not None:
            raise EvaluationError(f"{reference}: there is no checkpoint that can be had: {row.why}")
        if row.tag is None:
            return _on_the_hub(row.hub, None, reference, f"hf-hub:{row.hub}")
        return _of_tag(*row.tag.split("/"), name=reference)
    name, slash, tag = reference.partition("/")
    if slash and tag:
        return _of_tag(name, tag, _slug(f"{name}-{tag}"))
    raise EvaluationError(
        f"{reference!r} names no checkpoint: local-dir:FOLDER, hf-hub:OWNER/NAME, an OpenCLIP name/tag, a row of "
        "config/released.yaml (`clipa released` lists them) or a run of the scale"
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "checkpoint"


def _in_folder(folder: Path, name: str, reference: str, revision: str | None = None) -> Reference:
    """A folder in the hub's layout."""
    content = _configuration(folder / CONFIG, reference)
    config = _checked(content.get("model_cfg"), reference)
    weights = next((folder / one for one in WEIGHTS if (folder / one).is_file()), None)
    if weights is None:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
        raise EvaluationError(_no_safetensors(reference, pickled))
    preprocess = content.get("preprocess_cfg") or {}
    return _finished(name, reference, config, preprocess, weights, folder, revision)


def _of_tag(architecture: str, tag: str, name: str) -> Reference:
    """An OpenCLIP name and tag: its configuration and preprocessing are open_clip's, its weights the hub's."""
    reference = f"{architecture}/{tag}"
    known, config = get_pretrained_cfg(architecture, tag), open_clip.get_model_config(architecture)
    if config is None or not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise EvaluationError(
            f"{reference}: OpenCLIP has no such "
            + (f"tag (of {architecture}: {tags})" if tags else "model (open_clip.list_pretrained() has all)")
        )
    repository, _, file = known.get("hf_hub", "").rpartition("/")
    if not repository:
        raise EvaluationError(f"{reference}: its weights are pickled, and on no hub; they are not loaded")
    folder, revision = _fetch(
        repository, None, (file,) if file.endswith(".safetensors") else WEIGHTS, reference
    )
    weights = next(path for one in (file, *WEIGHTS) if one and (path := folder / one).is_file())
    preprocess = {
        key: known[key] for key in ("mean", "std", "interpolation", "resize_mode") if known.get(key)
    }
    config = _checked(config, reference)
    return _finished(name, reference, config, preprocess, weights, folder, revision)


def _on_the_hub(repository: str, revision: str | None, name: str, reference: str) -> Reference:
    folder, found = _fetch(repository, revision, WEIGHTS, reference)
    return _in_folder(folder, name, reference, found)


def _finished(
    name: str,
    reference: str,
    config: dict[str, Any],
    preprocess: Any,
    weights: Path,
    folder: Path,
    revision: str | None,
) -> Reference:
    """With its tokenizer: from the folder if its files are there, else from the hub by the name that it gives."""
    if not isinstance(preprocess, dict):
        raise EvaluationError(f"{reference}: preprocess_cfg is no map")
    tokenizer = None
    if named := config["text_cfg"].get("hf_tokenizer_name"):
        tokenizer = folder if tokenizer_files(folder) else _fetch(named, None, (), reference)[0]
    found = Reference(name, reference, config, preprocess, weights, tokenizer, revision)
    _check_preprocessing(found)
    return found


# --------------------------------------------------------------------------------------------------------- checks


def _configuration(path: Path, reference: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SMALL:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = read_json(path)
    except OSError:
        raise EvaluationError(
            f"{reference}: has no {CONFIG}, so it is no folder in the hub's layout"
        ) from None
    except ValueError as error:
        raise EvaluationError(f"{reference}: {CONFIG} cannot be read ({error})") from None
    return content if isinstance(content, dict) else {}


def _checked(config: Any, reference: str) -> dict[str, Any]:
    """A model configuration whose sizes are those of a model, and that needs nothing from elsewhere."""
    try:
        _Model.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(f"{reference}: model_cfg {where}: {first['msg'].lower()}") from None
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        raise EvaluationError(f"{reference}: has a text tower that open_clip does not build itself")
    size = config["vision_cfg"].get("image_size", 224)
    if isinstance(size, list):
        if len(set(size)) != 1:
            raise EvaluationError(
                f"{reference}: sees images of {' × '.join(map(str, size))}; only squares are evaluated"
            )
        size = size[0]
    return {**config, "vision_cfg": {**config["vision_cfg"], "image_size": size}}


def _check_preprocessing(found: Reference) -> None:
    mode, _ = found.own
    values = (*found.normal.mean, *found.normal.std)
    numbers = len(values) == 6 and all(isinstance(value, (int, float)) for value in values)
    if (
        mode not in ("shorter", "squash", "longest")
        or not numbers
        or not all(0 < value < 1 for value in values)
    ):
        raise EvaluationError(
            f"{found.reference}: preprocess_cfg is not open_clip's: {str(found.preprocess)[:150]}"
        )


def _no_safetensors(reference: str, pickled: Sequence[str]) -> str:
    if not pickled:
        return f"{reference}: has no {WEIGHTS[0]}"
    return (
        f"{reference}: has pickled weights alone ({pickled[0]}), which are not loaded; where you trust them, write "
        f"{WEIGHTS[0]} from them: safetensors.torch.save_file(torch.load(FILE, weights_only=True), …)"
    )


# -------------------------------------------------------------------------------------------------------- the hub


def _fetch(
    repository: str, revision: str | None, weights: Sequence[str], reference: str
) -> tuple[Path, str | None]:
    """The snapshot of a repository on this disk, with the first of ``weights`` that it has, and its commit.

    What is missing is downloaded by huggingface_hub, which goes on after an interruption. Weights are compared with
    the sha256 that the hub has for them. With HF_HUB_OFFLINE=1 only what is there is taken.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
            return folder, folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=30)
        files = {one.rfilename: one for one in info.siblings or ()}
        chosen = next((one for one in weights if one in files), None)
        if weights and chosen is None:
            pickled = [one for one in files if one.endswith(_PICKLED)]
            raise EvaluationError(_no_safetensors(reference, pickled))
        wanted = [name for name in (CONFIG, *TOKENIZER) if name in files]
        if not wanted:
            raise ValueError(f"has neither {CONFIG} nor a tokenizer")
        for name in wanted:
            path = Path(hf_hub_download(repository, name, revision=info.sha))
        if chosen is not None:
            _fetch_weights(repository, chosen, info.sha, files[chosen])
        return path.parent, info.sha
    except EvaluationError:
        raise
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        cure = "; it is not in the hub's cache: unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        raise EvaluationError(f"{reference}: {repository} cannot be fetched ({reason}){cure}") from None


def _fetch_weights(repository: str, name: str, revision: str, file: Any) -> None:
    from huggingface_hub import hf_hub_download

    if file.size:
        print(f"{repository}: {name}, {file.size / 1e9:.2f} GB", file=sys.stderr, flush=True)
    path = Path(hf_hub_download(repository, name, revision=revision))
    expected = file.lfs.sha256 if file.lfs else None
    if expected is not None and (found := sha256_of(path)) != expected:
        os.unlink(path.resolve())
        path.unlink(missing_ok=True)
        raise EvaluationError(
            f"{repository}: {name}: sha256 is {found[:16]}, the hub says {expected[:16]}; it was removed: try again"
        )
