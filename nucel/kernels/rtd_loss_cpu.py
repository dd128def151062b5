"""The RTD loss on a CPU: the part of size (B, T, C) by the compiled extension, in one pass over memory each way.

`csrc/pointwise.hpp` walks over rows of dense (B, T, C), from GELU to the logit, and in the backward pass from the
logit's gradient to that of dense; what is of size (B, T) is `reference`'s. Sums over rows are of 64 rows each and then
of those sums. fp16 and fp64 are computed by the reference.

Legend: B batch, T positions, C model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference, tiles
from .extension_cpu import DTYPES, address, compiled, fastest

MAX_WIDTH = 4096


def _supports(dense: Tensor) -> bool:
    return dense.dtype in DTYPES and 0 < dense.shape[-1] <= MAX_WIDTH and compiled()


def _call(
    dense: Tensor,
    projection: Tensor,
    eps: float,
    logits: Tensor | None = None,
    grad: tuple[Tensor, Tensor, Tensor] | None = None,
    kernels: str | None = None,
) -> None:
    """The kernel: writes logits without their bias, or from a gradient of logits those of dense and of the projection.

    Args:
        dense: (rows, C), contiguous.
        projection: (C,) in fp32, the norm's weight times the output layer's.
        logits: (rows,) in fp32.
        grad: of logits (rows,) in fp32, read; of dense, and partial sums of the projection's, written.
    """
    module, name = fastest(kernels)
    rows, width = dense.shape
    pointers = (address(part) for part in (dense, projection, logits, *(grad or (None,) * 3)))
    module.rtd_logits(name, dense.dtype == torch.bfloat16, rows, width, eps, *pointers, torch.get_num_threads())


@reference.without_autocast
def rtd_loss_forward(
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    original: Tensor,
    lengths: Tensor | None,
    eps: float,
    kernels: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.rtd_loss_forward`. `kernels` is one of the extension's `instruction_sets`; None is the fastest."""
    if not _supports(dense):
        return reference.rtd_loss_forward(dense, norm_weight, weight, bias, original, lengths, eps)
    logits = tiles.scratch(tuple(dense.shape[:2]), torch.float32, dense.device)
    _call(dense.flatten(0, 1).contiguous(), _projection(norm_weight, weight), eps, logits, kernels=kernels)
    logits += bias.float()
    return reference.rtd_loss_of_logits(logits, original, lengths), logits


@reference.without_autocast
def rtd_loss_backward(
    grad_loss: Tensor,
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    original: Tensor,
    logits: Tensor,
    lengths: Tensor | None,
    eps: float,
    kernels: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.rtd_loss_backward`; `kernels` as above."""
    if not _supports(dense):
        return reference.rtd_loss_backward(grad_loss, dense, norm_weight, weight, original, logits, lengths, eps)
    grad_logits = reference.grad_of_logits(grad_loss, original, logits, lengths).contiguous()
    rows = dense.flatten(0, 1).contiguous()
    grad_dense = tiles.scratch(tuple(dense.shape), dense.dtype, dense.device)
    module, name = fastest(kernels)
    parts = tiles.scratch((module.norm_tasks(name, len(rows)), dense.shape[-1]), torch.float32, dense.device)
    _call(rows, _projection(norm_weight, weight), eps, grad=(grad_logits, grad_dense, parts), kernels=kernels)
    shared = parts.sum(0)
    return (
        grad_dense,
        (weight * shared).to(norm_weight.dtype),
        (norm_weight * shared).to(weight.dtype),
        grad_logits.sum().to(weight.dtype),
    )


def _projection(norm_weight: Tensor, weight: Tensor) -> Tensor:
    return (norm_weight.float() * weight.float()).contiguous()
