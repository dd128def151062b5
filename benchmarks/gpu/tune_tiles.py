"""Time candidate tiles of every attention kernel on this GPU and print the table of `nucel.kernels.tiles`.

    python -m benchmarks.gpu.tune_tiles [--widths 32 64 128] [--seconds 300] [--ops band_forward ...]

Each candidate is timed inside its launcher at the model's shape, all other kernels keeping their tiles. One that does
not compile, does not fit or does not give what the present tile gives is passed over. Candidates are first compiled by
as many processes as there are CPUs, into Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait

import torch

from benchmarks.gpu import compiling
from benchmarks.gpu.compiling import without_data
from benchmarks.table import FAILURES, gpu_milliseconds, machine, machine_line
from nucel.kernels import attention_triton, tiles
from nucel.kernels.tiles import Tile

TOKENS, POSITIONS, CHANNELS = 196_608, 1024, 512
OPS = {
    "band_forward": (64, False),
    "walk_backward": (64, True),
    "local_backward": (20, True),
    "rotate": (None, False),
    "loop_forward": (None, False),
    "global_backward_queries": (None, True),
    "global_backward_keys": (None, True),
}
"""Radius at which an op is timed, and whether its launcher is the backward's."""


def candidates(present: Tile) -> list[Tile]:
    """Blocks with 16 or 32 rows to a warp, steps and stages where there is a loop; those near the present one first."""
    steps = (0,) if present.step == 0 else (16, 32, 64, 128)
    stages = (1,) if steps == (0,) else (1, 2, 3, 4)
    every = itertools.starmap(Tile, itertools.product((32, 64, 128, 256), steps, (2, 4, 8), stages))

    def distance(tile: Tile) -> float:
        doublings = (abs(math.log2(x / y)) for x, y in zip(tile[:3], present[:3], strict=True) if x and y)
        return sum(doublings) + abs(tile.stages - present.stages) / 2

    return sorted((tile for tile in every if 16 <= tile.block // tile.warps <= 32 and tile != present), key=distance)


def with_tile(op: str, architecture: str, column: int, tile: Tile) -> None:
    """Put one tile into the table."""
    row = tiles.TILES[op, architecture]
    tiles.TILES[op, architecture] = (*row[:column], tile, *row[column + 1 :])


def compile_candidate(op: str, width: int, architecture: int, tile: Tile) -> str | None:
    """Compile the kernels of an op's launcher into Triton's cache, on a CPU; the error, if there is one."""
    with_tile(op, f"sm_{architecture}", tiles.WIDTHS.index(width), tile)
    radius, backward = OPS[op]
    batch, heads = TOKENS // POSITIONS, CHANNELS // width
    qkv = without_data(batch, POSITIONS, 3, heads, width, dtype=torch.bfloat16)
    angles = without_data(POSITIONS, width // 2)
    out, lse = without_data(batch, POSITIONS, heads, width, dtype=torch.bfloat16), without_data(batch, heads, POSITIONS)
    try:
        with compiling.launches(architecture, keep=True):
            if backward:
                attention_triton.attention_backward(out, qkv, angles, angles, out, lse, radius, None)
            else:
                attention_triton.attention_forward(qkv, angles, angles, radius, None)
    except FAILURES as error:
        return type(error).__name__
    return None


def compile_in_parallel(
    pool: ProcessPoolExecutor, op: str, width: int, architecture: int, candidates: list[Tile], seconds: float
) -> dict[Tile, str]:
    """Candidates that do not compile, with the error; after so many seconds the rest is left to be compiled later."""
    futures = {pool.submit(compile_candidate, op, width, architecture, tile): tile for tile in candidates}
    done, late = wait(futures, seconds)
    for future in late:
        future.cancel()
    results = {futures[future]: future.exception() or future.result() for future in done}
    return {tile: error if isinstance(error, str) else repr(error) for tile, error in results.items() if error}


def launcher(op: str, width: int) -> Callable[[], torch.Tensor]:
    """A call whose time contains the op's."""
    radius, backward = OPS[op]
    torch.manual_seed(0)
    batch, heads = TOKENS // POSITIONS, CHANNELS // width
    qkv = torch.randn((batch, POSITIONS, 3, heads, width), dtype=torch.bfloat16, device="cuda")
    grad_out = torch.randn((batch, POSITIONS, heads, width), dtype=torch.bfloat16, device="cuda")
    angle = torch.arange(POSITIONS, device="cuda")[:, None] * torch.logspace(0, -4, width // 2, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    out, lse = attention_triton.attention_forward(qkv, cos, sin, radius, None)
    if backward:
        return lambda: attention_triton.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, None)
    return lambda: attention_triton.attention_forward(qkv, cos, sin, radius, None)[0]


def best(
    op: str,
    width: int,
    architecture: str,
    call: Callable[[], torch.Tensor],
    clock: Callable[[Callable[[], torch.Tensor]], float],
    deadline: float,
    broken: dict[Tile, str],
) -> tuple[Tile, float, float]:
    """The fastest tile, its milliseconds, and those of the tile in the table.

    Args:
        call: whose time contains the op's.
        clock: milliseconds of a call.
        deadline: by `time.monotonic`; no candidate is begun after it.
        broken: candidates known not to compile, with the error.
    """
    column = tiles.WIDTHS.index(width)
    fastest = tiles.TILES[op, architecture][column]
    expected = call()
    present_ms = fastest_ms = clock(call)
    for tile in candidates(fastest):
        if time.monotonic() > deadline:
            print(f"# out of time at {op}, D = {width}: {tile} and what follows were not tried")
            break
        error = broken.get(tile)
        if error is None:
            with_tile(op, architecture, column, tile)
            try:
                # Both round to bf16 (eps 2^-7) after sums in another order, hence a few eps. The tests are stricter.
                torch.testing.assert_close(call(), expected, rtol=0.05, atol=0.05)
                ms = clock(call)
            except FAILURES as raised:
                error = type(raised).__name__
        if error is not None:
            print(f"# {op}, D = {width}: {tile} passed over, {error}", flush=True)
        elif ms < fastest_ms:
            fastest, fastest_ms = tile, ms
    with_tile(op, architecture, column, fastest)
    return fastest, fastest_ms, present_ms


def quick_clock(call: Callable[[], torch.Tensor]) -> float:
    return gpu_milliseconds(call, rep=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", choices=tiles.WIDTHS, default=list(tiles.WIDTHS))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--seconds", type=float, default=300.0, help="in all, shared equally by ops and widths")
    options = parser.parse_args()
    share = options.seconds / len(options.ops) / len(options.widths)
    if not torch.cuda.is_available():
        parser.error("tiles are timed on a GPU, and there is none")
    architecture = tiles.architecture(torch.device("cuda"))
    processes = min(14, os.cpu_count() or 1)
    print(f"# {machine_line(machine(torch.device('cuda')))}; bf16, {TOKENS} tokens", flush=True)
    # Not forked: the GPU's state of this process is of no use in another one.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    for op in options.ops:
        for width in options.widths:
            deadline = time.monotonic() + share
            near = candidates(tiles.TILES[op, architecture][tiles.WIDTHS.index(width)])[: 2 * processes]
            broken = compile_in_parallel(pool, op, width, int(architecture[3:]), near, share / 2)
            tile, ms, present_ms = best(
                op, width, architecture, launcher(op, width), quick_clock, deadline, broken
            )  # fmt: skip
            print(f"# {op}, D = {width}: {present_ms:.3f} ms in the table, {ms:.3f} ms with {tile}", flush=True)
        values = ([x for x in tile if x is not None] for tile in tiles.TILES[op, architecture])
        row = ", ".join(f"Tile({', '.join(map(str, numbers))})" for numbers in values)
        print(f'    ("{op}", "{architecture}"): ({row}),', flush=True)
    pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    main()
