"""Every op in plain PyTorch, forward and explicit backward, on any device and in any dtype.

Legend: B batch, T positions, H heads, D head width, C model width.

These functions are what the registered ops run where no kernel is registered for a device, and what kernels are tested
against. They accumulate in fp32 (fp64 for fp64 input) and are deterministic. Nothing of size T * T is allocated but by
`attention_weights`, whose result has it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_QUERY_BLOCK = 64
"""Queries handled together. A local block reads 64 + 2 * radius keys, of which a third are wasted at radius 64."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 stays fp64; every other floating dtype accumulates in fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(op: Callable) -> Callable:
    """Run an op's body in the dtypes it names: autocast would otherwise round its products."""

    @functools.wraps(op)
    def body(first: Tensor, *rest):
        with torch.autocast(first.device.type, enabled=False):
            return op(first, *rest)

    return body


# ---- attention -------------------------------------------------------------------------------------------------------


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, rotate-half form (RoFormer, eq. 34, with the pairs (d, d + D/2) of GPT-NeoX).

    Args:
        x: (B, T, H, D).
        cos, sin: (T, D/2). Passing ``-sin`` rotates back, which is also the gradient.
    """
    cos, sin = cos[:, None, :], sin[:, None, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _heads_first(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated q and k, and v, each (B, H, T, D) and contiguous in the accumulation dtype; q carries the scale."""
    dtype = accumulation_dtype(qkv.dtype)
    q, k, v = (x.to(dtype) for x in qkv.unbind(2))
    cos, sin = cos.to(dtype), sin.to(dtype)
    q = rotate(q, cos, sin) * qkv.shape[-1] ** -0.5
    k = rotate(k, cos, sin)
    return tuple(x.transpose(1, 2).contiguous() for x in (q, k, v))


def _blocks(length: int, radius: int | None) -> Iterator[tuple[slice, slice]]:
    """Blocks of query rows with the key rows they can see: O(T * radius) work if local, O(T) memory always."""
    for start in range(0, length, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, length)
        if radius is None:
            yield slice(start, stop), slice(0, length)
        else:
            yield slice(start, stop), slice(max(0, start - radius), min(length, stop + radius))


def _hidden(
    rows: slice, keys: slice, radius: int | None, lengths: Tensor | None, device: torch.device
) -> Tensor | None:
    """True where a query must not see a key, broadcastable to (B, H, rows, keys); None where all is visible."""
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(keys.start, keys.stop, device=device)
    hidden = None if radius is None else (i - j).abs() > radius
    if lengths is not None:
        padding = torch.maximum(i, j) >= lengths[:, None, None, None]
        hidden = padding if hidden is None else hidden | padding
    return hidden


@without_autocast
def attention_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Local attention within a radius, or global attention.

    With q, k rotated, ``p_ij = exp(q_i . k_j / sqrt(D) - lse_i)`` over the visible j and ``out_i = sum_j p_ij v_j``.

    Returns:
        out (B, T, H, D) in the dtype of qkv, and lse (B, H, T), the natural log-sum-exp, in the accumulation dtype.
        A row that sees nothing gives 0 in both.
    """
    q, k, v = _heads_first(qkv, cos, sin)
    batch, positions, _, heads, width = qkv.shape
    out, lse = qkv.new_empty((batch, positions, heads, width)), q.new_empty((batch, heads, positions))
    for rows, keys in _blocks(positions, radius):
        scores = q[:, :, rows] @ k[:, :, keys].mT
        if (hidden := _hidden(rows, keys, radius, lengths, qkv.device)) is not None:
            scores.masked_fill_(hidden, -math.inf)
        # A finite pivot, so that a row that sees nothing gets exp(-inf - pivot) = 0 and not NaN.
        pivot = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        p = scores.sub_(pivot).exp_()
        total = p.sum(-1, keepdim=True)
        seen = total > 0
        out[:, rows] = (p @ v[:, :, keys]).div_(total.where(seen, 1)).transpose(1, 2)
        lse[:, :, rows] = (pivot + total.log()).where(seen, 0).squeeze(-1)
    return out, lse


@without_autocast
def attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    lse: Tensor,
    radius: int | None,
    lengths: Tensor | None,
) -> Tensor:
    """Gradient of `attention_forward` with respect to qkv (FlashAttention-2, algorithm 2; P is recomputed from lse).

    With ``delta_i = dO_i . O_i``: ``dV = P' dO``, ``dS = P * (dO V' - delta)``, ``dQ = dS K``, ``dK = dS' Q``; q and k
    are then rotated back.
    """
    q, k, v = _heads_first(qkv, cos, sin)
    grad_out_h = grad_out.transpose(1, 2).to(q.dtype)
    delta = (grad_out_h * out.transpose(1, 2)).sum(-1)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows, keys in _blocks(qkv.shape[1], radius):
        scores = q[:, :, rows] @ k[:, :, keys].mT
        if (hidden := _hidden(rows, keys, radius, lengths, qkv.device)) is not None:
            scores.masked_fill_(hidden, -math.inf)
        p = scores.sub_(lse[:, :, rows, None]).exp_()
        grad_rows = grad_out_h[:, :, rows]
        grad_v[:, :, keys] += p.mT @ grad_rows
        grad_scores = (grad_rows @ v[:, :, keys].mT).sub_(delta[:, :, rows, None]).mul_(p)
        grad_q[:, :, rows] = grad_scores @ k[:, :, keys]
        grad_k[:, :, keys] += grad_scores.mT @ q[:, :, rows]
    grad_q *= qkv.shape[-1] ** -0.5

    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    grad_q, grad_k, grad_v = (x.transpose(1, 2) for x in (grad_q, grad_k, grad_v))
    return torch.stack((rotate(grad_q, cos, -sin), rotate(grad_k, cos, -sin), grad_v), dim=2).to(qkv.dtype)


@without_autocast
def attention_weights(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None = None, lengths: Tensor | None = None
) -> Tensor:
    """The weights p_ij that `attention_forward` averages values with, (B, H, T, T) in the accumulation dtype.

    Arguments are those of `kernels.attention.attention`. Each row sums to 1; what a row does not see is 0, and a row
    that sees nothing is 0. The result takes 4 * B * H * T^2 bytes (fp32), and computing it twice as much.
    """
    q, k, _ = _heads_first(qkv, cos, sin)
    positions = slice(0, qkv.shape[1])
    scores = q @ k.mT
    hidden = _hidden(positions, positions, radius, lengths, qkv.device)
    if hidden is None:
        return scores.softmax(-1)
    # Filled again: the softmax of a row that sees nothing is NaN.
    return scores.masked_fill_(hidden, -math.inf).softmax(-1).masked_fill_(hidden, 0)


# ---- replaced-token detection ----------------------------------------------------------------------------------------


def _real(logits: Tensor, lengths: Tensor | None) -> Tensor:
    """bool (B, T): positions before each row's length."""
    if lengths is None:
        return logits.new_ones(logits.shape, dtype=torch.bool)
    return torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]


def _normalized_gelu(dense: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x_hat (B, T, C), the normalized gelu(dense) before the norm's weight, and rstd (B, T, 1)."""
    h = F.gelu(dense.to(accumulation_dtype(dense.dtype)))
    x_hat, _, rstd = torch.native_layer_norm(h, h.shape[-1:], None, None, eps)
    return x_hat, rstd


def rtd_loss_of_logits(logits: Tensor, original: Tensor, lengths: Tensor | None) -> Tensor:
    """The loss () of logits (B, T); 0 without a real position."""
    per_position = F.softplus(logits) - logits * original
    real = _real(logits, lengths)
    return per_position.masked_fill(~real, 0).sum() / real.sum().clamp(min=1)


def grad_of_logits(grad_loss: Tensor, original: Tensor, logits: Tensor, lengths: Tensor | None) -> Tensor:
    """Gradient of that loss with respect to logits, (B, T); 0 at padding."""
    real = _real(logits, lengths)
    grad = (logits.sigmoid() - original.to(logits.dtype)) * (grad_loss / real.sum().clamp(min=1))
    return grad.masked_fill(~real, 0)


@without_autocast
def rtd_loss_forward(
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    original: Tensor,
    lengths: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Tail of the discriminator's head and its loss.

    ``z = LayerNorm(gelu(dense)) . weight + bias`` and the mean over real positions of ``softplus(z) - original * z``.

    Returns:
        loss () and logits z (B, T), both in the accumulation dtype. Without a real position the loss is 0.
    """
    x_hat, _ = _normalized_gelu(dense, eps)
    logits = x_hat @ (norm_weight * weight).to(x_hat.dtype) + bias.to(x_hat.dtype)
    return rtd_loss_of_logits(logits, original, lengths), logits


@without_autocast
def rtd_loss_backward(
    grad_loss: Tensor,
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    original: Tensor,
    logits: Tensor,
    lengths: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the loss with respect to dense, norm_weight, weight and bias.

    With ``g = (sigmoid(z) - original) / real positions`` and ``a = norm_weight * weight`` the projection and the norm
    share one reduction ``s = sum g * x_hat``: ``d_weight = norm_weight * s``, ``d_norm_weight = weight * s``; and
    ``d_gelu = g * rstd * (a - mean(a) - x_hat * mean(a * x_hat))``.
    """
    x_hat, rstd = _normalized_gelu(dense, eps)
    norm_weight_, weight_ = norm_weight.to(x_hat.dtype), weight.to(x_hat.dtype)

    grad_logits = grad_of_logits(grad_loss, original, logits, lengths)[..., None]
    shared = (grad_logits * x_hat).sum((0, 1))

    a = norm_weight_ * weight_
    grad_gelu = grad_logits * rstd * (a - a.mean() - x_hat * (x_hat * a).mean(-1, keepdim=True))
    grad_dense = torch.ops.aten.gelu_backward(grad_gelu, dense.to(x_hat.dtype)).contiguous()
    return (
        grad_dense.to(dense.dtype),
        (weight_ * shared).to(norm_weight.dtype),
        (norm_weight_ * shared).to(weight.dtype),
        grad_logits.sum().to(weight.dtype),
    )
