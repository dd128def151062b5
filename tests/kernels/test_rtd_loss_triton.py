"""Laws of the RTD loss kernels: in Triton's interpreter on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.device import DEVICE, KERNEL_DTYPES
from support.examples import fewer_examples
from support.ids import dtype_id, lengths_id, shape_id
from support.truth_rtd_loss import EPS, Problem, Result, assert_as_good_as_pytorch, unfused
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

import triton
import triton.language as tl

from nucel.kernels import rtd_loss_triton, tiles

pytestmark = pytest.mark.usefixtures("scratch_of_nan")


@pytest.fixture(scope="module", autouse=True)
def many_programs():
    """A small shape takes several programs, and adding up their sums several steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "STEPS_PER_PROGRAM", 3)
        patch.setattr(tiles, "PARTIAL_SUMS", tiles.Tile(16, 4, 4, 1))
        patch.setattr(tiles, "POSITIONS", tiles.Tile(8, 0, 4, 1))
        yield


def run(problem: Problem) -> Result:
    *inputs, grad_loss = problem
    loss, logits = rtd_loss_triton.rtd_loss_forward(*inputs, EPS)
    dense, norm_weight, weight, _, original, lengths = inputs
    grads = rtd_loss_triton.rtd_loss_backward(grad_loss, dense, norm_weight, weight, original, logits, lengths, EPS)
    return Result(loss, logits, *grads)


def draw(shape, lengths=None, dtype=torch.float32, **others) -> Problem:
    return Problem.draw(shape, lengths, dtype, DEVICE, **others)


def assert_same_bits(a: Result, b: Result) -> None:
    for name, x, y in zip(Result._fields, a, b, strict=True):
        assert torch.equal(x, y), name


# ---- against the truth -----------------------------------------------------------------------------------------------


SHAPES = [
    ((1, 1, 64), None),
    ((2, 70, 64), None),
    ((3, 33, 128), [33, 0, 20]),
    ((3, 11, 256), [1, 11, 7]),
    ((2, 7, 512), None),
    ((2, 5, 1024), [5, 2]),
    ((1, 4, 2048), None),
    ((2, 9, 100), [3, 9]),
    ((1, 3, 1000), None),
    ((2, 4, 1), None),
]
"""(B, T, C) and lengths."""


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    ("shape", "lengths"),
    SHAPES,
    ids=[f"{shape_id('BTC', shape)}-{lengths_id(lengths)}" for shape, lengths in SHAPES],
)
def test_is_as_good_as_pytorch(shape, lengths, dtype):
    problem = draw(shape, lengths, dtype)
    assert_as_good_as_pytorch(run(problem), problem)


@fewer_examples(3)
@given(
    batch=st.integers(2, 3),
    positions=st.integers(1, 20),
    width=st.integers(8, 300),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(KERNEL_DTYPES),
    data=st.data(),
)
def test_any_shape_is_as_good_as_pytorch(batch, positions, width, seed, dtype, data):
    lengths = data.draw(st.none() | st.lists(st.integers(0, positions), min_size=batch, max_size=batch))
    problem = draw((batch, positions, width), lengths, dtype, seed=seed)
    assert_as_good_as_pytorch(run(problem), problem)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES[1:], ids=dtype_id)
def test_parameters_may_be_fp32_beside_16_bit_activations(dtype):
    problem = draw((2, 9, 128), [9, 4], dtype, parameter_dtype=torch.float32)
    ours = run(problem)
    assert ours.grad_dense.dtype == dtype
    assert {x.dtype for x in (ours.loss, ours.logits, *ours[3:])} == {torch.float32}
    assert_as_good_as_pytorch(ours, problem)


def test_a_large_mean_leaves_the_variance_exact():
    problem = draw((1, 10, 64))
    problem.dense.add_(1000)
    assert_as_good_as_pytorch(run(problem), problem)


@triton.jit
def _gelu_of(x, value, slope, N: tl.constexpr, EXACT: tl.constexpr):
    i = tl.arange(0, N)
    given = tl.load(x + i)
    h, tail = rtd_loss_triton._gelu(given, EXACT)
    tl.store(value + i, h)
    tl.store(slope + i, rtd_loss_triton._gelu_derivative(given, tail))


@pytest.fixture(scope="module")
def gelu_points() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, gelu(x) and its slope in fp64."""
    extremes = torch.tensor([0.0, 1e-30, 100.0, 1e4])
    x = torch.cat((torch.linspace(-14, 14, 2**16 - 2 * len(extremes)), extremes, -extremes)).to(DEVICE)
    exact = x.double().requires_grad_()
    expected = F.gelu(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    return x, expected.detach(), slope


def test_gelu_is_exact_to_fp32(gelu_points):
    """x Phi(x) within half a step of fp32 at max(1, |x|) and the arithmetic around it; its slope likewise."""
    x, expected, expected_slope = gelu_points
    value, slope = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    _gelu_of[(1,)](x, value, slope, x.numel(), True)
    step = torch.finfo(torch.float32).eps * x.abs().clamp(min=1)
    assert ((value - expected).abs() <= step).all()
    # At 1.4, where the slope is steepest in the two rounded terms that make it, each of order 1.
    assert ((slope - expected_slope).abs() <= 3 * torch.finfo(torch.float32).eps).all()


def test_gelu_of_16_bits_is_a_hundredth_of_their_step_off(gelu_points):
    """fp16's step at 1 is 1e-3, and a result is rounded by half of it."""
    x, expected, expected_slope = gelu_points
    value, slope = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    _gelu_of[(1,)](x, value, slope, x.numel(), False)
    step = torch.finfo(torch.float16).eps * x.abs().clamp(min=1)
    assert ((value - expected).abs() <= step / 100).all()
    assert ((slope - expected_slope).abs() <= step / 100).all()


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_the_loss_is_binary_cross_entropy_of_the_logits():
    problem = draw((2, 20, 64), [20, 13])
    loss, logits, *_ = run(problem)
    real = problem.real()
    expected = F.binary_cross_entropy_with_logits(logits[real], problem.original[real].float())
    torch.testing.assert_close(loss, expected)


def test_two_runs_give_the_same_bits():
    problem = draw((2, 30, 128), [30, 11])
    assert_same_bits(run(problem), run(problem))


def test_flipping_logits_and_labels_together_changes_nothing():
    problem = draw((2, 20, 64), [20, 13])
    flipped = run(
        problem._replace(weight=-problem.weight, bias=-problem.bias, original=~problem.original),
    )
    loss, logits, grad_dense, grad_norm_weight, grad_weight, grad_bias = run(problem)
    assert_same_bits(flipped, Result(loss, -logits, grad_dense, grad_norm_weight, -grad_weight, -grad_bias))


def test_padding_changes_nothing_and_has_no_gradient():
    problem = draw((3, 20, 64), [20, 7, 0])
    expected = run(problem)
    padding = ~problem.real()
    problem.dense[padding] = torch.nan
    problem.original[padding] ^= True
    result = run(problem)
    assert torch.equal(result.logits[~padding], expected.logits[~padding])
    assert_same_bits(result._replace(logits=expected.logits), expected)
    assert (expected.grad_dense[padding] == 0).all()
    assert (expected.grad_dense[~padding] != 0).any(-1).all()


def test_no_real_position_gives_zero():
    problem = draw((2, 10, 64), [0, 0])._replace(grad_loss=torch.ones((), device=DEVICE))
    result = run(problem)
    assert result.loss == 0
    assert all((grad == 0).all() for grad in result[2:])


@pytest.mark.parametrize("shape", [(0, 5, 64), (2, 0, 64)], ids=["no row", "rows of length 0"])
def test_no_position_gives_zero(shape):
    result = run(draw(shape))
    assert result.loss == 0
    assert all((grad == 0).all() for grad in result[2:])


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("bias", [1e4, -1e4])
def test_extreme_logits_stay_finite(bias, dtype):
    problem = draw((2, 10, 64), None, dtype)
    problem = problem._replace(bias=torch.full_like(problem.bias, bias))
    result = run(problem)
    assert all(x.isfinite().all() for x in result)
    wrong = (problem.original != (bias > 0)).float().mean().item()
    torch.testing.assert_close(result.loss.item(), wrong * abs(bias), rtol=1e-2, atol=0)


def test_certain_and_right_logits_keep_a_loss():
    """exp(-20) is lost beside 1 in fp32; softplus must not lose it."""
    problem = draw((1, 10, 64))._replace(original=torch.ones(1, 10, dtype=torch.bool, device=DEVICE))
    problem = problem._replace(bias=torch.full_like(problem.bias, 30.0))
    result = run(problem)
    torch.testing.assert_close(result.loss, F.softplus(-result.logits).mean(), rtol=1e-5, atol=0)
    assert result.loss > 0 and result.grad_bias < 0


def test_full_lengths_are_no_lengths():
    problem = draw((2, 20, 64), [20, 20])
    assert_same_bits(run(problem), run(problem._replace(lengths=None)))


def test_the_gradient_is_in_proportion_to_the_one_that_comes():
    problem = draw((2, 10, 64), [10, 3])
    once, twice = run(problem), run(problem._replace(grad_loss=2 * problem.grad_loss))
    assert_same_bits(twice, Result(*once[:2], *(2 * grad for grad in once[2:])))


def test_batch_rows_have_independent_logits():
    problem = draw((3, 20, 64), [20, 10, 7])
    together = run(problem)
    for row in range(3):
        one = {"dense": problem.dense[[row]], "original": problem.original[[row]], "lengths": problem.lengths[[row]]}
        alone = run(problem._replace(**one))
        assert torch.equal(alone.logits, together.logits[[row]])


def test_strides_do_not_matter():
    problem = draw((2, 10, 64), [10, 4])
    strided = problem._replace(
        dense=problem.dense.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        weight=torch.stack((problem.weight, problem.weight), 1)[:, 0],
        original=problem.original.T.contiguous().T,
        lengths=torch.stack((problem.lengths, problem.lengths), 1)[:, 0],
    )
    assert_same_bits(run(strided), run(problem))


def test_lengths_beyond_the_row_are_clamped():
    problem = draw((4, 10, 64), [0, 10, 0, 10])
    lengths = torch.tensor([-1, 2**31 + 5, -(2**32) + 9, 2**32 + 9], device=DEVICE)
    assert_same_bits(run(problem._replace(lengths=lengths)), run(problem))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=dtype_id)
def test_lengths_of_any_integer_dtype(dtype):
    problem = draw((2, 10, 64), [10, 7])
    assert_same_bits(run(problem._replace(lengths=problem.lengths.to(dtype))), run(problem))


def test_results_have_the_layout_of_the_unfused_chain():
    problem = draw((2, 5, 64), None, torch.float16)
    for name, ours, theirs in zip(Result._fields, run(problem), unfused(problem), strict=True):
        assert ours.shape == theirs.shape and ours.is_contiguous(), name
        assert ours.dtype == (torch.float32 if name in ("loss", "logits") else theirs.dtype), name


def test_limits():
    assert rtd_loss_triton.supports(torch.empty(1, 4, 2048, dtype=torch.bfloat16))
    assert not rtd_loss_triton.supports(torch.empty(1, 4, 2049))
    assert not rtd_loss_triton.supports(torch.empty(1, 4, 64, dtype=torch.float64))
