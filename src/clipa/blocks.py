"""Transformer blocks with open_clip's parameters and names, and fewer operations (docs/design.md, "The step").

open_clip's block calls torch's ``MultiheadAttention``, which copies its input and each of queries, keys and values into
another layout, and autocast casts parameter by parameter. Here the three are views of one product, and a block's
parameters are cast in one operation. In float32 the features differ from open_clip's in rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


class PackedBlock(ResidualAttentionBlock):
    """A pre-norm block (ViT; Table 4) that takes over the modules, and so the parameters, of ``block``.

    ValueError for a block with layer scale, which no model of the paper has.
    """

    def __init__(self, block: ResidualAttentionBlock) -> None:
        nn.Module.__init__(self)
        if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
            raise ValueError("packed blocks have no layer scale")
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def get_weight_dtype(self) -> torch.dtype:
        """What the text tower casts its embeddings to: what blocks compute in."""
        return _compute_dtype(super().get_weight_dtype(), self.mlp.c_fc.weight.device.type)

    def forward(
        self, x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """[b, n, width] → [b, n, width], in autocast's dtype where it is on, else in the parameters'.

        Queries, keys and values are all of ``x``; the arguments are those that open_clip's Transformer passes.
        """
        dtype = _compute_dtype(x.dtype, x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            return self._forward(x.to(dtype), dtype, attn_mask)

    def _forward(self, x: Tensor, dtype: torch.dtype, attn_mask: Tensor | None) -> Tensor:
        b, n, width = x.shape
        parameters = cast(dtype, *self.parameters())
        norm_1, attention, norm_2, mlp = (parameters[i:j] for i, j in ((0, 2), (2, 6), (6, 8), (8, 12)))
        y = F.layer_norm(x, (width,), *norm_1, self.ln_1.eps)
        packed = F.linear(y, *attention[:2]).chunk(3, dim=-1)
        heads = (part.view(b, n, self.attn.num_heads, -1).transpose(1, 2) for part in packed)
        mask = attn_mask if attn_mask is None else attn_mask.to(dtype)
        y = F.scaled_dot_product_attention(*heads, mask).transpose(1, 2).reshape(b, n, width)
        x = x + F.linear(y, *attention[2:])
        y = F.layer_norm(x, (width,), *norm_2, self.ln_2.eps)
        return x + F.linear(self.mlp.gelu(F.linear(y, *mlp[:2])), *mlp[2:])


def pack(model: CLIP) -> None:
    """Exchange the blocks of both towers, in place. Parameters, their names and their values stay."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, ResidualAttentionBlock):
                module.register_module(name, PackedBlock(child))


def compile_blocks(model: CLIP) -> None:
    """Have torch.compile fuse the operations inside each block, in place. Modules, and so parameters' names, stay.

    The blocks of a tower are alike and share one compiled graph. Each shape has its own, and no kernel is chosen by
    timing it, so a training that resumes computes with the same kernels.
    """
    import torch._inductor.config as inductor  # a second or two, which only a compiled training pays

    inductor.deterministic = True
    for module in model.modules():
        if isinstance(module, ResidualAttentionBlock):
            module.compile(dynamic=False)


@contextmanager
def compile_errors() -> Iterator[None]:
    """What torch cannot compile (no C++ compiler, for one) is a ValueError with torch's own first line."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ValueError(f"compile: true: {str(error).strip().splitlines()[0]}") from error


def cast(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``tensors`` in ``dtype``, by one operation forward and one backward; as they are if all have it."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    return _Cast.apply(dtype, *tensors)


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return _copied(tensors, [dtype] * len(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_copied(gradients, ctx.dtypes)


def _copied(tensors: tuple[Tensor, ...], dtypes: list[torch.dtype]) -> tuple[Tensor, ...]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(made, list(tensors))
    return tuple(made)


def _compute_dtype(otherwise: torch.dtype, device: str) -> torch.dtype:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else otherwise
