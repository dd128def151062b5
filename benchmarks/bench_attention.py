"""Attention beside what PyTorch offers: milliseconds, useful TFLOP/s, share of the floor, MiB.

    python -m benchmarks.bench_attention --out DIR [--seconds 240]      the full table, on a GPU
    pytest benchmarks/bench_attention.py --benchmark-only               a small part of it, on a CPU

Ours takes the packed projection and rotates it. The others get q and k already rotated, heads first and contiguous:
what the rotation and the copies would cost them is not charged to them. Each is checked before it is timed, and is not
timed if it is wrong.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Expected, Row, Table, gpu_milliseconds, gpu_table, measured, peak_mib
from nucel.kernels import reference
from nucel.kernels.attention import attention, flops, visible_pairs

TOKENS = 196_608
"""The paper's batch, 192 x 1024; longer windows come in smaller batches."""

HEADS_AND_WIDTHS = ((16, 32), (8, 32), (12, 64))
POSITIONS = (1024, 512, 2048, 8192)
RADIUS = 64


class Ceilings(NamedTuple):
    """What a GPU can do per second."""

    bytes: float
    flops: float
    exponentials: float


CEILINGS = {"H200": Ceilings(4.3e12, 790e12, 16 * 132 * 1.84e9)}
"""Measured on an H200: a device copy, a bf16 product of 8192^3; 16 exponentials per clock and multiprocessor."""


class Problem(NamedTuple):
    """One call of attention and the gradient that comes back."""

    qkv: Tensor
    cos: Tensor
    sin: Tensor
    radius: int | None
    grad_out: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, int, int, int], radius: int | None, dtype: torch.dtype, device: str) -> Problem:
        """Standard normal qkv and grad_out for shape (B, T, H, D)."""
        torch.manual_seed(0)
        batch, positions, heads, width = shape
        angle = torch.arange(positions)[:, None] * 10_000 ** -(torch.arange(0, width, 2) / width)
        qkv = torch.randn((batch, positions, 3, heads, width), dtype=dtype, device=device)
        grad_out = torch.randn(shape, dtype=dtype, device=device)
        return cls(qkv, angle.cos().to(device), angle.sin().to(device), radius, grad_out)

    def heads_first(self) -> tuple[Tensor, Tensor, Tensor]:
        """q and k rotated, and v, each (B, H, T, D) and a leaf of autograd."""
        cos, sin = self.cos.to(self.qkv.dtype), self.sin.to(self.qkv.dtype)
        q, k, v = self.qkv.detach().unbind(2)
        parts = (reference.rotate(q, cos, sin), reference.rotate(k, cos, sin), v)
        return tuple(x.transpose(1, 2).contiguous().requires_grad_() for x in parts)

    def mask(self) -> Tensor | None:
        """bool (T, T), true where attention is local and a query sees a key; None where it is global."""
        if self.radius is None:
            return None
        i = torch.arange(self.qkv.shape[1], device=self.qkv.device)
        return (i[:, None] - i).abs() <= self.radius

    def work(self, backward: bool) -> int:
        """Useful operations of forward, or of forward + backward."""
        return sum(flops(self.qkv.shape, self.radius, part) for part in ((False, True) if backward else (False,)))

    def floor_ms(self, backward: bool) -> float | None:
        """Forward, or forward + backward: the slowest of memory, matrix units and exponentials, overlapped perfectly.

        None on a GPU whose ceilings are not known.
        """
        name = torch.cuda.get_device_name()
        ceilings = next((c for gpu, c in CEILINGS.items() if gpu in name), None)
        if ceilings is None:
            return None
        batch, positions, _, heads, _ = self.qkv.shape
        qkv_bytes = self.qkv.numel() * self.qkv.element_size()
        lse_bytes = 4 * batch * heads * positions
        # Forward reads qkv and writes out and lse; backward reads all three and dO, and writes dqkv.
        moved = {False: qkv_bytes * 4 / 3 + lse_bytes, True: qkv_bytes * 8 / 3 + lse_bytes}
        exponentials = batch * heads * visible_pairs(positions, self.radius)

        def seconds(backward: bool) -> float:
            work = flops(self.qkv.shape, self.radius, backward)
            return max(moved[backward] / ceilings.bytes, work / ceilings.flops, exponentials / ceilings.exponentials)

        return 1e3 * (seconds(False) + (seconds(True) if backward else 0))


# ---- implementations -------------------------------------------------------------------------------------------------


class Implementation(NamedTuple):
    """A way to compute attention: inputs that take gradients, and the output (B, T, H, D) as a function of them."""

    inputs: tuple[Tensor, ...]
    forward: Callable[..., Tensor]


def nucel(problem: Problem) -> Implementation:
    _, cos, sin, radius, _ = problem
    return Implementation((problem.qkv.detach().requires_grad_(),), lambda qkv: attention(qkv, cos, sin, radius))


def in_reference(problem: Problem) -> Implementation:
    _, cos, sin, radius, _ = problem

    class Reference(torch.autograd.Function):
        @staticmethod
        def forward(ctx, qkv):
            out, lse = reference.attention_forward(qkv, cos, sin, radius, None)
            ctx.save_for_backward(qkv, out, lse)
            return out

        @staticmethod
        def backward(ctx, grad_out):
            qkv, out, lse = ctx.saved_tensors
            return reference.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, None)

    return Implementation((problem.qkv.detach().requires_grad_(),), Reference.apply)


def plain(problem: Problem) -> Implementation:
    """The definition, T x T scores in the dtype of the inputs; it says how exact the others must be."""
    mask = problem.mask()

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2)

    return Implementation(problem.heads_first(), forward)


def sdpa(problem: Problem) -> Implementation:
    mask = problem.mask()
    return Implementation(
        problem.heads_first(), lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    )


def sdpa_with(backend: str) -> Callable[[Problem], Implementation]:
    def make(problem: Problem) -> Implementation:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        inputs, forward = sdpa(problem)

        def forced(*inputs: Tensor) -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return forward(*inputs)

        return Implementation(inputs, forced)

    return make


def flex(problem: Problem) -> Implementation:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    positions, mask = problem.qkv.shape[1], None
    if (radius := problem.radius) is not None:
        mask = create_block_mask(
            lambda b, h, i, j: (i - j).abs() <= radius, None, None, positions, positions, device=problem.qkv.device
        )
    compiled = torch.compile(flex_attention, dynamic=False)
    return Implementation(problem.heads_first(), lambda q, k, v: compiled(q, k, v, block_mask=mask).transpose(1, 2))


def varlen(problem: Problem) -> Implementation:
    from torch.nn.attention.varlen import varlen_attn

    if problem.radius is not None and "window_size" not in inspect.signature(varlen_attn).parameters:
        raise RuntimeError("varlen_attn of this torch is never local")
    batch, positions = problem.qkv.shape[:2]
    starts = torch.arange(batch + 1, dtype=torch.int32, device=problem.qkv.device) * positions
    local = {} if problem.radius is None else {"window_size": (problem.radius, problem.radius)}
    inputs = tuple(x.detach().transpose(1, 2).contiguous().requires_grad_() for x in problem.heads_first())

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        packed = (x.flatten(0, 1) for x in (q, k, v))
        out = varlen_attn(*packed, starts, starts, positions, positions, **local)
        return out.unflatten(0, (batch, positions))

    return Implementation(inputs, forward)


IMPLEMENTATIONS: dict[str, Callable[[Problem], Implementation]] = {
    "nucel": nucel,
    "SDPA flash": sdpa_with("FLASH_ATTENTION"),
    "SDPA cuDNN": sdpa_with("CUDNN_ATTENTION"),
    "SDPA efficient": sdpa_with("EFFICIENT_ATTENTION"),
    "FlexAttention": flex,
    "varlen": varlen,
    "reference": in_reference,
}


# ---- right before timed ----------------------------------------------------------------------------------------------


def rotated(grad_qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rotated q, rotated k and v in fp64, each (B, T, H, D), from that of qkv: rotations keep lengths."""
    dq, dk, dv = grad_qkv.double().unbind(2)
    cos, sin = problem.cos.double(), problem.sin.double()
    return reference.rotate(dq, cos, sin), reference.rotate(dk, cos, sin), dv


def first_row(problem: Problem) -> Problem:
    return problem._replace(qkv=problem.qkv[:1], grad_out=problem.grad_out[:1])


def results(make: Callable[[Problem], Implementation], problem: Problem) -> tuple[Tensor, ...]:
    """Output and gradients of rotated q, rotated k and v of the first row, each (1, T, H, D)."""
    problem = first_row(problem)
    inputs, forward = make(problem)
    out = forward(*inputs)
    grads = torch.autograd.grad(out, inputs, problem.grad_out)
    if len(grads) == 1:
        return out, *rotated(grads[0], problem)
    heads_first = grads[0].shape != out.shape
    return out, *(grad.transpose(1, 2) if heads_first else grad for grad in grads)


def expected(problem: Problem) -> Expected:
    row = first_row(problem)
    qkv, cos, sin, radius, grad_out = (x.double() if isinstance(x, Tensor) else x for x in row)
    out, lse = reference.attention_forward(qkv, cos, sin, radius, None)
    grad_qkv = reference.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, None)
    return Expected.beside((out, *rotated(grad_qkv, row)), results(plain, problem), problem.qkv.dtype)


# ---- the table, on a GPU ---------------------------------------------------------------------------------------------


def measure(name: str, problem: Problem, right: Expected) -> Row:
    """Milliseconds, TFLOP/s, shares of the floor and MiB of one implementation."""
    make = IMPLEMENTATIONS[name]
    right.check(name, results(make, problem))
    inputs, forward = make(problem)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(*inputs), inputs, problem.grad_out)

    with torch.no_grad():
        times = {"forward": gpu_milliseconds(lambda: forward(*inputs))}
    times["both"] = gpu_milliseconds(both)
    row: Row = {"both_mib": peak_mib(both)}
    for part, ms in times.items():
        floor = problem.floor_ms(backward=part == "both")
        row[f"{part}_ms"], row[f"{part}_tflops"] = ms, problem.work(backward=part == "both") / ms / 1e9
        row[f"{part}_floor_share"] = None if floor is None else floor / ms
    return row


CASES = [
    ((TOKENS // positions, positions, heads, width), radius)
    for positions in POSITIONS
    for heads, width in HEADS_AND_WIDTHS
    for radius in (RADIUS, None)
]
"""Shape and radius; the model's own shapes first."""

PASSES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (len(CASES), ("nucel",)),
    (len(CASES), ("SDPA flash", "SDPA cuDNN", "SDPA efficient", "varlen")),
    (2, ("reference", "FlexAttention")),
)
"""How many cases, and which implementations. A round that runs out of time has what matters most; FlexAttention takes
half a minute to compile for each case."""


def rows(device: str = "cuda") -> Iterator[Row]:
    for count, names in PASSES:
        for shape, radius in CASES[:count]:
            _, positions, heads, width = shape
            kind = "global" if radius is None else f"local, radius {radius}"
            labels = {"T": positions, "H x D": f"{heads} x {width}", "attention": kind}
            problem = Problem.draw(shape, radius, torch.bfloat16, device)
            right = expected(problem)
            for name in names:
                yield measured(labels | {"implementation": name}, lambda n=name, p=problem, r=right: measure(n, p, r))
            del problem, right
            if device == "cuda":
                torch.cuda.empty_cache()


TABLE = Table(
    facts={"dtype": "bf16", "tokens": TOKENS},
    labels=("T", "H x D", "attention", "implementation"),
    values={
        "forward_ms": ("forward ms", ".3f"),
        "both_ms": ("forward + backward ms", ".3f"),
        "both_tflops": ("TFLOP/s", ".0f"),
        "both_floor_share": ("share of floor", ".2f"),
        "both_mib": ("MiB", ".0f"),
    },
    note=f"bf16, {TOKENS:,} tokens; the others without rotation and copies.",
)


# ---- a small part, on a CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [RADIUS, None], ids=["local", "global"])
@pytest.mark.parametrize("name", ["nucel", "SDPA"])
def test_attention_on_a_cpu(timed, name, radius):
    """One window of 1024 and eight heads of 32, fp32, forward and backward."""
    problem = Problem.draw((1, 1024, 8, 32), radius, torch.float32, "cpu")
    make = {"nucel": nucel, "SDPA": sdpa}[name]
    expected(problem).check(name, results(make, problem))
    inputs, forward = make(problem)
    timed(
        f"attention, {'global' if radius is None else 'local'}, 1 x 1024, 8 x 32, fp32, both ways",
        name,
        lambda: torch.autograd.grad(forward(*inputs), inputs, problem.grad_out),
        rounds=15,
        amounts={"tokens": 1024, "GFLOP": problem.work(backward=True) / 1e9},
    )


if __name__ == "__main__":
    gpu_table(__doc__, "attention", TABLE, rows)
