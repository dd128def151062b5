"""Tiles, warps and pipeline stages of every kernel, and where kernels' outputs are allocated.

Tiles are fixed by a table and not searched for at run time: the first step starts at once, and no result depends on
which candidate was fastest in that run. The table is calculated, not yet measured; ``benchmarks/gpu/tune_tiles.py``
measures and prints one. The reasons for its values:

- what each unit of the GPU must do at least, as ``benchmarks/gpu/static_count.py`` counts it;
- no register spills to memory, but where that count says that it pays (tests/kernels/test_compile.py names them);
- a matrix instruction takes 16 rows of a warp (sm_80) or 64 of four (sm_90), so a block has 16 or more per warp;
- a block of 128 halves what the global kernels read of K and V through the L2 cache: at width 32 and T = 1024 the reads
  with 64 would take longer than the exponentials;
- two programs or more to a multiprocessor where registers allow it: one computes exponentials, another multiplies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """How one kernel's work is divided among programs, and how it is launched."""

    block: int
    """Positions that a program owns."""
    step: int
    """Positions that it processes at a time; 0 where a kernel has no loop."""
    warps: int
    stages: int
    registers: int | None = None
    """The most that a thread may have, where a few fewer than the compiler takes let another program in."""

    def options(self) -> dict[str, Any]:
        """Launch options. Fused multiply-adds are requested explicitly: Triton's default may change."""
        most = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True} | most


WIDTHS = (32, 64, 128)
"""The table's columns: a head of width D takes the first column with width >= D."""

TILES: dict[tuple[str, str], tuple[Tile, Tile, Tile]] = {
    # op, architecture (16-bit dtypes) or "fp32"     D <= 32              D <= 64              D <= 128
    ("rotate", "sm_80"): (Tile(64, 0, 4, 1), Tile(64, 0, 4, 1), Tile(32, 0, 4, 1)),
    ("rotate", "sm_90"): (Tile(64, 0, 4, 1), Tile(64, 0, 4, 1), Tile(32, 0, 4, 1)),
    ("rotate", "fp32"): (Tile(32, 0, 4, 1), Tile(32, 0, 4, 1), Tile(32, 0, 4, 1)),
    ("band_forward", "sm_80"): (Tile(64, 0, 4, 1), Tile(64, 0, 4, 1), Tile(32, 0, 4, 1)),
    ("band_forward", "sm_90"): (Tile(64, 0, 4, 1), Tile(64, 0, 4, 1), Tile(32, 0, 4, 1)),
    ("local_backward", "sm_80"): (Tile(64, 16, 4, 1), Tile(64, 16, 4, 1), Tile(32, 32, 4, 1)),
    ("local_backward", "sm_90"): (Tile(64, 32, 4, 1), Tile(64, 32, 4, 1), Tile(32, 32, 4, 1)),
    ("local_backward", "fp32"): (Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(16, 16, 8, 2)),
    ("walk_backward", "sm_80"): (Tile(64, 0, 4, 1),) * 3,
    ("walk_backward", "sm_90"): (Tile(64, 0, 4, 1),) * 3,
    ("loop_forward", "sm_80"): (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
    ("loop_forward", "sm_90"): (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 3)),
    ("loop_forward", "fp32"): (Tile(32, 32, 8, 2), Tile(32, 32, 8, 2), Tile(32, 16, 8, 2)),
    ("global_backward_queries", "sm_80"): (Tile(128, 32, 4, 2), Tile(128, 64, 8, 2), Tile(64, 32, 4, 2)),
    ("global_backward_queries", "sm_90"): (Tile(128, 64, 8, 2), Tile(128, 64, 8, 2), Tile(128, 64, 8, 2)),
    ("global_backward_queries", "fp32"): (Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2)),
    ("global_backward_keys", "sm_80"): (Tile(128, 32, 4, 2), Tile(128, 32, 8, 2), Tile(64, 32, 4, 2)),
    ("global_backward_keys", "sm_90"): (Tile(128, 64, 8, 2, 128), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
    ("global_backward_keys", "fp32"): (Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 8, 1)),
}

ELEMENTS_PER_WARP = 512
"""Kernels on whole rows of C: elements that a warp holds at a time.

A row of up to 512 is then summed by one warp, without a barrier and with few shuffles for each element, and 16 elements
per thread leave registers for 16 warps on a multiprocessor.
"""

STEPS_PER_PROGRAM = 64
"""How often a program of these kernels takes the rows that its warps hold at a time.

It leaves one row of partial sums, in fp32, for all of them: with one row at a time 3 % of what it reads in bf16.
"""

POSITIONS = Tile(1024, 0, 4, 1)
"""Kernels on one number per position of the RTD loss."""

PARTIAL_SUMS = Tile(16, 256, 8, 3)
"""Kernels that add up partial sums: columns that a program owns, and partial sums that it adds at a time."""


def architecture(device: torch.device) -> str:
    """The table's row for a device: sm_90 for Hopper and the data-centre Blackwell, sm_80 for every other GPU.

    The rows of sm_80 keep within 99 KiB of shared memory, which the other GPUs have. Without a GPU, under Triton's
    interpreter, it is sm_90.
    """
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return "sm_90" if major in (9, 10) else "sm_80"


def choose(op: str, x: Tensor) -> Tile:
    """The tile of one kernel for x (..., D)."""
    kind = "fp32" if x.dtype == torch.float32 else architecture(x.device)
    column = next(i for i, width in enumerate(WIDTHS) if x.shape[-1] <= width)
    return TILES[op, kind][column]


def choose_rows(x: Tensor) -> Tile:
    """The tile, in rows, of a kernel on whole rows of x (..., C); C is padded to a power of two."""
    columns = 1 << (x.shape[-1] - 1).bit_length()
    step = max(1, ELEMENTS_PER_WARP // columns)
    return Tile(STEPS_PER_PROGRAM * step, step, max(1, columns // ELEMENTS_PER_WARP), 3)


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory that a kernel fills completely; tests put NaN in it first."""
    return torch.empty(shape, dtype=dtype, device=device)
