"""Tiles, warps and pipeline stages of every kernel, and where kernels' outputs are allocated.

Fixed by a table and not searched for at run time: a first step takes no minutes, and a result cannot depend on which
candidate won that day.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Tile(NamedTuple):
    """How one kernel is cut up and launched."""

    block: int
    """Positions that a program owns."""
    step: int
    """Positions that it walks over at a time, in kernels that loop."""
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """Launch options. Multiply-adds are fused by our choice, not by a default that Triton's releases change."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory that a kernel fills completely; tests put NaN in it first."""
    return torch.empty(shape, dtype=dtype, device=device)


def choose(op, x):
    return Tile(32 if x.dtype == torch.float32 else 64, 32 if x.dtype == torch.float32 else 64, 4, 2)
