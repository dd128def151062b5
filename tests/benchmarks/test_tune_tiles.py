"""The search for tiles without a GPU: what it does with candidates that fail, and that it compiles them ahead."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from benchmarks.gpu import tune_tiles
from benchmarks.table import TritonError
from nucel.kernels import tiles
from nucel.kernels.tiles import Tile

REPOSITORY = Path(__file__).parents[2]
OP, ARCHITECTURE = "loop_forward", "sm_90"


class CompilerError(TritonError):
    """As Triton's errors, neither a RuntimeError nor a ValueError."""


def present() -> Tile:
    return tiles.TILES[OP, ARCHITECTURE][0]


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(tiles, "TILES", dict(tiles.TILES))


def test_candidates_that_fail_or_are_wrong_are_passed_over(table, capsys):
    before = tiles.TILES[OP, ARCHITECTURE]
    uncompilable, wrong, fails, slow, fast = tune_tiles.candidates(present())[:5]
    milliseconds = {present(): 2.0, wrong: 0.1, slow: 3.0, fast: 1.0}
    tried = []

    def call():
        tried.append(present())
        if present() == fails:
            raise CompilerError("ptxas")
        return torch.ones(4) * (2 if present() == wrong else 1)

    def clock(call):
        call()
        return milliseconds.get(present(), 9.0)

    result = tune_tiles.best(OP, 32, ARCHITECTURE, call, clock, math.inf, {uncompilable: "PTXASError"})
    assert result == (fast, 1.0, 2.0)
    assert tiles.TILES[OP, ARCHITECTURE] == (fast, *before[1:])
    assert uncompilable not in tried
    printed = capsys.readouterr().out
    for tile, error in ((uncompilable, "PTXASError"), (wrong, "AssertionError"), (fails, "CompilerError")):
        assert f"{tile} passed over, {error}" in printed


def test_after_the_deadline_the_present_tile_stays(table, capsys):
    before = tiles.TILES[OP, ARCHITECTURE]
    result = tune_tiles.best(OP, 32, ARCHITECTURE, lambda: torch.ones(1), lambda call: 2.0, -math.inf, {})
    assert result == (before[0], 2.0, 2.0)
    assert tiles.TILES[OP, ARCHITECTURE] == before
    assert "were not tried" in capsys.readouterr().out


COMPILE = """
import json, multiprocessing
from concurrent.futures import ProcessPoolExecutor
from benchmarks.gpu.tune_tiles import compile_in_parallel
from nucel.kernels.tiles import Tile
with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    broken = compile_in_parallel(pool, "loop_forward", 32, 90, [Tile(128, 64, 4, 3), Tile(96, 64, 4, 3)], 300)
print(json.dumps([[list(tile), error] for tile, error in broken.items()]))
"""


@pytest.mark.slow
def test_candidates_are_compiled_ahead_into_triton_s_cache(tmp_path):
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0", "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    ((tile, error),) = json.loads(done.stdout.splitlines()[-1])  # 96 is no power of two
    assert tile[0] == 96 and error == "CompilationError"
    kept = [json.loads(file.read_text()) for file in tmp_path.glob("*/_loop_forward.json")]
    assert [kernel["num_warps"] for kernel in kept] == [4]
    assert list(tmp_path.glob("*/_loop_forward.cubin"))
