"""The registered ops against dense fp64 truths that share no code with them, through the dispatcher."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import truth_rtd_loss
from support.ids import dtype_id, lengths_id, radius_id
from support.truth_attention import Problem, Result, assert_as_good_as_pytorch, truth
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from nucel.kernels import reference
from nucel.kernels.attention import attention, attention_backward_op, attention_op
from nucel.kernels.rtd_loss import rtd_loss, rtd_loss_backward_op, rtd_loss_op
from nucel.model.encoder import rotary_table

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# ---- attention -------------------------------------------------------------------------------------------------------


def run(problem: Problem) -> Result:
    qkv, cos, sin, radius, lengths, grad_out = problem
    out, lse = reference.attention_forward(qkv, cos, sin, radius, lengths)
    return Result(out, lse, reference.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, lengths))


@st.composite
def attention_problems(draw) -> Problem:
    batch, positions, heads = draw(st.integers(1, 3)), draw(st.integers(1, 300)), draw(st.integers(1, 3))
    width = draw(st.sampled_from([2, 8, 32]))
    radius = draw(st.none() | st.integers(0, 5) | st.integers(0, 200))
    lengths = draw(st.none() | st.lists(st.integers(0, positions), min_size=batch, max_size=batch))
    seed = draw(st.integers(0, 2**31))
    return Problem.draw((batch, positions, heads, width), radius, lengths, torch.float64, seed=seed)


@given(problem=attention_problems())
def test_attention_equals_the_dense_truth_and_its_gradient(problem):
    for ours, expected in zip(run(problem), truth(problem), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("radius", [None, 16, 64], ids=radius_id)
@pytest.mark.parametrize("lengths", [None, [77, 260]], ids=lengths_id)
def test_attention_is_as_precise_as_sdpa(dtype, radius, lengths):
    problem = Problem.draw((2, 260, 2, 32), radius, lengths, dtype)
    assert_as_good_as_pytorch(run(problem), problem)


def test_attention_runs_backward_through_the_dispatcher():
    problem = Problem.draw((2, 200, 2, 8), 5, [200, 60], torch.float64)
    qkv = problem.qkv.requires_grad_()
    attention(qkv, *problem[1:5]).backward(problem.grad_out)
    torch.testing.assert_close(qkv.grad, truth(problem).grad_qkv)


def _positions(layout, positions=19):
    """qkv (2, T, 3, 2, 4) in fp64, in the order a Linear gives or in one no op may rely on."""
    generator = torch.Generator().manual_seed(0)
    if layout == "contiguous":
        return torch.randn(2, positions, 3, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    permuted = torch.randn(2, 2, 3, 4, positions, dtype=torch.float64, generator=generator)
    return permuted.permute(0, 4, 2, 1, 3).requires_grad_()


def _lengths(lengths):
    return None if lengths is None else torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("radius", [None, 0, 3, 100], ids=radius_id)
@pytest.mark.parametrize("lengths", [None, [19, 0], [12, 1]], ids=lengths_id)
@pytest.mark.parametrize("layout", ["contiguous", "permuted"])
def test_attention_passes_gradcheck(radius, lengths, layout, monkeypatch):
    monkeypatch.setattr(reference, "_QUERY_BLOCK", 8)  # several blocks, the last one short
    cos, sin = rotary_table(19, 4, 10.0, torch.device("cpu"))
    assert torch.autograd.gradcheck(lambda x: attention(x, cos, sin, radius, _lengths(lengths)), _positions(layout))


@pytest.mark.parametrize(
    ("radius", "lengths", "layout"),
    [(None, None, "contiguous"), (3, [12, 1], "contiguous"), (None, [19, 0], "permuted"), (3, None, "permuted")],
)
def test_attention_passes_opcheck(radius, lengths, layout):
    qkv, lengths = _positions(layout), _lengths(lengths)
    cos, sin = rotary_table(19, 4, 10.0, torch.device("cpu"))
    opcheck(attention_op, (qkv, cos, sin, radius, lengths))
    out, lse = attention_op(qkv.detach(), cos, sin, radius, lengths)
    grad_out = torch.randn_like(out).mT.contiguous().mT
    opcheck(attention_backward_op, (grad_out, qkv.detach(), cos, sin, out, lse, radius, lengths))


def test_what_padding_holds_changes_nothing():
    torch.manual_seed(0)
    qkv = torch.randn(2, 50, 3, 2, 8)
    cos, sin = rotary_table(50, 8, 10_000.0, torch.device("cpu"))
    lengths = torch.tensor([30, 0])
    other = qkv.clone()
    other[0, 30:], other[1] = torch.nan, 1e30
    out, lse = attention_op(qkv, cos, sin, 7, lengths)
    assert out[0, 30:].eq(0).all() and out[1].eq(0).all() and lse[1].eq(0).all()
    torch.testing.assert_close(attention(other.nan_to_num(9.0), cos, sin, 7, lengths), out, rtol=0, atol=0)
    short = attention(qkv[:1, :30].contiguous(), cos[:30], sin[:30], 7)
    torch.testing.assert_close(out[:1, :30], short)


def test_a_local_layer_costs_time_in_proportion_to_its_length():
    def flops(positions, radius):
        qkv = torch.randn(1, positions, 3, 1, 16)
        cos, sin = rotary_table(positions, 16, 10_000.0, torch.device("cpu"))
        with FlopCounterMode(display=False) as counter:
            out, lse = reference.attention_forward(qkv, cos, sin, radius, None)
            reference.attention_backward(out, qkv, cos, sin, out, lse, radius, None)
        return counter.get_total_flops()

    edge = 2 * (2 * 64 * 64 * 16) * 7  # keys that the first and the last block lack, in seven products
    assert flops(1024, 64) + edge == 2 * (flops(512, 64) + edge)
    assert flops(1024, 64) < flops(1024, None) / 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_id)
def test_autocast_does_not_reach_inside_the_ops(dtype):
    torch.manual_seed(0)
    qkv = torch.randn(2, 40, 3, 2, 16, dtype=dtype)
    cos, sin = rotary_table(40, 16, 10_000.0, torch.device("cpu"))
    dense, weights = torch.randn(2, 40, 64, dtype=dtype), torch.randn(2, 64)
    original = torch.rand(2, 40) < 0.9

    def both():
        return attention(qkv, cos, sin, 5), *rtd_loss(dense, *weights, torch.tensor(0.1), original)

    expected = both()
    with torch.autocast("cpu", dtype):
        inside = both()
    for ours, outside in zip(inside, expected, strict=True):
        assert torch.equal(ours, outside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(2, 5, 2, 1, 4)}, "qkv must be"),
        ({"qkv": torch.zeros(2, 5, 3, 1, 3)}, "even D"),
        ({"cos": torch.zeros(4, 2)}, "cos and sin"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"lengths": torch.zeros(3, dtype=torch.int32)}, "lengths must be integers of shape"),
        ({"lengths": torch.zeros(2)}, "lengths must be integers"),
    ],
)
def test_attention_refuses_what_does_not_fit(change, message):
    arguments = {"qkv": torch.zeros(2, 5, 3, 1, 4), "cos": torch.zeros(5, 2), "sin": torch.zeros(5, 2)} | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments)


# ---- replaced-token detection ----------------------------------------------------------------------------------------


def rtd_arguments(batch=2, positions=7, width=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()

    original = torch.rand(batch, positions, generator=generator) < 0.9
    return normal(batch, positions, width), normal(width), normal(width), normal(), original


def run_rtd_loss(problem: truth_rtd_loss.Problem) -> truth_rtd_loss.Result:
    leaves = [x.clone().requires_grad_() for x in problem[:4]]
    loss, logits = rtd_loss(*leaves, problem.original, problem.lengths)
    grads = torch.autograd.grad(loss, leaves, problem.grad_loss.to(loss.dtype))
    return truth_rtd_loss.Result(loss.detach(), logits.detach(), *grads)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(2, 40), st.integers(0, 2**31), st.data())
def test_rtd_loss_equals_the_unfused_chain(batch, positions, width, seed, data):
    lengths = data.draw(st.none() | st.lists(st.integers(0, positions), min_size=batch, max_size=batch))
    problem = truth_rtd_loss.Problem.draw((batch, positions, width), lengths, torch.float64, seed=seed)
    for ours, expected in zip(run_rtd_loss(problem), truth_rtd_loss.truth(problem), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("lengths", [None, [7, 0], [3, 5], [0, 0]], ids=lengths_id)
@pytest.mark.parametrize("layout", ["contiguous", "permuted"])
def test_rtd_loss_passes_gradcheck_and_opcheck(lengths, layout):
    dense, *rest, original = rtd_arguments()
    if layout == "permuted":
        dense = dense.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    lengths = None if lengths is None else torch.tensor(lengths)
    assert torch.autograd.gradcheck(lambda *x: rtd_loss(*x, original, lengths)[0], (dense, *rest))
    opcheck(rtd_loss_op, (dense, *rest, original, lengths, 1e-5))
    dense, norm_weight, weight, bias = (x.detach() for x in (dense, *rest))
    loss, logits = rtd_loss_op(dense, norm_weight, weight, bias, original, lengths, 1e-5)
    grad = torch.ones_like(loss)
    opcheck(rtd_loss_backward_op, (grad, dense, norm_weight, weight, original, logits, lengths, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_rtd_loss_is_as_precise_as_the_unfused_chain(dtype):
    problem = truth_rtd_loss.Problem.draw((2, 64, 128), None, dtype)
    truth_rtd_loss.assert_as_good_as_pytorch(run_rtd_loss(problem), problem, floor=0.0)


def test_no_real_position_gives_zero_loss_and_zero_gradients():
    *floats, original = rtd_arguments()
    loss, _ = rtd_loss(*floats, original, torch.tensor([0, 0]))
    assert loss == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, floats))


def test_padding_has_no_effect_and_no_gradient():
    *floats, original = rtd_arguments()
    lengths = torch.tensor([4, 7])
    loss, _ = rtd_loss(*floats, original, lengths)
    (grad,) = torch.autograd.grad(loss, floats[0])
    assert (grad[0, 4:] == 0).all() and (grad[0, :4] != 0).any()
    changed = floats[0].detach().clone()
    changed[0, 4:] = 100.0
    assert rtd_loss(changed, *floats[1:], original, lengths)[0] == loss


def test_flipping_logits_and_labels_together_changes_nothing():
    dense, norm_weight, weight, bias, original = rtd_arguments()
    loss, logits = rtd_loss(dense, norm_weight, weight, bias, original)
    flipped, other = rtd_loss(dense, norm_weight, -weight, -bias, ~original)
    torch.testing.assert_close(flipped, loss)
    torch.testing.assert_close(other, -logits)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=dtype_id)
def test_extreme_logits_stay_finite(dtype):
    *floats, original = rtd_arguments()
    for bias in (1e4, -1e4):
        inputs = [x.detach().to(dtype).requires_grad_() for x in (*floats[:3], torch.tensor(bias))]
        loss, _ = rtd_loss(*inputs, original)
        assert loss.isfinite() and all(grad.isfinite().all() for grad in torch.autograd.grad(loss, inputs))


def test_logits_carry_no_gradient():
    *floats, original = rtd_arguments()
    assert not rtd_loss(*floats, original)[1].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense": torch.zeros(2, 6)}, "dense must be"),
        ({"weight": torch.zeros(1, 6)}, "weight must be"),
        ({"original": torch.zeros(2, 7)}, "original must be bool"),
        ({"lengths": torch.zeros(2)}, "lengths must be integers"),
    ],
)
def test_rtd_loss_refuses_what_does_not_fit(change, message):
    names = ("dense", "norm_weight", "weight", "bias", "original")
    with pytest.raises(ValueError, match=message):
        rtd_loss(**(dict(zip(names, rtd_arguments(), strict=True)) | change))
