"""Triton kernels of local attention: each position attends to those within a radius.

    P = softmax(S) over |i - j| <= radius and i, j < length,  O = P V
    dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q

The forward is a *band*: one program holds a tile of queries and all the keys they see, the neighbours on both sides
included, at once, and takes one softmax without rescaling. It takes 16-bit dtypes and radii up to `BAND_RADIUS`; fp32
and wider radii, whose products are too slow and too large to hold a band, go to `attention_triton_global`. Where tiles
are as wide as their neighbours, a program *walks* along the diagonal and hands keys and values on from tile to tile.

The backward walks too, in 16 bits, for heads up to `WALK_WIDTH` and radii beyond `WALK_RADIUS`. For any other radius
and dtype a program is complete for its tile both as queries (dQ) and as keys (dK, dV). Either way it is one launch, and
nothing passes between programs.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import attention_triton_common as common
from . import tiles
from .triton_common import LN_2, LOG2_E, dot, is_in_row, kernel, load_tile, store_tile

BAND_RADIUS = 64
"""The largest radius that a band takes: 64 neighbours on each side of a tile of 64."""
WALK = 16
"""Tiles that a walk takes at most: it loads two more, an eighth."""
WALK_RADIUS = 32
"""The largest radius that does not walk: tiles of 64 would mostly compute what nobody sees."""
WALK_WIDTH = 32
"""The widest heads that walk: of wider ones a program cannot hold three tiles in registers."""


# ---- forward ---------------------------------------------------------------------------------------------------------


@triton.jit
def _hide_left(s, start, radius, COLUMNS: tl.constexpr):
    """Scores (ROWS, COLUMNS) with the COLUMNS keys before the tile, -inf where not visible.

    Which of them a row sees is one number per row, and so one comparison per score.
    """
    lowest = tl.maximum(tl.arange(0, s.shape[0]) - radius + COLUMNS, COLUMNS - start)
    return tl.where(tl.arange(0, COLUMNS)[None, :] >= lowest[:, None], s, float("-inf"))


@triton.jit
def _hide_right(s, right, radius, length):
    """Scores (ROWS, COLUMNS) with keys from position `right` on, the first after the tile, -inf where not visible."""
    end = tl.minimum(tl.arange(0, s.shape[0]) + radius - s.shape[0] + 1, length - right)
    return tl.where(tl.arange(0, s.shape[1])[None, :] < end[:, None], s, float("-inf"))


@triton.jit
def _hide_own(s, start, radius, length, WHOLE: tl.constexpr):
    """Scores (ROWS, ROWS) within the tile, -inf where not visible; WHOLE: radius >= ROWS - 1."""
    r, c = tl.arange(0, s.shape[0])[:, None], tl.arange(0, s.shape[1])[None, :]
    visible = c < length - start
    if not WHOLE:
        visible = visible & (tl.abs(r - c) <= radius)
    return tl.where(visible, s, float("-inf"))


@triton.jit
def _softmax_of_band(s_left, s_own, s_right):
    """P of the three parts before division, its pivot (ROWS,), and the sums (ROWS,)."""
    if s_left.shape[1] == s_own.shape[1]:
        highest = tl.max(tl.maximum(tl.maximum(s_left, s_right), s_own), 1)
    else:
        highest = tl.maximum(tl.max(tl.maximum(s_left, s_right), 1), tl.max(s_own, 1))
    pivot = tl.maximum(highest, common.LOWEST)
    p_left = tl.exp2(s_left - pivot[:, None])
    p_own = tl.exp2(s_own - pivot[:, None])
    p_right = tl.exp2(s_right - pivot[:, None])
    if s_left.shape[1] == s_own.shape[1]:
        total = tl.sum(p_left + p_own + p_right, 1)
    else:
        total = tl.sum(p_left + p_right, 1) + tl.sum(p_own, 1)
    return p_left, p_own, p_right, pivot, total


@kernel
def _band_forward(
    qkv,
    cos, sin, lengths,
    out, lse,
    T, H, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, SIDE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK queries of one head against SIDE + BLOCK + SIDE keys at once, SIDE >= radius."""
    b, h, start, length = common.program_tile(lengths, T, H, BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    left, right = start - SIDE, start + BLOCK

    q1, q2 = common.load_rotated(queries, cos, sin, scale, start, length, stride, BLOCK, D, HALF)  # (BLOCK, HALF)
    k1, k2 = common.load_rotated(keys, cos, sin, scale, left, length, stride, SIDE, D, HALF)  # (SIDE, HALF)
    s_left = _hide_left(common.dot_halves(q1, q2, k1, k2), start, radius, SIDE)  # (BLOCK, SIDE)
    k1, k2 = common.load_rotated(keys, cos, sin, scale, start, length, stride, BLOCK, D, HALF)
    s_own = _hide_own(common.dot_halves(q1, q2, k1, k2), start, radius, length, WHOLE)  # (BLOCK, BLOCK)
    k1, k2 = common.load_rotated(keys, cos, sin, scale, right, length, stride, SIDE, D, HALF)
    s_right = _hide_right(common.dot_halves(q1, q2, k1, k2), right, radius, length)  # (BLOCK, SIDE)
    p_left, p_own, p_right, pivot, total = _softmax_of_band(s_left, s_own, s_right)

    v_left = load_tile(values, left, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    v_own = load_tile(values, start, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    v_right = load_tile(values, right, length, stride, SIDE, 2 * HALF, D)  # (SIDE, 2 * HALF)
    dtype = qkv.dtype.element_ty
    o = dot(p_left.to(dtype), v_left)  # (BLOCK, 2 * HALF)
    o = dot(p_own.to(dtype), v_own, o)
    o = dot(p_right.to(dtype), v_right, o)
    common.store_out_and_lse(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)


@triton.jit
def _load_rotated_pair(
    queries, keys,
    cos, sin, scale,
    start, length, stride,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Halves of Q, then of K, rotated and scaled, (ROWS, HALF) each: one load of their angles."""
    c, s = common.load_angles(cos, sin, start, length, ROWS, D, HALF)
    q1 = load_tile(queries, start, length, stride, ROWS, HALF, D // 2)
    q2 = load_tile(queries + D // 2, start, length, stride, ROWS, HALF, D // 2)
    k1 = load_tile(keys, start, length, stride, ROWS, HALF, D // 2)
    k2 = load_tile(keys + D // 2, start, length, stride, ROWS, HALF, D // 2)
    dtype = queries.dtype.element_ty
    q1, q2 = common.rotate_halves(q1, q2, c, s, scale)
    k1, k2 = common.rotate_halves(k1, k2, c, s, scale)
    return q1.to(dtype), q2.to(dtype), k1.to(dtype), k2.to(dtype)


@kernel
def _walk_forward(
    qkv,
    cos, sin, lengths,
    out, lse,
    T, H, PER, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One program: PER tiles of BLOCK queries of one head, each against its own keys and those of both neighbours.

    BLOCK >= radius. Keys and values of a tile are loaded once and handed on from tile to tile. WHOLE says that every
    query sees its whole tile, radius >= BLOCK - 1.
    """
    b, h, begin, length = common.program_tile(lengths, T, H, PER * BLOCK)
    stride = 3 * H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    dtype = qkv.dtype.element_ty

    left1, left2 = common.load_rotated(keys, cos, sin, scale, begin - BLOCK, length, stride, BLOCK, D, HALF)
    v_left = load_tile(values, begin - BLOCK, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
    q1, q2, own1, own2 = _load_rotated_pair(queries, keys, cos, sin, scale, begin, length, stride, BLOCK, D, HALF)
    v_own = load_tile(values, begin, length, stride, BLOCK, 2 * HALF, D)
    for start in range(begin, tl.minimum(begin + PER * BLOCK, T), BLOCK):
        right = start + BLOCK
        next1, next2, right1, right2 = _load_rotated_pair(
            queries, keys,
            cos, sin, scale,
            right, length, stride,
            BLOCK, D, HALF,
        )  # fmt: skip
        v_right = load_tile(values, right, length, stride, BLOCK, 2 * HALF, D)
        s_left = _hide_left(common.dot_halves(q1, q2, left1, left2), start, radius, BLOCK)  # (BLOCK, BLOCK)
        s_own = _hide_own(common.dot_halves(q1, q2, own1, own2), start, radius, length, WHOLE)
        s_right = _hide_right(common.dot_halves(q1, q2, right1, right2), right, radius, length)
        p_left, p_own, p_right, pivot, total = _softmax_of_band(s_left, s_own, s_right)
        o = dot(p_left.to(dtype), v_left)  # (BLOCK, 2 * HALF)
        o = dot(p_own.to(dtype), v_own, o)
        o = dot(p_right.to(dtype), v_right, o)
        common.store_out_and_lse(out, lse, o, pivot, total, b, h, start, length, T, H, BLOCK, D, HALF)
        left1, left2, v_left = own1, own2, v_own
        q1, q2, own1, own2, v_own = next1, next2, right1, right2, v_right


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


@triton.jit
def _load_query_tile(
    queries, keys, grad_out, out, lse,
    cos, sin, scale,
    start, length, stride, out_stride,
    BLOCK: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """BLOCK positions: rotated halves of Q and K, dO (BLOCK, HALF or 2 * HALF), and -lse and -delta as columns."""
    q1, q2, k1, k2 = _load_rotated_pair(queries, keys, cos, sin, scale, start, length, stride, BLOCK, D, HALF)
    do = load_tile(grad_out, start, length, out_stride, BLOCK, 2 * HALF, D)
    delta = common.rows_delta(do, load_tile(out, start, length, out_stride, BLOCK, 2 * HALF, D))
    rows = start + tl.arange(0, BLOCK)
    row_lse = tl.load(lse + rows, mask=is_in_row(rows, length), other=0.0) * LOG2_E
    return q1, q2, k1, k2, do, common.columns_of(-row_lse, -delta, do.dtype)


@triton.jit
def _add_pair(dk1, dk2, dv, k1, k2, v, q1, q2, do, extra, lse_factors, delta_factors, visible, factor):
    """Gradients of a tile of keys (rows) with what a tile of queries (columns) adds, and what the keys add to dQ.

    dQ is multiplied by `factor` before it is added to anything: as an accumulator that a loop hands on, or without an
    operation in between, it makes the assembler serialise all of wgmma.
    """
    extra = tl.trans(extra)
    s = dot(lse_factors, extra, common.dot_halves(k1, k2, q1, q2))
    p = tl.where(visible, tl.exp2(s), 0.0)  # (BLOCK, BLOCK)
    dv = dot(p.to(do.dtype), do, dv)
    ds = (p * dot(delta_factors, extra, dot(v, tl.trans(do)))).to(q1.dtype)  # (BLOCK, BLOCK)
    dk1 = dot(ds, q1, dk1)
    dk2 = dot(ds, q2, dk2)
    ds = tl.trans(ds)
    return dot(ds, k1) * factor, dot(ds, k2) * factor, dk1, dk2, dv


@kernel
def _walk_backward(
    grad_out, qkv,
    cos, sin, lengths,
    out, lse, grad_qkv,
    T, H, PER, radius, scale,
    D: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One program: dQ, dK and dV of PER tiles of BLOCK positions of one head, along the diagonal.

    BLOCK >= radius. A tile of keys meets three tiles of queries, which are handed on from tile to tile, so that each is
    loaded once. dQ of the left one is then complete. Where a row has several programs, each also walks over the tile
    before its own and the one after them, whose gradients it does not store. WHOLE: radius >= BLOCK - 1.
    """
    b, h, start, length = common.program_tile(lengths, T, H, PER * BLOCK)
    stride, out_stride = 3 * H * D, H * D
    queries = qkv + b * T * stride + h * D
    keys = queries + H * D
    values = keys + H * D
    grads = grad_qkv + b * T * stride + h * D
    grad_out += b * T * out_stride + h * D
    out += b * T * out_stride + h * D
    lse += (b * H + h) * T
    factor = scale * LN_2
    r = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK)[None, :]
    lse_factors, delta_factors = common.column_factors(qkv, length, BLOCK)
    stop = start + PER * BLOCK
    begin = tl.maximum(start - BLOCK, 0)
    end = tl.minimum(stop + BLOCK, T)

    qa1, qa2, _, _, doa, ea = _load_query_tile(
        queries, keys, grad_out, out, lse, cos, sin, scale, begin - BLOCK, length, stride, out_stride, BLOCK, D, HALF
    )
    qb1, qb2, k1, k2, dob, eb = _load_query_tile(
        queries, keys, grad_out, out, lse, cos, sin, scale, begin, length, stride, out_stride, BLOCK, D, HALF
    )
    dqa1 = tl.zeros((BLOCK, HALF), tl.float32)
    dqa2 = tl.zeros((BLOCK, HALF), tl.float32)
    dqb1 = tl.zeros((BLOCK, HALF), tl.float32)
    dqb2 = tl.zeros((BLOCK, HALF), tl.float32)
    for first in range(begin, end, BLOCK):
        v = load_tile(values, first, length, stride, BLOCK, 2 * HALF, D)  # (BLOCK, 2 * HALF)
        dk1 = tl.zeros((BLOCK, HALF), tl.float32)
        dk2 = tl.zeros((BLOCK, HALF), tl.float32)
        dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        real = first + r < length
        # Which queries see a key is one number per key: lowest <= c among those on the left, c < highest on the right.
        lowest = tl.where(real, r + BLOCK - radius, BLOCK)
        highest = tl.where(real, r - BLOCK + radius + 1, 0)
        own = real[:, None] & (c >= 0)
        if not WHOLE:
            own = own & (tl.abs(r[:, None] - c) <= radius)

        x1, x2, dk1, dk2, dv = _add_pair(
            dk1, dk2, dv, k1, k2, v, qa1, qa2, doa, ea, lse_factors, delta_factors, c >= lowest[:, None], factor
        )
        before = first - BLOCK
        owned = tl.where((before >= start) & (before < stop), T, 0)
        common.store_unrotated(grads, dqa1 + x1, dqa2 + x2, cos, sin, before, owned, stride, BLOCK, D, HALF)
        x1, x2, dk1, dk2, dv = _add_pair(
            dk1, dk2, dv, k1, k2, v, qb1, qb2, dob, eb, lse_factors, delta_factors, own, factor
        )
        dqa1, dqa2 = dqb1 + x1, dqb2 + x2
        qa1, qa2, doa, ea = qb1, qb2, dob, eb
        qb1, qb2, n1, n2, dob, eb = _load_query_tile(
            queries,
            keys,
            grad_out,
            out,
            lse,
            cos,
            sin,
            scale,
            first + BLOCK,
            length,
            stride,
            out_stride,
            BLOCK,
            D,
            HALF,
        )
        dqb1, dqb2, dk1, dk2, dv = _add_pair(
            dk1, dk2, dv, k1, k2, v, qb1, qb2, dob, eb, lse_factors, delta_factors, c < highest[:, None], factor
        )
        owned = tl.where((first >= start) & (first < stop), T, 0)
        dk1, dk2 = dk1 * factor, dk2 * factor
        common.store_unrotated(grads + H * D, dk1, dk2, cos, sin, first, owned, stride, BLOCK, D, HALF)
        store_tile(grads + 2 * H * D, dv, first, owned, stride, BLOCK, 2 * HALF, D)
        k1, k2 = n1, n2
    last = begin + (end - begin - 1) // BLOCK * BLOCK
    owned = tl.where(last < stop, T, 0)
    common.store_unrotated(grads, dqa1, dqa2, cos, sin, last, owned, stride, BLOCK, D, HALF)


# ---- launchers -------------------------------------------------------------------------------------------------------


def takes_band(qkv: Tensor, radius: int) -> bool:
    """Whether the forward of qkv can hold a band of this radius."""
    return radius <= BAND_RADIUS and qkv.element_size() == 2


def launch_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int, lengths: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Fill out (B, T, H, D) and lse (B, H, T)."""
    batch, positions, _, heads, width = qkv.shape
    tile = tiles.choose("band_forward", qkv)
    shared = {**common.register_columns(width), "BLOCK": tile.block, "WHOLE": radius >= tile.block - 1}
    side = max(16, triton.next_power_of_2(radius))
    if side == tile.block and width <= WALK_WIDTH:
        count = triton.cdiv(positions, tile.block)
        per = common.pieces_per_program(count, batch * heads, WALK)
        _walk_forward[(batch * triton.cdiv(count, per) * heads,)](
            qkv,
            cos, sin, lengths,
            out, lse,
            positions, heads, per, radius, common.score_scale(width),
            **shared, **tile.options(),
        )  # fmt: skip
    else:
        _band_forward[common.launch_grid(qkv, tile)](
            qkv,
            cos, sin, lengths,
            out, lse,
            positions, heads, radius, common.score_scale(width),
            **shared, SIDE=side, **tile.options(),
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
    batch, positions, _, heads, width = qkv.shape
    scale, columns = common.score_scale(width), common.register_columns(width)
    tile = tiles.choose("walk_backward", qkv) if qkv.element_size() == 2 else None
    if tile and WALK_RADIUS < radius <= tile.block and width <= WALK_WIDTH:
        count = triton.cdiv(positions, tile.block)
        per = common.pieces_per_program(count, batch * heads, WALK)
        _walk_backward[(batch * triton.cdiv(count, per) * heads,)](
            grad_out, qkv,
            cos, sin, lengths,
            out, lse, grad_qkv,
            positions, heads, per, radius, scale,
            **columns, BLOCK=tile.block, WHOLE=radius >= tile.block - 1, **tile.options(),
        )  # fmt: skip
        return
    tile = tiles.choose("local_backward", qkv)
    _local_backward[common.launch_grid(qkv, tile)](
        grad_out, qkv,
        cos, sin, lengths,
        out, lse, grad_qkv,
        positions, heads, radius, scale,
        **columns, BLOCK=tile.block, STEP=tile.step, **tile.options(),
    )  # fmt: skip
