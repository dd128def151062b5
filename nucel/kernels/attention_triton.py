"""`attention` by Triton kernels: which of them run, and where their results are allocated.

    S = rotate(Q) rotate(K)' / sqrt(D),  P = softmax(S) over |i - j| <= radius and i, j < length,  O = P V

    delta_i = dO_i . O_i,  dS = P * (dO V' - delta),  dV = P' dO,  dQ = dS K,  dK = dS' Q, both rotated back

Legend: B batch, T positions, H heads, D head width.

The radius chooses the kernels: those of `attention_triton_local`, or, for global attention and for a forward that is
too wide for a band, those of `attention_triton_global`.

What is saved: nothing but qkv, O and the rows' log-sum-exp. Rotations, P and delta are recomputed.

Softmax is in base 2, with log2(e) / sqrt(D) folded into Q and K, its root into each; all accumulation is in fp32.
Every output element is written by one program, in a fixed order and without atomics, so two runs give the same bits.
Limits: D even and at most `MAX_WIDTH` (other widths than powers of two, and halves under the 16 columns of a matrix
instruction, are padded with zeros in registers); fp32, fp16 or bf16. `supports` says whether a tensor is within them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import attention_triton_global, attention_triton_local, tiles
from .triton_common import contiguous, is_supported

MAX_WIDTH = 128


def supports(qkv: Tensor) -> bool:
    """Whether the kernels take this head width and dtype."""
    return is_supported(qkv, MAX_WIDTH)


def attention_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`reference.attention_forward` by the kernels: out (B, T, H, D) and lse (B, H, T) in fp32."""
    qkv, cos, sin, lengths = contiguous(qkv, cos, sin, lengths)
    batch, positions, _, heads, width = qkv.shape
    out = tiles.scratch((batch, positions, heads, width), qkv.dtype, qkv.device)
    lse = tiles.scratch((batch, heads, positions), torch.float32, qkv.device)
    radius = _effective_radius(radius, positions)
    with torch.cuda.device_of(qkv):
        if radius is not None and attention_triton_local.takes_band(qkv, radius):
            attention_triton_local.launch_forward(qkv, cos, sin, radius, lengths, out, lse)
        else:
            attention_triton_global.launch_forward(qkv, cos, sin, radius, lengths, out, lse)
    return out, lse


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
    """`reference.attention_backward` by the kernels: the gradient of qkv."""
    grad_out, qkv, cos, sin, out, lse, lengths = contiguous(grad_out, qkv, cos, sin, out, lse, lengths)
    grad_qkv = tiles.scratch(qkv.shape, qkv.dtype, qkv.device)
    radius = _effective_radius(radius, qkv.shape[1])
    with torch.cuda.device_of(qkv):
        if radius is not None:
            attention_triton_local.launch_backward(grad_out, qkv, cos, sin, out, lse, radius, lengths, grad_qkv)
        else:
            attention_triton_global.launch_backward(grad_out, qkv, cos, sin, out, lse, lengths, grad_qkv)
    return grad_qkv


def _effective_radius(radius: int | None, positions: int) -> int | None:
    """None where a radius reaches all positions: that is global attention, to the bit."""
    return None if radius is None or radius >= positions - 1 else radius
