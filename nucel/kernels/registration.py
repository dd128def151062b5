"""How an op's Triton kernels are registered for CUDA, with the reference behind them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.library import CustomOpDef

OLDEST_TRITON = (3, 6)
"""What the kernels were tested with; builds of torch for CUDA bring a Triton of their own."""


@functools.cache
def has_triton() -> bool:
    """Whether there is a Triton that the kernels compile with; warns of an older one.

    Without it CUDA tensors are computed by the reference. A CPU needs none.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    version = importlib.metadata.version("triton")
    if tuple(map(int, version.split(".")[:2])) >= OLDEST_TRITON:
        return True
    warnings.warn(
        f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}: CUDA tensors are computed by the slow "
        f"PyTorch reference; a newer torch brings a newer Triton",
        stacklevel=2,
    )
    return False


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
