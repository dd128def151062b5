"""Triton kernels of `attention`, forward and backward, and the functions that launch them.

    S = rotate(Q) rotate(K)' / sqrt(D),  P = softmax(S) over |i - j| <= radius and i, j < length,  O = P V

    delta_i = dO_i . O_i,  dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q, both rotated back

Legend: B batch, T positions, H heads, D head width.

Two families of kernels, chosen by the radius alone:

- *band*, for radius <= `BAND_RADIUS`: a program holds a tile of positions and the whole of what they see, its two
  neighbourhoods included, at once. One softmax without rescaling; Q and K are rotated where they are loaded, as two
  halves of D/2 (S = Q1 K1' + Q2 K2'), so that no value moves between threads. Backward, the same program is complete
  for its tile as queries (dQ) and as keys (dK, dV): one launch, nothing between programs.
- *loop*, for wider windows and for global attention: an online softmax over tiles of keys; backward, one kernel for dQ
  that walks the keys and one for dK and dV that walks the queries. Every key is read by many programs there, so it is
  rotated once, into a scratch tensor.

What is saved: nothing but qkv, O and the rows' log-sum-exp. Rotations, P and delta are recomputed.

Softmax is in base 2, with log2(e) / sqrt(D) folded into Q; all accumulation is in fp32. Every output element is written
by one program, in a fixed order and without atomics, so two runs give the same bits. Limits: D even and at most
`MAX_WIDTH` (other widths than powers of two, and halves under the 16 columns of a matrix instruction, are padded with
zeros in registers); fp32, fp16 or bf16. `supports` says whether a tensor is within them.
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
    if lengths is None:
        length = T
    else:
        length = tl.minimum(tl.load(lengths + b).to(tl.int32), T)
    return b.to(tl.int64), h, start, length


@triton.jit
def _pointers(base, start, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) from position `start` on. 64 bits take the step to the tile, 32 bits suffice inside it."""
    first = base + tl.cast(start, tl.int64) * stride
    return first + (tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _inside(start, end, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """True for positions in [0, end) and the first WIDTH columns."""
    rows = start + tl.arange(0, ROWS)
    inside = ((rows >= 0) & (rows < end))[:, None]
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
def _load_rotated(base, c, s, scale, start, end, stride, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr):
    """rotate(x) * scale as its two halves (ROWS, HALF), computed in fp32 and given in the dtype of x."""
    x1 = _load(base, start, end, stride, ROWS, HALF, D // 2).to(tl.float32)
    x2 = _load(base + D // 2, start, end, stride, ROWS, HALF, D // 2).to(tl.float32)
    dtype = base.dtype.element_ty
    return ((x1 * c - x2 * s) * scale).to(dtype), ((x2 * c + x1 * s) * scale).to(dtype)


@triton.jit
def _store_unrotated(
    base, x1, x2, c, s, start, end, stride, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr
):
    """Rotate the halves back, which is what the gradient of a rotation does, and store them."""
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
def _load_lse(lse, start, length, ROWS: tl.constexpr):
    """Log-sum-exp (ROWS,) in base 2; +inf outside of [0, length), which makes P = exp2(S - lse) vanish there."""
    rows = start + tl.arange(0, ROWS)
    return tl.load(lse + rows, mask=(rows >= 0) & (rows < length), other=float("inf")) * LOG2_E


# ---- band: the whole window at once ----------------------------------------------------------------------------------


@triton.jit
def _band_scores(q1, q2, k1, k2, rows, keys, radius, length):
    """Scores (ROWS, KEYS) of a piece of the band, -inf where a row must not look."""
    s = _dot_halves(q1, q2, k1, k2)
    return tl.where(_near(rows, keys, radius) & ((keys >= 0) & (keys < length))[None, :], s, float("-inf"))


@_jit
def _band_forward(
    qkv, cos, sin, lengths, out, lse, T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head against SIDE + BLOCK + SIDE keys, SIDE >= radius."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    left, right = start - SIDE, start + BLOCK

    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    q1, q2 = _load_rotated(queries, c, s, scale * LOG2_E, start, length, stride, BLOCK, D, HALF)
    k1, k2 = _load_rotated(keys, c, s, 1.0, start, length, stride, BLOCK, D, HALF)
    c, s = _load_angles(cos, sin, left, length, SIDE, D, HALF)  # (SIDE, HALF)
    l1, l2 = _load_rotated(keys, c, s, 1.0, left, length, stride, SIDE, D, HALF)
    c, s = _load_angles(cos, sin, right, length, SIDE, D, HALF)
    r1, r2 = _load_rotated(keys, c, s, 1.0, right, length, stride, SIDE, D, HALF)

    rows = start + tl.arange(0, BLOCK)
    side = tl.arange(0, SIDE)
    s_left = _band_scores(q1, q2, l1, l2, rows, left + side, radius, length)  # (BLOCK, SIDE)
    s_own = _band_scores(q1, q2, k1, k2, rows, rows, radius, length)  # (BLOCK, BLOCK)
    s_right = _band_scores(q1, q2, r1, r2, rows, right + side, radius, length)  # (BLOCK, SIDE)

    pivot = tl.maximum(tl.maximum(tl.max(s_left, 1), tl.max(s_right, 1)), tl.maximum(tl.max(s_own, 1), LOWEST))
    p_left = tl.exp2(s_left - pivot[:, None])
    p_own = tl.exp2(s_own - pivot[:, None])
    p_right = tl.exp2(s_right - pivot[:, None])
    total = tl.sum(p_left, 1) + tl.sum(p_own, 1) + tl.sum(p_right, 1)

    dtype = qkv.dtype.element_ty
    v = _load(values, left, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    o = _dot(p_left.to(dtype), v)  # (BLOCK, 2 * HALF)
    v = _load(values, start, length, stride, BLOCK, 2 * HALF, D)
    o = _dot(p_own.to(dtype), v, o)
    v = _load(values, right, length, stride, SIDE, 2 * HALF, D)
    o = _dot(p_right.to(dtype), v, o)

    # A padding row may see keys of the real end; it is 0 all the same.
    real = rows < length
    o = tl.where(real[:, None], o / total[:, None], 0.0)
    _store(out + b * T * H * D + h * D, o, start, T, H * D, BLOCK, 2 * HALF, D)
    tl.store(lse + (b * H + h) * T + rows, tl.where(real, (pivot + tl.log2(total)) * LN_2, 0.0), mask=rows < T)


@triton.jit
def _band_load_queries(
    queries, grad_out, out, lse, c, s, scale, start, length, stride, out_stride,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """What a backward pass needs of ROWS queries: rotated halves (ROWS, HALF), dO (ROWS, 2 * HALF), lse and delta."""
    q1, q2 = _load_rotated(queries, c, s, scale, start, length, stride, ROWS, D, HALF)
    do = _load(grad_out, start, length, out_stride, ROWS, 2 * HALF, D)
    o = _load(out, start, length, out_stride, ROWS, 2 * HALF, D)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    return q1, q2, do, _load_lse(lse, start, length, ROWS), delta


@triton.jit
def _band_query_gradient(
    dq1, dq2, q1, q2, do, row_lse, delta, keys, values, cos, sin, start, radius, length, stride, offset,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dQ += dS K for the queries from `start` on and the KEYS keys from `start + offset` on."""
    first = start + offset
    c, s = _load_angles(cos, sin, first, length, KEYS, D, HALF)
    k1, k2 = _load_rotated(keys, c, s, 1.0, first, length, stride, KEYS, D, HALF)  # (KEYS, HALF)
    v = _load(values, first, length, stride, KEYS, 2 * HALF, D)  # (KEYS, 2 * HALF)
    scores = _band_scores(
        q1, q2, k1, k2, start + tl.arange(0, ROWS), first + tl.arange(0, KEYS), radius, length
    )  # (ROWS, KEYS)
    p = tl.exp2(scores - row_lse[:, None])
    ds = (p * (_dot(do, tl.trans(v)) - delta[:, None])).to(q1.dtype)
    return _dot(ds, k1, dq1), _dot(ds, k2, dq2)


@triton.jit
def _band_key_gradients(
    dk1, dk2, dv, k1, k2, v, queries, grad_out, out, lse, cos, sin, scale, start, radius, length, stride, out_stride,
    offset, KEYS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dK += dS' Q and dV += P' dO for the keys from `start` on and the ROWS queries from `start + offset` on.

    Computed transposed, keys down and queries across, so that P' and dS' are left operands as they come.
    """
    first = start + offset
    c, s = _load_angles(cos, sin, first, length, ROWS, D, HALF)
    q1, q2, do, row_lse, delta = _band_load_queries(
        queries, grad_out, out, lse, c, s, scale, first, length, stride, out_stride, ROWS, D, HALF
    )
    visible = _near(start + tl.arange(0, KEYS), first + tl.arange(0, ROWS), radius)
    p = tl.where(visible, tl.exp2(_dot_halves(k1, k2, q1, q2) - row_lse[None, :]), 0.0)  # (KEYS, ROWS)
    dv = _dot(p.to(do.dtype), do, dv)
    ds = (p * (_dot(v, tl.trans(do)) - delta[None, :])).to(q1.dtype)
    return _dot(ds, q1, dk1), _dot(ds, q2, dk2), dv


@_jit
def _band_backward(
    grad_out, qkv, cos, sin, lengths, out, lse, grad_qkv, T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One program: dQ, dK and dV of BLOCK positions of one head, SIDE >= radius.

    Its queries meet its own keys once for all three; then its queries meet the keys of either side for dQ, and its keys
    the queries of either side for dK and dV.
    """
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride, out_stride = 3 * H * D, H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    grad_out += b * T * out_stride + h * D
    out += b * T * out_stride + h * D
    lse += (b * H + h) * T
    rows = start + tl.arange(0, BLOCK)

    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)  # (BLOCK, HALF)
    q1, q2, do, row_lse, delta = _band_load_queries(
        queries, grad_out, out, lse, c, s, scale * LOG2_E, start, length, stride, out_stride, BLOCK, D, HALF
    )
    k1, k2 = _load_rotated(keys, c, s, 1.0, start, length, stride, BLOCK, D, HALF)
    v = _load(values, start, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)

    p = tl.exp2(_band_scores(q1, q2, k1, k2, rows, rows, radius, length) - row_lse[:, None])  # (BLOCK, BLOCK)
    dv = _dot(tl.trans(p.to(do.dtype)), do)  # (BLOCK, 2 * HALF)
    ds = (p * (_dot(do, tl.trans(v)) - delta[:, None])).to(q1.dtype)
    dq1, dq2 = _dot(ds, k1), _dot(ds, k2)  # (BLOCK, HALF)
    dk1, dk2 = _dot(tl.trans(ds), q1), _dot(tl.trans(ds), q2)

    dq1, dq2 = _band_query_gradient(
        dq1, dq2, q1, q2, do, row_lse, delta, keys, values, cos, sin, start, radius, length, stride, -SIDE,
        BLOCK, SIDE, D, HALF,
    )  # fmt: skip
    dq1, dq2 = _band_query_gradient(
        dq1, dq2, q1, q2, do, row_lse, delta, keys, values, cos, sin, start, radius, length, stride, BLOCK,
        BLOCK, SIDE, D, HALF,
    )  # fmt: skip
    grads = grad_qkv + b * T * stride + h * D
    _store_unrotated(grads, dq1 * scale, dq2 * scale, c, s, start, T, stride, BLOCK, D, HALF)

    dk1, dk2, dv = _band_key_gradients(
        dk1, dk2, dv, k1, k2, v, queries, grad_out, out, lse, cos, sin, scale * LOG2_E, start, radius, length, stride,
        out_stride, -SIDE, BLOCK, SIDE, D, HALF,
    )  # fmt: skip
    dk1, dk2, dv = _band_key_gradients(
        dk1, dk2, dv, k1, k2, v, queries, grad_out, out, lse, cos, sin, scale * LOG2_E, start, radius, length, stride,
        out_stride, BLOCK, BLOCK, SIDE, D, HALF,
    )  # fmt: skip
    # Padding keys are not hidden from the queries above; what they gathered is dropped here.
    real = (rows < length)[:, None]
    dk1, dk2, dv = tl.where(real, dk1 * LN_2, 0.0), tl.where(real, dk2 * LN_2, 0.0), tl.where(real, dv, 0.0)
    _store_unrotated(grads + H * D, dk1, dk2, c, s, start, T, stride, BLOCK, D, HALF)
    _store(grads + 2 * H * D, dv, start, T, stride, BLOCK, 2 * HALF, D)


# ---- loop: a window of any width, or everything ----------------------------------------------------------------------


@_jit
def _rotate(
    x, cos, sin, lengths, rotated, T, H, scale, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """rotated (B, T, H, 2 * HALF) = rotate(x) * scale for x (B, T, H, D) inside qkv; each half is padded by itself."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)
    x1, x2 = _load_rotated(x + b * T * 3 * H * D + h * D, c, s, scale, start, length, 3 * H * D, BLOCK, D, HALF)
    rotated += (b * T * H + h) * 2 * HALF
    _store(rotated, x1, start, T, H * 2 * HALF, BLOCK, HALF, HALF)
    _store(rotated + HALF, x2, start, T, H * 2 * HALF, BLOCK, HALF, HALF)


@triton.jit
def _reach(start, length, radius, LOCAL: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr):
    """Positions [begin, end) seen from ROWS positions, begin a multiple of STEP; none from padding."""
    if LOCAL:
        begin = tl.maximum(start - radius, 0) // STEP * STEP
        end = tl.minimum(start + ROWS + radius, length)
    else:
        begin = 0
        end = length
    return begin, tl.where(start < length, end, begin)


@triton.jit
def _online_softmax(
    o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
    MASKED: tl.constexpr, LOCAL: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, H,
):  # fmt: skip
    """Add KEYS keys from position `first` on: rescale what is there to the new pivot (FlashAttention-2, algorithm 1)."""
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

    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)
    q1, q2 = _load_rotated(queries, c, s, scale * LOG2_E, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    pivot = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)

    begin, end = _reach(start, length, radius, LOCAL, BLOCK, STEP)
    if not LOCAL:
        # All but the last tile of keys lie wholly before `length` and need no mask.
        whole = end // STEP * STEP
        for first in range(begin, whole, STEP):
            o, pivot, total = _online_softmax(
                o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
                False, LOCAL, STEP, D, HALF, H,
            )  # fmt: skip
        begin = whole
    for first in range(begin, end, STEP):
        o, pivot, total = _online_softmax(
            o, pivot, total, q1, q2, keys, values, first, rows, radius, length, stride,
            True, LOCAL, STEP, D, HALF, H,
        )  # fmt: skip

    real = rows < length
    o = tl.where(real[:, None], o / total[:, None], 0.0)
    _store(out + b * T * H * D + h * D, o, start, T, H * D, BLOCK, 2 * HALF, D)
    tl.store(lse + (b * H + h) * T + rows, tl.where(real, (pivot + tl.log2(total)) * LN_2, 0.0), mask=rows < T)


@_jit
def _loop_backward_queries(
    grad_out, qkv, rotated_q, rotated_k, cos, sin, lengths, out, lse, delta, grad_qkv, T, H, radius, scale,
    LOCAL: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dQ of BLOCK queries of one head, STEP keys at a time; leaves delta (B, H, T) for the keys' kernel."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride, rotated_stride = 3 * H * D, H * 2 * HALF
    values = qkv + b * T * stride + 2 * H * D + h * D
    keys = rotated_k + (b * T * H + h) * 2 * HALF
    rows = start + tl.arange(0, BLOCK)

    q = _load(rotated_q + (b * T * H + h) * 2 * HALF, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    do = _load(grad_out + b * T * H * D + h * D, start, length, H * D, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    o = _load(out + b * T * H * D + h * D, start, length, H * D, BLOCK, 2 * HALF, D)
    row_delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + (b * H + h) * T + rows, row_delta, mask=rows < T)
    row_lse = _load_lse(lse + (b * H + h) * T, start, length, BLOCK)
    dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)

    begin, end = _reach(start, length, radius, LOCAL, BLOCK, STEP)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        k = _load(keys, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        v = _load(values, first, length, stride, STEP, 2 * HALF, D)
        visible = (columns < length)[None, :]
        if LOCAL:
            visible = visible & _near(rows, columns, radius)
        p = tl.where(visible, tl.exp2(_dot(q, tl.trans(k)) - row_lse[:, None]), 0.0)  # (BLOCK, STEP)
        ds = (p * (_dot(do, tl.trans(v)) - row_delta[:, None])).to(k.dtype)
        dq = _dot(ds, k, dq)

    dq1, dq2 = _halves(dq * scale, BLOCK, HALF)
    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)
    _store_unrotated(grad_qkv + b * T * stride + h * D, dq1, dq2, c, s, start, T, stride, BLOCK, D, HALF)


@_jit
def _loop_backward_keys(
    grad_out, qkv, rotated_q, rotated_k, cos, sin, lengths, lse, delta, grad_qkv, T, H, radius,
    LOCAL: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: dK and dV of BLOCK keys of one head, STEP queries at a time, keys down and queries across."""
    b, h, start, length = _place(lengths, T, H, BLOCK)
    stride, rotated_stride = 3 * H * D, H * 2 * HALF
    queries = rotated_q + (b * T * H + h) * 2 * HALF
    grad_out += b * T * H * D + h * D
    lse += (b * H + h) * T
    delta += (b * H + h) * T
    rows = start + tl.arange(0, BLOCK)

    k = _load(rotated_k + (b * T * H + h) * 2 * HALF, start, length, rotated_stride, BLOCK, 2 * HALF, 2 * HALF)
    v = _load(qkv + b * T * stride + 2 * H * D + h * D, start, length, stride, BLOCK, 2 * HALF, D)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)

    begin, end = _reach(start, length, radius, LOCAL, BLOCK, STEP)
    for first in range(begin, end, STEP):
        columns = first + tl.arange(0, STEP)
        q = _load(queries, first, length, rotated_stride, STEP, 2 * HALF, 2 * HALF)  # (STEP, 2 * HALF)
        do = _load(grad_out, first, length, H * D, STEP, 2 * HALF, D)
        column_lse = _load_lse(lse, first, length, STEP)
        column_delta = tl.load(delta + columns, mask=columns < length, other=0.0)
        p = tl.exp2(_dot(k, tl.trans(q)) - column_lse[None, :])  # (BLOCK, STEP)
        if LOCAL:
            p = tl.where(_near(rows, columns, radius), p, 0.0)
        dv = _dot(p.to(do.dtype), do, dv)
        ds = (p * (_dot(v, tl.trans(do)) - column_delta[None, :])).to(q.dtype)
        dk = _dot(ds, q, dk)

    # q carries scale * log2(e); dK wants the scale alone. Padding keys gathered what no one asked for.
    real = (rows < length)[:, None]
    dk1, dk2 = _halves(tl.where(real, dk * LN_2, 0.0), BLOCK, HALF)
    c, s = _load_angles(cos, sin, start, length, BLOCK, D, HALF)
    grads = grad_qkv + b * T * stride + h * D
    _store_unrotated(grads + H * D, dk1, dk2, c, s, start, T, stride, BLOCK, D, HALF)
    _store(grads + 2 * H * D, tl.where(real, dv, 0.0), start, T, stride, BLOCK, 2 * HALF, D)


# ---- launchers -------------------------------------------------------------------------------------------------------


def supports(qkv: Tensor) -> bool:
    """Whether the kernels take this head width and dtype."""
    return qkv.shape[-1] <= MAX_WIDTH and qkv.dtype in (torch.float32, torch.float16, torch.bfloat16)


def attention_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`reference.attention_forward` by the kernels: out (B, T, H, D) and lse (B, H, T) in fp32."""
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    batch, positions, _, heads, width = qkv.shape
    out = tiles.scratch((batch, positions, heads, width), qkv.dtype, qkv.device)
    lse = tiles.scratch((batch, heads, positions), torch.float32, qkv.device)
    band, window = _band_or_loop(positions, radius)
    sizes, columns = (positions, heads, window), _columns(width)

    with torch.cuda.device_of(qkv):
        if band:
            tile = tiles.choose("band_forward", qkv)
            _band_forward[_grid(qkv, tile)](
                qkv, cos, sin, lengths, out, lse, *sizes, width**-0.5,
                **columns, BLOCK=tile.block, SIDE=_side(window), **tile.options(),
            )  # fmt: skip
        else:
            rotated_k = _rotated(qkv, 1, 1.0, cos, sin, lengths)
            tile = tiles.choose("loop_forward", qkv)
            _loop_forward[_grid(qkv, tile)](
                qkv, rotated_k, cos, sin, lengths, out, lse, *sizes, width**-0.5,
                LOCAL=window >= 0, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
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
    grad_out, qkv, cos, sin = grad_out.contiguous(), qkv.contiguous(), cos.contiguous(), sin.contiguous()
    batch, positions, _, heads, width = qkv.shape
    grad_qkv = tiles.scratch(qkv.shape, qkv.dtype, qkv.device)
    band, window = _band_or_loop(positions, radius)
    sizes, columns, scale = (positions, heads, window), _columns(width), width**-0.5

    with torch.cuda.device_of(qkv):
        if band:
            tile = tiles.choose("band_backward", qkv)
            _band_backward[_grid(qkv, tile)](
                grad_out, qkv, cos, sin, lengths, out, lse, grad_qkv, *sizes, scale,
                **columns, BLOCK=tile.block, SIDE=_side(window), **tile.options(),
            )  # fmt: skip
        else:
            rotated_q = _rotated(qkv, 0, scale * LOG2_E.value, cos, sin, lengths)
            rotated_k = _rotated(qkv, 1, 1.0, cos, sin, lengths)
            delta = tiles.scratch(lse.shape, torch.float32, qkv.device)
            local = window >= 0
            tile = tiles.choose("loop_backward_queries", qkv)
            _loop_backward_queries[_grid(qkv, tile)](
                grad_out, qkv, rotated_q, rotated_k, cos, sin, lengths, out, lse, delta, grad_qkv, *sizes, scale,
                LOCAL=local, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
            tile = tiles.choose("loop_backward_keys", qkv)
            _loop_backward_keys[_grid(qkv, tile)](
                grad_out, qkv, rotated_q, rotated_k, cos, sin, lengths, lse, delta, grad_qkv, *sizes,
                LOCAL=local, **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
            )  # fmt: skip
    return grad_qkv


def _rotated(qkv: Tensor, part: int, scale: float, cos: Tensor, sin: Tensor, lengths: Tensor | None) -> Tensor:
    """rotate(qkv[:, :, part]) * scale, its halves padded to the kernels' columns."""
    batch, positions, _, heads, width = qkv.shape
    columns = _columns(width)
    rotated = tiles.scratch((batch, positions, heads, 2 * columns["HALF"]), qkv.dtype, qkv.device)
    tile = tiles.choose("rotate", qkv)
    _rotate[_grid(qkv, tile)](
        qkv[:, :, part], cos, sin, lengths, rotated, positions, heads, scale,
        **columns, BLOCK=tile.block, **tile.options(),
    )  # fmt: skip
    return rotated


def _band_or_loop(positions: int, radius: int | None) -> tuple[bool, int]:
    """Whether the window is held at once, and its radius; -1 is global, which a window over all positions is too."""
    if radius is None or radius >= positions - 1:
        return False, -1
    return radius <= BAND_RADIUS, radius


def _columns(width: int) -> dict[str, int]:
    """D, and the columns that half of it takes in registers: a power of two and no fewer than a matrix instruction's."""
    return {"D": width, "HALF": max(16, triton.next_power_of_2(width // 2))}


def _side(radius: int) -> int:
    """Keys held on either side of a tile: a power of two and no fewer than a matrix instruction's columns."""
    return max(16, triton.next_power_of_2(radius))


def _grid(qkv: Tensor, tile: tiles.Tile) -> tuple[int]:
    """A program for each tile of positions of each head."""
    batch, positions, _, heads, _ = qkv.shape
    return (batch * triton.cdiv(positions, tile.block) * heads,)
