"""Every kernel compiles for A100 and for H100 / H200, fits, and keeps its values in registers.

Kernels of fp16 and of bf16 take the same shared memory and nearly the same registers (benchmarks/kernels_aot.md), so
that each architecture compiles one of the two: fp16 where it spills more, bf16 where it is used more. With
NUCEL_COMPILE_ALL=1 in the environment both are compiled for both; `benchmarks/two_versions.sh` does so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SHARED_MEMORY_LIMIT = {80: 166_912, 90: 232_448}
DTYPES = {80: ("float32", "float16"), 90: ("float32", "bfloat16")}
if os.environ.get("NUCEL_COMPILE_ALL") == "1":
    DTYPES = dict.fromkeys(DTYPES, ("float32", "float16", "bfloat16"))
OTHER_AMPERE_LIMIT = 101_376
"""99 KiB, what a program can have on the GPUs of sm_86, sm_89 and sm_120, which take the tiles of sm_80."""


SPILLS = {"walk_backward": 648, "global_backward_keys": 24}
"""Bytes of a thread that may spill, by kernel. Both pay by the count of `static_count`, see benchmarks/NOTES.md: a walk
loads everything once, at the price of three tiles in registers; with 128 registers two programs of the keys' kernel
share a multiprocessor."""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> list[dict]:
    """Both architectures at once, each in a process of its own, where Triton compiles and does not interpret."""
    folder = tmp_path_factory.mktemp("aot")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    files = {sm: folder / f"{sm}.json" for sm in SHARED_MEMORY_LIMIT}
    runs = [
        subprocess.Popen(
            [
                sys.executable, "-m", "benchmarks.gpu.aot_table", "--architectures", str(sm),
                "--dtypes", *DTYPES[sm], "--json", file,
            ],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for sm, file in files.items()
    ]  # fmt: skip
    reports = [run.communicate()[0] for run in runs]
    assert all(run.returncode == 0 for run in runs), "\n".join(reports)
    print(*reports, sep="\n\n")
    return [row for file in files.values() for row in json.loads(file.read_text())]


def test_every_kernel_is_compiled_for_every_architecture_dtype_and_width(table):
    compiled = {tuple(row[name] for name in ("op", "kernel", "kind", "sm", "dtype", "width")) for row in table}
    for sm in SHARED_MEMORY_LIMIT:
        for dtype in DTYPES[sm]:
            for width in (16, 32, 64, 128):
                band = "loop_forward" if dtype == "float32" else "band_forward"
                walks = dtype != "float32" and width <= 32
                expected = {
                    "near": {band, "local_backward"},
                    "band": {"walk_forward", "walk_backward"} if walks else {band, "local_backward"},
                    "wide": {"rotate", "loop_forward", "local_backward"},
                    "global": {
                        "rotate",
                        "loop_forward",
                        "prepare_backward",
                        "global_backward_queries",
                        "global_backward_keys",
                    },
                }
                for kind, kernels in expected.items():
                    assert all(("attention", kernel, kind, sm, dtype, width) in compiled for kernel in kernels)
            for width in (64, 256, 512, 1024, 2048):
                for kernel in (
                    "forward",
                    "position_losses",
                    "finish_forward",
                    "position_grads",
                    "backward",
                    "finish_backward",
                ):
                    assert ("rtd_loss", kernel, "", sm, dtype, width) in compiled


def test_nothing_spills_but_where_it_pays(table):
    assert [row for row in table if row["spilled_bytes"] > SPILLS.get(row["kernel"], 0)] == []


def test_no_wgmma_waits_for_another(table):
    """ptxas says so in a note (C7514, C7515) and compiles on."""
    assert [row for row in table if row["serialized"]] == []


def test_shared_memory_fits(table):
    assert [row for row in table if row["shared_bytes"] > SHARED_MEMORY_LIMIT[row["sm"]]] == []
    assert [row for row in table if row["sm"] == 80 and row["shared_bytes"] > OTHER_AMPERE_LIMIT] == []


def test_tensor_cores_multiply_16_bit_products(table):
    passes = ("rotate", "prepare_backward")
    attention = [row for row in table if row["op"] == "attention" and row["kernel"] not in passes]
    products = [row for row in attention if row["dtype"] != "float32"]
    assert {row["multiplies"] for row in products} <= {"mma", "wgmma"}
    # Blocks of 64 queries or more fill Hopper's instruction.
    whole = [row for row in products if row["sm"] == 90 and row["block"] >= 64]
    assert {row["multiplies"] for row in whole} == {"wgmma"}
