"""RTD loss beside the chain of PyTorch's functions that it fuses: milliseconds, GB/s, share of the floor, MiB.

    python -m benchmarks.bench_rtd_loss --out DIR [--seconds 20]        the full table, on a GPU
    pytest benchmarks/bench_rtd_loss.py --benchmark-only                a small part of it, on a CPU

The chain runs as a training step would run it, under autocast. Bytes are the useful ones: dense is read once forward
and once backward, and its gradient written once. Each implementation is checked before it is timed, and is not timed
if it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Expected, Row, Table, gpu_milliseconds, gpu_table, measured, peak_mib
from nucel.kernels import reference
from nucel.kernels.rtd_loss import rtd_loss

SHAPES = ((192, 1024, 512), (192, 1024, 256), (192, 1024, 1024), (24, 8192, 512), (8, 1024, 512))
"""(B, T, C): the paper's batch, other widths, longer windows, a small batch."""

EPS = 1e-5
COPY_BYTES_PER_S = {"H200": 4.3e12}
"""Measured: a device copy, bytes read and written."""


class Problem(NamedTuple):
    """One call of the loss; the parameters are fp32, whatever dense is."""

    dense: Tensor
    norm_weight: Tensor
    weight: Tensor
    bias: Tensor
    original: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Problem:
        """Standard normal dense (B, T, C), logits of a few units, nine labels of ten original."""
        torch.manual_seed(0)
        width = shape[-1]
        return cls(
            torch.randn(shape, dtype=dtype, device=device),
            torch.rand(width, device=device) + 0.5,
            torch.randn(width, device=device) * 2 / width**0.5,
            torch.zeros((), device=device),
            torch.rand(shape[:2], device=device) < 0.9,
        )

    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(x.detach().requires_grad_() for x in self[:4])

    def useful_bytes(self, backward: bool) -> int:
        """Forward, or forward + backward."""
        return self.dense.numel() * self.dense.element_size() * (3 if backward else 1)


# ---- implementations -------------------------------------------------------------------------------------------------


def nucel(dense: Tensor, norm_weight: Tensor, weight: Tensor, bias: Tensor, original: Tensor) -> Tensor:
    return rtd_loss(dense, norm_weight, weight, bias, original, eps=EPS)[0]


def eager(dense: Tensor, norm_weight: Tensor, weight: Tensor, bias: Tensor, original: Tensor) -> Tensor:
    with torch.autocast(dense.device.type, dense.dtype, enabled=dense.dtype != torch.float32):
        h = F.layer_norm(F.gelu(dense), weight.shape, norm_weight, None, EPS)
        logits = F.linear(h, weight[None], bias[None]).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits.float(), original.float())


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "nucel": nucel,
    "eager": eager,
    "torch.compile": torch.compile(eager, dynamic=False),
}


# ---- right before timed, and what is kept for the backward pass ------------------------------------------------------


def two_windows(problem: Problem) -> Problem:
    return problem._replace(dense=problem.dense[:2], original=problem.original[:2])


def results(loss_of: Callable[..., Tensor], problem: Problem) -> tuple[Tensor, ...]:
    """Loss and gradients of two windows."""
    problem = two_windows(problem)
    leaves = problem.leaves()
    loss = loss_of(*leaves, problem.original)
    return loss, *torch.autograd.grad(loss, leaves)


def expected(problem: Problem) -> Expected:
    *inputs, original = two_windows(problem)
    dense, norm_weight, weight, bias = (x.double() for x in inputs)
    loss, logits = reference.rtd_loss_forward(dense, norm_weight, weight, bias, original, None, EPS)
    one = torch.ones_like(loss)
    grads = reference.rtd_loss_backward(one, dense, norm_weight, weight, original, logits, None, EPS)
    return Expected.beside((loss, *grads), results(eager, problem), problem.dense.dtype)


def saved_mib(loss_of: Callable[..., Tensor], problem: Problem) -> float:
    """What the forward keeps for the backward beyond its own inputs."""
    leaves = problem.leaves()
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(*leaves, problem.original)
    for x in (*leaves, problem.original, loss):
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 2**20


# ---- the table, on a GPU ---------------------------------------------------------------------------------------------


def measure(name: str, problem: Problem, right: Expected) -> Row:
    """Milliseconds, GB/s, shares of the floor and MiB of one implementation."""
    loss_of, leaves = IMPLEMENTATIONS[name], problem.leaves()
    right.check(name, results(loss_of, problem))

    def forward() -> Tensor:
        with torch.no_grad():
            return loss_of(*leaves, problem.original)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_of(*leaves, problem.original), leaves)

    gpu = torch.cuda.get_device_name()
    ceiling = next((rate for name, rate in COPY_BYTES_PER_S.items() if name in gpu), None)
    row: Row = {"saved_mib": saved_mib(loss_of, problem), "peak_mib": peak_mib(both)}
    for part, call in (("forward", forward), ("both", both)):
        ms, moved = gpu_milliseconds(call), problem.useful_bytes(backward=part == "both")
        row[f"{part}_ms"], row[f"{part}_gb_per_s"] = ms, moved / ms / 1e6
        row[f"{part}_floor_share"] = None if ceiling is None else 1e3 * moved / ceiling / ms
    return row


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        problem = Problem.draw(shape, torch.bfloat16, "cuda")
        right = expected(problem)
        for name in IMPLEMENTATIONS:
            labels = {"B x T x C": " x ".join(map(str, shape)), "implementation": name}
            yield measured(labels, lambda n=name, p=problem, r=right: measure(n, p, r))


TABLE = Table(
    facts={"dtype": "bf16"},
    labels=("B x T x C", "implementation"),
    values={
        "forward_ms": ("forward ms", ".3f"),
        "both_ms": ("forward + backward ms", ".3f"),
        "both_gb_per_s": ("GB/s", ".0f"),
        "both_floor_share": ("share of floor", ".2f"),
        "saved_mib": ("MiB saved", ".1f"),
        "peak_mib": ("MiB peak", ".0f"),
    },
    note="bf16.",
)


# ---- a small part, on a CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nucel", "eager"])
def test_rtd_loss_on_a_cpu(timed, name):
    """Four windows of 1024, fp32, forward and backward."""
    problem = Problem.draw((4, 1024, 256), torch.float32, "cpu")
    loss_of = IMPLEMENTATIONS[name]
    expected(problem).check(name, results(loss_of, problem))
    leaves = problem.leaves()
    timed(
        "RTD loss, 4 x 1024, C 256, fp32, both ways",
        name,
        lambda: torch.autograd.grad(loss_of(*leaves, problem.original), leaves),
        rounds=15,
        amounts={"tokens": 4 * 1024, "GB": problem.useful_bytes(backward=True) / 1e9},
    )


if __name__ == "__main__":
    gpu_table(__doc__, "rtd_loss", TABLE, rows)
