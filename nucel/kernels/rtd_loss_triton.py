"""Triton kernels of `rtd_loss`, forward and backward, and the functions that launch them.

    h = gelu(x),  x_hat = (h - mean(h)) * rstd,  a = norm_weight * weight,  z = x_hat . a + bias
    loss = sum over real positions of softplus(z) - original * z, over their number N

    g = (sigmoid(z) - original) / N,  s = sum g * x_hat,  d_weight = norm_weight * s,  d_norm_weight = weight * s
    d_x = gelu'(x) * g * rstd * (a - mean(a) - x_hat * mean(a * x_hat)),  d_bias = sum g

Legend: B batch, T positions, C model width, P programs. x (B, T, C) is the op's ``dense``.

Each direction reads x once: a program walks over its positions, a few whole rows of C at a time. What is one number per
position (loss, g) has small kernels of its own, since here all lanes of a warp would compute it. A program leaves its
part of a sum (the loss; s and the sum of g) to a last, small kernel. Sums have a fixed order and there are no atomics,
so two runs give the same bits.

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
def _gelu(x, EXACT: tl.constexpr):
    """gelu(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|), and Phi(-|x|), from which its derivative follows.

    log2 Phi(-t) is so smooth that a polynomial of degree 8 gives Phi to 2e-8, a sixth of fp32's step at 1: least
    squares over [0, 6.5], weighted by Phi(-t) and re-weighted until no error stands out (Lawson), with -1 kept at 0.
    Of degree 5, for x of 16 bits (not EXACT), it gives Phi to 3e-7. Beyond 6.5 both keep falling, so the far tail is 0;
    degrees 4, 6 and 7 would rise.
    """
    t = tl.abs(x)
    if EXACT:
        p = -2.1062817268102663e-06 * t + 3.180329076712951e-05
        p = p * t - 0.00015538913430646062
        p = p * t - 0.00019942224025726318
        p = p * t + 0.007130367215722799
        p = p * t - 0.05253291875123978
        p = p * t - 0.45919907093048096
        p = p * t - 1.1511058807373047
    else:
        p = -0.0005204583736454937 * t + 0.00739751002540441
        p = p * t - 0.0525612365112232
        p = p * t - 0.4592546827338706
        p = p * t - 1.1510913551774886
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
    dense, norm_weight, weight, bias,
    logits,
    T, eps,
    C: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: logits of BLOCK positions of one row of the batch."""
    b, start, end = locate_tile(tl.program_id(0), None, T, BLOCK)
    dense += b * T * C
    logits += b * T
    a = _load_columns(norm_weight, C, COLUMNS) * _load_columns(weight, C, COLUMNS)
    offset = tl.load(bias).to(tl.float32)
    for first in tl.range(start, tl.minimum(start + BLOCK, end), STEP, num_stages=STAGES):
        rows = first + tl.arange(0, STEP)
        x = load_tile(dense, first, T, C, STEP, COLUMNS, C, NEGATIVE=False)  # (STEP, COLUMNS)
        h, _ = _gelu(x.to(tl.float32), x.dtype == tl.float32)
        centered, rstd = _standardize(h, eps, C, COLUMNS)
        z = tl.sum(centered * a[None, :], 1) * rstd + offset  # (STEP,)
        tl.store(logits + rows, z, mask=rows < T)


@kernel
def _position_losses(logits, original, lengths, losses, T, BLOCK: tl.constexpr):
    """One program: the part of `losses` (P,) of BLOCK positions of one row of the batch."""
    b, start, length = locate_tile(tl.program_id(0), lengths, T, BLOCK)
    rows = start + tl.arange(0, BLOCK)
    real = rows < length
    z = tl.load(logits + b * T + rows, mask=real, other=0.0)
    is_original = tl.load(original + b * T + rows, mask=real, other=0) != 0
    loss = tl.where(real, _softplus(tl.where(is_original, -z, z)), 0.0)  # (BLOCK,)
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
def _position_grads(
    grad_loss, original, logits, lengths,
    g, totals,
    B, T,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program: g of BLOCK positions of one row of the batch, 0 in padding, and their part of `totals` (P,)."""
    b, start, length = locate_tile(tl.program_id(0), lengths, T, BLOCK)
    rows = start + tl.arange(0, BLOCK)
    real = rows < length
    z = tl.load(logits + b * T + rows, mask=real, other=0.0)
    is_original = tl.load(original + b * T + rows, mask=real, other=0) != 0
    scale = tl.load(grad_loss).to(tl.float32) / _count_real(lengths, B, T, CHUNK)
    # sigmoid(z) - 1 = -sigmoid(-z), where the difference would cancel
    value = tl.where(is_original, -_sigmoid(-z), _sigmoid(z))
    value = tl.where(real, value * scale, 0.0)  # (BLOCK,)
    tl.store(g + b * T + rows, value, mask=rows < T)
    tl.store(totals + tl.program_id(0), tl.sum(value, 0))


@kernel
def _backward(
    dense, norm_weight, weight, g, lengths,
    grad_dense, shared,
    T, eps,
    C: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: d_dense of BLOCK positions of one row of the batch, and their part of `shared` (P, C).

    Of a row, h - mean(h) is kept and never x_hat: its factor rstd joins those that the whole row shares.
    """
    b, start, length = locate_tile(tl.program_id(0), lengths, T, BLOCK)
    dense += b * T * C
    grad_dense += b * T * C
    g += b * T
    a = _load_columns(norm_weight, C, COLUMNS) * _load_columns(weight, C, COLUMNS)
    a_centered = a - tl.sum(a, 0) / C
    s = tl.zeros((STEP, COLUMNS), tl.float32)
    for first in tl.range(start, tl.minimum(start + BLOCK, T), STEP, num_stages=STAGES):
        rows = first + tl.arange(0, STEP)
        row_g = tl.load(g + rows, mask=rows < T, other=0.0)  # (STEP,)
        x = load_tile(dense, first, length, C, STEP, COLUMNS, C, NEGATIVE=False)  # (STEP, COLUMNS)
        exact: tl.constexpr = x.dtype == tl.float32
        x = x.to(tl.float32)
        h, tail = _gelu(x, exact)
        derivative = _gelu_derivative(x, tail)  # (STEP, COLUMNS)
        centered, rstd = _standardize(h, eps, C, COLUMNS)
        g_rstd = row_g * rstd  # (STEP,)
        s += g_rstd[:, None] * centered
        projected = tl.sum(centered * a[None, :], 1) * (rstd * rstd / C)  # (STEP,)
        grad = (a_centered[None, :] - centered * projected[:, None]) * g_rstd[:, None] * derivative
        store_tile(grad_dense, grad, first, T, C, STEP, COLUMNS, C, NEGATIVE=False)
    columns = tl.arange(0, COLUMNS)
    tl.store(shared + tl.program_id(0).to(tl.int64) * C + columns, tl.sum(s, 0), mask=columns < C)


@kernel
def _finish_backward(
    shared, totals, norm_weight, weight,
    grad_norm_weight, grad_weight, grad_bias,
    P, TOTALS,
    C: tl.constexpr,
    CHUNK: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: WIDTH columns of d_norm_weight and d_weight from `shared` (P, C); the first also d_bias."""
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    s = tl.zeros((CHUNK, WIDTH), tl.float32)
    for first in tl.range(0, P, CHUNK, num_stages=STAGES):
        programs = first + tl.arange(0, CHUNK)
        inside = (programs < P)[:, None] & (columns < C)[None, :]
        s += tl.load(shared + programs.to(tl.int64)[:, None] * C + columns[None, :], mask=inside, other=0.0)
    s = tl.sum(s, 0)  # (WIDTH,)
    inside = columns < C
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    n = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_norm_weight + columns, (w * s).to(grad_norm_weight.dtype.element_ty), mask=inside)
    tl.store(grad_weight + columns, (n * s).to(grad_weight.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        total = tl.zeros((CHUNK,), tl.float32)
        for first in range(0, TOTALS, CHUNK):
            programs = first + tl.arange(0, CHUNK)
            total += tl.load(totals + programs, mask=programs < TOTALS, other=0.0)
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
    small = tiles.POSITIONS
    parts = batch * triton.cdiv(positions, small.block)
    losses = tiles.scratch((parts,), torch.float32, dense.device)

    with torch.cuda.device_of(dense):
        _forward[(programs,)](
            dense, norm_weight, weight, bias,
            logits,
            positions, eps,
            **columns,
            BLOCK=tile.block, STEP=tile.step, STAGES=tile.stages, **tile.options(),
        )  # fmt: skip
        _position_losses[(parts,)](logits, original, lengths, losses, positions, BLOCK=small.block, **small.options())
        last = tiles.PARTIAL_SUMS
        _finish_forward[(1,)](
            losses, lengths, loss, parts, batch, positions, CHUNK=last.block * last.step, **last.options()
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
    small = tiles.POSITIONS
    parts = batch * triton.cdiv(positions, small.block)
    g = tiles.scratch((batch, positions), torch.float32, dense.device)
    totals = tiles.scratch((parts,), torch.float32, dense.device)

    with torch.cuda.device_of(dense):
        last = tiles.PARTIAL_SUMS
        _position_grads[(parts,)](
            grad_loss, original, logits, lengths,
            g, totals,
            batch, positions,
            BLOCK=small.block, CHUNK=last.step, **small.options(),
        )  # fmt: skip
        _backward[(programs,)](
            dense, norm_weight, weight, g, lengths,
            grad_dense, shared,
            positions, eps,
            **columns,
            BLOCK=tile.block, STEP=tile.step, STAGES=tile.stages, **tile.options(),
        )  # fmt: skip
        _finish_backward[(triton.cdiv(width, last.block),)](
            shared, totals, norm_weight, weight,
            grad_norm_weight, grad_weight, grad_bias,
            programs, parts,
            C=width,
            CHUNK=last.step, WIDTH=last.block, STAGES=last.stages, **last.options(),
        )  # fmt: skip
    return grad_dense, grad_norm_weight, grad_weight, grad_bias


def _columns(dense: Tensor) -> dict[str, int]:
    """C, and the columns that it takes in registers."""
    return {"C": dense.shape[-1], "COLUMNS": triton.next_power_of_2(dense.shape[-1])}
