"""Tail of the discriminator's head + binary cross-entropy as one op: replaced-token detection (ELECTRA, L_Disc).

    z = LayerNorm(gelu(dense)) . weight + bias,  loss = mean over real positions of softplus(z) - original * z

Legend: B batch, T positions, C model width.

The forward saves its input and the logits; the backward recomputes GELU and the norm's statistics, so that nothing of
size (B, T, C) is kept beyond the input. Every device runs `reference` unless a kernel is registered for it; the
dispatcher chooses, and ``torch.ops.nucel.rtd_loss`` / ``torch.ops.nucel.rtd_loss_backward`` are the registered names.
On a CPU those are of `rtd_loss_cpu`. Where Triton is installed, the kernels of `rtd_loss_triton` are registered for
CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference, rtd_loss_cpu
from .registration import Direction, has_triton, register

# ---- registration ----------------------------------------------------------------------------------------------------

rtd_loss_op = torch.library.custom_op(
    "nucel::rtd_loss",
    reference.rtd_loss_forward,
    mutates_args=(),
    schema=(
        "(Tensor dense, Tensor norm_weight, Tensor weight, Tensor bias, Tensor original, Tensor? lengths, float eps)"
        " -> (Tensor loss, Tensor logits)"
    ),
)
rtd_loss_backward_op = torch.library.custom_op(
    "nucel::rtd_loss_backward",
    reference.rtd_loss_backward,
    mutates_args=(),
    schema=(
        "(Tensor grad_loss, Tensor dense, Tensor norm_weight, Tensor weight, Tensor original, Tensor logits,"
        " Tensor? lengths, float eps)"
        " -> (Tensor grad_dense, Tensor grad_norm_weight, Tensor grad_weight, Tensor grad_bias)"
    ),
)


@rtd_loss_op.register_fake
def _(dense, norm_weight, weight, bias, original, lengths, eps):
    dtype = reference.accumulation_dtype(dense.dtype)
    return dense.new_empty((), dtype=dtype), dense.new_empty(dense.shape[:2], dtype=dtype)


@rtd_loss_backward_op.register_fake
def _(grad_loss, dense, norm_weight, weight, original, logits, lengths, eps):
    return (
        dense.new_empty(dense.shape),
        norm_weight.new_empty(norm_weight.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(()),
    )


def _setup_context(ctx, inputs, output):
    dense, norm_weight, weight, _bias, original, lengths, ctx.eps = inputs
    _loss, logits = output
    ctx.save_for_backward(dense, norm_weight, weight, original, logits, lengths)
    ctx.mark_non_differentiable(logits)


def _backward(ctx, grad_loss, _grad_logits):
    dense, norm_weight, weight, original, logits, lengths = ctx.saved_tensors
    grads = rtd_loss_backward_op(grad_loss, dense, norm_weight, weight, original, logits, lengths, ctx.eps)
    return *grads, None, None, None


rtd_loss_op.register_autograd(_backward, setup_context=_setup_context)
rtd_loss_op.register_kernel("cpu", rtd_loss_cpu.rtd_loss_forward)
rtd_loss_backward_op.register_kernel("cpu", rtd_loss_cpu.rtd_loss_backward)

if has_triton():
    from . import rtd_loss_triton

    register(
        Direction(rtd_loss_op, rtd_loss_triton.rtd_loss_forward, reference.rtd_loss_forward),
        Direction(rtd_loss_backward_op, rtd_loss_triton.rtd_loss_backward, reference.rtd_loss_backward),
        rtd_loss_triton.supports,
        f"C <= {rtd_loss_triton.MAX_WIDTH}",
    )


# ---- public function -------------------------------------------------------------------------------------------------


def rtd_loss(
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    original: Tensor,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy of "this base is the original", from the output of the head's dense layer.

    Args:
        dense: (B, T, C), any floating dtype.
        norm_weight, weight: (C,), the LayerNorm's weight and the projection to one logit.
        bias: (), the projection's bias.
        original: bool (B, T), the label: True where the token is the original (NucEL's sign, not ELECTRA's).
        lengths: (B,) integer, real positions of each row; None is T everywhere.
        eps: the LayerNorm's.

    Returns:
        loss () and logits (B, T) in fp32 (fp64 for fp64 input). The logits are for metrics: no gradient flows through
        them. Without a real position the loss is 0 and so is every gradient.

    Raises:
        ValueError: a shape or a label dtype that does not fit.
    """
    if dense.ndim != 3:
        raise ValueError(f"dense must be (B, T, C), got {tuple(dense.shape)}")
    batch, positions, width = dense.shape
    if norm_weight.shape != (width,) or weight.shape != (width,) or bias.shape != ():
        raise ValueError(
            f"norm_weight and weight must be ({width},) and bias (), "
            f"got {tuple(norm_weight.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if original.shape != (batch, positions) or original.dtype != torch.bool:
        raise ValueError(f"original must be bool ({batch}, {positions}), got {original.dtype} {tuple(original.shape)}")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        raise ValueError(f"lengths must be integers of shape ({batch},), got {lengths.dtype} {tuple(lengths.shape)}")
    return rtd_loss_op(dense, norm_weight, weight, bias, original, lengths, eps)
