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
PROGRAMS = 1024
"""Programs that fill a GPU: some four rounds of two on each multiprocessor."""


# ---- inside a kernel -------------------------------------------------------------------------------------------------


@triton.jit
def program_tile(lengths, T, H, BLOCK):
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
    """rotate(x) * scale of the halves x1, x2 (ROWS, HALF), in fp32."""
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    return (x1 * c - x2 * s) * scale, (x2 * c + x1 * s) * scale


@triton.jit
def load_rotated(
    base,
    cos, sin, scale,
    start, end, stride,
    ROWS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """rotate(x) * scale as its two halves (ROWS, HALF), computed in fp32 and returned in the dtype of x."""
    c, s = load_angles(cos, sin, start, end, ROWS, D, HALF)
    x1 = load_tile(base, start, end, stride, ROWS, HALF, D // 2)
    x2 = load_tile(base + D // 2, start, end, stride, ROWS, HALF, D // 2)
    y1, y2 = rotate_halves(x1, x2, c, s, scale)
    return y1.to(x1.dtype), y2.to(x2.dtype)


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
def _three_parts(x, dtype: tl.constexpr):
    """x as 4096 a + b + c, each of them in `dtype`: 24 bits or more, and fp16 does not overflow below 2^28."""
    a = (x * (1 / 4096)).to(dtype)
    rest = x - a.to(tl.float32) * 4096
    b = rest.to(dtype)
    return a, b, (rest - b.to(tl.float32)).to(dtype)


@triton.jit
def columns_of(x, y, dtype: tl.constexpr):
    """Two numbers of each row, x and y (ROWS,), as 16 columns (ROWS, 16) that a product can add to all its columns.

    columns . factors gives them back, with the `column_factors` of x and of y.
    """
    n = tl.arange(0, 16)[None, :]
    x1, x2, x3 = _three_parts(x, dtype)
    y1, y2, y3 = _three_parts(y, dtype)
    columns = tl.where(n == 0, x1[:, None], tl.where(n == 1, x2[:, None], x3[:, None]))
    columns = tl.where(n < 3, columns, tl.where(n == 3, y1[:, None], tl.where(n == 4, y2[:, None], y3[:, None])))
    return tl.where(n < 6, columns, 0.0)


@triton.jit
def column_factors(pointer, length, ROWS: tl.constexpr):
    """The constant factors (ROWS, 16) of `columns_of` x and y: 4096, 1, 1 in columns 0 to 2, and in columns 3 to 5.

    They come from loads that never happen (length >= 0), in the dtype of the pointer. As plain constants they would be
    an operand in registers, and the assembler would serialise all of wgmma (its note C7515).
    """
    n = tl.broadcast_to(tl.arange(0, 16)[None, :], (ROWS, 16))
    dtype = pointer.dtype.element_ty
    of_x = tl.where(n == 0, 4096.0, tl.where(n < 3, 1.0, 0.0)).to(dtype)
    of_y = tl.where(n == 3, 4096.0, tl.where((n > 3) & (n < 6), 1.0, 0.0)).to(dtype)
    return tl.load(pointer + n, mask=n < -length, other=of_x), tl.load(pointer + n, mask=n < -length, other=of_y)


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
    o = tl.where(real[:, None], o * (1.0 / total)[:, None], 0.0)  # (ROWS, 2 * HALF)
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


def pieces_per_program(pieces: int, rows: int, most: int) -> int:
    """How many of the pieces of one row a program takes: at most `most`, fewer where so many would not fill a GPU."""
    per = triton.cdiv(pieces, triton.cdiv(pieces, most)) if pieces else 1
    while per > 1 and rows * triton.cdiv(pieces, per) < PROGRAMS:
        per = triton.cdiv(per, 2)
    return per
