"""Registers, shared memory and spills of every attention kernel, compiled ahead of time, without a GPU.

    python benchmarks/aot_table.py [--architectures 80 90] [--json FILE]

The launchers themselves run, on tensors without data, under a driver that says it is the given architecture and
compiles where it would launch; so what is compiled is what a GPU would run, alignment and constants included. Prints a
Markdown table; each row is the largest of a kernel with and without ``lengths``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from nucel.kernels import attention_triton, tiles

SHARED_MEMORY_LIMIT = {80: 166_912, 90: 232_448}
"""Bytes that a program can have on A100 and on H100 / H200."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTHS = (16, 32, 64, 128)
RADII = {"band": 64, "wide": 200, "global": None}
BATCH, POSITIONS, HEADS = 2, 1024, 16

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_launch = JITFunction.run


class CompilingDriver:
    """As much of a Triton driver as compiling needs."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """What the assembler used: REG registers per thread, STACK bytes that values spilled to, SHARED static bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([_CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", report.stdout)}


def matrix_instruction(ptx: str) -> str:
    """Which units multiply: wgmma (Hopper's), mma (tensor cores), fma (fp32 arithmetic), or none."""
    for instruction, sign in {"wgmma": "wgmma.mma_async", "mma": "mma.sync", "fma": "fma.rn"}.items():
        if sign in ptx:
            return instruction
    return "none"


def compile_all(architecture: int) -> list[dict[str, Any]]:
    """A row for every kernel x dtype x head width x kind of attention."""
    triton.runtime.driver.set_active(CompilingDriver(architecture))
    tiles.architecture = lambda device: f"sm_{architecture}"
    compiled: list[tuple[str, dict[str, Any], Any]] = []

    def compile_instead(kernel, *args, grid, warmup, **options):
        binary = _launch(kernel, *args, grid=grid, warmup=True, **options)
        compiled.append((kernel.__name__.lstrip("_"), options, binary))

    JITFunction.run = partialmethod(compile_instead)

    rows: dict[tuple, dict[str, Any]] = {}
    for dtype in DTYPES:
        for width in WIDTHS:
            qkv = torch.empty((BATCH, POSITIONS, 3, HEADS, width), dtype=dtype, device="meta")
            angles = torch.empty((POSITIONS, width // 2), device="meta")
            for kind, radius in RADII.items():
                for lengths in (None, torch.empty(BATCH, dtype=torch.int32, device="meta")):
                    out, lse = attention_triton.attention_forward(qkv, angles, angles, radius, lengths)
                    attention_triton.attention_backward(out, qkv, angles, angles, out, lse, radius, lengths)
                    for kernel, options, binary in compiled:
                        used = resources(binary.asm["cubin"])
                        row = rows.setdefault(
                            (kernel, kind, dtype, width),
                            {
                                "kernel": kernel,
                                "kind": kind,
                                "dtype": str(dtype).removeprefix("torch."),
                                "width": width,
                                "sm": architecture,
                                "block": options["BLOCK"],
                                "step": options.get("STEP", options.get("SIDE", 0)),
                                "warps": options["num_warps"],
                                "stages": options["num_stages"],
                                "multiplies": matrix_instruction(binary.asm["ptx"]),
                                "registers": 0,
                                "shared_bytes": 0,
                                "spilled_bytes": 0,
                            },
                        )
                        row["registers"] = max(row["registers"], used["REG"])
                        row["shared_bytes"] = max(row["shared_bytes"], binary.metadata.shared)
                        row["spilled_bytes"] = max(row["spilled_bytes"], used["STACK"])
                    compiled.clear()
    return list(rows.values())


def markdown(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, nargs="+", choices=SHARED_MEMORY_LIMIT, default=[80, 90])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = [row for architecture in options.architectures for row in compile_all(architecture)]
    if options.json:
        options.json.write_text(json.dumps(rows))
    print(f"Triton {triton.__version__}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
