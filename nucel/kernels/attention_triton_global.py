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
from .tiles import Tile
from .triton_common import LN_2, LOG2_E, dot, kernel, load_tile, locate_tile, store_tile

# ---- rotation --------------------------------------------------------------------------------------------------------


@triton.jit
def _program_heads(lengths, T, H, PER, BLOCK: tl.constexpr):
    """This program's row of the batch, first position, the row's length, and its PER heads: begin, end."""
    program = tl.program_id(0)
    groups = tl.cdiv(H, PER)
    b, start, length = locate_tile(program // groups, lengths, T, BLOCK)
    begin = (program % groups) * PER
    return b, start, length, begin, tl.minimum(begin + PER, H)


@triton.jit
def _rotate_head(
    x, c, s, scale,
    rotated,
    start, length, T, stride, rotated_stride,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rotate(x) * scale of one head, (BLOCK, 2 * HALF): each half is padded by itself."""
    x1 = load_tile(x, start, length, stride, BLOCK, HALF, D // 2)  # (BLOCK, HALF)
    x2 = load_tile(x + D // 2, start, length, stride, BLOCK, HALF, D // 2)  # (BLOCK, HALF)
    y1, y2 = common.rotate_halves(x1, x2, c, s, scale)
    store_tile(rotated, y1, start, T, rotated_stride, BLOCK, HALF, HALF)
    store_tile(rotated + HALF, y2, start, T, rotated_stride, BLOCK, HALF, HALF)


@kernel
def _rotate(
    x,
    cos, sin, lengths,
    rotated,
    T, H, PER, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """rotated (B, T, H, 2 * HALF) = rotate(x) * scale for x (B, T, H, D) inside qkv; one program takes PER heads."""
    b, start, length, begin, end = _program_heads(lengths, T, H, PER, BLOCK)
    c, s = common.load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    x += b * T * 3 * H * D
    rotated += b * T * H * 2 * HALF
    for h in range(begin, end):
        _rotate_head(
            x + h * D, c, s, scale,
            rotated + h * 2 * HALF,
            start, length, T, 3 * H * D, H * 2 * HALF,
            D, HALF, BLOCK,
        )  # fmt: skip


@kernel
def _prepare_backward(
    grad_out, qkv,
    cos, sin, lengths,
    out, lse,
    rotated, columns,
    T, H, PER, scale,
    D: tl.constexpr, HALF: tl.constexpr, EXTRA: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """rotated (B, T, 2, H, 2 * HALF): Q and K; columns (B, T, H, EXTRA): -lse, in base 2, and -delta.

    EXTRA = 2 columns are the two numbers, 16 are those of `columns_of`. One program takes PER heads.
    """
    b, start, length, begin, end = _program_heads(lengths, T, H, PER, BLOCK)
    c, s = common.load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    qkv += b * T * stride
    grad_out += b * T * out_stride
    out += b * T * out_stride
    rotated += b * T * rotated_stride
    columns += b * T * H * EXTRA
    rows = start + tl.arange(0, BLOCK)
    for h in range(begin, end):
        _rotate_head(
            qkv + h * D, c, s, scale,
            rotated + h * 2 * HALF,
            start, length, T, stride, rotated_stride,
            D, HALF, BLOCK,
        )  # fmt: skip
        _rotate_head(
            qkv + (H + h) * D, c, s, scale,
            rotated + (H + h) * 2 * HALF,
            start, length, T, stride, rotated_stride,
            D, HALF, BLOCK,
        )  # fmt: skip
        do = load_tile(grad_out + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
        o = load_tile(out + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
        row_lse = tl.load(lse + (b * H + h) * T + rows, mask=rows < length, other=0.0) * LOG2_E  # (BLOCK,)
        row_delta = common.rows_delta(do, o)  # (BLOCK,)
        if EXTRA == 2:
            first = tl.arange(0, EXTRA)[None, :] == 0
            extra = tl.where(first, -row_lse[:, None], -row_delta[:, None])  # (BLOCK, EXTRA)
        else:
            extra = common.columns_of(-row_lse, -row_delta, columns.dtype.element_ty)  # (BLOCK, EXTRA)
        store_tile(columns + h * EXTRA, extra, start, T, H * EXTRA, BLOCK, EXTRA, EXTRA)


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


@triton.jit
def _load_factors(pointer, length, ROWS: tl.constexpr, EXTRA: tl.constexpr):
    """The factors (ROWS, EXTRA) of columns of -lse and of -delta; 0 where those are not columns of a product."""
    if EXTRA == 2:
        return 0.0, 0.0
    else:
        return common.column_factors(pointer, length, ROWS)


@triton.jit
def _load_columns(columns, start, end, stride, ROWS: tl.constexpr, EXTRA: tl.constexpr):
    """What stands for -lse and for -delta of ROWS queries: the columns (ROWS, EXTRA) for both, or two of (ROWS,)."""
    if EXTRA == 2:
        rows = columns + (start + tl.arange(0, ROWS)).to(tl.int64) * stride
        if end is None:
            return tl.load(rows), tl.load(rows + 1)
        else:
            real = start + tl.arange(0, ROWS) < end
            return tl.load(rows, mask=real, other=0.0), tl.load(rows + 1, mask=real, other=0.0)
    else:
        extra = load_tile(columns, start, end, stride, ROWS, EXTRA, EXTRA)
        return extra, extra


@triton.jit
def _add_keys(
    dq, q, do, minus_lse, minus_delta, lse_factors, delta_factors,
    keys, values,
    first, length, rotated_stride, stride,
    MASKED: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """dq + dS K over STEP keys from position `first` on; MASKED where some may be padding."""
    end = length if MASKED else None
    k = load_tile(keys, first, end, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
    v = load_tile(values, first, end, stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
    s, dp = dot(q, tl.trans(k)), dot(do, tl.trans(v))  # (BLOCK, STEP)
    if EXTRA == 2:
        s, dp = s + minus_lse[:, None], dp + minus_delta[:, None]
    else:
        s = dot(minus_lse, tl.trans(lse_factors), s)
        dp = dot(minus_delta, tl.trans(delta_factors), dp)
    p = tl.exp2(s)
    if MASKED:
        p = tl.where((first + tl.arange(0, STEP) < length)[None, :], p, 0.0)
    return dot((p * dp).to(k.dtype), k, dq)


@kernel
def _global_backward_queries(
    grad_out, qkv, rotated, columns,
    cos, sin, lengths,
    grad_qkv,
    T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr, EXTRA: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ of BLOCK queries of one head, STEP keys at a time."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    keys = queries + H * 2 * HALF
    values = qkv + b * T * stride + 2 * H * D + h * D

    q = load_tile(queries, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)  # (BLOCK, 2 * HALF)
    do = load_tile(grad_out + b * T * out_stride + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)
    columns += (b * T * H + h) * EXTRA
    minus_lse, minus_delta = _load_columns(columns, start, length, H * EXTRA, BLOCK, EXTRA)
    lse_factors, delta_factors = _load_factors(qkv, length, STEP, EXTRA)
    dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    end = tl.where(start < length, length, 0)
    if EXTRA == 2:
        for first in range(0, end, STEP):
            dq = _add_keys(
                dq, q, do, minus_lse, minus_delta, lse_factors, delta_factors,
                keys, values,
                first, length, rotated_stride, stride,
                True, STEP, D, HALF, EXTRA,
            )  # fmt: skip
    else:
        # All but the last tile of keys lie wholly before `length` and need no mask.
        whole = end // STEP * STEP
        for first in range(0, whole, STEP):
            dq = _add_keys(
                dq, q, do, minus_lse, minus_delta, lse_factors, delta_factors,
                keys, values,
                first, length, rotated_stride, stride,
                False, STEP, D, HALF, EXTRA,
            )  # fmt: skip
        if whole < end:
            dq = _add_keys(
                dq, q, do, minus_lse, minus_delta, lse_factors, delta_factors,
                keys, values,
                whole, length, rotated_stride, stride,
                True, STEP, D, HALF, EXTRA,
            )  # fmt: skip

    dq1, dq2 = _halves(dq * (scale * LN_2), BLOCK, HALF)
    common.store_unrotated(grad_qkv + b * T * stride + h * D, dq1, dq2, cos, sin, start, T, stride, BLOCK, D, HALF)


@triton.jit
def _add_queries(
    dk, dv, k, v, lse_factors, delta_factors,
    queries, grad_out, columns,
    first, end, rotated_stride, out_stride, extra_stride,
    STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """dk + dS' Q and dv + P' dO over STEP queries from position `first` on.

    Padding queries, of which an `end` of None says that there are none, are zeros and so is their dO: they add nothing.
    """
    q = load_tile(queries, first, end, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
    do = load_tile(grad_out, first, end, out_stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
    minus_lse, minus_delta = _load_columns(columns, first, end, extra_stride, STEP, EXTRA)
    s = dot(k, tl.trans(q))  # (BLOCK, STEP)
    s = s + minus_lse[None, :] if EXTRA == 2 else dot(lse_factors, tl.trans(minus_lse), s)
    p = tl.exp2(s)
    dv = dot(p.to(do.dtype), do, dv)
    dp = dot(v, tl.trans(do))  # (BLOCK, STEP)
    dp = dp + minus_delta[None, :] if EXTRA == 2 else dot(delta_factors, tl.trans(minus_delta), dp)
    return dot((p * dp).to(q.dtype), q, dk), dv


@kernel
def _global_backward_keys(
    grad_out, qkv, rotated, columns,
    cos, sin, lengths,
    grad_qkv,
    T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr, EXTRA: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dK and dV of BLOCK keys of one head, STEP queries at a time, keys down and queries across."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    grads = grad_qkv + b * T * stride + h * D
    grad_out += b * T * out_stride + h * D
    columns += (b * T * H + h) * EXTRA

    k = load_tile(queries + H * 2 * HALF, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    v = load_tile(qkv + b * T * stride + 2 * H * D + h * D, start, length, stride, BLOCK, 2 * HALF, D)
    lse_factors, delta_factors = _load_factors(qkv, length, BLOCK, EXTRA)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    end = tl.where(start < length, length, 0)
    if EXTRA == 2:
        for first in range(0, end, STEP):
            dk, dv = _add_queries(
                dk, dv, k, v, lse_factors, delta_factors,
                queries, grad_out, columns,
                first, length, rotated_stride, out_stride, H * EXTRA,
                STEP, D, HALF, EXTRA,
            )  # fmt: skip
    else:
        whole = end // STEP * STEP
        for first in range(0, whole, STEP):
            dk, dv = _add_queries(
                dk, dv, k, v, lse_factors, delta_factors,
                queries, grad_out, columns,
                first, None, rotated_stride, out_stride, H * EXTRA,
                STEP, D, HALF, EXTRA,
            )  # fmt: skip
        if whole < end:
            dk, dv = _add_queries(
                dk, dv, k, v, lse_factors, delta_factors,
                queries, grad_out, columns,
                whole, length, rotated_stride, out_stride, H * EXTRA,
                STEP, D, HALF, EXTRA,
            )  # fmt: skip

    real = (start + tl.arange(0, BLOCK) < length)[:, None]
    dk1, dk2 = _halves(tl.where(real, dk * (scale * LN_2), 0.0), BLOCK, HALF)
    common.store_unrotated(grads + H * D, dk1, dk2, cos, sin, start, T, stride, BLOCK, D, HALF)
    store_tile(grads + 2 * H * D, tl.where(real, dv, 0.0), start, T, stride, BLOCK, 2 * HALF, D)


# ---- launchers -------------------------------------------------------------------------------------------------------


def _head_groups(qkv: Tensor, tile: Tile) -> tuple[int, int]:
    """Programs of a rotation, and the heads that each of them takes."""
    batch, positions, _, heads, _ = qkv.shape
    rows = batch * triton.cdiv(positions, tile.block)
    per = common.pieces_per_program(heads, rows, heads)
    return rows * triton.cdiv(heads, per), per


def launch_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Fill out (B, T, H, D) and lse (B, H, T); radius None is global."""
    batch, positions, _, heads, width = qkv.shape
    columns, scale = common.register_columns(width), common.score_scale(width)
    rotated_k = tiles.scratch((batch, positions, heads, 2 * columns["HALF"]), qkv.dtype, qkv.device)
    tile = tiles.choose("rotate", qkv)
    programs, per = _head_groups(qkv, tile)
    _rotate[(programs,)](
        qkv[:, :, 1],
        cos, sin, lengths,
        rotated_k,
        positions, heads, per, scale,
        **columns, BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    tile = tiles.choose("loop_forward", qkv)
    _loop_forward[common.launch_grid(qkv, tile)](
        qkv, rotated_k,
        cos, sin, lengths,
        out, lse,
        positions, heads, radius or 0, scale,
        LOCAL=radius is not None, **columns,
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
    batch, positions, _, heads, width = qkv.shape
    scale = common.score_scale(width)
    # Columns of a product pay where it is wgmma's; else -lse and -delta are two fp32 numbers per row, to be added.
    as_columns = qkv.dtype != torch.float32 and tiles.architecture(qkv.device) == "sm_90"
    shared = {**common.register_columns(width), "EXTRA": 16 if as_columns else 2}
    rotated = tiles.scratch((batch, positions, 2, heads, 2 * shared["HALF"]), qkv.dtype, qkv.device)
    columns = tiles.scratch(
        (batch, positions, heads, shared["EXTRA"]), qkv.dtype if as_columns else torch.float32, qkv.device
    )
    tile = tiles.choose("rotate", qkv)
    programs, per = _head_groups(qkv, tile)
    _prepare_backward[(programs,)](
        grad_out, qkv,
        cos, sin, lengths,
        out, lse,
        rotated, columns,
        positions, heads, per, scale,
        **shared, BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    for name, kernel_of in (
        ("global_backward_queries", _global_backward_queries),
        ("global_backward_keys", _global_backward_keys),
    ):
        tile = tiles.choose(name, qkv)
        kernel_of[common.launch_grid(qkv, tile)](
            grad_out, qkv, rotated, columns,
            cos, sin, lengths,
            grad_qkv,
            positions, heads, scale,
            **shared, BLOCK=tile.block, STEP=tile.step, **tile.options(),
        )  # fmt: skip
