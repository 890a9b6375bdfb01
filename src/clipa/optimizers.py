"""What updates the parameters: AdamW (Table 5), and Muon for the blocks' matrices where the schedule asks for it.

Muon (torch's own) makes the update of a matrix orthogonal. It is not the paper's; small scales may have it.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from clipa.models import decayed
from clipa.resolved import StageSchedule


class Optimizers:
    """One or two optimizers, used as one.

    ``state``: by parameter, of all of them. ``param_groups``: of all of them, each with its ``peak_lr``; set ``lr``
    before :meth:`step`.
    """

    def __init__(self, adamw: torch.optim.AdamW, muon: torch.optim.Muon | None = None) -> None:
        self.adamw, self.muon = adamw, muon
        self.state: dict[nn.Parameter, dict[str, Any]] = adamw.state
        self.param_groups: list[dict[str, Any]] = [*adamw.param_groups]
        if muon is not None:
            muon.state = adamw.state  # a parameter belongs to one of the two
            self.param_groups += muon.param_groups

    def step(self, not_finite: Tensor | None = None) -> None:
        """Update all parameters from their gradients; AdamW makes none where the device finds ``not_finite`` to be 1.

        Muon has no such switch: with it, look at the gradients before this.
        """
        if not_finite is not None:
            self.adamw.found_inf = not_finite  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None:
            self.muon.step()

    def zero_grad(self) -> None:
        """Free all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def optimizers_of(model: CLIP, schedule: StageSchedule) -> Optimizers:
    """AdamW (Table 5), decay on weight matrices only; Muon for the blocks' matrices where ``schedule`` has it."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = [p for name, p in trained.items() if in_blocks(name, p)] if schedule.muon else []
    others = {name: p for name, p in trained.items() if not (schedule.muon and in_blocks(name, p))}
    groups = [
        {
            "params": [p for name, p in others.items() if decayed(name, p)],
            "weight_decay": schedule.weight_decay,
            "peak_lr": schedule.peak_lr,
        },
        {
            "params": [p for name, p in others.items() if not decayed(name, p)],
            "weight_decay": 0.0,
            "peak_lr": schedule.peak_lr,
        },
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=schedule.betas, eps=schedule.eps, fused=True)
    if schedule.muon is None:
        return Optimizers(adamw)
    own = {"momentum": schedule.muon.momentum, "weight_decay": schedule.muon.weight_decay}
    return Optimizers(
        adamw, torch.optim.Muon([{"params": matrices, "peak_lr": schedule.muon.lr}], lr=0.0, **own)
    )


def in_blocks(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a weight matrix of a Transformer block, of either tower.

    open_clip's ``in_proj_weight`` [3 width, width], of queries, keys and values, is one matrix, and orthogonal as one.
    """
    return parameter.ndim == 2 and "transformer.resblocks." in name
