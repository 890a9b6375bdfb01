"""Contrastive losses over the global batch, exact for any micro-batch and world size: CLIP's, and NegCLIP's (Table 14).

Gradient caching: features are computed micro-batch by micro-batch without a graph and gathered over processes; the loss
is differentiated with respect to them; then the towers run again and those gradients are propagated into them. With a
single micro-batch the features' graph is kept and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clipa.distributed import rank, world_size

Towers = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""(images [b, 3, S, S], tokens [b, T], …) → normalised features [b, D], [b, D] and the logit scale (scalar)."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image features, text features, logit scale), all of the global batch → the loss (scalar)."""


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies. Features [B, D] normalised; ``logit_scale`` multiplies the cosines."""
    logits = logit_scale * image_features @ text_features.T  # [B, B]
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def negclip_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """NegCLIP's loss (Yuksekgonul et al. 2023): image features [2B, D] and text features [4B, D], normalised.

    Image i goes with text i: B images, then their neighbours. The last 2B texts are hard negatives, in the same order:
    they are candidates for every image, but are no queries themselves.
    """
    count = len(image_features)
    logits = logit_scale * image_features @ text_features.T  # [2B, 4B]
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

    ``batch`` is this process's share of what the towers take: images, tokens and, if patches are masked, the kept ones,
    each with the samples as its first dimension. ``microbatch`` counts images a pass; None: all in one. A part may be a
    multiple of the images in length (NegCLIP's texts: twice); ValueError otherwise.

    Every process differentiates the global loss with respect to its own features only, so a parameter's gradient is the
    sum over processes. DistributedDataParallel and FSDP average instead, so the features' gradients are multiplied by
    the world size.
    """
    sizes = _sizes(batch, microbatch or len(batch[0]))
    passes = list(zip(*(part.split(size) for part, size in zip(batch, sizes, strict=True)), strict=True))
    single = len(passes) == 1
    with autocast(), nullcontext() if single else torch.no_grad():
        outputs = [towers(*part) for part in passes]
    cached = [torch.cat([output[i] for output in outputs]).detach().float().requires_grad_() for i in (0, 1)]
    logit_scale = outputs[0][2].detach().float().requires_grad_()

    value = loss(_gathered(cached[0]), _gathered(cached[1]), logit_scale)
    image_gradient, text_gradient, scale_gradient = torch.autograd.grad(value, [*cached, logit_scale])
    gradients = zip(
        (image_gradient * world_size()).split(sizes[0]),
        (text_gradient * world_size()).split(sizes[1]),
        strict=True,
    )
    for number, (part, (image_part, text_part)) in enumerate(zip(passes, gradients, strict=True)):
        last = number == len(passes) - 1
        with nullcontext() if last or not hasattr(towers, "no_sync") else towers.no_sync():
            if single:
                features = outputs[0]
            else:
                with autocast():
                    features = towers(*part)
            # The logit scale is one parameter of the whole batch: its gradient is added once.
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
    """Rows of each part in a micro-batch of ``images`` images."""
    for part in batch:
        if len(part) % len(batch[0]):
            raise ValueError(
                f"a batch of {len(batch[0])} images and {len(part)} of another part: not a multiple"
            )
    return [images * (len(part) // len(batch[0])) for part in batch]


def _gathered(features: Tensor) -> Tensor:
    """All processes' features, in the order of global positions: rank r holds every world_size-th lane.

    Row q of rank r becomes row q × world size + r. So the blocks of a NegCLIP batch (images and neighbours; four kinds
    of text) stay blocks, each in the order of positions, as one process would hold them. Only this process's own
    features carry a gradient: every process differentiates its own towers.
    """
    if world_size() == 1:
        return features
    parts = [torch.empty_like(features) for _ in range(world_size())]
    dist.all_gather(parts, features.detach())
    parts[rank()] = features
    return torch.stack(parts, dim=1).flatten(0, 1)
