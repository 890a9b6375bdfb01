"""Losses over the global batch, exact for any number of passes and processes: CLIP's, and NegCLIP's (Table 14).

The loss needs all features of the batch at once; the towers need not. Features are computed pass by pass, gathered
over processes, the loss is differentiated with respect to the features, and those gradients are carried back into
the towers (gradient caching). With one pass the graph of the features is kept and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Towers = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""(images [b, 3, S, S], tokens [b, T], …) → normalised features [b, D], [b, D] and the temperature's scale (scalar)."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image features, text features, scale), all of the global batch → the loss (scalar)."""


def contrastive_loss(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies. Features [B, D] normalised; ``scale`` multiplies the cosines."""
    logits = scale * image_features @ text_features.T  # [B, B]
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def negclip_loss(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Tensor:
    """NegCLIP's loss (Yuksekgonul et al. 2023): image features [2B, D] and text features [4B, D], normalised.

    Image i goes with text i: B pictures, then their neighbours. The last 2B texts are hard negatives, in the same
    order: every image has them among its candidates, but they look for no image themselves.
    """
    count = len(image_features)
    logits = scale * image_features @ text_features.T  # [2B, 4B]
    labels = torch.arange(count, device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits[:, :count].T, labels)) / 2


def backward(
    towers: Towers,
    batch: Sequence[Tensor],
    microbatch: int | None = None,
    autocast: Callable = nullcontext,
    loss: Loss = contrastive_loss,
) -> Tensor:
    """Add the gradients of the global batch's loss to the towers' parameters; returns the loss (scalar, detached).

    ``batch`` is what the towers take, this process's part of it: images, tokens and, if patches are masked, the
    kept ones, each with the samples as its first dimension; ``microbatch`` is the images per pass. A part may be
    several times as long as the images (NegCLIP's texts: twice), and each pass takes its share; ValueError for a
    part of another length. With several processes ``towers`` is wrapped in DistributedDataParallel, which averages
    gradients, so the features' gradients are multiplied by the number of processes: every process differentiates
    the whole loss, and its own features' part of it exactly once.
    """
    sizes = _sizes(batch, microbatch or len(batch[0]))
    passes = list(zip(*(part.split(size) for part, size in zip(batch, sizes, strict=True)), strict=True))
    single = len(passes) == 1
    with autocast(), nullcontext() if single else torch.no_grad():
        outputs = [towers(*part) for part in passes]
    cached = [torch.cat([output[i] for output in outputs]).detach().float().requires_grad_() for i in (0, 1)]
    scale = outputs[0][2].detach().float().requires_grad_()

    value = loss(_gathered(cached[0]), _gathered(cached[1]), scale)
    image_gradient, text_gradient, scale_gradient = torch.autograd.grad(value, [*cached, scale])
    world = dist.get_world_size() if dist.is_initialized() else 1
    gradients = zip(
        (image_gradient * world).split(sizes[0]), (text_gradient * world).split(sizes[1]), strict=True
    )
    for number, (part, (image_part, text_part)) in enumerate(zip(passes, gradients, strict=True)):
        last = number == len(passes) - 1
        with nullcontext() if last or not hasattr(towers, "no_sync") else towers.no_sync():
            if single:
                features = outputs[0]
            else:
                with autocast():
                    features = towers(*part)
            # The temperature is one parameter of the whole batch: its gradient goes in once.
            scale_part = scale_gradient if last else torch.zeros_like(scale_gradient)
            torch.autograd.backward(
                list(features),
                [
                    image_part.to(features[0].dtype),
                    text_part.to(features[1].dtype),
                    scale_part.to(features[2].dtype),
                ],
            )
    return value.detach()


def _sizes(batch: Sequence[Tensor], images: int) -> list[int]:
    """Rows of each part in a pass of ``images`` images."""
    for part in batch:
        if len(part) % len(batch[0]):
            raise ValueError(
                f"a batch of {len(batch[0])} images and {len(part)} of another part: no multiple"
            )
    return [images * (len(part) // len(batch[0])) for part in batch]


def _gathered(features: Tensor) -> Tensor:
    """All processes' features, in the order of global positions: rank r holds every world-th lane.

    Row q of rank r becomes row q × world + r. So the blocks of a NegCLIP batch (pictures and neighbours; four kinds
    of text) stay blocks, each in the order of positions, as one process would hold them. Only this process's own
    part carries a gradient: the others' towers are differentiated by their owners.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, features.detach())
    parts[dist.get_rank()] = features
    return torch.stack(parts, dim=1).flatten(0, 1)
