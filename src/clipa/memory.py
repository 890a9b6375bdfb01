"""What one process needs in bytes to train a stage: counted from the real modules, without their memory.

The towers are built with few blocks as fake tensors (shapes without bytes) and run through the real loss and backward
pass, while torch's memory tracker follows every allocation. Bytes are linear in the blocks and in the samples of a
pass, so a few such runs give those of any depth and pass. What is counted is a CPU's: there, as on a GPU with flash
attention, attention keeps its inputs and outputs, not the matrix of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from clipa import models
from clipa.config import Augmentation
from clipa.distributed import apply_activation_checkpointing
from clipa.fits import MODES, Checkpointing, Counted
from clipa.losses import backward
from clipa.stages import Stage

_BLOCKS, _SAMPLES = 2, 1024
"""The smallest run; others have one more block, or twice the samples, so many that gradients weigh little."""


def count(stage: Stage) -> Counted:
    """Of the towers of ``stage``, at its image size, kept patches and text length."""
    with FakeTensorMode():
        trained = [p.numel() for p in models.build(stage.model_config, 0).parameters() if p.requires_grad]
    asked = stage.model_config, stage.kept_patches
    found = {mode: activations(*asked, mode, stage.scale.precision) for mode in MODES}
    return Counted(sum(trained), found)


def activations(
    model_config: Mapping[str, Any],
    kept_patches: int | None,
    checkpointing: Checkpointing,
    precision: Literal["fp32", "bf16"],
) -> tuple[float, float]:
    """Peak bytes of a pass beside parameters and gradients: fixed ones, and those of each sample.

    ``model_config`` is open_clip's, at its image size and context length; ``kept_patches`` of a mask (None: all).
    """
    depths = [model_config["vision_cfg"].get("layers"), model_config["text_cfg"]["layers"]]
    convnet = not isinstance(depths[0], int)

    def line(vision: int, text: int) -> tuple[float, float]:
        config = _with_depths(model_config, None if convnet else vision, text)
        few, more = (_peak(config, kept_patches, checkpointing, precision, n * _SAMPLES) for n in (1, 2))
        slope = (more - few) / _SAMPLES
        return few - _SAMPLES * slope, slope

    base = line(_BLOCKS, _BLOCKS)
    found = list(base)
    for rank, depth in enumerate(depths):
        if rank == 0 and convnet:
            continue
        deeper = line(_BLOCKS + (rank == 0), _BLOCKS + (rank == 1))
        found = [value + (depth - _BLOCKS) * (b - a) for value, a, b in zip(found, base, deeper, strict=True)]
    fixed, per_sample = (round(value) for value in found)
    return fixed, per_sample


def _with_depths(model_config: Mapping[str, Any], vision: int | None, text: int) -> dict[str, Any]:
    config = {**model_config, "text_cfg": {**model_config["text_cfg"], "layers": text}}
    if vision is not None:
        config["vision_cfg"] = {**model_config["vision_cfg"], "layers": vision}
    return config


def _peak(
    config: dict[str, Any],
    kept_patches: int | None,
    checkpointing: Checkpointing,
    precision: str,
    samples: int,
) -> float:
    """Peak bytes of one pass, beside parameters and gradients."""
    size, length = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    autocast = nullcontext if precision == "fp32" else lambda: torch.autocast("cpu", torch.bfloat16)
    with FakeTensorMode():
        towers = models.Towers(models.build(config, 0), Augmentation())
        if checkpointing:
            apply_activation_checkpointing(towers.model, checkpointing)
        for parameter in towers.parameters():
            parameter.requires_grad_()  # the tracker expects it of all; the fixed positions are small
        batch = [
            torch.zeros(samples, 3, size, size, dtype=torch.uint8),
            torch.zeros(samples, length, dtype=torch.int64),
        ]
        if kept_patches is not None:
            batch.append(torch.zeros(samples, kept_patches, dtype=torch.int64))
        tracker = MemTracker()
        tracker.track_external(towers)
        with tracker:
            backward(towers, batch, None, autocast)
        [peak] = tracker.get_tracker_snapshot("peak").values()
    return sum(peak[kind] for kind in peak if str(kind).rpartition(".")[2] in ("ACT", "TEMP"))
