"""What one process needs in bytes to train a stage: counted from the real modules, without their memory.

The towers are built with few blocks as fake tensors (shapes without bytes) and run through the real loss and backward
pass, while torch's memory tracker follows every allocation. Bytes are linear in the blocks and in the samples of a
pass, so a few such runs give those of any depth and pass. What is counted is a CPU's: there, as on a GPU with flash
attention, attention keeps its inputs and outputs, not the matrix of its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker

from clipa import models
from clipa.config import Augmentation, Blocks
from clipa.distributed import apply_activation_checkpointing
from clipa.fits import MODES, Checkpointing, Counted
from clipa.losses import backward
from clipa.stages import Stage

_BLOCKS, _SAMPLES = 2, 4096
"""The smallest run; others have one more block. So many samples that casts of weights and gradients weigh nothing."""


def count(stage: Stage) -> Counted:
    """Of the towers of ``stage``, at its image size, kept patches and text length."""
    with FakeTensorMode() as mode:
        trained = [p.numel() for p in _faked(stage.model_config, mode).parameters() if p.requires_grad]
    asked, how = (stage.model_config, stage.kept_patches), (stage.scale.precision, stage.scale.blocks)
    found = {mode: round(bytes_of_a_sample(*asked, mode, *how)) for mode in MODES}
    return Counted(sum(trained), found)


def bytes_of_a_sample(
    model_config: Mapping[str, Any],
    kept_patches: int | None,
    checkpointing: Checkpointing,
    precision: str,
    blocks: Blocks = "open_clip",
) -> float:
    """Peak bytes of a pass, a sample, beside parameters, their gradients and (bf16) autocast's copies of the weights.

    ``model_config`` is open_clip's, at its image size and context length; ``kept_patches`` of a mask (None: all).
    """
    asked = kept_patches, checkpointing, precision, blocks
    found = _peak(_few_blocks(model_config), *asked)
    for tower, other in (("vision_cfg", "text_cfg"), ("text_cfg", "vision_cfg")):
        depth = model_config[tower].get("layers")
        if isinstance(depth, int):  # a ConvNeXt has none that are alike, and is counted whole
            # One more block needs the same beside any other tower: beside a short one, each length is counted once.
            short = {"context_length": 4} if other == "text_cfg" else {"image_size": 32}
            beside = {**model_config, other: {**model_config[other], **short}}
            kept = kept_patches if tower == "vision_cfg" else None
            few, more = (
                _peak(_few_blocks(beside, {tower: n}), kept, *asked[1:]) for n in (_BLOCKS, _BLOCKS + 1)
            )
            found += (depth - _BLOCKS) * (more - few)
    return found


def _faked(
    model_config: Mapping[str, Any], mode: FakeTensorMode, blocks: Blocks = "open_clip"
) -> models.CLIP:
    """The model with fake tensors, inside ``mode``."""
    if "timm_model_name" not in model_config["vision_cfg"]:
        return models.build(dict(model_config), 0, blocks)
    with unset_fake_temporarily():  # timm asks tensors for numbers while it builds a ConvNeXt
        model = models.build(dict(model_config), 0, blocks)
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                faked = nn.Parameter(mode.from_tensor(tensor).detach(), requires_grad=tensor.requires_grad)
                module._parameters[name] = faked
        for name, tensor in module._buffers.items():
            module._buffers[name] = None if tensor is None else mode.from_tensor(tensor)
    return model


def _few_blocks(model_config: Mapping[str, Any], blocks: Mapping[str, int] = MappingProxyType({})) -> str:
    """The configuration with few blocks a tower, or ``blocks``; as text, by which counts are remembered."""
    config = dict(model_config)
    for tower in ("vision_cfg", "text_cfg"):
        if isinstance(config[tower].get("layers"), int):
            config[tower] = {**config[tower], "layers": blocks.get(tower, _BLOCKS)}
    return json.dumps(config, sort_keys=True)


@cache
def _peak(
    model_config: str, kept_patches: int | None, checkpointing: Checkpointing, precision: str, blocks: Blocks
) -> float:
    """Peak bytes of one pass, a sample, beside parameters and gradients."""
    config = json.loads(model_config)
    size, length = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    size -= size % config["vision_cfg"].get("patch_size", 1)
    config["vision_cfg"]["image_size"] = size
    autocast = nullcontext if precision == "fp32" else lambda: torch.autocast("cpu", torch.bfloat16)
    with FakeTensorMode() as mode:
        towers = models.Towers(_faked(config, mode, blocks), Augmentation())
        if checkpointing:
            apply_activation_checkpointing(towers.model, checkpointing)
        for parameter in towers.parameters():
            parameter.requires_grad_()  # the tracker expects it of all; the fixed positions are small
        batch = [
            torch.zeros(_SAMPLES, 3, size, size, dtype=torch.uint8),
            torch.zeros(_SAMPLES, length, dtype=torch.int64),
        ]
        if kept_patches is not None:
            batch.append(torch.zeros(_SAMPLES, kept_patches, dtype=torch.int64))
        tracker = MemTracker()
        tracker.track_external(towers)
        with tracker:
            backward(towers, batch, None, autocast)
        [peak] = tracker.get_tracker_snapshot("peak").values()
    return sum(peak[kind] for kind in peak if str(kind).rpartition(".")[2] in ("ACT", "TEMP")) / _SAMPLES
