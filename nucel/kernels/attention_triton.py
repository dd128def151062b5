"""Triton kernels of `attention`, forward and backward, and the functions that launch them.

    S = rotate(Q) rotate(K)' / sqrt(D),  P = softmax(S) over |i - j| <= radius and i, j < length,  O = P V

    delta_i = dO_i . O_i,  dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q, both rotated back

Legend: B batch, T positions, H heads, D head width.

Three kinds of attention, told apart by the radius:

- a *band*, radius <= `BAND_RADIUS` and 16-bit: a program holds a tile of queries and all the keys they see, the two
  neighbourhoods included, at once, and takes one softmax without rescaling;
- a wider window, or fp32, whose products are too slow and too large to hold a band: an online softmax over the keys in
  reach;
- *global*: the same over all keys. Here a key is read by many programs, so it is rotated once, into a scratch tensor.

Where a kernel rotates what it loads, it does so on two halves of D/2 columns, S = Q1 K1' + Q2 K2', so that no value
moves between threads. Backward, a window's program is complete for its tile both as queries (dQ) and as keys (dK, dV):
one launch, nothing between programs. Global attention has one kernel for dQ that walks the keys and one for dK and dV
that walks the queries.

What is saved: nothing but qkv, O and the rows' log-sum-exp. Rotations, P and delta are recomputed.

Softmax is in base 2, with log2(e) / sqrt(D) folded into Q and K, its root into each; all accumulation is in fp32.
Every output element is written by one program, in a fixed order and without atomics, so two runs give the same bits.
Limits: D even and at most `MAX_WIDTH` (other widths than powers of two, and halves under the 16 columns of a matrix
instruction, are padded with zeros in registers); fp32, fp16 or bf16. `supports` says whether a tensor is within them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles

BAND_RADIUS = 64
"""The widest window that is held at once: two neighbourhoods of 64 beside a tile of 64."""

MAX_WIDTH = 128

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.0e38)
"""A finite pivot, so that a row that sees nothing gets exp2(-inf - LOWEST) = 0 and not NaN."""

# Sizes that change from batch to batch must not compile a kernel anew; D, which is fixed, carries the alignment.
_jit = triton.jit(do_not_specialize=["T", "H", "radius"])


# ---- helpers ---------------------------------------------------------------------------------------------------------


@triton.jit
def _place(lengths, T, H, BLOCK: tl.constexpr):
    """This program's row of the batch, head, first position, and the row's length.

    Heads vary fastest: programs that run together read whole rows of qkv.
    """
    program = tl.program_id(0)
    h = program % H
    tile = program // H
    tiles_per_row = tl.cdiv(T, BLOCK)
    b = tile // tiles_per_row
    start = (tile % tiles_per_row) * BLOCK
    length = T if lengths is None else tl.minimum(tl.load(lengths + b).to(tl.int32), T)
    return b.to(tl.int64), h, start, length


@triton.jit
def _pointers(base, start, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) from position `start` on. 64 bits take the step to the tile, 32 bits suffice inside it."""
    first = base + tl.cast(start, tl.int64) * stride
    return first + (tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _in_row(positions, end):
    """0 <= positions < end, as one comparison: a negative number is a large unsigned one."""
    return positions.to(tl.uint32) < tl.cast(end, tl.uint32)


@triton.jit
def _inside(start, end, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """True for positions in [0, end) and the first WIDTH columns."""
    inside = _in_row(start + tl.arange(0, ROWS), end)[:, None]
    if WIDTH < COLUMNS:
        inside = inside & (tl.arange(0, COLUMNS) < WIDTH)[None, :]
    return inside


@triton.jit
def _load(base, start, end, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """(ROWS, COLUMNS) from position `start` on; 0 outside of [0, end) and beyond WIDTH columns."""
    inside = _inside(start, end, ROWS, COLUMNS, WIDTH)
    return tl.load(_pointers(base, start, stride, ROWS, COLUMNS), mask=inside, other=0.0)


@triton.jit
def _store(base, value, start, end, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    inside = _inside(start, end, ROWS, COLUMNS, WIDTH)
    tl.store(_pointers(base, start, stride, ROWS, COLUMNS), value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _load_angles(cos, sin, start, end, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr):
    """cos and sin (ROWS, HALF) of the positions from `start` on, in fp32."""
    c = _load(cos, start, end, D // 2, ROWS, HALF, D // 2).to(tl.float32)
    s = _load(sin, start, end, D // 2, ROWS, HALF, D // 2).to(tl.float32)
    return c, s


@triton.jit
def _load_rotated(base, cos, sin, scale, start, end, stride, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr):
    """rotate(x) * scale as its two halves (ROWS, HALF), computed in fp32 and given in the dtype of x."""
    c, s = _load_angles(cos, sin, start, end, ROWS, D, HALF)
    x1 = _load(base, start, end, stride, ROWS, HALF, D // 2).to(tl.float32)
    x2 = _load(base + D // 2, start, end, stride, ROWS, HALF, D // 2).to(tl.float32)
    dtype = base.dtype.element_ty
    return ((x1 * c - x2 * s) * scale).to(dtype), ((x2 * c + x1 * s) * scale).to(dtype)


@triton.jit
def _store_unrotated(
    base, x1, x2, cos, sin, start, end, stride, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr
):
    """Rotate the halves back, which is what the gradient of a rotation does, and store them."""
    c, s = _load_angles(cos, sin, start, end, ROWS, D, HALF)
    _store(base, x1 * c + x2 * s, start, end, stride, ROWS, HALF, D // 2)
    _store(base + D // 2, x2 * c - x1 * s, start, end, stride, ROWS, HALF, D // 2)


@triton.jit
def _halves(x, ROWS: tl.constexpr, HALF: tl.constexpr):
    """The two halves (ROWS, HALF) of x (ROWS, 2 * HALF)."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS, 2, HALF)), (0, 2, 1)))


@triton.jit
def _dot(a, b, acc=None):
    """acc + a b, accumulated in fp32; fp32 operands are multiplied as they are, never rounded to TF32."""
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _dot_halves(a1, a2, b1, b2):
    """a b' for a (M, D) and b (N, D), each given as two halves: (M, N)."""
    return _dot(a2, tl.trans(b2), _dot(a1, tl.trans(b1)))


@triton.jit
def _near(rows, columns, radius):
    """|i - j| <= radius for positions i down and j across."""
    return tl.abs(rows[:, None] - columns[None, :]) <= radius


@triton.jit
def _delta(do, o):
    """delta_i = dO_i . O_i, (ROWS,)."""
    return tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)


@triton.jit
def _load_lse(lse, start, length, ROWS: tl.constexpr):
    """Log-sum-exp (ROWS,) in base 2; +inf outside of [0, length), which makes P = exp2(S - lse) vanish there."""
    rows = start + tl.arange(0, ROWS)
    return tl.load(lse + rows, mask=_in_row(rows, length), other=float("inf")) * LOG2_E


@triton.jit
def _store_rows(
    out, lse, o, pivot, total, b, h, start, length, T, H, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr
):
    """O / total, and pivot + log(total) in base e; 0 in padding rows, whatever they saw."""
    rows = start + tl.arange(0, ROWS)
    real = rows < length
    total = tl.where(real, total, 1.0)
    o = tl.where(real[:, None], o / total[:, None], 0.0)
    _store(out + b * T * H * D + h * D, o, start, T, H * D, ROWS, 2 * HALF, D)
    tl.store(lse + (b * H + h) * T + rows, tl.where(real, (pivot + tl.log2(total)) * LN_2, 0.0), mask=rows < T)


# ---- local -----------------------------------------------------------------------------------------------------------


@triton.jit
def _band_scores(
    q1, q2, keys, cos, sin, scale, start, first, radius, length, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Scores (ROWS, COLUMNS) of queries from `start` on with keys from `first` on, -inf where not visible."""
    k1, k2 = _load_rotated(keys, cos, sin, scale, first, length, stride, COLUMNS, D, HALF)  # (COLUMNS, HALF)
    rows, columns = start + tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    visible = _near(rows, columns, radius) & _in_row(columns, length)[None, :]
    return tl.where(visible, _dot_halves(q1, q2, k1, k2), float("-inf"))


@_jit
def _band_forward(
    qkv, cos, sin, lengths, out, lse, T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head against SIDE + BLOCK + SIDE keys at once, SIDE >= radius."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    left, right = start - SIDE, start + BLOCK

    q1, q2 = _load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    s_left = _band_scores(q1, q2, keys, cos, sin, scale, start, left, radius, length, stride, BLOCK, SIDE, D, HALF)
    s_own = _band_scores(q1, q2, keys, cos, sin, scale, start, start, radius, length, stride, BLOCK, BLOCK, D, HALF)
    s_right = _band_scores(q1, q2, keys, cos, sin, scale, start, right, radius, length, stride, BLOCK, SIDE, D, HALF)

    pivot = tl.maximum(tl.maximum(tl.max(s_left, 1), tl.max(s_right, 1)), tl.maximum(tl.max(s_own, 1), LOWEST))
    p_left = tl.exp2(s_left - pivot[:, None])  # (BLOCK, SIDE)
    p_own = tl.exp2(s_own - pivot[:, None])  # (BLOCK, BLOCK)
    p_right = tl.exp2(s_right - pivot[:, None])  # (BLOCK, SIDE)
    total = tl.sum(p_left, 1) + tl.sum(p_own, 1) + tl.sum(p_right, 1)

    v_left = _load(values, left, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    v_own = _load(values, start, length, stride, BLOCK, 2 * HALF, D)
    v_right = _load(values, right, length, stride, SIDE, 2 * HALF, D)
    dtype = qkv.dtype.element_ty
    o = _dot(p_left.to(dtype), v_left)  # (BLOCK, 2 * HALF)
    o = _dot(p_own.to(dtype), v_own, o)
    o = _dot(p_right.to(dtype), v_right, o)
    _store_rows(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)


@triton.jit
def _local_query_gradient(
    queries, keys, values, grad_out, out, lse, cos, sin, start, begin, end, radius, scale, length, stride, out_stride,
    BLOCK: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dQ = dS K of the BLOCK queries from `start` on, over the keys in [begin, end), as halves in rotated space."""
    q1, q2 = _load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    do = _load(grad_out, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    row_delta = _delta(do, _load(out, start, length, out_stride, BLOCK, 2 * HALF, D))
    row_lse = _load_lse(lse, start, length, BLOCK)
    rows = start + tl.arange(0, BLOCK)
    dq1 = tl.zeros((BLOCK, HALF), tl.float32)
    dq2 = tl.zeros((BLOCK, HALF), tl.float32)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        k1, k2 = _load_rotated(keys, cos, sin, scale, first, length, stride, STEP, D, HALF)  # (STEP, HALF)
        v = _load(values, first, length, stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        visible = _near(rows, columns, radius) & (columns < length)[None, :]
        p = tl.where(visible, tl.exp2(_dot_halves(q1, q2, k1, k2) - row_lse[:, None]), 0.0)  # (BLOCK, STEP)
        ds = (p * (_dot(do, tl.trans(v)) - row_delta[:, None])).to(q1.dtype)
        dq1 = _dot(ds, k1, dq1)
        dq2 = _dot(ds, k2, dq2)
    return dq1, dq2


@triton.jit
def _local_key_gradients(
    queries, keys, values, grad_out, out, lse, cos, sin, start, begin, end, radius, scale, length, stride, out_stride,
    BLOCK: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dK = dS' Q, as halves in rotated space, and dV = P' dO of the BLOCK keys from `start` on.

    Over the queries in [begin, end), keys down and queries across, so that P' and dS' are left operands as they come.
    Padding keys are not hidden: their rows mean nothing.
    """
    k1, k2 = _load_rotated(keys, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    v = _load(values, start, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    rows = start + tl.arange(0, BLOCK)
    dk1 = tl.zeros((BLOCK, HALF), tl.float32)
    dk2 = tl.zeros((BLOCK, HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        q1, q2 = _load_rotated(queries, cos, sin, scale, first, length, stride, STEP, D, HALF)  # (STEP, HALF)
        do = _load(grad_out, first, length, out_stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        column_delta = _delta(do, _load(out, first, length, out_stride, STEP, 2 * HALF, D))
        column_lse = _load_lse(lse, first, length, STEP)
        p = tl.exp2(_dot_halves(k1, k2, q1, q2) - column_lse[None, :])  # (BLOCK, STEP)
        p = tl.where(_near(rows, columns, radius), p, 0.0)
        dv = _dot(p.to(do.dtype), do, dv)
        ds = (p * (_dot(v, tl.trans(do)) - column_delta[None, :])).to(q1.dtype)
        dk1 = _dot(ds, q1, dk1)
        dk2 = _dot(ds, q2, dk2)
    return dk1, dk2, dv


@_jit
def _local_backward(
    grad_out, qkv, cos, sin, lengths, out, lse, grad_qkv, T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ, dK and dV of BLOCK positions of one head, for a window of any width.

    First its queries meet the keys in reach, for dQ; then its keys meet the queries in reach, for dK and dV. Meeting
    twice costs two products of seven and spares atomics, scratch memory and an order among programs.
    """
    b, h, start, length = _place(lengths, T, H, BLOCK)
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

    dq1, dq2 = _local_query_gradient(
        queries, keys, values, grad_out, out, lse, cos, sin, start, begin, end, radius, scale, length, stride,
        out_stride, BLOCK, STEP, D, HALF,
    )  # fmt: skip
    _store_unrotated(grads, dq1 * (scale * LN_2), dq2 * (scale * LN_2), cos, sin, start, T, stride, BLOCK, D, HALF)

    dk1, dk2, dv = _local_key_gradients(
        queries, keys, values, grad_out, out, lse, cos, sin, start, begin, end, radius, scale, length, stride,
        out_stride, BLOCK, STEP, D, HALF,
    )  # fmt: skip
    real = (start + tl.arange(0, BLOCK) < length)[:, None]
    dk1, dk2, dv = tl.where(real, dk1, 0.0), tl.where(real, dk2, 0.0), tl.where(real, dv, 0.0)
    _store_unrotated(
        grads + H * D, dk1 * (scale * LN_2), dk2 * (scale * LN_2), cos, sin, start, T, stride, BLOCK, D, HALF
    )
    _store(grads + 2 * H * D, dv, start, T, stride, BLOCK, 2 * HALF, D)


# ---- wide and global -------------------------------------------------------------------------------------------------


@_jit
def _rotate(
    x, cos, sin, lengths, rotated, T, H, stride, scale, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """rotated (B, T, H, 2 * HALF) = rotate(x) * scale for x (B, T, H, D) inside qkv, each half padded by itself."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    x1, x2 = _load_rotated(x + b * T * stride + h * D, cos, sin, scale, start, length, stride, BLOCK, D, HALF)
    rotated += (b * T * H + h) * 2 * HALF
    _store(rotated, x1, start, T, H * 2 * HALF, BLOCK, HALF, HALF)
    _store(rotated + HALF, x2, start, T, H * 2 * HALF, BLOCK, HALF, HALF)


@triton.jit
def _online_softmax(
    o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
    MASKED: tl.constexpr, LOCAL: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, H,
):  # fmt: skip
    """Add KEYS keys from position `first` on, what is there rescaled to the new pivot (FlashAttention-2, alg. 1)."""
    columns = first + tl.arange(0, KEYS)
    k1 = _load(keys, first, length, H * 2 * HALF, KEYS, HALF, HALF)  # (KEYS, HALF)
    k2 = _load(keys + HALF, first, length, H * 2 * HALF, KEYS, HALF, HALF)
    s = _dot_halves(q1, q2, k1, k2)  # (ROWS, KEYS)
    if MASKED:
        visible = (columns < length)[None, :]
        if LOCAL:
            visible = visible & _near(rows, columns, radius)
        s = tl.where(visible, s, float("-inf"))
    new_pivot = tl.maximum(pivot, tl.max(s, 1))
    shrink = tl.exp2(pivot - new_pivot)
    p = tl.exp2(s - new_pivot[:, None])
    total = total * shrink + tl.sum(p, 1)
    v = _load(values, first, length, stride, KEYS, 2 * HALF, D)  # (KEYS, 2 * HALF)
    o = _dot(p.to(v.dtype), v, o * shrink[:, None])
    return o, new_pivot, total


@_jit
def _loop_forward(
    qkv, rotated_k, cos, sin, lengths, out, lse, T, H, radius, scale,
    LOCAL: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head, STEP keys at a time."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    values = queries + 2 * H * D
    keys = rotated_k + (b * T * H + h) * 2 * HALF
    rows = start + tl.arange(0, BLOCK)

    q1, q2 = _load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    pivot = tl.full((BLOCK,), LOWEST, tl.float32)
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
                o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
                False, LOCAL, STEP, D, HALF, H,
            )  # fmt: skip
    for first in range(begin, tl.where(start < length, end, begin), STEP):
        o, pivot, total = _online_softmax(
            o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
            True, LOCAL, STEP, D, HALF, H,
        )  # fmt: skip

    _store_rows(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)


@_jit
def _global_backward_queries(
    grad_out, qkv, rotated, cos, sin, lengths, out, lse, delta, grad_qkv, T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ of BLOCK queries of one head, STEP keys at a time; leaves delta (B, H, T) to the keys' kernel."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    keys = queries + H * 2 * HALF
    values = qkv + b * T * stride + 2 * H * D + h * D
    rows = start + tl.arange(0, BLOCK)

    q = _load(queries, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    do = _load(grad_out + b * T * out_stride + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)
    o = _load(out + b * T * out_stride + h * D, start, length, out_stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    row_delta = _delta(do, o)
    tl.store(delta + (b * H + h) * T + rows, row_delta, mask=rows < T)
    row_lse = _load_lse(lse + (b * H + h) * T, start, length, BLOCK)
    dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(0, tl.where(start < length, length, 0), STEP):
        k = _load(keys, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        v = _load(values, first, length, stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        visible = (first + tl.arange(0, STEP) < length)[None, :]
        p = tl.where(visible, tl.exp2(_dot(q, tl.trans(k)) - row_lse[:, None]), 0.0)  # (BLOCK, STEP)
        ds = (p * (_dot(do, tl.trans(v)) - row_delta[:, None])).to(k.dtype)
        dq = _dot(ds, k, dq)

    dq1, dq2 = _halves(dq * (scale * LN_2), BLOCK, HALF)
    _store_unrotated(grad_qkv + b * T * stride + h * D, dq1, dq2, cos, sin, start, T, stride, BLOCK, D, HALF)


@_jit
def _global_backward_keys(
    grad_out, qkv, rotated, cos, sin, lengths, lse, delta, grad_qkv, T, H, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dK and dV of BLOCK keys of one head, STEP queries at a time, keys down and queries across."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride, out_stride, rotated_stride = 3 * H * D, H * D, 2 * H * 2 * HALF
    queries = rotated + b * T * rotated_stride + h * 2 * HALF
    grads = grad_qkv + b * T * stride + h * D
    grad_out += b * T * out_stride + h * D
    lse += (b * H + h) * T
    delta += (b * H + h) * T

    k = _load(queries + H * 2 * HALF, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    v = _load(qkv + b * T * stride + 2 * H * D + h * D, start, length, stride, BLOCK, 2 * HALF, D)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for first in range(0, tl.where(start < length, length, 0), STEP):
        columns = first + tl.arange(0, STEP)
        q = _load(queries, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        do = _load(grad_out, first, length, out_stride, STEP, 2 * HALF, D)  # (STEP, 2 * HALF)
        column_lse = _load_lse(lse, first, length, STEP)
        column_delta = tl.load(delta + columns, mask=columns < length, other=0.0)
        p = tl.exp2(_dot(k, tl.trans(q)) - column_lse[None, :])  # (BLOCK, STEP)
        dv = _dot(p.to(do.dtype), do, dv)
        ds = (p * (_dot(v, tl.trans(do)) - column_delta[None, :])).to(q.dtype)
        dk = _dot(ds, q, dk)

    real = (start + tl.arange(0, BLOCK) < length)[:, None]
    dk1, dk2 = _halves(tl.where(real, dk * (scale * LN_2), 0.0), BLOCK, HALF)
    _store_unrotated(grads + H * D, dk1, dk2, cos, sin, start, T, stride, BLOCK, D, HALF)
    _store(grads + 2 * H * D, tl.where(real, dv, 0.0), start, T, stride, BLOCK, 2 * HALF, D)


# ---- launchers -------------------------------------------------------------------------------------------------------


def supports(qkv: Tensor) -> bool:
    """Whether the kernels take this head width and dtype."""
    return qkv.shape[-1] <= MAX_WIDTH and qkv.dtype in (torch.float32, torch.float16, torch.bfloat16)


def attention_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`reference.attention_forward` by the kernels: out (B, T, H, D) and lse (B, H, T) in fp32."""
    qkv, cos, sin, lengths = _contiguous(qkv, cos, sin, lengths)
    batch, positions, _, heads, width = qkv.shape
    out = tiles.scratch((batch, positions, heads, width), qkv.dtype, qkv.device)
    lse = tiles.scratch((batch, heads, positions), torch.float32, qkv.device)
    local, scale, columns = _is_local(positions, radius), _scale(width), _columns(width)

    with torch.cuda.device_of(qkv):
        if local and radius <= BAND_RADIUS and qkv.element_size() == 2:
            tile = tiles.choose("band_forward", qkv)
            _band_forward[_grid(qkv, tile)](
                qkv, cos, sin, lengths, out, lse, positions, heads, radius, scale,
                **columns, BLOCK=tile.block, SIDE=max(16, triton.next_power_of_2(radius)), **tile.options(),
            )  # fmt: skip
        else:
            rotated_k = _rotated(qkv[:, :, 1:2], cos, sin, lengths)
            tile = tiles.choose("loop_forward", qkv)
            _loop_forward[_grid(qkv, tile)](
                qkv, rotated_k, cos, sin, lengths, out, lse, positions, heads, radius if local else 0, scale,
                LOCAL=local, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
    return out, lse


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
    """`reference.attention_backward` by the kernels: the gradient of qkv."""
    grad_out, qkv, cos, sin, out, lse, lengths = _contiguous(grad_out, qkv, cos, sin, out, lse, lengths)
    _, positions, _, heads, width = qkv.shape
    grad_qkv = tiles.scratch(qkv.shape, qkv.dtype, qkv.device)
    scale, columns = _scale(width), _columns(width)

    with torch.cuda.device_of(qkv):
        if _is_local(positions, radius):
            tile = tiles.choose("local_backward", qkv)
            _local_backward[_grid(qkv, tile)](
                grad_out, qkv, cos, sin, lengths, out, lse, grad_qkv, positions, heads, radius, scale,
                **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
        else:
            rotated = _rotated(qkv[:, :, :2], cos, sin, lengths)
            delta = tiles.scratch(lse.shape, torch.float32, qkv.device)
            tile = tiles.choose("global_backward_queries", qkv)
            _global_backward_queries[_grid(qkv, tile)](
                grad_out, qkv, rotated, cos, sin, lengths, out, lse, delta, grad_qkv,
                positions, heads, scale, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
            tile = tiles.choose("global_backward_keys", qkv)
            _global_backward_keys[_grid(qkv, tile)](
                grad_out, qkv, rotated, cos, sin, lengths, lse, delta, grad_qkv,
                positions, heads, scale, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
    return grad_qkv


def _contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """As the kernels' offsets assume it; a copy is made of what is not, which in training is nothing."""
    return tuple(None if x is None else x.contiguous() for x in tensors)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, lengths: Tensor | None) -> Tensor:
    """Parts (B, T, parts, H, D) of a contiguous qkv, rotated, scaled, their halves padded to the kernels' columns."""
    batch, positions, parts, heads, width = x.shape
    columns = _columns(width)
    rotated = tiles.scratch((batch, positions, parts, heads, 2 * columns["HALF"]), x.dtype, x.device)
    tile = tiles.choose("rotate", x)
    _rotate[(batch * triton.cdiv(positions, tile.block) * parts * heads,)](
        x, cos, sin, lengths, rotated, positions, parts * heads, 3 * heads * width, _scale(width),
        **columns, BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    return rotated


def _scale(width: int) -> float:
    """What q and k are each multiplied by: q . k is then the score in base 2, log2(e) / sqrt(D) times the plain one."""
    return (LOG2_E.value / width**0.5) ** 0.5


def _is_local(positions: int, radius: int | None) -> bool:
    """Whether the window hides anything; one over all positions is global attention, to the bit."""
    return radius is not None and radius < positions - 1


def _columns(width: int) -> dict[str, int]:
    """D, and the columns that half of it takes in registers: a power of two, and 16 for a matrix instruction."""
    return {"D": width, "HALF": max(16, triton.next_power_of_2(width // 2))}


def _grid(qkv: Tensor, tile: tiles.Tile) -> tuple[int]:
    """A program for each tile of positions of each head."""
    batch, positions, _, heads, _ = qkv.shape
    return (batch * triton.cdiv(positions, tile.block) * heads,)
