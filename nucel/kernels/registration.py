"""How an op's Triton kernels are registered for CUDA, with the reference behind them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.library import CustomOpDef


class Direction(NamedTuple):
    """The forward or the backward of an op, and two functions of its arguments that compute it."""

    op: CustomOpDef
    kernels: Callable[..., Any]
    reference: Callable[..., Any]


def register(forward: Direction, backward: Direction, supports: Callable[[Tensor], bool], limits: str) -> None:
    """Run the kernels for CUDA tensors that they support, else the reference, with a warning.

    Args:
        supports: asked about the first argument of the forward, which is the backward's second, after the gradient.
        limits: the widths that `supports` accepts, for the warning.
    """
    _register(forward, 0, supports, limits)
    _register(backward, 1, supports, limits)


def _register(direction: Direction, position: int, supports: Callable[[Tensor], bool], limits: str) -> None:
    op, kernels, reference = direction

    @op.register_kernel("cuda")
    def _(*arguments):
        x = arguments[position]
        if supports(x):
            return kernels(*arguments)
        warnings.warn(
            f"{op._qualname} runs the slow PyTorch reference: the fused kernels take fp32, fp16 and bf16 and {limits}, "
            f"not {x.dtype} and a width of {x.shape[-1]}",
            stacklevel=2,
        )
        return reference(*arguments)
