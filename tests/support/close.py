"""The tolerance of every kernel: at most twice PyTorch's own error in the same dtype, and one rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def largest_error(result: Tensor, truth: Tensor) -> float:
    """The largest absolute difference to the truth, which is fp64."""
    return (result.double() - truth).abs().amax().item()


def assert_as_good_as_pytorch(
    ours: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    pytorch_errors: Mapping[str, float],
    dtype: torch.dtype,
    floor: float = 1.0,
) -> None:
    """err(ours, truth) <= 2 err(PyTorch in the same dtype, truth) + eps(dtype), for each named tensor.

    Args:
        pytorch_errors: `largest_error` of what PyTorch computes, by the names of truth.
        floor: eps is relative to the largest element of the truth, or to this where it is larger.
    """
    assert ours.keys() == truth.keys()
    for name, expected in truth.items():
        error, allowed = largest_error(ours[name], expected), pytorch_errors[name]
        rounding = torch.finfo(dtype).eps * max(expected.abs().amax().item(), floor)
        assert error <= 2 * allowed + rounding, (
            f"{name}: error {error:.2e}, PyTorch's {allowed:.2e}, rounding {rounding:.1e}"
        )
