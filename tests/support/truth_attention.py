"""Attention as its definition has it, T x T scores and autograd: the truth for kernels, in any dtype.

It shares nothing with `nucel.kernels`: pairs (d, d + D/2) rotate as complex numbers in the truth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from support import close


class Problem(NamedTuple):
    """One call of attention and the gradient that comes back."""

    qkv: Tensor
    cos: Tensor
    sin: Tensor
    radius: int | None
    lengths: Tensor | None
    grad_out: Tensor

    @classmethod
    def draw(
        cls,
        shape: tuple[int, int, int, int],
        radius: int | None,
        lengths: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        seed: int = 0,
    ) -> Problem:
        """Standard normal qkv and grad_out for shape (B, T, H, D)."""
        batch, positions, heads, width = shape
        generator = torch.Generator().manual_seed(seed)
        qkv = torch.randn((batch, positions, 3, heads, width), generator=generator)
        grad_out = torch.randn(shape, generator=generator)
        angle = torch.arange(positions)[:, None] * 10_000 ** -(torch.arange(0, width, 2) / width)
        lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int32, device=device)
        return cls(
            qkv.to(device, dtype), angle.cos().to(device), angle.sin().to(device), radius, lengths,
            grad_out.to(device, dtype),
        )  # fmt: skip

    def visible(self) -> Tensor:
        """bool (B, 1, T, T)."""
        positions = self.qkv.shape[1]
        i = torch.arange(positions, device=self.qkv.device)
        near = (i[:, None] - i).abs() <= (positions if self.radius is None else self.radius)
        real = self.real()
        return (near & real[:, :, None] & real[:, None, :])[:, None]

    def real(self) -> Tensor:
        """bool (B, T)."""
        batch, positions = self.qkv.shape[:2]
        i = torch.arange(positions, device=self.qkv.device)
        lengths = torch.full((batch,), positions, device=self.qkv.device) if self.lengths is None else self.lengths
        return i < lengths[:, None]


class Result(NamedTuple):
    out: Tensor
    """(B, T, H, D)."""
    lse: Tensor
    """(B, H, T)."""
    grad_qkv: Tensor
    """(B, T, 3, H, D)."""


def truth(problem: Problem) -> Result:
    """In fp64, from the inputs as they are rounded."""
    qkv = problem.qkv.double().requires_grad_()
    turn = torch.complex(problem.cos.double(), problem.sin.double())[:, None, :]
    q, k, v = qkv.unbind(2)

    def turned(x: Tensor) -> Tensor:
        halves = x.unflatten(-1, (2, -1))
        return torch.view_as_real(torch.complex(halves[..., 0, :], halves[..., 1, :]) * turn).flatten(-2)

    scores = torch.einsum("bihd,bjhd->bhij", turned(q), turned(k)) / qkv.shape[-1] ** 0.5
    weights = scores.exp() * problem.visible()
    total = weights.sum(-1, keepdim=True)
    seen = total > 0
    out = torch.einsum("bhij,bjhd->bihd", weights / total.where(seen, 1), v)
    out.backward(problem.grad_out.double() * problem.real()[:, :, None, None])
    return Result(out.detach(), (total.where(seen, 1)).log().squeeze(-1).detach(), qkv.grad)


def in_pytorch(problem: Problem) -> Result:
    """What PyTorch gives in the problem's own dtype: rotation in fp32, then its attention with a dense mask."""
    qkv = problem.qkv.clone().requires_grad_()
    cos, sin = (torch.cat((x, x), -1)[:, None, :] for x in (problem.cos, problem.sin))
    q, k, v = qkv.unbind(2)

    def turned(x: Tensor) -> Tensor:
        first, second = x.float().chunk(2, -1)
        return (x.float() * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)

    q, k, v = (x.transpose(1, 2) for x in (turned(q), turned(k), v))
    # A padding row sees itself here, since a row that sees nothing is NaN; its result is dropped.
    itself = torch.eye(qkv.shape[1], dtype=torch.bool, device=qkv.device)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=problem.visible() | itself).transpose(1, 2)
    out = out * problem.real()[:, :, None, None]
    out.backward(problem.grad_out)
    scores = (q @ k.mT).float() / qkv.shape[-1] ** 0.5
    lse = scores.masked_fill(~problem.visible(), -torch.inf).logsumexp(-1)
    return Result(out.detach(), lse.detach().masked_fill(~problem.real()[:, None], 0), qkv.grad)


def assert_as_good_as_pytorch(ours: Result, problem: Problem) -> None:
    """The rule of `support.close` for out, lse, dq, dk and dv."""
    exact, theirs = _parts(truth(problem)), _parts(in_pytorch(problem))
    errors = {name: close.largest_error(theirs[name], exact[name]) for name in exact}
    close.assert_as_good_as_pytorch(_parts(ours), exact, errors, problem.qkv.dtype)


def _parts(result: Result) -> dict[str, Tensor]:
    dq, dk, dv = result.grad_qkv.unbind(2)
    return {"out": result.out, "lse": result.lse, "dq": dq, "dk": dk, "dv": dv}
