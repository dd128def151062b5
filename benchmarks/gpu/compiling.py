"""Kernels compiled without a GPU, exactly as a GPU would run them.

The launchers themselves run, on tensors without data, under a driver that says it is the given architecture and
compiles where it would launch; so alignment and constants are those of a real launch.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from nucel.kernels import tiles

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Launch(NamedTuple):
    """One launch of a kernel, which was compiled instead."""

    kernel: str
    programs: int
    options: dict[str, Any]
    """Constants, warps and stages, by name."""
    binary: Any
    """Triton's compiled kernel: `asm["ptx"]`, `asm["cubin"]`, `metadata.shared`."""
    assembler_log: str

    def resources(self) -> dict[str, int]:
        """What the assembler used: REG registers per thread, STACK bytes that values spilled to."""
        report = _tool("cuobjdump", ["-res-usage"], self.binary.asm["cubin"])
        return {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", report)}

    def listing(self) -> str:
        """The machine code."""
        return _tool("nvdisasm", ["-c"], self.binary.asm["cubin"])

    def is_serialized(self) -> bool:
        """Whether the assembler made wgmma instructions wait for one another (its notes C7514 and C7515)."""
        return re.search(r"C751\d", self.assembler_log) is not None


def _tool(name: str, options: list[str], cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / name, *options, file.name], capture_output=True, text=True, check=True).stdout


class _Driver:
    """As much of a Triton driver as compiling needs."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def launches(architecture: int, keep: bool = False) -> Iterator[list[Launch]]:
    """A list to which every launch inside the block adds itself; nothing runs.

    The driver stays after the block, so this is for a process that runs no kernel.

    Args:
        architecture: 80 for A100, 90 for H100 and H200.
        keep: compile into Triton's cache, for another process. Otherwise it compiles anew, past the cache, which does
            not keep the assembler's log.
    """
    done: list[Launch] = []
    launch, architecture_of = JITFunction.run, tiles.architecture

    def compile_instead(kernel, *args, grid, warmup, **options):
        with contextlib.redirect_stdout(io.StringIO()) as log:
            binary = launch(kernel, *args, grid=grid, warmup=True, **options)
        programs = 1
        for count in grid:
            programs *= count
        done.append(Launch(kernel.__name__.lstrip("_"), programs, options, binary, log.getvalue()))

    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope(), triton.knobs.nvidia.scope():
        if not keep:
            triton.knobs.cache.dir = cache
            triton.knobs.nvidia.dump_ptxas_log = True
        triton.runtime.driver.set_active(_Driver(architecture))
        JITFunction.run = partialmethod(compile_instead)
        tiles.architecture = lambda device: f"sm_{architecture}"
        try:
            yield done
        finally:
            JITFunction.run, tiles.architecture = launch, architecture_of


def without_data(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
