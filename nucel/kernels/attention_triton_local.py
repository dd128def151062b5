"""Triton kernels of local attention: each position attends to those within a radius.

    P = softmax(S) over |i - j| <= radius and i, j < length,  O = P V
    dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q

The forward is a *band*: one program holds a tile of queries and all the keys they see, the neighbours on both sides
included, at once, and takes one softmax without rescaling. It takes 16-bit dtypes and radii up to `BAND_RADIUS`; fp32
and wider radii, whose products are too slow and too large to hold a band, go to `attention_triton_global`.

The backward takes any radius and dtype. A program is complete for its tile both as queries (dQ) and as keys (dK, dV):
one launch, and nothing passes between programs.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import attention_triton_common as common
from . import tiles
from .triton_common import LN_2, dot, is_in_row, kernel, load_tile, store_tile

BAND_RADIUS = 64
"""The largest radius that a band takes: 64 neighbours on each side of a tile of 64."""


# ---- forward ---------------------------------------------------------------------------------------------------------


@triton.jit
def _band_scores(
    q1, q2, keys,
    cos, sin, scale,
    start, first, radius, length, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Scores (ROWS, COLUMNS) of queries from `start` on with keys from `first` on, -inf where not visible."""
    k1, k2 = common.load_rotated(keys, cos, sin, scale, first, length, stride, COLUMNS, D, HALF)  # (COLUMNS, HALF)
    rows, columns = start + tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    visible = common.is_within_radius(rows, columns, radius) & is_in_row(columns, length)[None, :]
    return tl.where(visible, common.dot_halves(q1, q2, k1, k2), float("-inf"))


@kernel
def _band_forward(
    qkv,
    cos, sin, lengths,
    out, lse,
    T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head against SIDE + BLOCK + SIDE keys at once, SIDE >= radius."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    left, right = start - SIDE, start + BLOCK

    q1, q2 = common.load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    s_left = _band_scores(q1, q2, keys, cos, sin, scale, start, left, radius, length, stride, BLOCK, SIDE, D, HALF)
    s_own = _band_scores(q1, q2, keys, cos, sin, scale, start, start, radius, length, stride, BLOCK, BLOCK, D, HALF)
    s_right = _band_scores(q1, q2, keys, cos, sin, scale, start, right, radius, length, stride, BLOCK, SIDE, D, HALF)

    pivot = tl.maximum(tl.maximum(tl.max(s_left, 1), tl.max(s_right, 1)), tl.maximum(tl.max(s_own, 1), common.LOWEST))
    p_left = tl.exp2(s_left - pivot[:, None])  # (BLOCK, SIDE)
    p_own = tl.exp2(s_own - pivot[:, None])  # (BLOCK, BLOCK)
    p_right = tl.exp2(s_right - pivot[:, None])  # (BLOCK, SIDE)
    total = tl.sum(p_left, 1) + tl.sum(p_own, 1) + tl.sum(p_right, 1)  # (BLOCK,)

    v_left = load_tile(values, left, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    v_own = load_tile(values, start, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    v_right = load_tile(values, right, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    dtype = qkv.dtype.element_ty
    o = dot(p_left.to(dtype), v_left)  # (BLOCK, 2 * HALF)
    o = dot(p_own.to(dtype), v_own, o)
    o = dot(p_right.to(dtype), v_right, o)
    common.store_out_and_lse(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)


# ---- backward --------------------------------------------------------------------------------------------------------


@triton.jit
def _query_gradient(
    queries, keys, values,
    grad_out, out, lse,
    cos, sin, scale,
    start, begin, end, radius, length, stride, out_stride,
    BLOCK: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dQ = dS K of the BLOCK queries from `start` on, over the keys in [begin, end), as halves in rotated space."""
    q1, q2 = common.load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    do = load_tile(grad_out, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    delta = common.rows_delta(do, load_tile(out, start, length, out_stride, BLOCK, 2 * HALF, D))  # (BLOCK,)
    row_lse = common.load_lse(lse, start, length, BLOCK)  # (BLOCK,)
    rows = start + tl.arange(0, BLOCK)
    dq1 = tl.zeros((BLOCK, HALF), tl.float32)
    dq2 = tl.zeros((BLOCK, HALF), tl.float32)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        k1, k2 = common.load_rotated(keys, cos, sin, scale, first, length, stride, STEP, D, HALF)  # (STEP, HALF)
        v = load_tile(values, first, length, stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        visible = common.is_within_radius(rows, columns, radius) & (columns < length)[None, :]
        p = tl.where(visible, tl.exp2(common.dot_halves(q1, q2, k1, k2) - row_lse[:, None]), 0.0)  # (BLOCK, STEP)
        ds = (p * (dot(do, tl.trans(v)) - delta[:, None])).to(q1.dtype)  # (BLOCK, STEP)
        dq1 = dot(ds, k1, dq1)
        dq2 = dot(ds, k2, dq2)
    return dq1, dq2


@triton.jit
def _key_gradients(
    queries, keys, values,
    grad_out, out, lse,
    cos, sin, scale,
    start, begin, end, radius, length, stride, out_stride,
    BLOCK: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dK = dS' Q, as halves in rotated space, and dV = P' dO of the BLOCK keys from `start` on.

    Over the queries in [begin, end), keys down and queries across, so that P' and dS' are left operands as they come.
    Padding keys are not hidden: the caller drops their rows.
    """
    k1, k2 = common.load_rotated(keys, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    v = load_tile(values, start, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    rows = start + tl.arange(0, BLOCK)
    dk1 = tl.zeros((BLOCK, HALF), tl.float32)
    dk2 = tl.zeros((BLOCK, HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        q1, q2 = common.load_rotated(queries, cos, sin, scale, first, length, stride, STEP, D, HALF)  # (STEP, HALF)
        do = load_tile(grad_out, first, length, out_stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        delta = common.rows_delta(do, load_tile(out, first, length, out_stride, STEP, 2 * HALF, D))  # (STEP,)
        column_lse = common.load_lse(lse, first, length, STEP)  # (STEP,)
        p = tl.exp2(common.dot_halves(k1, k2, q1, q2) - column_lse[None, :])  # (BLOCK, STEP)
        p = tl.where(common.is_within_radius(rows, columns, radius), p, 0.0)
        dv = dot(p.to(do.dtype), do, dv)
        ds = (p * (dot(v, tl.trans(do)) - delta[None, :])).to(q1.dtype)  # (BLOCK, STEP)
        dk1 = dot(ds, q1, dk1)
        dk2 = dot(ds, q2, dk2)
    return dk1, dk2, dv


@kernel
def _local_backward(
    grad_out, qkv,
    cos, sin, lengths,
    out, lse, grad_qkv,
    T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ, dK and dV of BLOCK positions of one head, for any radius.

    First its queries meet the keys in reach, for dQ; then its keys meet the queries in reach, for dK and dV. Meeting
    twice costs two products of seven and spares atomics, scratch memory and an order among programs.
    """
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride, out_stride = 3 * H * D, H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    grads = grad_qkv + b * T * stride + h * D
    grad_out += b * T * out_stride + h * D
    out += b * T * out_stride + h * D
    lse += (b * H + h) * T
    begin = tl.maximum(start - radius, 0)
    end = tl.where(start < length, tl.minimum(start + BLOCK + radius, length), begin)

    dq1, dq2 = _query_gradient(
        queries, keys, values,
        grad_out, out, lse,
        cos, sin, scale,
        start, begin, end, radius, length, stride, out_stride,
        BLOCK, STEP, D, HALF,
    )  # fmt: skip
    dq1, dq2 = dq1 * (scale * LN_2), dq2 * (scale * LN_2)
    common.store_unrotated(grads, dq1, dq2, cos, sin, start, T, stride, BLOCK, D, HALF)

    dk1, dk2, dv = _key_gradients(
        queries, keys, values,
        grad_out, out, lse,
        cos, sin, scale,
        start, begin, end, radius, length, stride, out_stride,
        BLOCK, STEP, D, HALF,
    )  # fmt: skip
    real = (start + tl.arange(0, BLOCK) < length)[:, None]
    dk1, dk2, dv = tl.where(real, dk1, 0.0), tl.where(real, dk2, 0.0), tl.where(real, dv, 0.0)
    dk1, dk2 = dk1 * (scale * LN_2), dk2 * (scale * LN_2)
    common.store_unrotated(grads + H * D, dk1, dk2, cos, sin, start, T, stride, BLOCK, D, HALF)
    store_tile(grads + 2 * H * D, dv, start, T, stride, BLOCK, 2 * HALF, D)


# ---- launchers -------------------------------------------------------------------------------------------------------


def takes_band(qkv: Tensor, radius: int) -> bool:
    """Whether the forward of qkv can hold a band of this radius."""
    return radius <= BAND_RADIUS and qkv.element_size() == 2


def launch_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int, lengths: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Fill out (B, T, H, D) and lse (B, H, T)."""
    _, positions, _, heads, width = qkv.shape
    tile = tiles.choose("band_forward", qkv)
    _band_forward[common.launch_grid(qkv, tile)](
        qkv,
        cos, sin, lengths,
        out, lse,
        positions, heads, radius, common.score_scale(width),
        **common.register_columns(width),
        BLOCK=tile.block, SIDE=max(16, triton.next_power_of_2(radius)), **tile.options(),
    )  # fmt: skip


def launch_backward(
    grad_out: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    lse: Tensor,
    radius: int,
    lengths: Tensor | None,
    grad_qkv: Tensor,
) -> None:
    """Fill grad_qkv (B, T, 3, H, D)."""
    _, positions, _, heads, width = qkv.shape
    tile = tiles.choose("local_backward", qkv)
    _local_backward[common.launch_grid(qkv, tile)](
        grad_out, qkv,
        cos, sin, lengths,
        out, lse, grad_qkv,
        positions, heads, radius, common.score_scale(width),
        **common.register_columns(width),
        BLOCK=tile.block, STEP=tile.step, **tile.options(),
    )  # fmt: skip
