"""The two towers: open_clip's own classes, built from the JSON files in ``model_configs`` (Table 4).

Vanilla ViT with fixed 2-D sine-cosine positions, computed for each image size and never resized (A.1); class token
for the study of §3 and §4. Text: non-autoregressive Transformer, no padding mask, pooled at the last position (what
the released weights need). An exported model is loaded by ``open_clip.create_model`` with nothing of ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from clipa.blocks import pack
from clipa.config import Augmentation, Blocks
from clipa.cost import CONVNETS, ConvNet
from clipa.files import naming, remove_partial_weights, seal
from clipa.resolved import WEIGHTS

MAXIMUM_LOGIT_SCALE = 100.0
"""As in CLIP and open_clip; the paper gives only its initial value, 1/0.07 (Table 5)."""

_IMAGE_POSITIONS = "visual.positional_embedding"
_TEXT_POSITIONS = "positional_embedding"


def build(
    model_config: dict[str, Any], seed: int, blocks: Blocks = "open_clip", positions: str | None = None
) -> CLIP:
    """A freshly initialised model (open_clip's initialisation) from the named seed; the global one is untouched.

    ``blocks``: open_clip's own, or those of :mod:`clipa.blocks`, with the same parameters. ``positions`` of image
    patches: None are open_clip's (MAE's formula), "moco-v3" :func:`moco_v3_positions`.
    """
    config = dict(model_config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(config.pop("embed_dim"), config.pop("vision_cfg"), config.pop("text_cfg"), **config)
    if hasattr(
        model.visual, "patch_dropout"
    ):  # where open_clip drops patches: after the positions, before all blocks
        model.visual.patch_dropout = TokenMask()
    if blocks == "packed":
        pack(model)
    if positions == "moco-v3":
        table = model.visual.positional_embedding
        table.data = moco_v3_positions(model.visual.grid_size, table.shape[1])
    return model


def moco_v3_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D sine-cosine positions by MoCo v3's formula, as in the released JAX code: [1 + patches, width] float32.

    A row has sin and cos of its patch's column, then of its row, times width/4 frequencies 10000^(-k / (width/4 - 1));
    MAE's formula, which open_clip has, divides k by width/4. The class token, first, has zeros.
    """
    frequencies = 10_000.0 ** -torch.linspace(0, 1, width // 4, dtype=torch.float64)
    row, column = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (column, row)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, width), table.float()])


def _register_small_convnets() -> None:
    """Give timm the small ConvNeXts of :data:`clipa.cost.CONVNETS`, so that open_clip builds them by name."""
    from timm.models import is_model, register_model
    from timm.models.convnext import ConvNeXt

    def register(name: str, net: ConvNet) -> None:
        def create(pretrained: bool = False, **options: Any) -> ConvNeXt:
            known = {"drop_path_rate", "num_classes", "global_pool"}
            kept = {key: value for key, value in options.items() if key in known}
            model = ConvNeXt(depths=net.depths, dims=net.widths, patch_size=net.stem, **kept)
            model.default_cfg = {}  # open_clip asks it for the size of the last feature map, and can do without
            return model

        create.__name__, create.__module__ = name, __name__
        register_model(create)

    for name, net in CONVNETS.items():
        if not is_model(name):
            register(name, net)


_register_small_convnets()


class TokenMask(nn.Module):
    """Takes the place of open_clip's patch dropout: keeps the class token and the patches that a mask chose.

    ``kept`` [b, K] int64 is set for one forward pass by :class:`Towers`; without it nothing is dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, 1 + L, width] → [b, 1 + K, width]."""
        if self.kept is None:
            return tokens
        chosen = (self.kept + 1)[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, :1], tokens.gather(1, chosen)], dim=1)


class Towers(nn.Module):
    """Both towers as one module: (images [b, 3, S, S] uint8, tokens [b, T]) → features [b, D], [b, D], logit scale.

    Normalisation of the pixels happens here, on the device, so that only bytes travel. ``kept`` [b, K] names the
    patches that the image tower sees (§3.2's masks, in training only); None: all of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: CLIP, augmentation: Augmentation) -> None:
        super().__init__()
        self.model = model
        for name in ("mean", "std"):
            values = torch.tensor(getattr(augmentation, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, images: Tensor, tokens: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels = (images.float() / 255 - self.mean) / self.std
        with self._masked(kept):
            image_features = self.model.encode_image(pixels, normalize=True)
        text_features = self.model.encode_text(tokens, normalize=True)
        return image_features, text_features, self.model.logit_scale.exp()

    @contextmanager
    def _masked(self, kept: Tensor | None) -> Iterator[None]:
        if kept is None:
            yield
            return
        mask = self.model.visual.patch_dropout
        mask.kept = kept
        try:
            yield
        finally:
            mask.kept = None


def inherit(model: CLIP, parent: dict[str, Tensor]) -> None:
    """Load a parent stage's weights: image positions are computed anew for this size (the patch grid's integer
    coordinates, not rescaled, as in the released code), learned text positions are interpolated along the length.
    """
    state = {name: tensor for name, tensor in parent.items() if name != _IMAGE_POSITIONS}
    length = model.positional_embedding.shape[0]
    if state[_TEXT_POSITIONS].shape[0] != length:
        stretched = state[_TEXT_POSITIONS].T[None]  # [1, width, parent's length]
        stretched = F.interpolate(stretched, size=length, mode="linear", align_corners=False)
        state[_TEXT_POSITIONS] = stretched[0].T
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {_IMAGE_POSITIONS}:
        raise ValueError(f"parent's weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: weight matrices only. As in the released code, biases, norms, embedding tables,
    positions, the class token and the logit scale are exempt; the paper only gives the value 0.2 (Table 5).
    """
    return parameter.ndim >= 2 and not name.endswith(("positional_embedding", "token_embedding.weight"))


def clamp_logit_scale(model: CLIP) -> None:
    """Keep the logit scale within [1, 100]."""
    with torch.no_grad():
        model.logit_scale.clamp_(0.0, torch.log(torch.tensor(MAXIMUM_LOGIT_SCALE)).item())


def export_open_clip(
    model_config: dict[str, Any],
    state: dict[str, Tensor],
    directory: Path,
    vocabulary: Path,
    augmentation: Augmentation,
    resize_mode: Literal["shortest", "squash"] = "shortest",
) -> dict[str, str]:
    """Write a folder that ``open_clip.create_model("local-dir:<folder>")`` loads: config, weights, tokenizer.

    ``resize_mode``: what open_clip calls the way in which its protocol resizes images. Flushed to disk; returns the
    sha256 of each file by name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_partial_weights(directory)
    preprocess = {
        "mean": list(augmentation.mean),
        "std": list(augmentation.std),
        "interpolation": "bilinear",
        "resize_mode": resize_mode,
    }
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    weights = directory / WEIGHTS
    try:
        save_file(contiguous, weights, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"{weights}: not written ({error})") from error
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(vocabulary / name, directory / name)
    # Last, since it is what open_clip looks for first.
    with naming(directory / "open_clip_config.json"):
        (directory / "open_clip_config.json").write_text(
            json.dumps(config, indent=2) + "\n", encoding="utf-8"
        )
    return seal(directory)
