"""Triton kernels that walk over keys or queries in steps: global attention, and local attention that fits no band.

    P = softmax(S) over i, j < length,  O = P V
    dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q

The forward is an online softmax over the keys, all of them or those within a radius. Every key is read by many
programs, so keys are rotated once, into a scratch tensor; the global backward does so with queries as well.

Backward, one kernel computes dQ and walks over the keys, another computes dK and dV and walks over the queries. The
first leaves delta to the second.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import attention_triton_common as common
from . import tiles
from .triton_common import LN_2, dot, kernel, load_tile, store_tile

# ---- rotation --------------------------------------------------------------------------------------------------------


@kernel
def _rotate(
    x,
    cos, sin, lengths,
    rotated,
    T, H, stride, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """rotated (B, T, H, 2 * HALF) = rotate(x) * scale for x (B, T, H, D) inside qkv, each half padded by itself."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    x1, x2 = common.load_rotated(x + b * T * stride + h * D, cos, sin, scale, start, length, stride, BLOCK, D, HALF)
    rotated += (b * T * H + h) * 2 * HALF
    store_tile(rotated, x1, start, T, H * 2 * HALF, BLOCK, HALF, HALF)
    store_tile(rotated + HALF, x2, start, T, H * 2 * HALF, BLOCK, HALF, HALF)


@triton.jit
def _halves(x, ROWS: tl.constexpr, HALF: tl.constexpr):
    """The two halves (ROWS, HALF) of x (ROWS, 2 * HALF)."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS, 2, HALF)), (0, 2, 1)))


# ---- forward ---------------------------------------------------------------------------------------------------------


@triton.jit
def _online_softmax(
    o, pivot, total,
    q1, q2, keys, values,
    first, rows, radius, length, stride, H,
    MASKED: tl.constexpr, LOCAL: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Add KEYS keys from position `first` on, what is there rescaled to the new pivot (FlashAttention-2, alg. 1)."""
    columns = first + tl.arange(0, KEYS)
    k1 = load_tile(keys, first, length, H * 2 * HALF, KEYS, HALF, HALF)  # (KEYS, HALF)
    k2 = load_tile(keys + HALF, first, length, H * 2 * HALF, KEYS, HALF, HALF)  # (KEYS, HALF)
    s = common.dot_halves(q1, q2, k1, k2)  # (ROWS, KEYS)
    if MASKED:
        visible = (columns < length)[None, :]
        if LOCAL:
            visible = visible & common.is_within_radius(rows, columns, radius)
        s = tl.where(visible, s, float("-inf"))
    new_pivot = tl.maximum(pivot, tl.max(s, 1))  # (ROWS,)
    shrink = tl.exp2(pivot - new_pivot)
    p = tl.exp2(s - new_pivot[:, None])
    total = total * shrink + tl.sum(p, 1)
    v = load_tile(values, first, length, stride, KEYS, 2 * HALF, D)  # (KEYS, 2 * HALF)
    o = dot(p.to(v.dtype), v, o * shrink[:, None])  # (ROWS, 2 * HALF)
    return o, new_pivot, total


@kernel
def _loop_forward(
    qkv, rotated_k,
    cos, sin, lengths,
    out, lse,
    T, H, radius, scale,
    LOCAL: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head, STEP keys at a time."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    values = queries + 2 * H * D
    keys = rotated_k + (b * T * H + h) * 2 * HALF
    rows = start + tl.arange(0, BLOCK)

    q1, q2 = common.load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    pivot = tl.full((BLOCK,), common.LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)

    if LOCAL:
        begin = tl.maximum(start - radius, 0)
        end = tl.minimum(start + BLOCK + radius, length)
    else:
        # All but the last tile of keys lie wholly before `length` and need no mask.
        begin = length // STEP * STEP
        end = length
        for first in range(0, tl.where(start < length, begin, 0), STEP):
            o, pivot, total = _online_softmax(
                o, pivot, total,
                q1, q2, keys, values,
                first, rows, radius, length, stride, H,
                False, LOCAL, STEP, D, HALF,
            )  # fmt: skip
    for first in range(begin, tl.where(start < length, end, begin), STEP):
        o, pivot, total = _online_softmax(
            o, pivot, total,
            q1, q2, keys, values,
            first, rows, radius, length, stride, H,
            True, LOCAL, STEP, D, HALF,
        )  # fmt: skip

    common.store_out_and_lse(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)


# ---- backward, global ------------------------------------------------------------------------------------------------


@kernel
def _global_backward_queries(
    grad_out, qkv, rotated,
    cos, sin, lengths,
    out, lse, delta, grad_qkv,
    T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ of BLOCK queries of one head, STEP keys at a time; leaves delta (B, H, T) to the keys' kernel."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    keys = queries + H * 2 * HALF
    values = qkv + b * T * stride + 2 * H * D + h * D
    rows = start + tl.arange(0, BLOCK)

    q = load_tile(queries, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)  # (BLOCK, 2 * HALF)
    do = load_tile(grad_out + b * T * out_stride + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)
    o = load_tile(out + b * T * out_stride + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    row_delta = common.rows_delta(do, o)  # (BLOCK,)
    tl.store(delta + (b * H + h) * T + rows, row_delta, mask=rows < T)
    row_lse = common.load_lse(lse + (b * H + h) * T, start, length, BLOCK)  # (BLOCK,)
    dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(0, tl.where(start < length, length, 0), STEP):
        k = load_tile(keys, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        v = load_tile(values, first, length, stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        visible = (first + tl.arange(0, STEP) < length)[None, :]
        p = tl.where(visible, tl.exp2(dot(q, tl.trans(k)) - row_lse[:, None]), 0.0)  # (BLOCK, STEP)
        ds = (p * (dot(do, tl.trans(v)) - row_delta[:, None])).to(k.dtype)  # (BLOCK, STEP)
        dq = dot(ds, k, dq)

    dq1, dq2 = _halves(dq * (scale * LN_2), BLOCK, HALF)
    common.store_unrotated(grad_qkv + b * T * stride + h * D, dq1, dq2, cos, sin, start, T, stride, BLOCK, D, HALF)


@kernel
def _global_backward_keys(
    grad_out, qkv, rotated,
    cos, sin, lengths,
    lse, delta, grad_qkv,
    T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dK and dV of BLOCK keys of one head, STEP queries at a time, keys down and queries across."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    grads = grad_qkv + b * T * stride + h * D
    grad_out += b * T * out_stride + h * D
    lse += (b * H + h) * T
    delta += (b * H + h) * T

    k = load_tile(queries + H * 2 * HALF, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    v = load_tile(qkv + b * T * stride + 2 * H * D + h * D, start, length, stride, BLOCK, 2 * HALF, D)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(0, tl.where(start < length, length, 0), STEP):
        columns = first + tl.arange(0, STEP)
        q = load_tile(queries, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        do = load_tile(grad_out, first, length, out_stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        column_lse = common.load_lse(lse, first, length, STEP)  # (STEP,)
        column_delta = tl.load(delta + columns, mask=columns < length, other=0.0)  # (STEP,)
        p = tl.exp2(dot(k, tl.trans(q)) - column_lse[None, :])  # (BLOCK, STEP)
        dv = dot(p.to(do.dtype), do, dv)
        ds = (p * (dot(v, tl.trans(do)) - column_delta[None, :])).to(q.dtype)  # (BLOCK, STEP)
        dk = dot(ds, q, dk)

    real = (start + tl.arange(0, BLOCK) < length)[:, None]
    dk1, dk2 = _halves(tl.where(real, dk * (scale * LN_2), 0.0), BLOCK, HALF)
    common.store_unrotated(grads + H * D, dk1, dk2, cos, sin, start, T, stride, BLOCK, D, HALF)
    store_tile(grads + 2 * H * D, tl.where(real, dv, 0.0), start, T, stride, BLOCK, 2 * HALF, D)


# ---- launchers -------------------------------------------------------------------------------------------------------


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, lengths: Tensor | None) -> Tensor:
    """Parts (B, T, parts, H, D) of a contiguous qkv, rotated, scaled, their halves padded to the kernels' columns."""
    batch, positions, parts, heads, width = x.shape
    columns = common.register_columns(width)
    rotated = tiles.scratch((batch, positions, parts, heads, 2 * columns["HALF"]), x.dtype, x.device)
    tile = tiles.choose("rotate", x)
    _rotate[(batch * triton.cdiv(positions, tile.block) * parts * heads,)](
        x,
        cos, sin, lengths,
        rotated,
        positions, parts * heads, 3 * heads * width, common.score_scale(width),
        **columns,
        BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    return rotated


def launch_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Fill out (B, T, H, D) and lse (B, H, T); radius None is global."""
    _, positions, _, heads, width = qkv.shape
    rotated_k = _rotated(qkv[:, :, 1:2], cos, sin, lengths)
    tile = tiles.choose("loop_forward", qkv)
    _loop_forward[common.launch_grid(qkv, tile)](
        qkv, rotated_k,
        cos, sin, lengths,
        out, lse,
        positions, heads, radius or 0, common.score_scale(width),
        LOCAL=radius is not None, **common.register_columns(width),
        BLOCK=tile.block, STEP=tile.step, **tile.options(),
    )  # fmt: skip


def launch_backward(
    grad_out: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    lse: Tensor,
    lengths: Tensor | None,
    grad_qkv: Tensor,
) -> None:
    """Fill grad_qkv (B, T, 3, H, D) of global attention."""
    _, positions, _, heads, width = qkv.shape
    scale, columns = common.score_scale(width), common.register_columns(width)
    rotated = _rotated(qkv[:, :, :2], cos, sin, lengths)
    delta = tiles.scratch(lse.shape, torch.float32, qkv.device)
    tile = tiles.choose("global_backward_queries", qkv)
    _global_backward_queries[common.launch_grid(qkv, tile)](
        grad_out, qkv, rotated,
        cos, sin, lengths,
        out, lse, delta, grad_qkv,
        positions, heads, scale,
        **columns,
        BLOCK=tile.block, STEP=tile.step, **tile.options(),
    )  # fmt: skip
    tile = tiles.choose("global_backward_keys", qkv)
    _global_backward_keys[common.launch_grid(qkv, tile)](
        grad_out, qkv, rotated,
        cos, sin, lengths,
        lse, delta, grad_qkv,
        positions, heads, scale,
        **columns,
        BLOCK=tile.block, STEP=tile.step, **tile.options(),
    )  # fmt: skip
