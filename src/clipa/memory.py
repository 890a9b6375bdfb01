"""What one process needs in bytes to train a stage: counted from the real modules, without their memory.

The towers are built of fake tensors (shapes without bytes) and pass a batch forward and backward, while every tensor
that is made is followed until it is freed. What is counted is a CPU's: there, as on a GPU with flash attention,
attention keeps its inputs and outputs, not the matrix of its weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipa import models
from clipa.config import Augmentation, Blocks
from clipa.distributed import apply_activation_checkpointing
from clipa.fits import MODES, Checkpointing, Counted
from clipa.stages import Stage

_SAMPLES = 1 << 20
"""So many that gradients and casts of weights, which :mod:`clipa.fits` adds, weigh nothing."""


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
    """Peak bytes of a pass, a sample, beside parameters, their gradients, autocast's copies of the weights, the batch
    and the loss.

    ``model_config`` is open_clip's, at its image size and context length; ``kept_patches`` of a mask (None: all).
    """
    size, length = model_config["vision_cfg"]["image_size"], model_config["text_cfg"]["context_length"]
    autocast = nullcontext() if precision == "fp32" else torch.autocast("cpu", torch.bfloat16)
    with FakeTensorMode() as mode:
        towers = models.Towers(_faked(model_config, mode, blocks), Augmentation())
        if checkpointing:
            apply_activation_checkpointing(towers.model, checkpointing)
        batch = [
            torch.zeros(_SAMPLES, 3, size, size, dtype=torch.uint8),
            torch.zeros(_SAMPLES, length, dtype=torch.int64),
        ]
        if kept_patches is not None:
            batch.append(torch.zeros(_SAMPLES, kept_patches, dtype=torch.int64))
        with _Live([*towers.parameters(), *towers.buffers(), *batch]) as live:
            with autocast:
                outputs = towers(*batch)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return live.peak / _SAMPLES


class _Live(TorchDispatchMode):
    """Bytes of the tensors that are made under it, as long as they live; not of ``others``, which exist before."""

    def __init__(self, others: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}
        for tensor in others:
            self._follow(tensor.untyped_storage(), 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._follow(storage, storage.nbytes())
        return made

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        name = id(storage)
        if name in self._known:  # a view, or written in place
            return

        def freed(_: Any) -> None:
            del self._known[name]
            self.now -= size

        self._known[name] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


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
