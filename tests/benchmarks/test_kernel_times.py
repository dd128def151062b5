"""Times of single kernels: all but the clock runs here, in Triton's interpreter, on small shapes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.device import DEVICE

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

import triton

from benchmarks.gpu import kernel_times, static_count
from benchmarks.gpu.kernel_times import Bound, Shape
from nucel.kernels import attention_triton

SHAPE = Shape(batch=2, positions=70, heads=2, width=16, radius=60, dtype=torch.float16, device=DEVICE)
KERNELS = list(static_count.WORK)
ONE_MS = dict.fromkeys(KERNELS, Bound(1.0, "issue"))


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and version(triton.__version__) < (3, 7) and version(np.__version__) >= (2, 4),
    reason="the interpreter of Triton 3.6 does not work with NumPy 2.4 or newer",
)


class StandInClock:
    """Runs what it is given and says that it took 4 ms."""

    def __init__(self):
        self.calls = 0

    def __call__(self, call):
        call()
        self.calls += 1
        return 4.0


@pytest.mark.slow
def test_every_kernel_of_a_step_has_a_time_beside_its_bound(tmp_path):
    table = kernel_times.make_table({"machine": "none"}, tmp_path / "kernel_times")
    table.fill(kernel_times.with_sums(kernel_times.rows(SHAPE, ONE_MS, StandInClock())))
    single = [row for row in table.rows if not row["kernel"].startswith("all")]
    assert [(row["group"], row["kernel"]) for row in single] == KERNELS
    assert {(row["ms"], row["bound_ms"], row["of_bound"]) for row in single} == {(4.0, 1.0, 0.25)}
    sums = {row["group"]: row for row in table.rows if row["kernel"].startswith("all")}
    assert sums["global forward"]["ms"] == 10 * 2 * 4.0
    assert sums["global forward"]["bound_ms"] == 10 * 2 * 1.0
    assert "| loop_forward | 4.000 | 1.000 | 25% | issue |" in (tmp_path / "kernel_times.md").read_text()


@pytest.mark.slow
def test_kernels_of_a_wrong_pass_get_no_time(monkeypatch):
    right = attention_triton.attention_backward

    def wrong(*arguments):
        grad = right(*arguments)
        grad[-1, 3, 1, 0, 5] += 0.5
        return grad

    monkeypatch.setattr(static_count, "GROUPS", {"local backward": ("", 17.5, 1), "local forward": ("", 17.5, 1)})
    clock = StandInClock()
    rows = list(kernel_times.rows(SHAPE, ONE_MS, clock))
    assert [row["kernel"] for row in rows] == ["walk_backward", "walk_forward"]
    monkeypatch.setattr(attention_triton, "attention_backward", wrong)
    clock.calls = 0
    rows = list(kernel_times.with_sums(kernel_times.rows(SHAPE, ONE_MS, clock)))
    assert rows[0]["kernel"] == "all" and "is wrong" in rows[0]["reason"]
    assert [row["kernel"] for row in rows[1:]] == ["walk_forward", "all, 17.5 times"]
    assert clock.calls == 1


@pytest.mark.slow
def test_a_cut_leaves_the_kernels_before_it(tmp_path):
    class Cut(StandInClock):
        def __call__(self, call):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(call)

    table = kernel_times.make_table({"machine": "none"}, tmp_path / "kernel_times")
    with pytest.raises(KeyboardInterrupt):
        table.fill(kernel_times.with_sums(kernel_times.rows(SHAPE, {}, Cut())))
    rows = json.loads((tmp_path / "kernel_times.json").read_text())["rows"]
    assert [row["kernel"] for row in rows] == ["walk_forward", "walk_backward"]


@pytest.mark.slow
def test_a_profiler_sees_every_kernel_once():
    with kernel_times.recorded() as launches:
        for group in kernel_times.BOTH_WAYS:
            kernel_times.launch_once(SHAPE, group)
    assert sorted(launch.kernel for launch in launches) == sorted(kernel for _, kernel in KERNELS)


def test_only_bounds_of_this_gpu_and_this_triton_count(tmp_path):
    row = {"group": "RTD", "kernel": "forward", "sm": 90, "triton": "3.6.0", "bound_ms": 0.1, "limiter": "memory"}
    others = [row | {"sm": 80, "bound_ms": 2.0}, row | {"triton": "3.7.1", "bound_ms": 3.0}]
    (tmp_path / "count.json").write_text(json.dumps([row, *others]))
    bounds = kernel_times.read_bounds(tmp_path / "count.json", 90, "3.6.0")
    assert bounds == {("RTD", "forward"): Bound(0.1, "memory")}
    assert kernel_times.read_bounds(tmp_path / "count.json", 100, "3.6.0") == {}


@pytest.mark.gpu
def test_times_of_a_gpu_are_above_the_floor_of_a_launch():
    rows = list(kernel_times.rows(SHAPE._replace(dtype=torch.bfloat16), {}, kernel_times.gpu_milliseconds))
    assert [(row["group"], row["kernel"]) for row in rows] == KERNELS
    assert all(row["ms"] > 1e-4 for row in rows)
