"""What H/14 and G/14 need to fit: parameters split over processes, and activations made twice instead of kept.

Parameters, gradients and both AdamW moments (16 bytes a parameter, 40 GB for G/14) are split by FSDP2 along their
first dimension. Each process gathers a transformer block when it computes with it, and all other parameters once a
pass. Nothing else in training knows: to the loop a split parameter is a parameter, and checkpoints hold whole
tensors, so any number of processes can go on from them.

Run with two gloo processes on CPU, in fp32 and bf16. The same code with nccl and CUDA follows torch's documentation
and has not been run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from clipa.models import CLIP, Towers

PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""What selective checkpointing keeps: outputs of the blocks' linear layers. Norms, GELU, attention and sums are made
again, which saves a third of the memory and costs attention's share of a forward pass: 0.5 % at the 37 tokens of
H/14's pre-training, 3 % at 257."""


def recompute(model: CLIP, which: Literal[True, "selective"]) -> None:
    """Keep fewer activations for the backward pass. True: only the inputs of whole blocks (one more forward pass, an
    eighth of the memory or less); "selective": those and the products, which are what costs time to make again (the
    image tower of a ConvNeXt has no such blocks and keeps all). Gradients keep their bits.
    """
    if which is True:
        model.set_grad_checkpointing()
        return
    for block in _blocks(model):
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a block is random
            context_fn=partial(create_selective_checkpoint_contexts, PRODUCTS),
        )


def shard(towers: Towers, device: str, precision: str) -> Towers:
    """Split the parameters of ``towers``, in place, over all processes: before the optimizer is made.

    Each pass of a cached batch adds its gradients, averaged over the processes (as DistributedDataParallel does), to
    the process's part, so whole gradients are never kept. The temperature, a scalar, cannot be split: each process
    differentiates the whole batch's loss with respect to it, so it stays the same everywhere.

    ``bf16``, for use under autocast: parameters are gathered as bfloat16 (half the traffic), which also makes blocks
    pass bfloat16 on; gradients are summed, and parameters updated, in float32.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in _blocks(towers.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
    return fully_shard(towers, mesh=mesh, mp_policy=policy, ignored_params=scalars)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, put together, in the first process's host memory; nothing in the other processes, which must call
    this, too. One at a time passes through the device.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    together = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if first:
            together[name] = full.detach().cpu()
    return together


def whole_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds: ``model.<name>`` and ``optimizer.<parameter>.<key>``, as :func:`whole` gives them."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        values = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    return whole(tensors)


def load_whole_state(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Set model and optimizer to what :func:`whole_state` gave, in any number of processes; each keeps its part."""
    own = model.state_dict()
    stored = [name.removeprefix("model.") for name in tensors if name.startswith("model.")]
    model.load_state_dict({name: _placed_like(tensors[f"model.{name}"], own.get(name)) for name in stored})
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        keys = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
        if keys:
            values = {key: _placed_like(tensors[prefix + key], parameter) for key in keys}
            optimizer.state[parameter] = values


def _placed_like(tensor: Tensor, parameter: Tensor | None) -> Tensor:
    """A whole ``tensor`` as this process holds ``parameter``, to which it belongs: on its device, and split if it is.
    The optimizer's step counters, on the device, too, but of another shape, stay whole.
    """
    if parameter is None:
        return tensor  # load_state_dict will say that it fits nowhere
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    split = distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    # A copy: the parts of ``split`` are views, and would keep the whole on the device.
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(split)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum of the gradients' norms (of their parts', if split): finite exactly if all of them are; the same in all
    processes, a scalar. For finding what is not finite, not for clipping.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norm = torch.stack(torch._foreach_norm([part for part in local if part.numel()])).sum()
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        dist.all_reduce(norm)
    return norm


def _blocks(model: nn.Module) -> list[ResidualAttentionBlock]:
    return [module for module in model.modules() if isinstance(module, ResidualAttentionBlock)]
