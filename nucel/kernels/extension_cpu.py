"""The kernels for CPUs in the compiled extension `_nucel`: whether they are there, and how they are called.

They run on as many threads as torch's own operations, and on the same ones where torch uses OpenMP. Tensors are passed
by their addresses, so that the extension needs nothing of torch to be compiled.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

try:
    import _nucel
except ImportError:
    _nucel = None


DTYPES = (torch.float32, torch.bfloat16)
"""What the kernels compute in."""


@functools.cache
def compiled() -> bool:
    """Whether the extension has the kernels; warns if it has not."""
    if hasattr(_nucel, "instruction_sets"):
        return True
    warnings.warn(
        "the compiled extension _nucel is missing or older than this package, so a CPU computes with the slow PyTorch "
        "reference; install the package again from these sources: pip install --force-reinstall --no-deps .",
        stacklevel=2,
    )
    return False


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """What the kernels were compiled for and run on this processor, the fastest first."""
    return tuple(_nucel.instruction_sets())


def address(x: Tensor | None) -> int:
    """Where a tensor's first element lies; 0 for None. The caller keeps the tensor while the address is used."""
    return 0 if x is None else x.data_ptr()


def fastest(kernels: str | None = None) -> tuple[Any, str]:
    """The extension, and the name of an instruction set: the given one, or that of the fastest kernels."""
    return _nucel, kernels or instruction_sets()[0]
