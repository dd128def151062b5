"""Triton kernels that walk over keys or queries in steps: global attention, and local attention that fits no band.

    P = softmax(S) over i, j < length,  O = P V
    dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q

The forward walks over the keys, all of them or those within a radius: by an online softmax, or without a pivot where
global scores are bounded. Every key is read by many programs, so keys are rotated once, into a scratch tensor.

Backward, one kernel rotates queries and keys and computes delta, a second computes dQ and walks over the keys, a third
computes dK and dV and walks over the queries. On sm_90 lse and delta are subtracted inside the products, as columns.

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

BOUNDS = {torch.bfloat16: 64, torch.float16: 14, torch.float32: 0}
"""|scores|, in base 2, up to which P = exp2(S) needs no pivot: it is a normal number of the dtype, and sums fit fp32.

0 is never. In fp32 the unrolled products of a second loop would spill.
"""

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
def _largest_square(x1, x2):
    """The largest squared norm of the rows of x, given as halves (ROWS, HALF) in fp32.

    Before they are rounded: a rounded value that is used as fp32 too is not packed, and costs an exponential's time.
    """
    return tl.max(tl.sum(x1 * x1 + x2 * x2, 1), 0)


@triton.jit
def _rotate_head(
    x, c, s, scale,
    rotated,
    start, length, T, stride, rotated_stride,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rotate(x) * scale of one head, (BLOCK, 2 * HALF), each half padded by itself; returns the halves in fp32."""
    x1 = load_tile(x, start, length, stride, BLOCK, HALF, D // 2)  # (BLOCK, HALF)
    x2 = load_tile(x + D // 2, start, length, stride, BLOCK, HALF, D // 2)  # (BLOCK, HALF)
    y1, y2 = common.rotate_halves(x1, x2, c, s, scale)
    store_tile(rotated, y1, start, T, rotated_stride, BLOCK, HALF, HALF)
    store_tile(rotated + HALF, y2, start, T, rotated_stride, BLOCK, HALF, HALF)
    return y1, y2


@kernel
def _rotate(
    qkv,
    cos, sin, lengths,
    rotated, squares,
    T, H, PER, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """rotated (B, T, H, 2 * HALF) = rotate(K) * scale; one program takes PER heads.

    squares (B, H, cdiv(T, BLOCK)): the largest squared norm in each tile.
    """
    b, start, length, begin, end = _program_heads(lengths, T, H, PER, BLOCK)
    c, s = common.load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    keys = qkv + b * T * 3 * H * D + H * D
    rotated += b * T * H * 2 * HALF
    count = tl.cdiv(T, BLOCK)
    squares += b * H * count + start // BLOCK
    for h in range(begin, end):
        y1, y2 = _rotate_head(
            keys + h * D, c, s, scale,
            rotated + h * 2 * HALF,
            start, length, T, 3 * H * D, H * 2 * HALF,
            D, HALF, BLOCK,
        )  # fmt: skip
        tl.store(squares + h * count, _largest_square(y1, y2))


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
def _largest(x, count, CHUNK: tl.constexpr):
    """The largest of `count` numbers >= 0."""
    largest = tl.zeros((CHUNK,), tl.float32)
    for first in range(0, count, CHUNK):
        i = first + tl.arange(0, CHUNK)
        largest = tl.maximum(largest, tl.load(x + i, mask=i < count, other=0.0))
    return tl.max(largest, 0)


@triton.jit
def _plain_softmax(
    o, total,
    q, keys, values,
    first, length, stride, H,
    MASKED: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Add KEYS keys from position `first` on, by exp2 of scores as they are; MASKED where some may be padding."""
    end = length if MASKED else None
    k = load_tile(keys, first, end, H * 2 * HALF, KEYS, 2 * HALF, 2 * HALF)  # (KEYS, 2 * HALF)
    v = load_tile(values, first, end, stride, KEYS, 2 * HALF, D)  # (KEYS, 2 * HALF)
    p = tl.exp2(dot(q, tl.trans(k)))  # (ROWS, KEYS)
    if MASKED:
        p = tl.where((first + tl.arange(0, KEYS) < length)[None, :], p, 0.0)
    return dot(p.to(v.dtype), v, o), total + tl.sum(p, 1)


@triton.jit
def _online_softmax(
    o, pivot, total,
    q, keys, values,
    first, rows, radius, length, stride, H,
    LOCAL: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Add KEYS keys from position `first` on, what is there rescaled to the new pivot (FlashAttention-2, alg. 1).

    `tl.fma` and not `+`, which Triton would turn into an accumulator that the assembler has to serialise (C7515).
    """
    columns = first + tl.arange(0, KEYS)
    k = load_tile(keys, first, length, H * 2 * HALF, KEYS, 2 * HALF, 2 * HALF)  # (KEYS, 2 * HALF)
    visible = (columns < length)[None, :]
    if LOCAL:
        visible = visible & common.is_within_radius(rows, columns, radius)
    s = tl.where(visible, dot(q, tl.trans(k)), float("-inf"))  # (ROWS, KEYS)
    new_pivot = tl.maximum(pivot, tl.max(s, 1))  # (ROWS,)
    shrink = tl.exp2(pivot - new_pivot)
    p = tl.exp2(s - new_pivot[:, None])
    total = total * shrink + tl.sum(p, 1)
    v = load_tile(values, first, length, stride, KEYS, 2 * HALF, D)  # (KEYS, 2 * HALF)
    o = tl.fma(o, tl.broadcast_to(shrink[:, None], o.shape), dot(p.to(v.dtype), v))  # (ROWS, 2 * HALF)
    return o, new_pivot, total


@triton.jit
def _online_loop(
    q, keys, values,
    begin, end, rows, radius, length, stride, H,
    LOCAL: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """`_online_softmax` over the keys from position `begin` to `end`."""
    o = tl.zeros((ROWS, 2 * HALF), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    pivot = tl.full((ROWS,), common.LOWEST, tl.float32)
    for first in range(begin, end, KEYS):
        o, pivot, total = _online_softmax(
            o, pivot, total,
            q, keys, values,
            first, rows, radius, length, stride, H,
            LOCAL, KEYS, D, HALF,
        )  # fmt: skip
    return o, pivot, total


@kernel
def _loop_forward(
    qkv, rotated_k, squares,
    cos, sin, lengths,
    out, lse,
    T, H, P, radius, scale,
    LOCAL: tl.constexpr, BOUND: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head, STEP keys at a time.

    Global attention needs no pivot where |q| |k| <= BOUND for all of its queries and keys (squares (B, H, P) has the
    largest |k|^2 of P tiles): exp2 of the scores themselves then loses nothing. Else, and should values be so large
    that their sums overflow, the pivot moves as keys come.
    """
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    values = queries + 2 * H * D
    keys = rotated_k + (b * T * H + h) * 2 * HALF
    rows = start + tl.arange(0, BLOCK)

    c, s = common.load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    q1 = load_tile(queries, start, length, stride, BLOCK, HALF, D // 2)
    q2 = load_tile(queries + D // 2, start, length, stride, BLOCK, HALF, D // 2)
    q1, q2 = common.rotate_halves(q1, q2, c, s, scale)
    dtype = qkv.dtype.element_ty
    q = tl.reshape(tl.permute(tl.join(q1.to(dtype), q2.to(dtype)), (0, 2, 1)), (BLOCK, 2 * HALF))
    end = tl.where(start < length, length, 0)
    if LOCAL or BOUND == 0:
        begin = tl.maximum(start - radius, 0) if LOCAL else 0
        end = tl.minimum(start + BLOCK + radius, end) if LOCAL else end
        o, pivot, total = _online_loop(
            q, keys, values, begin, end, rows, radius, length, stride, H, LOCAL, BLOCK, STEP, D, HALF
        )
    else:
        o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        pivot = tl.zeros((BLOCK,), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        plain = _largest_square(q1, q2) * _largest(squares + (b * H + h) * P, P, 128) <= BOUND * BOUND
        if plain:
            # All but the last tile of keys lie wholly before `length` and need no mask.
            whole = end // STEP * STEP
            for first in range(0, whole, STEP):
                o, total = _plain_softmax(o, total, q, keys, values, first, length, stride, H, False, STEP, D, HALF)
            if whole < end:
                o, total = _plain_softmax(o, total, q, keys, values, whole, length, stride, H, True, STEP, D, HALF)
            plain = tl.max(tl.max(tl.where(tl.abs(o) < float("inf"), 0, 1), 1), 0) == 0
        if not plain:
            o, pivot, total = _online_loop(
                q, keys, values, 0, end, rows, radius, length, stride, H, False, BLOCK, STEP, D, HALF
            )
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
    count = triton.cdiv(positions, tile.block)
    squares = tiles.scratch((batch, heads, count), torch.float32, qkv.device)
    _rotate[(programs,)](
        qkv,
        cos, sin, lengths,
        rotated_k, squares,
        positions, heads, per, scale,
        **columns, BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    # Of wide heads, sm_80 without wgmma would spill between the two loops.
    has_plain_loop = width <= 64 or tiles.architecture(qkv.device) == "sm_90"
    tile = tiles.choose("loop_forward", qkv)
    _loop_forward[common.launch_grid(qkv, tile)](
        qkv, rotated_k, squares,
        cos, sin, lengths,
        out, lse,
        positions, heads, count, radius or 0, scale,
        LOCAL=radius is not None, BOUND=BOUNDS[qkv.dtype] if has_plain_loop else 0, **columns,
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
