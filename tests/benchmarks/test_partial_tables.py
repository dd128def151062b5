"""Tables that a round may cut: what matters most comes first, and an error ends one row alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import bench_attention
from benchmarks.gpu import profile_step
from benchmarks.table import Table, TritonError


class CompilerError(TritonError):
    """As Triton's errors, neither a RuntimeError nor a ValueError."""


def test_attention_times_nucel_in_every_case_before_any_other(monkeypatch):
    def measure(name, problem, right):
        if name == "nucel" and problem.radius is None:
            raise CompilerError("ptxas died\nof something")
        return {"forward_ms": 1.0}

    cases = [((1, 8, 1, 8), None), ((1, 8, 1, 8), 2), ((1, 4, 1, 8), 2)]
    monkeypatch.setattr(bench_attention, "CASES", cases)
    monkeypatch.setattr(bench_attention, "PASSES", [(3, names) for _, names in bench_attention.PASSES[:2]])
    monkeypatch.setattr(bench_attention, "measure", measure)
    rows = list(bench_attention.rows("cpu"))
    assert [row["implementation"] for row in rows[:4]] == ["nucel"] * 3 + ["SDPA flash"]
    assert [row["T"] for row in rows[:3]] == [8, 8, 4]
    assert len(rows) == 3 * 5
    assert rows[0]["reason"] == "CompilerError: ptxas died"
    assert all(row["forward_ms"] == 1.0 for row in rows[1:] if row["implementation"] != "nucel")


def test_every_implementation_of_attention_is_timed_in_some_pass():
    named = [name for _, names in bench_attention.PASSES for name in names]
    assert sorted(named) == sorted(bench_attention.IMPLEMENTATIONS)


def test_a_profile_that_is_cut_has_the_whole_step_and_the_parts_before(tmp_path, monkeypatch):
    def parts(*_):
        yield profile_step.Part("first", 2, seconds=0.25, bytes=1e9, operations=0)
        raise KeyboardInterrupt

    monkeypatch.setattr(profile_step, "whole_step", lambda *_: 2.0)
    monkeypatch.setattr(profile_step, "step_parts", parts)
    device = profile_step.Device(None, bytes_per_s=1e10, operations_per_s=1e12)
    config = SimpleNamespace(batch_size=4, context=8)
    table = Table({"machine": "none"}, ("part",), {"step_ms": ("ms", ".1f")}, tmp_path / "profile")
    with pytest.raises(KeyboardInterrupt):
        table.fill(profile_step.rows(device, config, 4, compiled=False))
    whole, first = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert whole == {"part": "whole step", "step_ms": 2000.0, "share": 1.0, "tokens_per_s": 16.0}
    assert first["step_ms"] == 500.0 and first["share"] == 0.25 and first["of_floor"] == pytest.approx(0.4)


def test_the_sums_of_a_profile(monkeypatch):
    part = profile_step.Part("one", 2, seconds=0.5, bytes=1e9, operations=0)
    monkeypatch.setattr(profile_step, "whole_step", lambda *_: 2.0)
    monkeypatch.setattr(profile_step, "step_parts", lambda *_: iter([part, part]))
    device = profile_step.Device(None, bytes_per_s=1e10, operations_per_s=1e12)
    *_, parts, floors = profile_step.rows(device, SimpleNamespace(batch_size=4, context=8), 4, compiled=False)
    assert (parts["step_ms"], parts["share"]) == (2000.0, 1.0)
    assert parts["of_floor"] == floors["share"] == pytest.approx(0.2)
    assert floors["step_ms"] == pytest.approx(400.0)


@pytest.mark.gpu
def test_attention_on_a_gpu_is_right_and_timed():
    shape = (1, 256, 2, 32)
    problem = bench_attention.Problem.draw(shape, 64, torch.bfloat16, "cuda")
    row = bench_attention.measure("nucel", problem, bench_attention.expected(problem))
    assert row["both_ms"] > row["forward_ms"] > 0
