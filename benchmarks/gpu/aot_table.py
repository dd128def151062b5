"""Registers, shared memory and spills of every kernel, compiled ahead of time, without a GPU.

    python -m benchmarks.gpu.aot_table [--architectures 80 90] [--ops attention rtd_loss] [--dtypes bfloat16]
        [--json FILE]

Prints a Markdown table; each row is the largest of a kernel with and without ``lengths``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.gpu.compiling import launches, without_data
from benchmarks.table import markdown_table
from nucel.kernels import OPS, attention_triton, rtd_loss_triton

SHARED_MEMORY_LIMIT = {80: 166_912, 90: 232_448}
"""Bytes that a program can have on A100 and on H100 / H200."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HEAD_WIDTHS = (16, 32, 64, 128)
MODEL_WIDTHS = (64, 256, 512, 1024, 2048)
RADII = {"near": 20, "band": 64, "wide": 200, "global": None}
BATCH, POSITIONS, HEADS = 2, 1024, 16


def matrix_instruction(ptx: str) -> str:
    """Which units multiply: wgmma (Hopper's), mma (tensor cores), fma (fp32 arithmetic), or none."""
    for instruction, sign in {"wgmma": "wgmma.mma_async", "mma": "mma.sync", "fma": "fma.rn"}.items():
        if sign in ptx:
            return instruction
    return "none"


def passes(dtype: torch.dtype) -> Iterator[tuple[str, str, int, Callable[[], None]]]:
    """Op, kind, width, and a function that launches the op's kernels, forward and backward."""
    for lengths in (None, without_data(BATCH, dtype=torch.int32)):
        for width in HEAD_WIDTHS:
            qkv = without_data(BATCH, POSITIONS, 3, HEADS, width, dtype=dtype)
            angles = without_data(POSITIONS, width // 2)
            for kind, radius in RADII.items():

                def attention(qkv=qkv, angles=angles, radius=radius, lengths=lengths):
                    out, lse = attention_triton.attention_forward(qkv, angles, angles, radius, lengths)
                    attention_triton.attention_backward(out, qkv, angles, angles, out, lse, radius, lengths)

                yield "attention", kind, width, attention
        for width in MODEL_WIDTHS:
            dense, weight = without_data(BATCH, POSITIONS, width, dtype=dtype), without_data(width)
            original = without_data(BATCH, POSITIONS, dtype=torch.bool)

            def rtd_loss(dense=dense, weight=weight, original=original, lengths=lengths):
                bias = without_data()
                loss, logits = rtd_loss_triton.rtd_loss_forward(dense, weight, weight, bias, original, lengths, 1e-5)
                rtd_loss_triton.rtd_loss_backward(loss, dense, weight, weight, original, logits, lengths, 1e-5)

            yield "rtd_loss", "", width, rtd_loss


def compile_all(architecture: int, ops: list[str], dtypes: list[str]) -> list[dict[str, Any]]:
    """A row for every kernel of the ops x dtype x width x kind of attention.

    `serialized` is 1 where the assembler made wgmma instructions wait for one another, which shows in the speed alone.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for dtype in dtypes:
        for op, kind, width, run in passes(DTYPES[dtype]):
            if op not in ops:
                continue
            with launches(architecture) as done:
                run()
            for launch in done:
                used, options = launch.resources(), launch.options
                row = rows.setdefault(
                    (launch.kernel, kind, dtype, width),
                    {
                        "op": op,
                        "kernel": launch.kernel,
                        "kind": kind,
                        "dtype": dtype,
                        "width": width,
                        "sm": architecture,
                        "block": options.get("BLOCK", 0),
                        "step": options.get("STEP", options.get("SIDE", 0)),
                        "warps": options["num_warps"],
                        "stages": options["num_stages"],
                        "multiplies": matrix_instruction(launch.binary.asm["ptx"]),
                        "registers": 0,
                        "shared_bytes": 0,
                        "spilled_bytes": 0,
                        "serialized": 0,
                    },
                )
                row["registers"] = max(row["registers"], used["REG"])
                row["shared_bytes"] = max(row["shared_bytes"], launch.binary.metadata.shared)
                row["spilled_bytes"] = max(row["spilled_bytes"], used["STACK"])
                row["serialized"] = max(row["serialized"], int(launch.is_serialized()))
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, nargs="+", choices=SHARED_MEMORY_LIMIT, default=[80, 90])
    parser.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = [row for sm in options.architectures for row in compile_all(sm, options.ops, options.dtypes)]
    if options.json:
        options.json.write_text(json.dumps(rows))
    print(f"Triton {triton.__version__}\n\n{markdown_table(rows[0], (map(str, row.values()) for row in rows))}")


if __name__ == "__main__":
    main()
