"""RTD loss beside the chain of PyTorch's functions that it fuses: milliseconds, GB/s, share of the floor, MiB.

    python benchmarks/bench_rtd_loss.py --out DIR [--seconds 20]        the full table, on a GPU
    pytest benchmarks/bench_rtd_loss.py --benchmark-only                a small part of it, on a CPU

The chain runs as a training step would run it, under autocast. Bytes are the useful ones: dense is read once forward
and once backward, and its gradient written once. Each contender is compared with the reference in fp32 before it is
timed, and is not timed if it is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from gpu_table import main, peak_mib
from torch import Tensor
from torch.nn import functional as F

from nucel.kernels import reference
from nucel.kernels.rtd_loss import rtd_loss

SHAPES = ((192, 1024, 512), (192, 1024, 256), (192, 1024, 1024), (24, 8192, 512), (8, 1024, 512))
"""(B, T, C): the paper's batch, other widths, longer windows, a small batch."""

EPS = 1e-5
COPY_BYTES_PER_S = {"H200": 4.3e12}
"""Measured: a device copy, bytes read and written."""


class Case(NamedTuple):
    """Inputs of one row of the table; the parameters are fp32, whatever dense is."""

    dense: Tensor
    norm_weight: Tensor
    weight: Tensor
    bias: Tensor
    original: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Case:
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


# ---- contenders ------------------------------------------------------------------------------------------------------


def nucel(dense: Tensor, norm_weight: Tensor, weight: Tensor, bias: Tensor, original: Tensor) -> Tensor:
    return rtd_loss(dense, norm_weight, weight, bias, original, eps=EPS)[0]


def eager(dense: Tensor, norm_weight: Tensor, weight: Tensor, bias: Tensor, original: Tensor) -> Tensor:
    with torch.autocast(dense.device.type, dense.dtype, enabled=dense.dtype != torch.float32):
        h = F.layer_norm(F.gelu(dense), weight.shape, norm_weight, None, EPS)
        logits = F.linear(h, weight[None], bias[None]).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits.float(), original.float())


CONTENDERS: dict[str, Callable[..., Tensor]] = {
    "nucel": nucel,
    "eager": eager,
    "torch.compile": torch.compile(eager, dynamic=False),
}


# ---- is it right, and what does it keep ------------------------------------------------------------------------------


def assert_right(name: str, loss_of: Callable[..., Tensor], case: Case) -> None:
    """Loss and gradients of two windows within a few roundings of the reference in fp32.

    Raises:
        AssertionError: it is wrong, and must not be timed.
    """
    part = case._replace(dense=case.dense[:2], original=case.original[:2])
    leaves = part.leaves()
    loss = loss_of(*leaves, part.original)
    found = (loss, *torch.autograd.grad(loss, leaves))

    dense, norm_weight, weight, bias, original = part._replace(dense=part.dense.float())
    loss, logits = reference.rtd_loss_forward(dense, norm_weight, weight, bias, original, None, EPS)
    one = torch.ones_like(loss)
    expected = reference.rtd_loss_backward(one, dense, norm_weight, weight, original, logits, None, EPS)
    for ours, truth in zip(found, (loss, *expected), strict=True):
        error = (ours.float() - truth).abs().max().item()
        allowed = 16 * torch.finfo(case.dense.dtype).eps * truth.abs().max().item()
        assert error <= allowed, f"{name} is wrong: error {error:.2e}, allowed {allowed:.2e}"


def saved_mib(loss_of: Callable[..., Tensor], case: Case) -> float:
    """What the forward keeps for the backward beyond its own inputs."""
    leaves = case.leaves()
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(*leaves, case.original)
    for x in (*leaves, case.original, loss):
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 2**20


# ---- the table, on a GPU ---------------------------------------------------------------------------------------------


def measure(name: str, case: Case) -> dict[str, Any]:
    """Milliseconds, GB/s and MiB of one contender, or the reason why there are none."""
    from triton.testing import do_bench

    loss_of, leaves = CONTENDERS[name], case.leaves()

    def forward() -> Tensor:
        with torch.no_grad():
            return loss_of(*leaves, case.original)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_of(*leaves, case.original), leaves)

    row: dict[str, Any] = {}
    try:
        assert_right(name, loss_of, case)
        for part, call in (("forward", forward), ("both", both)):
            ms = do_bench(call, warmup=20, rep=60, return_mode="median")
            moved = case.useful_bytes(backward=part == "both")
            ceiling = next((c for gpu, c in COPY_BYTES_PER_S.items() if gpu in torch.cuda.get_device_name()), None)
            row[f"{part}_ms"], row[f"{part}_gb_per_s"] = ms, moved / ms / 1e6
            row[f"{part}_floor_share"] = None if ceiling is None else 1e3 * moved / ceiling / ms
        row["saved_mib"], row["peak_mib"] = saved_mib(loss_of, case), peak_mib(both)
    except (RuntimeError, AssertionError) as reason:
        torch.cuda.empty_cache()
        return {"reason": f"{type(reason).__name__}: {reason}".splitlines()[0][:160]}
    return row


def table(seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    import triton

    start = time.monotonic()
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": "bfloat16",
        "rows": [],
    }
    for shape in SHAPES:
        case = Case.draw(shape, torch.bfloat16, "cuda")
        for name in CONTENDERS:
            if time.monotonic() - start > seconds:
                return result | {"unfinished": f"stopped after {seconds:.0f} s"}
            result["rows"].append({"shape": shape, "contender": name} | measure(name, case))
            save(result)
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table for a README, one row per contender."""
    columns = {
        "forward_ms": ("forward ms", 3), "both_ms": ("forward + backward ms", 3), "both_gb_per_s": ("GB/s", 0),
        "both_floor_share": ("share of floor", 2), "saved_mib": ("MiB saved", 1), "peak_mib": ("MiB peak", 0),
    }  # fmt: skip
    lines = [
        f"{result['gpu']}, torch {result['torch']}, Triton {result['triton']}, {result['dtype']}.",
        "",
        "| B x T x C | who | " + " | ".join(title for title, _ in columns.values()) + " |",
        "|" + " --- |" * (2 + len(columns)),
    ]
    for row in result["rows"]:
        if "reason" in row:
            cells: Iterable[str] = [row["reason"].replace("|", "/")] + [""] * (len(columns) - 1)
        else:
            cells = ["" if row[x] is None else f"{row[x]:.{digits}f}" for x, (_, digits) in columns.items()]
        lines.append("| " + " | ".join([" x ".join(map(str, row["shape"])), row["contender"], *cells]) + " |")
    return "\n".join(lines)


# ---- a small part, on a CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contender", [nucel, eager], ids=["nucel", "eager"])
def test_rtd_loss_on_a_cpu(benchmark, contender):
    """Four windows of 1024, fp32, forward and backward."""
    case = Case.draw((4, 1024, 256), torch.float32, "cpu")
    assert_right(contender.__name__, contender, case)
    leaves = case.leaves()
    benchmark.pedantic(
        lambda: torch.autograd.grad(contender(*leaves, case.original), leaves), rounds=15, warmup_rounds=2
    )
    benchmark.extra_info["useful GB/s"] = round(case.useful_bytes(True) / benchmark.stats.stats.median / 1e9, 2)
    benchmark.extra_info["MiB saved"] = round(saved_mib(contender, case), 2)


if __name__ == "__main__":
    main("rtd_loss", __doc__.splitlines()[0], table, markdown)
