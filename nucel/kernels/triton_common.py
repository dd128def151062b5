"""What the Triton kernels of both ops share: where a program's tile lies, and how a tile is read and written.

A tile is (ROWS, COLUMNS): ROWS positions of one row of the batch, COLUMNS a power of two. What lies beyond the row or
beyond the tensor's own WIDTH columns is masked.

Legend: B batch, T positions, H heads, P programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

kernel = triton.jit(do_not_specialize=["B", "T", "H", "P", "PER", "TOTALS", "radius"])
"""`triton.jit` for what is launched: sizes that change from batch to batch must not compile a kernel anew.

Widths, which are fixed, are compile-time constants and carry the alignment.
"""


# ---- inside a kernel -------------------------------------------------------------------------------------------------


@triton.jit
def row_length(lengths, b, T):
    """The length of row b, within [0, T] whatever was given: clamped before it is cut to 32 bits."""
    if lengths is None:
        return T
    else:
        return tl.minimum(tl.maximum(tl.load(lengths + b).to(tl.int64), 0), T).to(tl.int32)


@triton.jit
def locate_tile(tile, lengths, T, BLOCK):
    """Row of the batch, first position and the row's length, for tile number `tile` of cdiv(T, BLOCK) tiles per row."""
    tiles_per_row = tl.cdiv(T, BLOCK)
    b = tile // tiles_per_row
    start = (tile % tiles_per_row) * BLOCK
    return b.to(tl.int64), start, row_length(lengths, b, T)


@triton.jit
def is_in_row(positions, end):
    """0 <= positions < end, as one comparison: a negative number is a large unsigned one."""
    return positions.to(tl.uint32) < tl.cast(end, tl.uint32)


@triton.jit
def tile_pointers(base, start, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Pointers (ROWS, COLUMNS) from position `start` on. 64 bits take the step to the tile, 32 bits suffice inside."""
    first = base + tl.cast(start, tl.int64) * stride
    return first + (tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def tile_mask(
    start, end,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, NEGATIVE: tl.constexpr,
):  # fmt: skip
    """True for positions in [0, end) and the first WIDTH columns: (ROWS, COLUMNS), or (ROWS, 1) where all are real.

    NEGATIVE says whether positions can lie before 0. Where they cannot, the comparison is a signed one: which of the
    two it is decides what the compiler makes of a kernel's registers (benchmarks/kernels_aot.md).
    """
    positions = start + tl.arange(0, ROWS)
    mask = (is_in_row(positions, end) if NEGATIVE else positions < end)[:, None]
    if WIDTH < COLUMNS:
        mask = mask & (tl.arange(0, COLUMNS) < WIDTH)[None, :]
    return mask


@triton.jit
def load_tile(
    base,
    start, end, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, NEGATIVE: tl.constexpr = True,
):  # fmt: skip
    """(ROWS, COLUMNS) from position `start` on; 0 outside of [0, end) and beyond WIDTH columns.

    An `end` of None says that all ROWS positions are real, which saves their comparisons.
    """
    pointers = tile_pointers(base, start, stride, ROWS, COLUMNS)
    if end is not None:
        return tl.load(pointers, mask=tile_mask(start, end, ROWS, COLUMNS, WIDTH, NEGATIVE), other=0.0)
    elif WIDTH < COLUMNS:
        return tl.load(pointers, mask=(tl.arange(0, COLUMNS) < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_tile(
    base, value,
    start, end, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, NEGATIVE: tl.constexpr = True,
):  # fmt: skip
    """Store value (ROWS, COLUMNS) from position `start` on, in [0, end) and the first WIDTH columns."""
    mask = tile_mask(start, end, ROWS, COLUMNS, WIDTH, NEGATIVE)
    tl.store(tile_pointers(base, start, stride, ROWS, COLUMNS), value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def dot(a, b, acc=None):
    """acc + a b, accumulated in fp32; fp32 operands are multiplied as they are, never rounded to TF32."""
    return tl.dot(a, b, acc, input_precision="ieee")


# ---- around a launch -------------------------------------------------------------------------------------------------


def is_supported(x: Tensor, max_width: int) -> bool:
    """Whether x (..., width) is fp32, fp16 or bf16 and at most max_width wide."""
    return x.shape[-1] <= max_width and x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors as the kernels take them: contiguous, and beginning at a multiple of 16 bytes. In training, no copy.

    A contiguous view may begin anywhere. Triton would compile every kernel anew for it, with narrower loads.
    """
    return tuple(None if x is None else _aligned(x.contiguous()) for x in tensors)


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % 16 == 0 else x.clone()
