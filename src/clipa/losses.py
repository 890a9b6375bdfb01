"""The contrastive loss of the global batch, exact for any micro-batch and world size: CLIP's and NegCLIP's (Table 14).

Gradient caching: features are computed micro-batch by micro-batch without a graph and gathered over processes; the loss
is differentiated with respect to them; then the towers run again and those gradients are propagated into them. With a
single micro-batch the features' graph is kept and nothing is computed twice.

The logits of the global batch are never held whole: of B images on R processes, each process computes B / R rows of
them, some at a time (:func:`loss_and_gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clipa.cost import LOGITS_AT_ONCE
from clipa.distributed import rank, world_size

Towers = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""(images [b, 3, S, S], tokens [b, T], …) → normalised features [b, D], [b, D] and the logit scale (scalar)."""

_PLAIN = 1 << 24
"""Up to so many logits one process takes autograd's way: its bits are those of recorded results."""


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies, a scalar: the definition, with all logits in memory.

    Image features [B, D] and text features [B, D], normalised; ``logit_scale`` multiplies the cosines. Image i goes
    with text i. More texts than images are hard negatives (NegCLIP, Yuksekgonul et al. 2023): they are candidates for
    every image, but are no queries themselves.
    """
    count = len(image_features)
    logits = logit_scale * image_features @ text_features.T  # [images, texts]
    labels = torch.arange(count, device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits[:, :count].T, labels)) / 2


@torch.no_grad()
def loss_and_gradients(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, at_once: int = LOGITS_AT_ONCE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`contrastive_loss` of all processes' features, and its gradients with respect to this process's own.

    Image features [b, D], text features [b, D] or more (a multiple of b), ``logit_scale`` (scalar), all float32;
    returns the loss (scalar), both features' gradients, and the logit scale's. All processes must call it.

    Two rounds over this process's rows of the logits (own images, all texts), ``at_once`` of them at a time: the first
    finds the log-sum-exp of every row and, with the other processes, of every column; the second has with them the
    whole gradient of each logit. Beside the logits at hand a process holds all texts and their gradients, before they
    are summed over the processes: 8 D bytes a text, 0.7 GB at B = 65,536 and D = 1280.
    """
    own, each = len(image_features), len(text_features)
    queries, texts = logit_scale * image_features, _gathered(text_features)
    # Text i of rank r is row r × each + i. The first ones go with the rank's images, the others are negatives.
    labels = rank() * each + torch.arange(own, device=texts.device)
    of_images, of_texts = _LogSumExp(own, texts), _LogSumExp(len(texts), texts)
    paired = []
    for part, logits in _chunks(queries, texts, at_once):
        of_images.take(logits, 1, part)
        of_texts.take(logits, 0)
        paired.append(logits.gather(1, labels[part, None])[:, 0])
    of_texts.all_reduce()
    pairs = torch.cat(paired)
    costs = (
        (of_images.greatest - pairs)
        + of_images.log
        + (of_texts.greatest[labels] - pairs)
        + of_texts.log[labels]
    )
    # A negative is no query: exp(logit - inf) = 0.
    of_texts.log[torch.arange(len(texts), device=texts.device) % each >= own] = torch.inf

    image_gradient, text_gradient = torch.empty_like(image_features), torch.zeros_like(texts)
    along_scale = torch.zeros_like(logit_scale)
    for part, logits in _chunks(queries, texts, at_once):
        slope = of_images.exp_of(logits, 1, part).add_(of_texts.exp_of(logits, 0))
        slope[torch.arange(len(slope), device=slope.device), labels[part]] -= 2
        image_gradient[part] = slope @ texts
        text_gradient.addmm_(slope.T, image_features[part])
        along_scale += logits.mul_(slope).sum()
    totals = torch.stack([costs.sum(), along_scale / logit_scale])
    if world_size() > 1:
        dist.all_reduce(totals)
        summed = torch.empty_like(text_features)
        dist.reduce_scatter_tensor(summed, text_gradient)
        text_gradient = summed
    count = 2 * own * world_size()
    return (
        totals[0] / count,
        image_gradient.mul_(logit_scale / count),
        text_gradient.mul_(logit_scale / count),
        totals[1] / count,
    )


class _LogSumExp:
    """Of rows or columns of logits that come in parts; the maximum is kept apart from the logarithm of the sum.

    Subtracting one after the other, as log_softmax does, leaves nothing of rounding where one logit is far above the
    others.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self.greatest = like.new_full((count,), -torch.inf)
        self.sum = like.new_zeros(count)
        self.log = self.sum

    def take(self, logits: Tensor, dim: int, part: slice = slice(None)) -> None:
        """Add a part of the logits, summed over ``dim``; of the rows or columns ``part``."""
        before = self.greatest[part]
        greatest = torch.maximum(before, logits.amax(dim))
        added = (logits - greatest.unsqueeze(dim)).exp_().sum(dim)
        self.sum[part] = self.sum[part] * (before - greatest).exp() + added
        self.greatest[part] = greatest
        self.log = self.sum.log()

    def all_reduce(self) -> None:
        """Take in what the other processes have of the same columns."""
        if world_size() == 1:
            return
        before = self.greatest.clone()
        dist.all_reduce(self.greatest, dist.ReduceOp.MAX)
        self.sum *= (before - self.greatest).exp()
        dist.all_reduce(self.sum)
        self.log = self.sum.log()

    def exp_of(self, logits: Tensor, dim: int, part: slice = slice(None)) -> Tensor:
        """The softmax of a part of the logits."""
        return (logits - self.greatest[part].unsqueeze(dim)).sub_(self.log[part].unsqueeze(dim)).exp_()


def _chunks(queries: Tensor, candidates: Tensor, at_once: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the queries, and their products with all candidates: the same bits each time."""
    rows = max(1, at_once // len(candidates))
    for first in range(0, len(queries), rows):
        part = slice(first, first + rows)
        yield part, queries[part] @ candidates.T


def _differentiated(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`loss_and_gradients`; a small batch of one process by autograd."""
    if world_size() > 1 or len(image_features) * len(text_features) > _PLAIN:
        return loss_and_gradients(image_features, text_features, logit_scale)
    asked = [part.requires_grad_() for part in (image_features, text_features, logit_scale)]
    value = contrastive_loss(*asked)
    return value.detach(), *torch.autograd.grad(value, asked)


def backward(
    towers: Towers,
    batch: Sequence[Tensor],
    microbatch: int | None = None,
    autocast: Callable = nullcontext,
    between: Callable[[], None] = lambda: None,
) -> Tensor:
    """Add the gradients of the global batch's loss to the towers' parameters; returns the loss (scalar, detached).

    ``batch`` is this process's share of what the towers take: images, tokens and, if patches are masked, the kept ones,
    each with the samples as its first dimension. ``microbatch`` counts images a pass; None: all in one. A part may be a
    multiple of the images in length (NegCLIP's texts: twice); ValueError otherwise. ``between`` is called before every
    pass but the first; what it raises leaves a part of the gradients behind.

    Every process differentiates the global loss with respect to its own features only, so a parameter's gradient is the
    sum over processes. DistributedDataParallel and FSDP average instead, so the features' gradients are multiplied by
    the world size.
    """
    sizes = _sizes(batch, microbatch or len(batch[0]))
    passes = list(zip(*(part.split(size) for part, size in zip(batch, sizes, strict=True)), strict=True))
    single = len(passes) == 1
    outputs = []
    with autocast(), nullcontext() if single else torch.no_grad():
        for part in passes:
            if outputs:
                between()
            outputs.append(towers(*part))
    cached = [torch.cat([output[i] for output in outputs]).detach().float() for i in (0, 1)]
    value, image_gradient, text_gradient, scale_gradient = _differentiated(
        *cached, outputs[0][2].detach().float()
    )
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
                between()
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
    return value


def _sizes(batch: Sequence[Tensor], images: int) -> list[int]:
    """Rows of each part in a micro-batch of ``images`` images."""
    for part in batch:
        if len(part) % len(batch[0]):
            raise ValueError(
                f"a batch of {len(batch[0])} images and {len(part)} of another part: not a multiple"
            )
    return [images * (len(part) // len(batch[0])) for part in batch]


def _gathered(features: Tensor) -> Tensor:
    """All processes' rows, rank by rank."""
    if world_size() == 1:
        return features
    gathered = features.new_empty((world_size() * len(features), *features.shape[1:]))
    dist.all_gather_into_tensor(gathered, features)  # a list of outputs would be gathered in a second buffer
    return gathered
