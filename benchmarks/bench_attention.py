"""Attention beside what PyTorch offers: milliseconds, useful TFLOP/s, share of the floor, MiB.

    python benchmarks/bench_attention.py --out DIR [--seconds 240]      the full table, on a GPU
    pytest benchmarks/bench_attention.py --benchmark-only               a small part of it, on a CPU

Ours takes the packed projection and rotates it. The others get q and k already rotated, heads first and contiguous:
what the rotation and the copies would cost them is not charged to them. Each is compared with the reference in fp32
before it is timed, and is not timed if it is wrong.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from gpu_table import main, peak_mib
from torch import Tensor
from torch.nn import functional as F

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


class Case(NamedTuple):
    """Inputs of one row of the table."""

    qkv: Tensor
    cos: Tensor
    sin: Tensor
    radius: int | None
    grad_out: Tensor

    @classmethod
    def draw(cls, batch: int, positions: int, heads: int, width: int, radius: int | None, dtype, device) -> Case:
        torch.manual_seed(0)
        angle = torch.arange(positions)[:, None] * 10_000 ** -(torch.arange(0, width, 2) / width)
        qkv = torch.randn((batch, positions, 3, heads, width), dtype=dtype, device=device)
        grad_out = torch.randn((batch, positions, heads, width), dtype=dtype, device=device)
        return cls(qkv, angle.cos().to(device), angle.sin().to(device), radius, grad_out)

    def heads_first(self) -> tuple[Tensor, Tensor, Tensor]:
        """q and k rotated, and v, each (B, H, T, D) and a leaf of autograd."""
        cos, sin = self.cos.to(self.qkv.dtype), self.sin.to(self.qkv.dtype)
        q, k, v = self.qkv.detach().unbind(2)
        parts = (reference.rotate(q, cos, sin), reference.rotate(k, cos, sin), v)
        return tuple(x.transpose(1, 2).contiguous().requires_grad_() for x in parts)

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


class Contender(NamedTuple):
    """A way to compute attention: inputs that take gradients, and the output (B, T, H, D) as a function of them."""

    inputs: tuple[Tensor, ...]
    forward: Callable[..., Tensor]


# ---- contenders ------------------------------------------------------------------------------------------------------


def nucel(case: Case) -> Contender:
    return Contender((case.qkv.detach().requires_grad_(),), lambda qkv: attention(qkv, case.cos, case.sin, case.radius))


def in_reference(case: Case) -> Contender:
    class Reference(torch.autograd.Function):
        @staticmethod
        def forward(ctx, qkv):
            out, lse = reference.attention_forward(qkv, case.cos, case.sin, case.radius, None)
            ctx.save_for_backward(qkv, out, lse)
            return out

        @staticmethod
        def backward(ctx, grad_out):
            qkv, out, lse = ctx.saved_tensors
            return reference.attention_backward(grad_out, qkv, case.cos, case.sin, out, lse, case.radius, None)

    return Contender((case.qkv.detach().requires_grad_(),), Reference.apply)


def band_mask(case: Case) -> Tensor | None:
    """bool (T, T), or None for global attention."""
    if case.radius is None:
        return None
    i = torch.arange(case.qkv.shape[1], device=case.qkv.device)
    return (i[:, None] - i).abs() <= case.radius


def sdpa(case: Case) -> Contender:
    mask = band_mask(case)
    return Contender(
        case.heads_first(), lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    )


def sdpa_with(backend: str) -> Callable[[Case], Contender]:
    def make(case: Case) -> Contender:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        inputs, forward = sdpa(case)

        def forced(*inputs: Tensor) -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return forward(*inputs)

        return Contender(inputs, forced)

    return make


def flex(case: Case) -> Contender:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    positions, mask = case.qkv.shape[1], None
    if (radius := case.radius) is not None:
        mask = create_block_mask(
            lambda b, h, i, j: (i - j).abs() <= radius, None, None, positions, positions, device=case.qkv.device
        )
    compiled = torch.compile(flex_attention, dynamic=False)
    return Contender(case.heads_first(), lambda q, k, v: compiled(q, k, v, block_mask=mask).transpose(1, 2))


def varlen(case: Case) -> Contender:
    from torch.nn.attention.varlen import varlen_attn

    if case.radius is not None and "window_size" not in inspect.signature(varlen_attn).parameters:
        raise RuntimeError("varlen_attn of this torch has no window")
    batch, positions = case.qkv.shape[:2]
    starts = torch.arange(batch + 1, dtype=torch.int32, device=case.qkv.device) * positions
    window = {} if case.radius is None else {"window_size": (case.radius, case.radius)}
    inputs = tuple(x.detach().transpose(1, 2).contiguous().requires_grad_() for x in case.heads_first())

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        packed = (x.flatten(0, 1) for x in (q, k, v))
        out = varlen_attn(*packed, starts, starts, positions, positions, **window)
        return out.unflatten(0, (batch, positions))

    return Contender(inputs, forward)


CONTENDERS: dict[str, Callable[[Case], Contender]] = {
    "nucel": nucel,
    "SDPA flash": sdpa_with("FLASH_ATTENTION"),
    "SDPA cuDNN": sdpa_with("CUDNN_ATTENTION"),
    "SDPA efficient": sdpa_with("EFFICIENT_ATTENTION"),
    "FlexAttention": flex,
    "varlen": varlen,
    "reference": in_reference,
}


# ---- is it right -----------------------------------------------------------------------------------------------------


def assert_right(name: str, make: Callable[[Case], Contender], case: Case) -> None:
    """Output and gradients of the first row within a few roundings of the reference in fp32.

    Raises:
        AssertionError: it is wrong, and must not be timed.
    """
    part = case._replace(qkv=case.qkv[:1], grad_out=case.grad_out[:1])
    inputs, forward = make(part)
    out = forward(*inputs)
    grads = torch.autograd.grad(out, inputs, part.grad_out)

    qkv, cos, sin = part.qkv.float(), part.cos, part.sin
    expected, lse = reference.attention_forward(qkv, cos, sin, part.radius, None)
    grad_qkv = reference.attention_backward(part.grad_out.float(), qkv, cos, sin, expected, lse, part.radius, None)
    pairs = [(out, expected)]
    if len(inputs) == 1:
        pairs.append((grads[0], grad_qkv))
    else:
        # Rotation keeps lengths, so what came back for rotated q and k is compared by its norm; v is not rotated.
        heads_first = grads[0].shape[1] == part.qkv.shape[3]
        dq, dk, dv = (g.transpose(1, 2) if heads_first else g for g in grads)
        pairs += [(x.float().norm(dim=-1), grad_qkv[:, :, i].norm(dim=-1)) for i, x in enumerate((dq, dk))]
        pairs.append((dv, grad_qkv[:, :, 2]))
    for ours, truth in pairs:
        error = (ours.float() - truth).abs().max().item()
        allowed = 16 * torch.finfo(case.qkv.dtype).eps * truth.abs().max().item()
        assert error <= allowed, f"{name} is wrong: error {error:.2e}, allowed {allowed:.2e}"


# ---- the table, on a GPU ---------------------------------------------------------------------------------------------


def milliseconds(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return do_bench(call, warmup=20, rep=60, return_mode="median")


def measure(name: str, case: Case) -> dict[str, Any]:
    """Milliseconds and MiB of one contender, or the reason why there are none."""
    make = CONTENDERS[name]
    try:
        assert_right(name, make, case)
        inputs, forward = make(case)

        def both() -> tuple[Tensor, ...]:
            return torch.autograd.grad(forward(*inputs), inputs, case.grad_out)

        with torch.no_grad():
            forward_ms = milliseconds(lambda: forward(*inputs))
        both_ms = milliseconds(both)
        return {"forward_ms": forward_ms, "both_ms": both_ms, "both_mib": peak_mib(both)}
    except (RuntimeError, ImportError, AssertionError, ValueError, TypeError) as reason:
        torch.cuda.empty_cache()
        return {"reason": f"{type(reason).__name__}: {reason}".splitlines()[0][:160]}


def cases() -> Iterator[tuple[int, int, int, int | None]]:
    """Rows of the table, the model's own first: a round that runs out of time has what matters most."""
    for positions in POSITIONS:
        for heads, width in HEADS_AND_WIDTHS:
            for radius in (RADIUS, None):
                yield positions, heads, width, radius


def table(seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    import triton

    start = time.monotonic()
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": "bfloat16",
        "tokens": TOKENS,
        "rows": [],
    }
    for positions, heads, width, radius in cases():
        case = Case.draw(TOKENS // positions, positions, heads, width, radius, torch.bfloat16, "cuda")
        for name in CONTENDERS:
            if time.monotonic() - start > seconds:
                result["unfinished"] = f"stopped after {seconds:.0f} s"
                return result
            if name == "reference" and positions > 1024:
                continue
            row = {"positions": positions, "heads": heads, "width": width, "radius": radius, "contender": name}
            row |= measure(name, case)
            if "forward_ms" in row:
                work = flops(case.qkv.shape, radius)
                both = work + flops(case.qkv.shape, radius, backward=True)
                row["forward_tflops"] = work / row["forward_ms"] / 1e9
                row["both_tflops"] = both / row["both_ms"] / 1e9
                for part, ms in (("forward", row["forward_ms"]), ("both", row["both_ms"])):
                    floor = case.floor_ms(backward=part == "both")
                    row[f"{part}_floor_share"] = None if floor is None else floor / ms
            result["rows"].append(row)
            save(result)
        del case
        torch.cuda.empty_cache()
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table for a README, one row per contender."""
    columns = {
        "forward_ms": "forward ms", "both_ms": "forward + backward ms", "both_tflops": "TFLOP/s",
        "both_floor_share": "share of floor", "both_mib": "MiB",
    }  # fmt: skip
    lines = [
        f"{result['gpu']}, torch {result['torch']}, Triton {result['triton']}, {result['dtype']}, "
        f"{result['tokens']:,} tokens; the others without rotation and copies.",
        "",
        "| T | heads | window | who | " + " | ".join(columns.values()) + " |",
        "|" + " --- |" * (4 + len(columns)),
    ]
    for row in result["rows"]:
        window = "global" if row["radius"] is None else f"+-{row['radius']}"
        cells = [str(row["positions"]), f"{row['heads']} x {row['width']}", window, row["contender"]]
        if "reason" in row:
            cells += [row["reason"].replace("|", "/")] + [""] * (len(columns) - 1)
        else:
            digits = {"both_floor_share": 2, "both_tflops": 0, "both_mib": 0}
            values = {column: row[column] for column in columns}
            cells += ["" if x is None else f"{x:.{digits.get(column, 3)}f}" for column, x in values.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- a small part, on a CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [RADIUS, None], ids=["local", "global"])
@pytest.mark.parametrize("contender", [nucel, sdpa], ids=["nucel", "SDPA"])
def test_attention_on_a_cpu(benchmark, contender, radius):
    """One window of 1024 and eight heads of 32, fp32, forward and backward."""
    case = Case.draw(1, 1024, 8, 32, radius, torch.float32, "cpu")
    assert_right(contender.__name__, contender, case)
    inputs, forward = contender(case)
    benchmark.pedantic(lambda: torch.autograd.grad(forward(*inputs), inputs, case.grad_out), rounds=15, warmup_rounds=2)
    work = flops(case.qkv.shape, radius) + flops(case.qkv.shape, radius, backward=True)
    benchmark.extra_info["useful GFLOP/s"] = round(work / benchmark.stats.stats.median / 1e9, 1)


if __name__ == "__main__":
    main("attention", __doc__.splitlines()[0], table, markdown)
