"""Rotary embedding + local or global attention as one op, from the packed projection to the heads' outputs.

    S = rotate(Q) rotate(K)' / sqrt(D),  visible where |i - j| <= radius and i, j < length,  O = softmax(S) V

Legend: B batch, T positions, H heads, D head width.

The forward saves qkv, O and the rows' log-sum-exp; the backward recomputes everything else. Every device runs
`reference` unless a kernel is registered for it; the dispatcher chooses, and
``torch.ops.nucel.attention`` / ``torch.ops.nucel.attention_backward`` are the registered names. On a CPU those
are of `attention_cpu`. Where Triton is installed, the kernels of `attention_triton` are registered for CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import attention_cpu, reference
from .reference import attention_weights
from .registration import Direction, has_triton, register

__all__ = [
    "attention", "attention_backward_op", "attention_op", "attention_weights", "flops", "visible_pairs",
]  # fmt: skip

# ---- registration ----------------------------------------------------------------------------------------------------

attention_op = torch.library.custom_op(
    "nucel::attention",
    reference.attention_forward,
    mutates_args=(),
    schema="(Tensor qkv, Tensor cos, Tensor sin, int? radius, Tensor? lengths) -> (Tensor out, Tensor lse)",
)
attention_backward_op = torch.library.custom_op(
    "nucel::attention_backward",
    reference.attention_backward,
    mutates_args=(),
    schema=(
        "(Tensor grad_out, Tensor qkv, Tensor cos, Tensor sin, Tensor out, Tensor lse, int? radius, Tensor? lengths)"
        " -> Tensor"
    ),
)


@attention_op.register_fake
def _(qkv, cos, sin, radius, lengths):
    batch, positions, _, heads, width = qkv.shape
    lse = qkv.new_empty((batch, heads, positions), dtype=reference.accumulation_dtype(qkv.dtype))
    return qkv.new_empty((batch, positions, heads, width)), lse


@attention_backward_op.register_fake
def _(grad_out, qkv, cos, sin, out, lse, radius, lengths):
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx, inputs, output):
    qkv, cos, sin, ctx.radius, lengths = inputs
    out, lse = output
    ctx.save_for_backward(qkv, cos, sin, out, lse, lengths)
    ctx.mark_non_differentiable(lse)


def _backward(ctx, grad_out, _grad_lse):
    qkv, cos, sin, out, lse, lengths = ctx.saved_tensors
    grad_qkv = attention_backward_op(grad_out, qkv, cos, sin, out, lse, ctx.radius, lengths)
    return grad_qkv, None, None, None, None


attention_op.register_autograd(_backward, setup_context=_setup_context)
attention_op.register_kernel("cpu", attention_cpu.attention_forward)
attention_backward_op.register_kernel("cpu", attention_cpu.attention_backward)

if has_triton():
    from . import attention_triton

    register(
        Direction(attention_op, attention_triton.attention_forward, reference.attention_forward),
        Direction(attention_backward_op, attention_triton.attention_backward, reference.attention_backward),
        attention_triton.supports,
        f"D <= {attention_triton.MAX_WIDTH}",
    )


# ---- public function -------------------------------------------------------------------------------------------------


def attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Rotary self-attention, local (within a radius) or global.

    Args:
        qkv: (B, T, 3, H, D), the output of one Linear, any floating dtype; D even.
        cos, sin: (T, D/2), the rotary table; no gradient flows to it.
        radius: position i sees j iff |i - j| <= radius; None is global.
        lengths: (B,) integer, real positions of each row (the rest is padding on the right); None is T everywhere.

    Returns:
        (B, T, H, D) in the dtype of qkv. Padding rows, and so rows of length 0, are 0.

    Raises:
        ValueError: a shape or a radius that does not fit.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.shape[4] % 2:
        raise ValueError(f"qkv must be (B, T, 3, H, D) with an even D, got {tuple(qkv.shape)}")
    batch, positions, _, _, width = qkv.shape
    if cos.shape != (positions, width // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"cos and sin must be (T, D/2) = ({positions}, {width // 2}), got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if radius is not None and radius < 0:
        raise ValueError(f"radius must be at least 0, or None for global attention, got {radius}")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        raise ValueError(f"lengths must be integers of shape ({batch},), got {lengths.dtype} {tuple(lengths.shape)}")
    return attention_op(qkv, cos, sin, radius, lengths)[0]


# ---- work ------------------------------------------------------------------------------------------------------------


def visible_pairs(positions: int, radius: int | None = None) -> int:
    """Pairs (i, j) with |i - j| <= radius among `positions` positions: all but the two corner triangles."""
    if radius is None or radius >= positions - 1:
        return positions**2
    hidden = positions - 1 - radius
    return positions**2 - hidden * (hidden + 1)


def flops(qkv_shape: tuple[int, ...], radius: int | None = None, backward: bool = False) -> int:
    """Useful floating-point operations on qkv (B, T, 3, H, D), matrix products of visible pairs only.

    Forward two products (Q K', P V), backward five (Q K', dO V', P' dO, dS K, dS' Q), each 2 D per pair; what a kernel
    computes twice or masks away is not counted.
    """
    batch, positions, _, heads, width = qkv_shape
    products = 5 if backward else 2
    return products * 2 * width * heads * batch * visible_pairs(positions, radius)


@register_flop_formula(torch.ops.nucel.attention)
def _(qkv_shape, cos, sin, radius, lengths, out_shape=None, **_):
    return flops(qkv_shape, radius)


@register_flop_formula(torch.ops.nucel.attention_backward)
def _(grad_out_shape, qkv_shape, cos, sin, out, lse, radius, lengths, out_shape=None, **_):
    return flops(qkv_shape, radius, backward=True)
