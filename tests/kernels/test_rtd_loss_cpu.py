"""The RTD loss by the kernels for CPUs, beside the chain of PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.ids import dtype_id, lengths_id
from support.truth_rtd_loss import EPS, Problem, Result, assert_as_good_as_pytorch, truth

from nucel.kernels import extension_cpu, rtd_loss_cpu

pytestmark = pytest.mark.usefixtures("scratch_of_nan")
every_set = pytest.mark.parametrize("kernels", extension_cpu.instruction_sets())
DTYPES = [torch.float32, torch.bfloat16]


def run(problem: Problem, kernels: str | None = None) -> Result:
    dense, norm_weight, weight, bias, original, lengths, grad_loss = problem
    loss, logits = rtd_loss_cpu.rtd_loss_forward(dense, norm_weight, weight, bias, original, lengths, EPS, kernels)
    grads = rtd_loss_cpu.rtd_loss_backward(
        grad_loss, dense, norm_weight, weight, original, logits, lengths, EPS, kernels
    )
    return Result(loss, logits, *grads)


@every_set
@given(st.integers(1, 3), st.integers(1, 90), st.integers(4, 70), st.integers(0, 2**31), st.data())
def test_it_equals_the_unfused_chain(kernels, batch, positions, width, seed, data):
    lengths = data.draw(st.none() | st.lists(st.integers(0, positions), min_size=batch, max_size=batch))
    problem = Problem.draw((batch, positions, width), lengths, seed=seed)
    for ours, expected in zip(run(problem, kernels), truth(problem), strict=True):
        size = 1 + expected.abs().amax().item()
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=2e-5 * size)


@every_set
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("lengths", [None, [70, 3]], ids=lengths_id)
@pytest.mark.parametrize("width", [128, 500])
def test_it_is_as_precise_as_the_unfused_chain(kernels, dtype, lengths, width):
    problem = Problem.draw((2, 70, width), lengths, dtype, parameter_dtype=torch.float32)
    assert_as_good_as_pytorch(run(problem, kernels), problem)


@every_set
def test_what_padding_holds_is_never_used(kernels):
    problem = Problem.draw((2, 30, 33), [30, 4])
    expected = run(problem, kernels)
    problem.dense[~problem.real()] = torch.nan
    ours = run(problem, kernels)
    for name in ("loss", "grad_dense", "grad_norm_weight", "grad_weight", "grad_bias"):
        assert torch.equal(getattr(ours, name), getattr(expected, name)), name
    assert ours.grad_dense[~problem.real()].eq(0).all()


def test_the_number_of_threads_and_the_layout_change_no_bit():
    problem = Problem.draw((3, 100, 48), [100, 0, 31])
    expected, before = run(problem), torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            dense = problem.dense.permute(2, 0, 1).contiguous().permute(1, 2, 0)
            for ours, result in zip(run(problem._replace(dense=dense)), expected, strict=True):
                assert torch.equal(ours, result)
    finally:
        torch.set_num_threads(before)


def test_a_row_that_is_not_finite_makes_its_gradient_so():
    problem = Problem.draw((1, 4, 16))
    problem.dense[0, 1, 3] = torch.nan
    ours = run(problem)
    assert not ours.loss.isfinite() and not ours.grad_weight.isfinite().any()
    assert not ours.grad_dense[0, 1].isfinite().any() and ours.grad_dense[0, 0].isfinite().all()
