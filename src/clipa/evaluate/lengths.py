"""Texts cut to what their batch needs, where the text tower's mask makes that exact.

open_clip pads every text to the context length, 77 tokens for most models, and a class prompt has about ten. With a
causal mask no position sees a later one, so all that stands behind the position that a text is pooled from can be
left away: the embedding is the same up to the rounding of other matrix sizes. A tower without such a mask (those of
CLIPA, of the runs here, SigLIP's) attends to its padding, and gets every text whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def pooled_at(model: nn.Module, tokens: Tensor) -> Tensor | None:
    """The position [n] that the embedding of each text of ``tokens`` [n, context] is taken from.

    None where the embedding depends on later positions, or where this module does not know that it does not.
    """
    tower = _tower(model)
    mask = getattr(tower, "attn_mask", None)
    if mask is None or getattr(tower, "cls_emb", None) is not None or not _is_causal(mask):
        return None
    pool, end = (
        getattr(tower, name, getattr(tower, f"text_{name}", None)) for name in ("pool_type", "eos_id")
    )
    if pool == "argmax":
        return tokens.argmax(dim=-1)
    if pool == "eos" and end is not None:
        # Where a text has no end, open_clip takes its first position, and so does argmax.
        return (tokens == end).int().argmax(dim=-1)
    return None


def encode(model: nn.Module, tokens: Tensor, length: int | None) -> Tensor:
    """Raw embeddings [n, D] of ``tokens`` [n, context] cut to ``length``; None: whole.

    They are those of the whole texts where each is pooled before that (:func:`pooled_at`).
    """
    if length is None or length >= tokens.shape[1]:
        return model.encode_text(tokens, normalize=False)
    tower = _tower(model)
    prefix = "model." if tower is model else "model.text."
    shorter = {
        f"{prefix}positional_embedding": tower.positional_embedding[:length],
        f"{prefix}attn_mask": tower.attn_mask[:length, :length],
    }
    return functional_call(_Texts(model), shorter, (tokens[:, :length],))


class _Texts(nn.Module):
    """``functional_call`` calls a module; what it shall call is ``encode_text``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens, normalize=False)


def _tower(model: Any) -> Any:
    """What has the mask: open_clip's CLIP itself, or the text tower of its CustomTextCLIP."""
    return getattr(model, "text", model)


def _is_causal(mask: Tensor) -> bool:
    """Whether an additive mask [context, context] hides every later position."""
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return mask.dim() == 2 and bool(torch.isneginf(mask[later]).all())
