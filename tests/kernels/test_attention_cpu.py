"""Attention's kernels for CPUs against the dense fp64 truth, for every instruction set that this processor has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.ids import dtype_id, lengths_id, radius_id
from support.truth_attention import Problem, Result, assert_as_good_as_pytorch, truth
from torch.library import opcheck

from nucel.kernels import attention_cpu, extension_cpu
from nucel.kernels.attention import attention_backward_op, attention_op

pytestmark = pytest.mark.usefixtures("scratch_of_nan")
every_set = pytest.mark.parametrize("kernels", extension_cpu.instruction_sets())


def run(problem: Problem, kernels: str | None = None) -> Result:
    qkv, cos, sin, radius, lengths, grad_out = problem
    out, lse = attention_cpu.attention_forward(qkv, cos, sin, radius, lengths, kernels)
    grad = attention_cpu.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, lengths, kernels)
    return Result(out, lse, grad)


def assert_equal(one: Result, other: Result) -> None:
    for ours, expected in zip(one, other, strict=True):
        assert torch.equal(ours, expected)


@st.composite
def problems(draw) -> Problem:
    batch, positions, heads = draw(st.integers(1, 2)), draw(st.integers(1, 300)), draw(st.integers(1, 3))
    width = 2 * draw(st.integers(1, 40))
    radius = draw(st.none() | st.integers(0, 5) | st.integers(0, 400))
    lengths = draw(st.none() | st.lists(st.integers(0, positions), min_size=batch, max_size=batch))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return Problem.draw((batch, positions, heads, width), radius, lengths, dtype, seed=draw(st.integers(0, 2**31)))


@every_set
@given(problem=problems())
def test_it_equals_the_dense_truth_and_its_gradient(kernels, problem):
    # Sums of at most 80 or 600 products of normal numbers; the result is rounded once.
    rounding = torch.finfo(problem.qkv.dtype).eps
    for ours, expected in zip(run(problem, kernels), truth(problem), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=rounding, atol=1e-5 + 4 * rounding)


@every_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=dtype_id)
@pytest.mark.parametrize(("positions", "radius"), [(260, 16), (260, 64), (1100, 64), (600, None), (600, 300)])
def test_it_is_as_precise_as_sdpa_over_several_blocks_chunks_and_segments(kernels, dtype, positions, radius):
    lengths = [positions, positions - 83]
    problem = Problem.draw((2, positions, 1, 32), radius, lengths, dtype)
    assert_as_good_as_pytorch(run(problem, kernels), problem)


def test_torchs_forward_fits_our_backward(monkeypatch):
    problem = Problem.draw((2, 130, 2, 32), None, None, torch.bfloat16)
    ours = run(problem)
    monkeypatch.setattr(attention_cpu, "_AMX", True)
    monkeypatch.setattr(attention_cpu, "_AMX_POSITIONS", 130)
    theirs = run(problem)
    assert not torch.equal(theirs.out, ours.out)
    assert_as_good_as_pytorch(theirs, problem)


@every_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize("radius", [None, 5], ids=radius_id)
def test_layout_and_alignment_change_no_bit(kernels, dtype, radius):
    problem = Problem.draw((2, 70, 2, 24), radius, [70, 33], dtype)
    expected = run(problem, kernels)

    def elsewhere(x):
        """The same numbers, an odd number of elements after the start of another tensor."""
        return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)

    def in_other_order(x):
        return x.transpose(1, -2).contiguous().transpose(1, -2)

    def apart(x):
        return torch.stack((x, x.flip(0)), -1)[..., 0]

    for change in (elsewhere, in_other_order, apart):
        qkv, grad_out = change(problem.qkv), change(problem.grad_out)
        assert_equal(run(problem._replace(qkv=qkv, grad_out=grad_out), kernels), expected)
        out, lse = change(expected.out), change(expected.lse)
        grad = attention_cpu.attention_backward(grad_out, qkv, *problem[1:3], out, lse, *problem[3:5], kernels)
        assert torch.equal(grad, expected.grad_qkv)


@pytest.mark.parametrize("radius", [None, 9], ids=radius_id)
def test_the_number_of_threads_changes_no_bit(radius):
    problem = Problem.draw((3, 150, 2, 16), radius, [150, 0, 31], torch.float32)
    expected, before = run(problem), torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert_equal(run(problem), expected)
    finally:
        torch.set_num_threads(before)


@every_set
@pytest.mark.parametrize("radius", [None, 3], ids=radius_id)
@pytest.mark.parametrize("lengths", [[50, 0], [30, 1]], ids=lengths_id)
def test_what_padding_holds_is_never_used(kernels, radius, lengths):
    problem = Problem.draw((2, 50, 2, 8), radius, lengths)
    expected = run(problem, kernels)
    padding = ~problem.real()
    for spoilt in (problem.qkv, problem.grad_out):
        spoilt[padding] = torch.nan
    assert_equal(run(problem, kernels), expected)
    for result in (expected.out, expected.grad_qkv, expected.lse.mT):
        assert result[padding].eq(0).all()


def test_lengths_beyond_the_row_are_clamped():
    problem = Problem.draw((2, 20, 1, 8), 4)
    for lengths, meant in ([25, 20], [20, 20]), ([-3, 7], [0, 7]):
        ours = run(problem._replace(lengths=torch.tensor(lengths)))
        assert_equal(ours, run(problem._replace(lengths=torch.tensor(meant, dtype=torch.int32))))


@every_set
def test_large_scores_stay_finite(kernels):
    problem = Problem.draw((1, 300, 1, 16), None)
    problem.qkv[:, :, :2] *= 1e4
    ours = run(problem, kernels)
    assert all(part.isfinite().all() for part in ours)
    assert ours.out.abs().amax() <= problem.qkv[:, :, 2].abs().amax() * (1 + 1e-5)


@pytest.mark.parametrize("shape", [(0, 5, 1, 4), (2, 0, 1, 4)])
def test_nothing_gives_nothing(shape):
    ours = run(Problem.draw(shape, 2))
    assert ours.out.shape == shape and ours.grad_qkv.numel() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
def test_the_ops_pass_opcheck(dtype):
    qkv, cos, sin, radius, lengths, grad_out = Problem.draw((2, 19, 2, 4), 3, [12, 1], dtype)
    opcheck(attention_op, (qkv.requires_grad_(), cos, sin, radius, lengths))
    out, lse = attention_op(qkv.detach(), cos, sin, radius, lengths)
    opcheck(attention_backward_op, (grad_out.mT.contiguous().mT, qkv.detach(), cos, sin, out, lse, radius, lengths))


def test_kernels_of_another_processor_are_refused():
    with pytest.raises(ValueError, match="no kernels named sve"):
        run(Problem.draw((1, 4, 1, 4), None), "sve")


OF_TORCH = """
import os
import torch
from nucel.kernels.attention import attention
torch.set_num_threads(3)
x = torch.randn(1000, 1000)
(x * x).sum()  # starts torch's threads

def threads():
    return set(os.listdir("/proc/self/task"))

before = threads()
table, seen = torch.ones(500, 8), set()
for _ in range(20):
    attention(torch.randn(4, 500, 3, 4, 16), table, table, 9)
    seen |= threads()
assert len(before) >= 3 and seen == before, (before, seen)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_it_runs_on_the_threads_of_torch():
    subprocess.run([sys.executable, "-c", OF_TORCH], check=True, timeout=100)


IN_A_WORKER = """
import torch
from torch.utils.data import DataLoader
from nucel.kernels.attention import attention

def attended(seed):
    qkv = torch.randn(2, 90, 3, 4, 16, generator=torch.Generator().manual_seed(seed))
    table = torch.ones(90, 8)
    return attention(qkv, table, table, 9)

torch.set_num_threads(2)
class Rows:
    def __len__(self): return 4
    def __getitem__(self, seed): return attended(seed)
expected = torch.stack([attended(seed) for seed in range(4)])  # starts threads before the fork
loader = DataLoader(Rows(), batch_size=4, num_workers=1, multiprocessing_context="fork")
assert torch.equal(next(iter(loader)), expected)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_forked_workers_compute_too():
    subprocess.run([sys.executable, "-c", IN_A_WORKER], check=True, timeout=100)


def test_an_extension_without_kernels_is_announced_and_not_used(monkeypatch):
    problem = Problem.draw((1, 5, 2, 4), 1)
    expected = run(problem)
    monkeypatch.setattr(extension_cpu, "_nucel", None)
    extension_cpu.compiled.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slow PyTorch reference.*pip install"):
            ours = run(problem)
    finally:
        extension_cpu.compiled.cache_clear()
    for result, kernels in zip(ours, expected, strict=True):
        torch.testing.assert_close(result, kernels)
