"""y = x W': torch's linear layer, and on a CPU in fp32 the same product by oneDNN.

torch's own fp32 products on a CPU go to MKL, which takes a slow path on AMD's processors. oneDNN, which torch brings
too and uses for bf16, is 1.5 to 2.5 times as fast there (benchmarks/NOTES.md). Everywhere else this is `F.linear`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.library.custom_op("nucel::product", mutates_args=(), device_types="cpu")
def product(a: Tensor, b: Tensor) -> Tensor:
    """a (..., K) times the transpose of b (N, K): (..., N) in fp32, on a CPU by oneDNN; any strides."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


@product.register_fake
def _(a, b):
    return a.new_empty((*a.shape[:-1], b.shape[0]))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    a, b = ctx.saved_tensors
    wants_a, wants_b = ctx.needs_input_grad
    grad_a = product(grad, b.t()) if wants_a else None
    grad_b = product(grad.flatten(0, -2).t(), a.flatten(0, -2).t()) if wants_b else None
    return grad_a, grad_b


product.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.nucel.product)
def _(a_shape, b_shape, out_shape=None, **_):
    return 2 * math.prod(a_shape) * b_shape[0]


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., C) times the transpose of weight (N, C): (..., N), in the dtype that `F.linear` gives."""
    by_onednn = (
        HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim >= 2
        and not torch.is_autocast_enabled("cpu")
    )
    return product(x, weight) if by_onednn else F.linear(x, weight)
