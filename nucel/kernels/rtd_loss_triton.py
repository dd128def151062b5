"""Triton kernels of `rtd_loss`, forward and backward, and the functions that launch them.

    h = gelu(x),  x_hat = (h - mean(h)) * rstd,  a = norm_weight * weight,  z = x_hat . a + bias
    loss = sum over real positions of softplus(z) - original * z, over their number N

    g = (sigmoid(z) - original) / N,  s = sum g * x_hat,  d_weight = norm_weight * s,  d_norm_weight = weight * s
    d_x = gelu'(x) * g * rstd * (a - mean(a) - x_hat * mean(a * x_hat)),  d_bias = sum g

Legend: B batch, T positions, C model width, P programs. x (B, T, C) is the op's ``dense``.

Each direction reads x once: a program walks over its positions, a few whole rows of C at a time, and leaves its part
of a sum (the loss; s and the sum of g) to a second, small kernel. Sums have a fixed order and there are no atomics, so
two runs give the same bits.

What is saved: nothing but x and the logits z. GELU and the norm's statistics are recomputed.

On an H200 a bf16 element is read in the time of some 14 instructions, and an erf alone takes 20. So Phi, the normal
distribution function, comes from a polynomial and an exp2 (`_gelu`), as exact in fp32, and GELU's derivative shares it.

Statistics, sums, loss and logits are in fp32. Padding gets a logit like any position, adds to no sum, and its gradient
is 0, whatever it holds.

Limits: C at most `MAX_WIDTH` (padded to a power of two in registers); x in fp32, fp16 or bf16. `supports` says whether
a tensor is within them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .triton_common import LOG2_E, contiguous, is_supported, kernel, load_tile, locate_tile, store_tile

MAX_WIDTH = 2048

LOG2_NORMAL_PEAK = tl.constexpr(-1.3257480647361593)
"""log2 of the standard normal density at 0, 1 / sqrt(2 pi)."""


# ---- helpers ---------------------------------------------------------------------------------------------------------


@triton.jit
def _load_columns(x, C: tl.constexpr, COLUMNS: tl.constexpr):
    """A vector (C,) as fp32 (COLUMNS,), 0 beyond C."""
    columns = tl.arange(0, COLUMNS)
    return tl.load(x + columns, mask=columns < C, other=0.0).to(tl.float32)


@triton.jit
def _gelu(x):
    """gelu(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|), and Phi(-|x|), from which its derivative follows.

    log2 Phi(-t) is so smooth that a polynomial of degree 8 gives Phi to 2e-8, a sixth of fp32's step at 1: least
    squares over [0, 6.5], weighted by Phi(-t) and re-weighted until no error stands out (Lawson), with -1 kept at 0.
    Beyond 6.5 the polynomial keeps falling, so the far tail is 0.
    """
    t = tl.abs(x)
    p = -2.1062817268102663e-06 * t + 3.180329076712951e-05
    p = p * t - 0.00015538913430646062
    p = p * t - 0.00019942224025726318
    p = p * t + 0.007130367215722799
    p = p * t - 0.05253291875123978
    p = p * t - 0.45919907093048096
    p = p * t - 1.1511058807373047
    tail = tl.exp2(p * t - 1.0)
    return tl.maximum(x, 0.0) - t * tail, tail


@triton.jit
def _gelu_derivative(x, tail):
    """Phi(x) + x phi(x), with `tail` = Phi(-|x|)."""
    density = tl.exp2(x * x * (-0.5 * LOG2_E) + LOG2_NORMAL_PEAK)
    return tl.where(x > 0, 1.0 - tail, tail) + x * density


@triton.jit
def _standardize(h, eps, C: tl.constexpr, COLUMNS: tl.constexpr):
    """h - mean(h) (STEP, COLUMNS), 0 beyond C, and rstd (STEP,); h is 0 beyond C.

    The variance is of what is left after the mean: h^2 - mean^2 would lose rows whose mean is large.
    """
    centered = h - tl.sum(h, 1)[:, None] / C
    if C < COLUMNS:
        centered = tl.where((tl.arange(0, COLUMNS) < C)[None, :], centered, 0.0)
    return centered, tl.rsqrt(tl.sum(centered * centered, 1) / C + eps)


@triton.jit
def _softplus(z):
    """log(1 + exp(z)) without overflow, and without losing exp(z) beside the 1 (Kahan's log1p)."""
    e = tl.exp(-tl.abs(z))
    u = 1.0 + e
    return tl.maximum(z, 0.0) + tl.where(u == 1.0, e, tl.log(u) * e / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def _sigmoid(z):
    """1 / (1 + exp(-z)) without overflow."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z > 0, 1.0, e) / (1.0 + e)


@triton.jit
def _count_real(lengths, B, T, CHUNK: tl.constexpr):
    """Real positions of the batch, at least 1, in fp32."""
    if lengths is None:
        count = B * T
    else:
        counts = tl.zeros((CHUNK,), tl.int32)
        for first in range(0, B, CHUNK):
            rows = first + tl.arange(0, CHUNK)
            length = tl.load(lengths + rows, mask=rows < B, other=0).to(tl.int64)
            counts += tl.minimum(tl.maximum(length, 0), T).to(tl.int32)
        count = tl.sum(counts, 0)
    return tl.maximum(count, 1).to(tl.float32)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@kernel
def _forward(
    dense, norm_weight, weight, bias, original, lengths,
    logits, losses,
    T, eps,
    C: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: logits of BLOCK positions of one row of the batch, and their part of `losses` (P,)."""
    b, start, length = locate_tile(tl.program_id(0), lengths, T, BLOCK)
    dense += b * T * C
    original += b * T
    logits += b * T
    a = _load_columns(norm_weight, C, COLUMNS) * _load_columns(weight, C, COLUMNS)
    offset = tl.load(bias).to(tl.float32)
    loss = tl.zeros((STEP,), tl.float32)
    for first in tl.range(start, tl.minimum(start + BLOCK, T), STEP, num_stages=STAGES):
        rows = first + tl.arange(0, STEP)
        is_original = tl.load(original + rows, mask=rows < T, other=0) != 0
        x = load_tile(dense, first, T, C, STEP, COLUMNS, C, NEGATIVE=False).to(tl.float32)  # (STEP, COLUMNS)
        h, _ = _gelu(x)
        centered, rstd = _standardize(h, eps, C, COLUMNS)
        z = tl.sum(centered * a[None, :], 1) * rstd + offset  # (STEP,)
        tl.store(logits + rows, z, mask=rows < T)
        loss += tl.where(rows < length, _softplus(tl.where(is_original, -z, z)), 0.0)
    tl.store(losses + tl.program_id(0), tl.sum(loss, 0))


@kernel
def _finish_forward(losses, lengths, loss, P, B, T, CHUNK: tl.constexpr):
    """The one program: loss () from `losses` (P,)."""
    total = tl.zeros((CHUNK,), tl.float32)
    for first in range(0, P, CHUNK):
        programs = first + tl.arange(0, CHUNK)
        total += tl.load(losses + programs, mask=programs < P, other=0.0)
    tl.store(loss, tl.sum(total, 0) / _count_real(lengths, B, T, CHUNK))


@kernel
def _backward(
    grad_loss, dense, norm_weight, weight, original, logits, lengths,
    grad_dense, shared, grads,
    B, T, eps,
    C: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program: d_dense of BLOCK positions of one row of the batch, and their part of `shared` (P, C), `grads` (P,).

    Of a row, h - mean(h) is kept and never x_hat: its factor rstd joins those that the whole row shares.
    """
    b, start, length = locate_tile(tl.program_id(0), lengths, T, BLOCK)
    dense += b * T * C
    grad_dense += b * T * C
    original += b * T
    logits += b * T
    a = _load_columns(norm_weight, C, COLUMNS) * _load_columns(weight, C, COLUMNS)
    a_centered = a - tl.sum(a, 0) / C
    scale = tl.load(grad_loss).to(tl.float32) / _count_real(lengths, B, T, CHUNK)
    s = tl.zeros((STEP, COLUMNS), tl.float32)
    total = tl.zeros((STEP,), tl.float32)
    for first in tl.range(start, tl.minimum(start + BLOCK, T), STEP, num_stages=STAGES):
        rows = first + tl.arange(0, STEP)
        z = tl.load(logits + rows, mask=rows < length, other=0.0)
        is_original = tl.load(original + rows, mask=rows < length, other=0) != 0
        x = load_tile(dense, first, length, C, STEP, COLUMNS, C, NEGATIVE=False).to(tl.float32)  # (STEP, COLUMNS)

        # sigmoid(z) - 1 = -sigmoid(-z), where the difference would cancel
        g = tl.where(is_original, -_sigmoid(-z), _sigmoid(z))
        g = tl.where(rows < length, g * scale, 0.0)  # (STEP,)
        total += g

        h, tail = _gelu(x)
        derivative = _gelu_derivative(x, tail)  # (STEP, COLUMNS)
        centered, rstd = _standardize(h, eps, C, COLUMNS)
        g_rstd = g * rstd  # (STEP,)
        s += g_rstd[:, None] * centered
        projected = tl.sum(centered * a[None, :], 1) * (rstd * rstd / C)  # (STEP,)
        grad = (a_centered[None, :] - centered * projected[:, None]) * g_rstd[:, None] * derivative
        store_tile(grad_dense, grad, first, T, C, STEP, COLUMNS, C, NEGATIVE=False)
    columns = tl.arange(0, COLUMNS)
    tl.store(shared + tl.program_id(0).to(tl.int64) * C + columns, tl.sum(s, 0), mask=columns < C)
    tl.store(grads + tl.program_id(0), tl.sum(total, 0))


@kernel
def _finish_backward(
    shared, grads, norm_weight, weight,
    grad_norm_weight, grad_weight, grad_bias,
    P,
    C: tl.constexpr,
    CHUNK: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: WIDTH columns of d_norm_weight and d_weight from `shared` (P, C); the first also d_bias."""
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    s = tl.zeros((CHUNK, WIDTH), tl.float32)
    total = tl.zeros((CHUNK,), tl.float32)
    for first in tl.range(0, P, CHUNK, num_stages=STAGES):
        programs = first + tl.arange(0, CHUNK)
        inside = (programs < P)[:, None] & (columns < C)[None, :]
        s += tl.load(shared + programs.to(tl.int64)[:, None] * C + columns[None, :], mask=inside, other=0.0)
        total += tl.load(grads + programs, mask=programs < P, other=0.0)
    s = tl.sum(s, 0)  # (WIDTH,)
    inside = columns < C
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    n = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_norm_weight + columns, (w * s).to(grad_norm_weight.dtype.element_ty), mask=inside)
    tl.store(grad_weight + columns, (n * s).to(grad_weight.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(grad_bias, tl.sum(total, 0).to(grad_bias.dtype.element_ty))


# ---- launchers -------------------------------------------------------------------------------------------------------


def supports(dense: Tensor) -> bool:
    """Whether the kernels take this model width and dtype."""
    return is_supported(dense, MAX_WIDTH)


def rtd_loss_forward(
    dense: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    original: Tensor,
    lengths: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`reference.rtd_loss_forward` by the kernels: loss () and logits (B, T), in fp32."""
    dense, norm_weight, weight, original, lengths = contiguous(dense, norm_weight, weight, original, lengths)
    batch, positions, _ = dense.shape
    columns, tile = _columns(dense), tiles.choose_rows(dense)
    programs = batch * triton.cdiv(positions, tile.block)
    loss = tiles.scratch((), torch.float32, dense.device)
    logits = tiles.scratch((batch, positions), torch.float32, dense.device)
    losses = tiles.scratch((programs,), torch.float32, dense.device)

    with torch.cuda.device_of(dense):
        _forward[(programs,)](
            dense, norm_weight, weight, bias, original, lengths,
            logits, losses,
            positions, eps,
            **columns,
            BLOCK=tile.block, STEP=tile.step, STAGES=tile.stages, **tile.options(),
        )  # fmt: skip
        last = tiles.PARTIAL_SUMS
        _finish_forward[(1,)](
            losses, lengths, loss, programs, batch, positions, CHUNK=last.block * last.step, **last.options()
        )
    return loss, logits


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
    """`reference.rtd_loss_backward` by the kernels: the gradients of dense, norm_weight, weight and bias."""
    dense, norm_weight, weight, original, logits, lengths = contiguous(
        dense, norm_weight, weight, original, logits, lengths
    )
    batch, positions, width = dense.shape
    columns, tile = _columns(dense), tiles.choose_rows(dense)
    programs = batch * triton.cdiv(positions, tile.block)
    grad_dense = tiles.scratch(dense.shape, dense.dtype, dense.device)
    grad_norm_weight = tiles.scratch((width,), norm_weight.dtype, dense.device)
    grad_weight = tiles.scratch((width,), weight.dtype, dense.device)
    grad_bias = tiles.scratch((), weight.dtype, dense.device)
    shared = tiles.scratch((programs, width), torch.float32, dense.device)
    grads = tiles.scratch((programs,), torch.float32, dense.device)

    with torch.cuda.device_of(dense):
        last = tiles.PARTIAL_SUMS
        _backward[(programs,)](
            grad_loss, dense, norm_weight, weight, original, logits, lengths,
            grad_dense, shared, grads,
            batch, positions, eps,
            **columns,
            BLOCK=tile.block, STEP=tile.step, STAGES=tile.stages, CHUNK=last.step, **tile.options(),
        )  # fmt: skip
        _finish_backward[(triton.cdiv(width, last.block),)](
            shared, grads, norm_weight, weight,
            grad_norm_weight, grad_weight, grad_bias,
            programs,
            C=width,
            CHUNK=last.step, WIDTH=last.block, STAGES=last.stages, **last.options(),
        )  # fmt: skip
    return grad_dense, grad_norm_weight, grad_weight, grad_bias


def _columns(dense: Tensor) -> dict[str, int]:
    """C, and the columns that it takes in registers."""
    return {"C": dense.shape[-1], "COLUMNS": triton.next_power_of_2(dense.shape[-1])}
