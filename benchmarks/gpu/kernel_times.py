"""Every Triton kernel of a training step alone, at the model's shapes, beside the bound that its machine code sets.

    python -m benchmarks.gpu.static_count --json static_count.json
    python -m benchmarks.gpu.kernel_times --out DIR --bounds static_count.json
    ncu ... python -m benchmarks.gpu.kernel_times --once RTD    launches each kernel of a pass once, for a profiler

The launchers run once, and every launch of a kernel is recorded with its arguments; then each is repeated by itself and
timed by CUDA events. What a launcher gives is first compared with the reference: kernels of a wrong pass get no time.
A bound counts only if it was counted under the Triton that runs here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.jit import KernelInterface

from benchmarks import bench_attention, bench_rtd_loss
from benchmarks.gpu import static_count
from benchmarks.table import FAILURES, Expected, Row, Table, gpu_milliseconds, machine, reason_of
from nucel.kernels import attention_triton, reference, rtd_loss_triton

Clock = Callable[[Callable[[], Any]], float]
"""Milliseconds of a call."""


class Shape(NamedTuple):
    """What the kernels run on; by default the model's training step."""

    batch: int = static_count.BATCH
    positions: int = static_count.POSITIONS
    heads: int = static_count.HEADS
    width: int = static_count.WIDTH
    radius: int = static_count.RADIUS
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"


class Recorded(NamedTuple):
    """One launch of a kernel."""

    kernel: str
    again: Callable[[], Any]


@contextlib.contextmanager
def recorded() -> Iterator[list[Recorded]]:
    """A list to which every launch inside the block adds itself; they run as ever."""
    launches: list[Recorded] = []
    of_grid = KernelInterface.__getitem__

    def record(kernel: Any, grid: tuple[int, ...]) -> Callable[..., Any]:
        launch = of_grid(kernel, grid)

        def run(*args: Any, **options: Any) -> Any:
            launches.append(Recorded(kernel.__name__.lstrip("_"), lambda: launch(*args, **options)))
            return launch(*args, **options)

        return run

    KernelInterface.__getitem__ = record
    try:
        yield launches
    finally:
        KernelInterface.__getitem__ = of_grid


# ---- the passes ------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One pass of an op: the launchers to run, and what of their results is compared."""

    run: Callable[[], tuple[Tensor, ...]]
    expected: Callable[[], Expected]


def part(expected: Expected, which: slice) -> Expected:
    return Expected(expected.exact[which], expected.allowed[which])


def attention_pass(shape: Shape, group: str) -> Pass:
    """Compares the batch's last row, whose addresses are the largest."""
    radius = shape.radius if group.startswith("local") else None
    size = (shape.batch, shape.positions, shape.heads, shape.width)
    problem = bench_attention.Problem.draw(size, radius, shape.dtype, shape.device)
    last = problem._replace(qkv=problem.qkv[-1:], grad_out=problem.grad_out[-1:])
    qkv, cos, sin, _, grad_out = problem
    if group.endswith("forward"):

        def forward() -> tuple[Tensor, ...]:
            return (attention_triton.attention_forward(qkv, cos, sin, radius, None)[0][-1:],)

        return Pass(forward, lambda: part(bench_attention.expected(last), slice(0, 1)))
    out, lse = attention_triton.attention_forward(qkv, cos, sin, radius, None)

    def backward() -> tuple[Tensor, ...]:
        grad = attention_triton.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, None)
        return bench_attention.rotated(grad[-1:], last)

    return Pass(backward, lambda: part(bench_attention.expected(last), slice(1, None)))


def rtd_pass(shape: Shape) -> Pass:
    """Compares loss and gradients of the whole batch; the plain chain of the same dtype says how exact they must be."""
    size = (shape.batch, shape.positions, shape.heads * shape.width)
    problem = bench_rtd_loss.Problem.draw(size, shape.dtype, shape.device)
    *inputs, original = problem
    eps = bench_rtd_loss.EPS

    def both() -> tuple[Tensor, ...]:
        loss, logits = rtd_loss_triton.rtd_loss_forward(*problem, None, eps)
        one = torch.ones_like(loss)
        return loss, *rtd_loss_triton.rtd_loss_backward(one, *problem[:3], original, logits, None, eps)

    def expected() -> Expected:
        exact = [x.double() for x in inputs]
        loss, logits = reference.rtd_loss_forward(*exact, original, None, eps)
        one = torch.ones_like(loss)
        grads = reference.rtd_loss_backward(one, *exact[:3], original, logits, None, eps)
        leaves = problem.leaves()
        plain = bench_rtd_loss.eager(*leaves, original)
        pytorch = (plain.detach(), *torch.autograd.grad(plain, leaves))
        return Expected.beside((loss, *grads), pytorch, shape.dtype)

    return Pass(both, expected)


def make_pass(shape: Shape, group: str) -> Pass:
    return rtd_pass(shape) if group == "RTD" else attention_pass(shape, group)


# ---- the table -------------------------------------------------------------------------------------------------------


class Bound(NamedTuple):
    ms: float
    limiter: str


def read_bounds(file: Path, architecture: int, version: str) -> dict[tuple[str, str], Bound]:
    """By group and kernel, from `static_count --json`: what was counted for this GPU under this Triton."""
    rows = json.loads(file.read_text())
    return {
        (row["group"], row["kernel"]): Bound(row["bound_ms"], row["limiter"])
        for row in rows
        if (row["sm"], row["triton"]) == (architecture, version)
    }


def rows(shape: Shape, bounds: dict[tuple[str, str], Bound], clock: Clock) -> Iterator[Row]:
    """A row for each launch of each pass, as it is timed."""
    for group in static_count.GROUPS:
        try:
            one = make_pass(shape, group)
            with recorded() as launches:
                results = one.run()
            one.expected().check(group, results)
            del one, results
        except FAILURES as error:  # the other passes go on
            yield {"group": group, "kernel": "all", "reason": reason_of(error)}
            continue
        for launch in launches:
            row = {"group": group, "kernel": launch.kernel}
            try:
                row["ms"] = clock(launch.again)
            except FAILURES as error:
                yield row | {"reason": reason_of(error)}
                continue
            if bound := bounds.get((group, launch.kernel)):
                row |= {"bound_ms": bound.ms, "of_bound": bound.ms / row["ms"], "limiter": bound.limiter}
            yield row
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def with_sums(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, then each group's layers in a step, if all of its kernels have a time."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
        yield row
    for group, parts in groups.items():
        layers = static_count.GROUPS[group][1]
        if all("ms" in part for part in parts):
            yield {"group": group, "kernel": f"all, {layers:g} times", **_sum(parts, layers)}


def _sum(parts: list[Row], layers: float) -> Row:
    total: Row = {"ms": layers * sum(part["ms"] for part in parts)}
    if all("bound_ms" in part for part in parts):
        total["bound_ms"] = layers * sum(part["bound_ms"] for part in parts)
        total["of_bound"] = total["bound_ms"] / total["ms"]
    return total


def make_table(facts: Row, path: Path | None) -> Table:
    return Table(
        facts=facts,
        labels=("group", "kernel"),
        values={
            "ms": ("ms", ".3f"),
            "bound_ms": ("bound, ms", ".3f"),
            "of_bound": ("bound / time", ".0%"),
            "limiter": ("the bound is", "s"),
        },
        path=path,
        note=f"{static_count.SHAPES} Medians of CUDA events. Bounds are counted from machine code.",
    )


BOTH_WAYS = ("global backward", "local backward", "RTD")
"""Groups that launch every kernel between them: a backward pass begins with its forward."""


def launch_once(shape: Shape, group: str) -> None:
    make_pass(shape, group).run()
    if shape.device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for kernel_times.json and kernel_times.md")
    parser.add_argument("--bounds", type=Path, help="what static_count --json wrote under the same Triton")
    parser.add_argument("--once", choices=BOTH_WAYS, help="launch this once, forward and backward, and time nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("kernels are timed on a GPU, and there is none")
    if options.once:
        launch_once(Shape(), options.once)
        return
    bounds = {}
    if options.bounds and options.bounds.is_file():
        architecture = 90 if torch.cuda.get_device_capability()[0] == 9 else 80
        bounds = read_bounds(options.bounds, architecture, triton.__version__)
    if not bounds:
        print("no bounds for this GPU and this Triton")
    table = make_table(machine(torch.device("cuda")), options.out and options.out / "kernel_times")
    table.fill(with_sums(rows(Shape(), bounds, gpu_milliseconds)), math.inf)
    print(table.markdown())


if __name__ == "__main__":
    main()
