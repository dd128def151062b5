"""Rotary attention among tokens that stand at any positions, by torch's scaled_dot_product_attention and a mask.

The op of `attention` counts positions 0, 1, 2, ... along a row. A masked autoencoder's encoder sees some tokens of a
row only, each at the position where it stood. Then angles and the radius are of positions (B, K), and a mask (B, K, K)
says who sees whom. For K of a few hundred the mask is small, and local attention needs no blocks.

Legend: B batch, K tokens, H heads, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import accumulation_dtype


class Visible(NamedTuple):
    """Which tokens see each other, by the layers' kind."""

    everywhere: Tensor | None
    """Global layers, bool (B, 1, 1, K); None where all tokens are real."""
    nearby: Tensor
    """Local layers, bool (B, 1, K, K)."""


def visible(positions: Tensor, radius: int, lengths: Tensor | None) -> Visible:
    """What tokens at positions (B, K) see; of row b, the first lengths[b] are real.

    A token of the padding sees real ones too, if there are any within its radius; what it gets means nothing.
    """
    nearby = (positions[:, :, None] - positions[:, None, :]).abs() <= radius
    if lengths is None:
        return Visible(None, nearby[:, None])
    real = torch.arange(positions.shape[1], device=positions.device) < lengths[:, None]
    return Visible(real[:, None, None, :], (nearby & real[:, None, :])[:, None])


def gathered_attention(qkv: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None) -> Tensor:
    """Rotary self-attention under a mask.

    Args:
        qkv: (B, K, 3, H, D), any floating dtype; D even.
        cos, sin: (B, K, D/2), the rotary table at the tokens' positions.
        seen: bool, broadcastable to (B, H, K, K): query i sees key j. Each query must see one at least. None is all.

    Returns:
        (B, K, H, D) in the dtype of qkv. Rotation is computed in fp32 (fp64 for fp64), the products in qkv's dtype.
    """
    q, k = (_rotate(x, cos, sin) for x in qkv[:, :, :2].unbind(2))
    heads_first = (x.transpose(1, 2) for x in (q, k, qkv[:, :, 2]))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=seen).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`reference.rotate` of x (B, K, H, D) by tables of each row, (B, K, D/2); in the dtype of x."""
    dtype = accumulation_dtype(x.dtype)
    cos, sin = (table.to(dtype)[:, :, None] for table in (cos, sin))
    first, second = x.to(dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
