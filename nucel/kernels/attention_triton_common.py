"""What the Triton kernels of local and of global attention share: rotation, products, softmax and the rows' ends.

A tile of positions times D is held as two halves (ROWS, HALF) where it is rotated, S = Q1 K1' + Q2 K2', so that no
value moves between threads, and as (ROWS, 2 * HALF) elsewhere. HALF is D/2, padded by `register_columns`.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .tiles import Tile
from .triton_common import LN_2, LOG2_E, dot, is_in_row, load_tile, locate_tile, store_tile

LOWEST = tl.constexpr(-3.0e38)
"""A finite pivot, so that a row that sees nothing gets exp2(-inf - LOWEST) = 0 and not NaN."""


# ---- inside a kernel -------------------------------------------------------------------------------------------------


@triton.jit
def program_tile(lengths, T, H, BLOCK: tl.constexpr):
    """This program's row of the batch, head, first position, and the row's length.

    Heads vary fastest: programs that run together read whole rows of qkv.
    """
    program = tl.program_id(0)
    h = program % H
    b, start, length = locate_tile(program // H, lengths, T, BLOCK)
    return b, h, start, length


@triton.jit
def load_angles(cos, sin, start, end, ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr):
    """cos and sin (ROWS, HALF) of the positions from `start` on, in fp32."""
    c = load_tile(cos, start, end, D // 2, ROWS, HALF, D // 2).to(tl.float32)
    s = load_tile(sin, start, end, D // 2, ROWS, HALF, D // 2).to(tl.float32)
    return c, s


@triton.jit
def rotate_halves(x1, x2, c, s, scale):
    """rotate(x) * scale of the halves x1, x2 (ROWS, HALF), computed in fp32 and returned in the dtype of x."""
    y1, y2 = x1.to(tl.float32), x2.to(tl.float32)
    return ((y1 * c - y2 * s) * scale).to(x1.dtype), ((y2 * c + y1 * s) * scale).to(x2.dtype)


@triton.jit
def load_rotated(
    base,
    cos, sin, scale,
    start, end, stride,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """rotate(x) * scale as its two halves (ROWS, HALF)."""
    c, s = load_angles(cos, sin, start, end, ROWS, D, HALF)
    x1 = load_tile(base, start, end, stride, ROWS, HALF, D // 2)
    x2 = load_tile(base + D // 2, start, end, stride, ROWS, HALF, D // 2)
    return rotate_halves(x1, x2, c, s, scale)


@triton.jit
def store_unrotated(
    base, x1, x2,
    cos, sin,
    start, end, stride,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Rotate the halves x1, x2 (ROWS, HALF) back, which is what the gradient of a rotation does, and store them."""
    c, s = load_angles(cos, sin, start, end, ROWS, D, HALF)
    store_tile(base, x1 * c + x2 * s, start, end, stride, ROWS, HALF, D // 2)
    store_tile(base + D // 2, x2 * c - x1 * s, start, end, stride, ROWS, HALF, D // 2)


@triton.jit
def dot_halves(a1, a2, b1, b2):
    """a b' for a (M, D) and b (N, D), each given as two halves: (M, N)."""
    return dot(a2, tl.trans(b2), dot(a1, tl.trans(b1)))


@triton.jit
def is_within_radius(rows, columns, radius):
    """|i - j| <= radius for positions i down and j across."""
    return tl.abs(rows[:, None] - columns[None, :]) <= radius


@triton.jit
def rows_delta(do, o):
    """delta_i = dO_i . O_i, (ROWS,)."""
    return tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)


@triton.jit
def load_lse(lse, start, length, ROWS: tl.constexpr):
    """Log-sum-exp (ROWS,) in base 2; +inf outside of [0, length), which makes P = exp2(S - lse) vanish there."""
    rows = start + tl.arange(0, ROWS)
    return tl.load(lse + rows, mask=is_in_row(rows, length), other=float("inf")) * LOG2_E


@triton.jit
def store_out_and_lse(
    out, lse,
    o, pivot, total,
    b, h, start, length,
    T, H,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """O / total, and pivot + log(total) in base e; 0 in padding rows, whatever they saw."""
    rows = start + tl.arange(0, ROWS)
    real = rows < length
    total = tl.where(real, total, 1.0)
    o = tl.where(real[:, None], o / total[:, None], 0.0)  # (ROWS, 2 * HALF)
    store_tile(out + b * T * H * D + h * D, o, start, T, H * D, ROWS, 2 * HALF, D)
    tl.store(lse + (b * H + h) * T + rows, tl.where(real, (pivot + tl.log2(total)) * LN_2, 0.0), mask=rows < T)


# ---- around a launch -------------------------------------------------------------------------------------------------


def score_scale(width: int) -> float:
    """What q and k are each multiplied by: q . k is then the score in base 2, log2(e) / sqrt(D) times the plain one."""
    return (LOG2_E.value / width**0.5) ** 0.5


def register_columns(width: int) -> dict[str, int]:
    """D, and the columns that half of it takes in registers: a power of two, and 16 for a matrix instruction."""
    return {"D": width, "HALF": max(16, triton.next_power_of_2(width // 2))}


def launch_grid(qkv: Tensor, tile: Tile) -> tuple[int]:
    """One program for each tile of positions of each head of qkv (B, T, 3, H, D)."""
    batch, positions, _, heads, _ = qkv.shape
    return (batch * triton.cdiv(positions, tile.block) * heads,)
