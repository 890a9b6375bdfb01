"""Several processes that train one global batch (torchrun starts them): who they are, and what they must agree on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from clipa.locks import directory_lock
from clipa.stages import Stage

_GROUPS: list[Any] = []
# Groups are kept: whatever holds one last (the towers) would join its threads under the interpreter's lock, for which
# a thread that lets go of its last tensor may be waiting.


def rank() -> int:
    """Of this process, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(stage: Stage) -> Iterator[int]:
    """This process's rank among those torchrun started. Unless the stage is sharded, their number is part of its
    identity.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != stage.scale.processes:
        raise ValueError(
            f"scale {stage.scale.name} trains with {stage.scale.processes} processes, this is {world}: start with "
            f"torchrun --standalone --nproc-per-node {stage.scale.processes} -m clipa train …"
        )
    if world == 1:
        yield 0
        return
    if stage.scale.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if stage.scale.device == "cuda" else "gloo")
    _GROUPS.append(dist.group.WORLD)
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


@contextmanager
def sole_writer(directory: Path, stage: Stage) -> Iterator[None]:
    """The first process holds the stage's lock; the others wait until it has it."""
    name = f"{stage.run.coordinates} {stage.kind} seed {stage.seed}"
    with directory_lock(directory, name) if rank() == 0 else nullcontext():
        if count() > 1:
            dist.barrier()
        yield


@contextmanager
def termination() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGTERM arrives (Slurm's time limit, a preemption)."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def everywhere(stop: bool, number: int) -> tuple[bool, int]:
    """Whether any process was asked to stop (all must leave the loop at the same step), and the sum of ``number``."""
    if count() == 1:
        return stop, number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    both = torch.tensor([stop, number], dtype=torch.int64, device=device)
    dist.all_reduce(both)
    return bool(both[0].item()), int(both[1].item())
