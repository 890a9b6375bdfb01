"""Several processes that train one global batch: torchrun starts them (:mod:`clipa.launch`).

Without ``sharded`` every process holds the whole model (DistributedDataParallel). With it, parameters, gradients and
both AdamW moments (16 bytes a parameter, 40 GB for G/14) are split by FSDP2 along their first dimension: each process
gathers a transformer block when it computes with it, and all other parameters once a pass. Over several nodes, each
node has all of the parameters and its processes split them, so that only gradients pass between nodes (HSDP). The
training loop does not see the difference, and a stage may resume with another world size (:mod:`clipa.checkpoint`).

Tested with two and 2 × 2 gloo processes on CPU, in fp32 and bf16. The same code with nccl and CUDA follows torch's
documentation and has not been run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from clipa.locks import directory_lock
from clipa.models import CLIP, Towers

MATRIX_PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""What selective activation checkpointing keeps: outputs of the blocks' linear layers. Norms, GELU, attention and sums
are recomputed, which saves a third of the memory and costs attention's share of a forward pass: 0.5 % at the 37 tokens
of H/14's pre-training, 3 % at 257."""

_GROUPS: list[Any] = []
# Process groups are never freed: the last to hold one (the towers) would join its threads under the interpreter's lock,
# for which a thread that frees its last tensor may be waiting.


# ------------------------------------------------------------------------------------------------- processes


def rank() -> int:
    """Of this process, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(expected: int, device: str) -> Iterator[int]:
    """Join the processes that torchrun started; yields the rank. ValueError unless there are ``expected`` of them."""
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != expected:
        raise ValueError(
            f"this stage trains with {expected} processes, found {found}: start it with `clipa train FILE`, "
            "without torchrun"
        )
    if found == 1:
        yield 0
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    _GROUPS.append(dist.group.WORLD)
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


@contextmanager
def sole_writer(directory: Path, what: str) -> Iterator[None]:
    """The first process holds the lock of ``directory``; the others wait until it has it."""
    with directory_lock(directory, what) if rank() == 0 else nullcontext():
        wait_for_all()
        yield


def wait_for_all() -> None:
    """Return when all processes have called this."""
    if world_size() > 1:
        dist.barrier()


def all_reduce(*values: int) -> list[int]:
    """The sum of each value over all processes, by way of their CPUs: a GPU's queue of work is not waited for."""
    if world_size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.int64)  # on the host: no process waits for its GPU
    dist.all_reduce(summed)
    return summed.tolist()


def merged(own: dict[str, str]) -> dict[str, str]:
    """The entries of all processes."""
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, own)
    return {key: value for part in found for key, value in part.items()}


# ------------------------------------------------------------------------------- sharding and activation checkpointing


def apply_activation_checkpointing(model: CLIP, which: Literal[True, "selective"]) -> None:
    """Keep fewer activations for the backward pass. Gradients are the same bits.

    True: keep only the inputs of the blocks (one more forward pass, an eighth of the memory or less). "selective": also
    keep the matrix products, which are what costs time to recompute (the image tower of a ConvNeXt has no such blocks
    and keeps all activations).
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
            context_fn=partial(create_selective_checkpoint_contexts, MATRIX_PRODUCTS),
        )


def replicate(towers: Towers, batch: Sequence[Tensor]) -> nn.parallel.DistributedDataParallel:
    """``towers`` in every process; ``batch`` is a sample, of any values, of what they take.

    DistributedDataParallel groups gradients into buckets, and groups them anew after the first backward pass, in the
    order in which that made them. Other buckets are other orders of sums, from three processes on. So it gets its first
    pass here, without an update, and a stage that resumes has the buckets of an undisturbed one.
    """
    # Not static_graph: it allows no passes whose gradients are summed over the processes later (gradient caching).
    replicated = nn.parallel.DistributedDataParallel(
        towers, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    sum(output.float().sum() for output in replicated(*batch)).backward()
    replicated.zero_grad(set_to_none=True)
    return replicated


def shard(towers: Towers, device: str, precision: str, nodes: int = 1) -> Towers:
    """Split the parameters of ``towers``, in place, over the processes of each of ``nodes`` nodes. Call it before the
    optimizer is created. ValueError where the nodes have no equal numbers of processes.

    Each pass over a micro-batch adds its gradients, averaged over the processes (as DistributedDataParallel does), to
    the process's shard, so full gradients are never kept. The temperature, a scalar, cannot be split: each process
    differentiates the global batch's loss with respect to it, so it stays the same in all of them.

    ``bf16``, for use under autocast: parameters are gathered as bfloat16 (half the traffic), which also makes blocks
    pass bfloat16 on; gradients are summed, and parameters updated, in float32.
    """
    if world_size() % nodes:
        raise ValueError(f"{world_size()} processes are not a multiple of {nodes} nodes")
    mesh = init_device_mesh(device, (world_size(),))
    if nodes > 1:  # torchrun numbers the processes node by node
        shape = nodes, world_size() // nodes
        mesh = init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in _blocks(towers.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
    sharded = fully_shard(towers, mesh=mesh, mp_policy=policy, ignored_params=scalars)
    if nodes > 1:  # as DistributedDataParallel's: losses.backward asks for it in all passes but the last
        sharded.no_sync = partial(_inside_nodes, sharded)
    return sharded


@contextmanager
def _inside_nodes(sharded: FSDPModule) -> Iterator[None]:
    """Gradients made in this context are added up inside each node; the first pass after it sums them over nodes."""
    sharded.set_requires_all_reduce(False)
    try:
        yield
    finally:
        sharded.set_requires_all_reduce(True)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, gathered in the first process's host memory; nothing in the others, which must call this, too.

    One tensor at a time is gathered on the device.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            gathered[name] = full.detach().cpu()
    return gathered


def state_dict(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds, as this process holds it: ``model.<name>`` and ``optimizer.<parameter>.<key>``."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        values = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    return tensors


def empty_state_dict(
    model: nn.Module, optimizer: Optimizer, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
) -> dict[str, Tensor]:
    """:func:`state_dict` of the model, and of an optimizer that gets room for what ``shapes`` has of it."""
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        for key, (shape, dtype) in shapes.items():
            if key.startswith(prefix):
                like = parameter if shape == parameter.shape else torch.empty(shape, device=parameter.device)
                optimizer.state[parameter][key.removeprefix(prefix)] = torch.empty_like(like, dtype=dtype)
    return state_dict(model, optimizer)


def load_full_state_dict(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the :func:`full_tensors` of a :func:`state_dict`, with any world size; each process keeps its shard."""
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
    """A full ``tensor`` as this process holds ``parameter``, to which it belongs: on its device, and sharded if it is.
    The optimizer's step counters, on the device, too, but of another shape, are not sharded.
    """
    if parameter is None:
        return tensor  # load_state_dict will say that it fits nowhere
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    sharded = distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    # A copy: the shards are views, and would keep the full tensor on the device.
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(sharded)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum of the norms of all gradients (of their shards), a scalar, the same in all processes.

    It is finite exactly if all gradients are: for finding what is not finite, not for clipping.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norm = torch.stack(torch._foreach_norm([part for part in local if part.numel()])).sum()
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        dist.all_reduce(norm)
    return norm


def _blocks(model: nn.Module) -> list[ResidualAttentionBlock]:
    return [module for module in model.modules() if isinstance(module, ResidualAttentionBlock)]
