"""How an op's Triton kernels are registered for CUDA, with the reference behind them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.library import CustomOpDef


def register(
    op: CustomOpDef,
    position: int,
    kernels: Callable[..., Any],
    reference: Callable[..., Any],
    supports: Callable[[Tensor], bool],
    limits: str,
) -> None:
    """Run `kernels` for CUDA tensors that they support, else `reference`, with a warning.

    Args:
        op: the op, a forward or a backward.
        position: which of the op's arguments `supports` is asked about.
        kernels, reference: functions of the op's arguments.
        limits: what `supports` accepts, for the warning.
    """

    @op.register_kernel("cuda")
    def _(*arguments):
        x = arguments[position]
        if supports(x):
            return kernels(*arguments)
        _warn(op, x, limits)
        return reference(*arguments)


def _warn(op: CustomOpDef, x: Tensor, limits: str) -> None:
    warnings.warn(
        f"{op._qualname} runs the slow PyTorch reference: the fused kernels take {limits}, "
        f"not {x.dtype} and width {x.shape[-1]}",
        stacklevel=2,
    )
