"""GeGLU, and LayerNorm in bf16: on a CPU in one pass over memory by the compiled extension, elsewhere torch's own.

    geglu(x) = gelu(a) * gate,  x = (a, gate)          norm(x) = (x - mean) / sqrt(variance + eps) * weight

torch writes gelu(a) and reads it again, and writes a norm in fp32 that autocast then copies to bf16. The extension
(`csrc/pointwise.hpp`) computes in fp32 and rounds once. For the backward pass it keeps x alone, and two numbers of each
row for a norm. Sums over rows are of 64 rows each and then of those sums, so results do not depend on the threads. In
fp32 torch's own norm is as fast.

While torch.compile traces, these are plain PyTorch, so that the compiler can fuse them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import tiles
from .extension_cpu import DTYPES, address, compiled, fastest
from .reference import without_autocast


def _by_kernels(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES and not torch.compiler.is_compiling() and compiled()


# ---- GeGLU -----------------------------------------------------------------------------------------------------------


def _geglu(x: Tensor, grad: Tensor | None, kernels: str | None = None) -> Tensor:
    """GeGLU (..., I) of x (..., 2 I), or its gradient (..., 2 I); x must be contiguous, grad need not."""
    width = x.shape[-1] // 2
    out = tiles.scratch(x.shape if grad is not None else (*x.shape[:-1], width), x.dtype, x.device)
    module, name = fastest(kernels)
    grad = None if grad is None else grad.to(x.dtype).contiguous()
    rows = x.numel() // (2 * width) if width else 0
    module.geglu(
        name, x.dtype == torch.bfloat16, rows, width, address(x), address(out), address(grad), torch.get_num_threads()
    )
    return out


@torch.library.custom_op("nucel::geglu", mutates_args=(), device_types="cpu")
@without_autocast
def geglu_op(x: Tensor) -> Tensor:
    """GeGLU (..., I) of x (..., 2 I), fp32 or bf16."""
    return _geglu(x.contiguous(), None)


@torch.library.custom_op("nucel::geglu_backward", mutates_args=(), device_types="cpu")
@without_autocast
def geglu_backward_op(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient with respect to x (..., 2 I) from that of the result (..., I)."""
    return _geglu(x.contiguous(), grad)


@geglu_op.register_fake
def _(x):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@geglu_backward_op.register_fake
def _(grad, x):
    return x.new_empty(x.shape)


geglu_op.register_autograd(
    lambda ctx, grad: geglu_backward_op(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def geglu(x: Tensor) -> Tensor:
    """gelu(a) * gate (..., I) of x = (a, gate) (..., 2 I), with the exact GELU (Shazeer 2020, GEGLU)."""
    if _by_kernels(x):
        return geglu_op(x)
    a, gate = x.chunk(2, dim=-1)
    return F.gelu(a) * gate


# ---- LayerNorm -------------------------------------------------------------------------------------------------------


def _norm(x: Tensor, weight: Tensor, eps: float, kernels: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of x (..., C), and the rows' mean and rstd (rows,); tensors are contiguous."""
    width = x.shape[-1]
    rows = x.numel() // width if width else 0
    out = tiles.scratch(tuple(x.shape), torch.bfloat16, x.device)
    mean, rstd = (tiles.scratch((rows,), torch.float32, x.device) for _ in range(2))
    module, name = fastest(kernels)
    pointers = (address(part) for part in (x, weight, mean, rstd, out, None, None, None))
    module.norm(name, rows, width, eps, *pointers, torch.get_num_threads())
    return out, mean, rstd


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, kernels: str | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x and weight; tensors are contiguous."""
    width, rows = x.shape[-1], mean.numel()
    module, name = fastest(kernels)
    grad_x = tiles.scratch(tuple(x.shape), torch.float32, x.device)
    parts = tiles.scratch((module.norm_tasks(name, rows), width), torch.float32, x.device)
    pointers = (address(part) for part in (x, weight, mean, rstd, None, grad, grad_x, parts))
    module.norm(name, rows, width, 0.0, *pointers, torch.get_num_threads())
    return grad_x, parts.sum(0)


@torch.library.custom_op("nucel::norm", mutates_args=(), device_types="cpu")
@without_autocast
def norm_op(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm (..., C) in bf16 of x (..., C) in fp32; and the rows' mean and rstd (rows,) in fp32."""
    return _norm(x.contiguous(), weight.contiguous(), eps)


@torch.library.custom_op("nucel::norm_backward", mutates_args=(), device_types="cpu")
@without_autocast
def norm_backward_op(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x (..., C) and weight (C,) from that of the result."""
    return _norm_backward(*(part.contiguous() for part in (grad, x, weight, mean, rstd)))


@norm_op.register_fake
def _(x, weight, eps):
    statistics = (x.new_empty((x.shape[:-1].numel(),)) for _ in range(2))
    return x.new_empty(x.shape, dtype=torch.bfloat16), *statistics


@norm_backward_op.register_fake
def _(grad, x, weight, mean, rstd):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _norm_context(ctx, inputs, output):
    x, weight, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)


def _norm_gradient(ctx, grad, _grad_mean, _grad_rstd):
    return *norm_backward_op(grad, *ctx.saved_tensors), None


norm_op.register_autograd(_norm_gradient, setup_context=_norm_context)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """LayerNorm (..., C) over the last axis of x (..., C), without a bias.

    It is in the dtype that `F.layer_norm` gives; but on a CPU under autocast to bf16, in bf16, for the product that
    follows it.
    """
    to_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if to_bf16 and x.dtype == weight.dtype == torch.float32 and _by_kernels(x):
        return norm_op(x, weight, eps)[0]
    return F.layer_norm(x, weight.shape, weight, None, eps)
