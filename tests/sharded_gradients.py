"""What a process of two holds and computes of a sharded model, against one process: a program for torchrun.

Prints one JSON object: by case, the largest difference of any gradient, relative to its largest entry, the part
of parameters and moments that lies in this process, and whether gradients are finite: before and after the other
process's part of one is not.
"""

import json
import sys
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from clipa import distributed, models
from clipa.losses import backward
from clipa.optimizers import optimizers_of
from clipa.train import kept_patches
from small_training import resolved, tiny_stages

RUN = "S16-random49-truncation32"
BATCH = 12
STAGE = resolved(tiny_stages(RUN)[0], Path())


def towers_of(checkpointing: object = False, blocks: str = "open_clip") -> models.Towers:
    model = models.build(STAGE.content.model, 0, blocks)
    if checkpointing:
        distributed.apply_activation_checkpointing(model, checkpointing)
    return models.Towers(model, STAGE.content.augmentation)


def batch(rank: int = 0, ranks: int = 1) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, 48, 48), dtype=torch.uint8, generator=drawn)
    tokens = torch.randint(0, 700, (BATCH, 32), generator=drawn)
    parts = images, tokens, kept_patches(STAGE, torch.arange(BATCH))
    return [part[rank::ranks] for part in parts]


def gradients_of(towers: models.Towers) -> dict[str, Tensor]:
    return {name: p.grad for name, p in towers.model.named_parameters() if p.grad is not None}


def autocast_of(precision: str):
    return partial(torch.autocast, "cpu", torch.bfloat16) if precision == "bf16" else nullcontext


def alone() -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Loss and gradients of the whole batch in one process and one pass."""
    found = {}
    for precision in ("fp32", "bf16"):
        towers = towers_of()
        loss = backward(towers, batch(), None, autocast_of(precision))
        found[precision] = loss, gradients_of(towers)
    return found


def compare(
    expected: tuple[Tensor, dict[str, Tensor]], microbatch, checkpointing, precision: str, *blocks: str
) -> dict:
    towers = distributed.shard(towers_of(checkpointing, *blocks), "cpu", precision)
    optimizer = optimizers_of(towers.model, STAGE.content.schedule)
    loss = backward(towers, batch(dist.get_rank(), dist.get_world_size()), microbatch, autocast_of(precision))
    finite = [distributed.gradient_norm(towers.parameters()).isfinite().item()]
    found = distributed.full_tensors(gradients_of(towers))
    optimizer.step()
    kept = sum(
        local(value).numel()
        for state in optimizer.state.values()
        for value in (state["exp_avg"], state["exp_avg_sq"])
    )
    if dist.get_rank() == 1:
        local(towers.model.visual.conv1.weight.grad).view(-1)[0] = torch.inf
    finite.append(distributed.gradient_norm(towers.parameters()).isfinite().item())
    trained = sum(p.numel() for p in towers.parameters() if p.requires_grad)
    result = {
        "loss": abs(loss - expected[0]).item(),
        "finite": finite,
        "held": sum(local(p).numel() for p in towers.parameters())
        / sum(p.numel() for p in towers.parameters()),
        "moments": kept / (2 * trained),
        "dtypes": sorted({str(p.dtype) for p in towers.parameters()}),
    }
    if found:
        assert found.keys() == expected[1].keys()
        result["gradient"] = max(
            ((found[name] - gradient).abs().max() / gradient.abs().max()).item()
            for name, gradient in expected[1].items()
        )
    return result


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


if __name__ == "__main__":
    torch.set_num_threads(1)
    expected = alone()
    dist.init_process_group("gloo")
    cases = [*product((None, 2, 5), (False, True, "selective"), ("fp32",)), (2, "selective", "bf16")]
    cases += [(5, True, "fp32", "packed"), (2, "selective", "bf16", "packed")]
    made = {repr(case): compare(expected[case[2]], *case) for case in cases}
    if dist.get_rank() == 0:
        json.dump(made, sys.stdout)
    dist.destroy_process_group()
