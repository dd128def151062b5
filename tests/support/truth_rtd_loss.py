"""The tail of the discriminator's head as a chain of PyTorch's own functions and autograd: the truth for kernels.

It shares nothing with `nucel.kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from support import close

EPS = 1e-5


class Problem(NamedTuple):
    """One call of rtd_loss and the gradient that comes back."""

    dense: Tensor
    norm_weight: Tensor
    weight: Tensor
    bias: Tensor
    original: Tensor
    lengths: Tensor | None
    grad_loss: Tensor

    @classmethod
    def draw(
        cls,
        shape: tuple[int, int, int],
        lengths: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        parameter_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> Problem:
        """For shape (B, T, C): standard normal dense, logits of a few units, nine labels of ten original.

        grad_loss is the number of real positions, so that the gradients are of order 1 like everything else.
        """
        batch, positions, width = shape
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(shape, generator=generator)
        norm_weight = torch.rand(width, generator=generator) + 0.5
        weight = torch.randn(width, generator=generator) * 2 / width**0.5
        bias = torch.randn((), generator=generator)
        original = torch.rand((batch, positions), generator=generator) < 0.9
        grad_loss = torch.tensor(float(batch * positions if lengths is None else sum(lengths)), device=device)
        lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int32, device=device)
        parameters = (x.to(device, parameter_dtype or dtype) for x in (norm_weight, weight, bias))
        return cls(dense.to(device, dtype), *parameters, original.to(device), lengths, grad_loss)

    def real(self) -> Tensor:
        """bool (B, T)."""
        batch, positions = self.original.shape
        i = torch.arange(positions, device=self.dense.device)
        lengths = torch.full((batch,), positions, device=self.dense.device) if self.lengths is None else self.lengths
        return i < lengths[:, None]


class Result(NamedTuple):
    loss: Tensor
    """()."""
    logits: Tensor
    """(B, T)."""
    grad_dense: Tensor
    """(B, T, C)."""
    grad_norm_weight: Tensor
    """(C,)."""
    grad_weight: Tensor
    """(C,)."""
    grad_bias: Tensor
    """()."""


def unfused(problem: Problem) -> Result:
    """In the problem's own dtypes, as autocast would run it: GELU in dense's, the rest in the parameters'."""
    leaves = [x.detach().clone().requires_grad_() for x in problem[:4]]
    dense, norm_weight, weight, bias = leaves
    h = F.gelu(dense).to(weight.dtype)
    logits = F.layer_norm(h, h.shape[-1:], norm_weight, None, EPS) @ weight + bias
    real = problem.real()
    loss = F.binary_cross_entropy_with_logits(logits[real], problem.original[real].to(logits.dtype), reduction="sum")
    loss = loss / real.sum().clamp(min=1)
    grads = torch.autograd.grad(loss, leaves, problem.grad_loss.to(loss.dtype))
    return Result(loss.detach(), logits.detach(), *grads)


def truth(problem: Problem) -> Result:
    """In fp64, from the inputs as they are rounded."""
    return unfused(problem._replace(**{name: getattr(problem, name).double() for name in Problem._fields[:4]}))


def pytorch_errors(problem: Problem, orders: int = 4) -> dict[str, float]:
    """The largest over some orders of the channels: a single number such as the loss can be exact by luck in one."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(orders):
        order = torch.randperm(problem.dense.shape[-1], generator=generator).to(problem.dense.device)
        shuffled = problem._replace(**{x: getattr(problem, x)[..., order] for x in ("dense", "norm_weight", "weight")})
        parts = zip(Result._fields, unfused(shuffled), truth(shuffled), strict=True)
        errors.append({name: close.largest_error(x, exact) for name, x, exact in parts})
    return {name: max(each[name] for each in errors) for name in Result._fields}


def assert_as_good_as_pytorch(ours: Result, problem: Problem, floor: float = 1.0) -> None:
    """The rule of `support.close` for each part of the result."""
    exact = truth(problem)
    close.assert_as_good_as_pytorch(
        ours._asdict(), exact._asdict(), pytorch_errors(problem), problem.dense.dtype, floor
    )
