"""Attention on a CPU through torch's own flash kernels: in tiles that stay in cache, at the rate of a matrix product.

Local attention is cut into blocks of 64 queries, which become one batch. Each block reads the keys from `reach` before
it to `reach` after it, `reach` being the radius rounded up to whole blocks; a mask hides those beyond the radius.

    queries (B * blocks, 64, H, D), keys and values (B * blocks, 64 + 2 * reach, H, D)

The functions have the signatures of `reference`. Global attention rounds as torch's does: rotated queries and keys are
held in the dtype of the input. The short products of local attention gain nothing from half precision and are done in
fp32. Rows of equal length are handled together, and padding is not computed at all.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import accumulation_dtype, without_autocast

_BLOCK = 64
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`reference.rotate` of x (B, T, 2, H, D) in three passes over memory, not seven; in the accumulation dtype."""
    x = x.to(accumulation_dtype(x.dtype))
    cos, sin = (table.to(x.dtype)[:, None, None, :] for table in (cos, sin))
    half = x.shape[-1] // 2
    out = x * torch.cat((cos, cos), -1)
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated q and k, and v, each (B, T, H, D); the flash kernels want the last dimension contiguous."""
    qkv = qkv.contiguous()
    return *_rotate(qkv[:, :, :2], cos, sin).to(dtype).unbind(2), qkv[:, :, 2].to(dtype)


def _product_dtype(dtype: torch.dtype, radius: int | None) -> torch.dtype:
    return dtype if radius is None else accumulation_dtype(dtype)


def _equal_rows(lengths: Tensor, positions: int) -> Iterator[tuple[Tensor, int]]:
    """Groups of batch rows with the same number of real positions, and that number; empty rows are left out."""
    lengths = lengths.clamp(max=positions)
    for length in lengths.unique().tolist():
        if length > 0:
            yield (lengths == length).nonzero().squeeze(1), length


# ---- local attention as a batch of blocks ----------------------------------------------------------------------------


def _query_blocks(x: Tensor) -> Tensor:
    """(B, T, H, D) to (B * blocks, 64, H, D); the last block is filled with zeros."""
    if missing := -x.shape[1] % _BLOCK:
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
    return x.reshape(-1, _BLOCK, *x.shape[2:])


def _join_query_blocks(x: Tensor, batch: int, positions: int) -> Tensor:
    """Inverse of `_query_blocks`."""
    return x.reshape(batch, -1, *x.shape[2:])[:, :positions]


def _key_blocks(x: Tensor, reach: int) -> Tensor:
    """(B, T, H, D) to (B * blocks, 64 + 2 * reach, H, D): each block's keys and their neighbours, zeros off the row."""
    x = F.pad(x, (0, 0, 0, 0, reach, reach + -x.shape[1] % _BLOCK))
    return x.unfold(1, _BLOCK + 2 * reach, _BLOCK).movedim(-1, 2).flatten(0, 1).contiguous()


def _sum_key_blocks(x: Tensor, batch: int, positions: int, reach: int) -> Tensor:
    """Transpose of `_key_blocks`: for each key the sum over the blocks that hold it."""
    pieces = x.reshape(batch, -1, x.shape[1] // _BLOCK, _BLOCK, *x.shape[2:])
    blocks, parts = pieces.shape[1:3]
    total = x.new_zeros((batch, blocks + parts - 1, *pieces.shape[3:]))
    for part in range(parts):
        total[:, part : part + blocks] += pieces[:, :, part]
    return total.flatten(1, 2)[:, reach : reach + positions]


class _Blocks:
    """How queries, keys and values of T positions are laid out for a radius, and what is added to their scores."""

    def __init__(self, x: Tensor, radius: int | None):
        self.batch, self.positions = x.shape[:2]
        everything = radius is None or radius >= self.positions - 1
        self.reach = 0 if everything else math.ceil(radius / _BLOCK) * _BLOCK
        # Fewer positions than one block sees are one block.
        self.cut = not everything and self.positions > _BLOCK + 2 * self.reach
        self.mask = None if everything else self._mask(x, radius)

    def _mask(self, x: Tensor, radius: int) -> Tensor:
        """0 where a query sees a key, else -inf: (B * blocks, 1, 64, 64 + 2 * reach), or (1, 1, T, T) of one block."""
        if not self.cut:
            i = torch.arange(self.positions)
            return self._hide((i[:, None] - i).abs() > radius, x)[None, None]
        first = torch.arange(0, self.positions, _BLOCK)[:, None, None]
        i = first + torch.arange(_BLOCK)[:, None]
        j = first + torch.arange(-self.reach, _BLOCK + self.reach)
        hidden = ((i - j).abs() > radius) | (j < 0) | (j >= self.positions)
        return self._hide(hidden, x)[:, None].repeat(self.batch, 1, 1, 1)

    @staticmethod
    def _hide(hidden: Tensor, x: Tensor) -> Tensor:
        return x.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, H, D) to the flash kernels' (rows, H, queries, D)."""
        return (_query_blocks(x) if self.cut else x).transpose(1, 2)

    def keys(self, x: Tensor) -> Tensor:
        return (_key_blocks(x, self.reach) if self.cut else x).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Back from `queries`."""
        x = x.transpose(1, 2)
        return _join_query_blocks(x, self.batch, self.positions) if self.cut else x

    def sum(self, x: Tensor) -> Tensor:
        """Transpose of `keys`."""
        x = x.transpose(1, 2)
        return _sum_key_blocks(x, self.batch, self.positions, self.reach) if self.cut else x


# ---- the op ----------------------------------------------------------------------------------------------------------


@without_autocast
def attention_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`reference.attention_forward`."""
    q, k, v = _rotated(qkv, cos, sin, _product_dtype(qkv.dtype, radius))
    if lengths is None:
        return _forward(q, k, v, radius, qkv.dtype)
    batch, positions, heads, width = q.shape
    out = qkv.new_zeros((batch, positions, heads, width))
    lse = q.new_zeros((batch, heads, positions), dtype=accumulation_dtype(qkv.dtype))
    for rows, length in _equal_rows(lengths, positions):
        part = (x[rows, :length] for x in (q, k, v))
        out[rows, :length], lse[rows, :, :length] = _forward(*part, radius, qkv.dtype)
    return out, lse


def _forward(q: Tensor, k: Tensor, v: Tensor, radius: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """out (B, T, H, D) in dtype and lse (B, H, T) of rows without padding."""
    blocks = _Blocks(q, radius)
    out, lse = _flash(blocks.queries(q), blocks.keys(k), blocks.keys(v), attn_mask=blocks.mask)
    lse = blocks.join(lse[..., None]).squeeze(-1).transpose(1, 2)
    return blocks.join(out).to(dtype).contiguous(), lse.contiguous()


@without_autocast
def attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    lse: Tensor,
    radius: int | None,
    lengths: Tensor | None,
) -> Tensor:
    """`reference.attention_backward`."""
    q, k, v = _rotated(qkv, cos, sin, _product_dtype(qkv.dtype, radius))
    inputs = (q, k, v, grad_out.to(q.dtype).contiguous(), out.to(q.dtype).contiguous(), lse.transpose(1, 2))
    if lengths is None:
        grad_qkv = q.new_empty(qkv.shape)
        grad_qkv[:, :, 0], grad_qkv[:, :, 1], grad_qkv[:, :, 2] = _backward(*inputs, radius)
    else:
        grad_qkv = q.new_zeros(qkv.shape)
        for rows, length in _equal_rows(lengths, qkv.shape[1]):
            part = (x[rows, :length] for x in inputs)
            grad_qkv[rows, :length] = torch.stack(_backward(*part, radius), dim=2)
    grad_qkv[:, :, :2] = _rotate(grad_qkv[:, :, :2], cos, -sin)
    return grad_qkv.to(qkv.dtype)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, out: Tensor, lse: Tensor, radius: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rotated q and k, and of v, each (B, T, H, D), of rows without padding; lse is (B, T, H)."""
    blocks = _Blocks(q, radius)
    out, lse = blocks.queries(out), blocks.queries(lse[..., None]).squeeze(-1)
    grad_q, grad_k, grad_v = _flash_backward(
        blocks.queries(grad_out), blocks.queries(q), blocks.keys(k), blocks.keys(v), out, lse, 0.0, False,
        attn_mask=blocks.mask,
    )  # fmt: skip
    return blocks.join(grad_q), blocks.sum(grad_k), blocks.sum(grad_v)
