"""Laws of the attention kernels: in Triton's interpreter on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.device import DEVICE, KERNEL_DTYPES
from support.examples import fewer_examples
from support.ids import dtype_id, lengths_id, radius_id, shape_id
from support.truth_attention import Problem, Result, assert_as_good_as_pytorch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from nucel.kernels import attention_triton, attention_triton_common, attention_triton_global
from nucel.kernels.attention import flops, visible_pairs
from nucel.kernels.triton_common import contiguous

pytestmark = pytest.mark.usefixtures("scratch_of_nan")

KINDS = {"band": 9, "walk": 60, "wide": 70, "global": None}
"""A radius for each of the ways that attention is computed."""

each_kind = pytest.mark.parametrize("radius", KINDS.values(), ids=KINDS.keys())


def run(problem: Problem) -> Result:
    qkv, cos, sin, radius, lengths, grad_out = problem
    out, lse = attention_triton.attention_forward(qkv, cos, sin, radius, lengths)
    grad_qkv = attention_triton.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, lengths)
    return Result(out, lse, grad_qkv)


def draw(shape, radius, lengths=None, dtype=torch.float16) -> Problem:
    return Problem.draw(shape, radius, lengths, dtype, DEVICE)


def assert_same_bits(a: Result, b: Result) -> None:
    for name, x, y in zip(Result._fields, a, b, strict=True):
        assert torch.equal(x, y), name


# ---- against the truth -----------------------------------------------------------------------------------------------


SHAPES = [
    ((1, 1, 1, 32), 0, None),
    ((1, 1, 1, 32), None, None),
    ((1, 33, 2, 32), 0, None),
    ((2, 70, 2, 32), 5, None),
    ((1, 64, 1, 32), 16, None),
    ((1, 200, 1, 32), 64, None),
    ((2, 139, 1, 32), 40, [139, 70]),
    ((3, 130, 1, 32), 64, [0, 130, 77]),
    ((3, 131, 1, 32), 65, [0, 131, 66]),
    ((1, 150, 1, 32), 100, None),
    ((1, 150, 2, 32), None, None),
    ((3, 140, 1, 32), None, [140, 0, 65]),
    ((1, 128, 1, 32), None, None),
    ((2, 66, 1, 64), 31, [66, 1]),
    ((2, 66, 1, 64), None, [66, 64]),
    ((1, 66, 1, 128), 20, None),
    ((1, 66, 1, 128), None, None),
    ((1, 37, 2, 16), 7, None),
    ((1, 37, 2, 16), None, None),
    ((1, 37, 1, 24), 7, None),
    ((1, 37, 1, 2), None, None),
    ((1, 37, 1, 96), 40, None),
]
"""(B, T, H, D), radius and lengths."""


def case(shape, radius, lengths):
    """One of SHAPES with a readable id; slow if the interpreter has many rows to compute."""
    name = "-".join((shape_id("BTHD", shape), radius_id(radius), lengths_id(lengths)))
    batch, positions, heads, _ = shape
    marks = [pytest.mark.slow] if batch * heads * positions > 132 else []
    return pytest.param(shape, radius, lengths, id=name, marks=marks)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(("shape", "radius", "lengths"), [case(*each) for each in SHAPES])
def test_is_as_good_as_pytorch(shape, radius, lengths, dtype):
    problem = draw(shape, radius, lengths, dtype)
    assert_as_good_as_pytorch(run(problem), problem)


@pytest.mark.slow
@fewer_examples(3)
@given(
    positions=st.integers(1, 100),
    radius=st.one_of(st.none(), st.integers(0, 100)),
    width=st.sampled_from([8, 16, 32, 40, 64]),
    data=st.data(),
)
def test_any_shape_is_as_good_as_pytorch(positions, radius, width, data):
    lengths = data.draw(st.none() | st.lists(st.integers(0, positions), min_size=2, max_size=2))
    problem = draw((2, positions, 1, width), radius, lengths)
    assert_as_good_as_pytorch(run(problem), problem)


@pytest.mark.parametrize("positions", [66, 128], ids="T{}".format)
@pytest.mark.parametrize("size", [0.1, 1.0, 2.0])
def test_global_attention_without_a_pivot_is_as_good_as_with_one(size, positions, monkeypatch):
    """Small scores take the loop that has no pivot, large ones the one that moves it; a bound of 0 is never kept."""
    problem = draw((1, positions, 1, 32), None, [positions - 1])
    problem.qkv[:, :, :2] *= size
    assert_as_good_as_pytorch(run(problem), problem)
    with_pivot = dict.fromkeys(attention_triton_global.BOUNDS, 0)
    monkeypatch.setattr(attention_triton_global, "BOUNDS", with_pivot)
    assert_as_good_as_pytorch(run(problem), problem)


def test_sums_that_overflow_without_a_pivot_are_done_again_with_one(monkeypatch):
    """In bf16 that takes values beyond 2^50; here a bound that lets scores of 25 through, whose exp2 fp16 has not."""
    monkeypatch.setitem(attention_triton_global.BOUNDS, torch.float16, 1000)
    problem = draw((1, 70, 1, 32), None, [66])
    problem = problem._replace(cos=torch.ones_like(problem.cos), sin=torch.zeros_like(problem.sin))
    problem.qkv[:, :, :2] *= 0.3
    problem.qkv[:, :, :2, :, 0] = 10
    assert_as_good_as_pytorch(run(problem), problem)


@pytest.mark.slow
def test_large_scores_do_not_overflow():
    problem = draw((1, 70, 1, 32), 20)
    for radius in KINDS.values():
        grown = problem._replace(qkv=problem.qkv * 40, radius=radius)
        assert all(x.isfinite().all() for x in run(grown))


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_kind
def test_two_runs_give_the_same_bits(radius):
    problem = draw((2, 90, 2, 32), radius, [90, 50])
    assert_same_bits(run(problem), run(problem))


@each_kind
def test_constant_values_give_constant_output(radius):
    problem = draw((1, 90, 1, 32), radius, [81])
    problem.qkv[:, :, 2] = 0.75
    out = run(problem).out
    assert (out[:, :81] - 0.75).abs().max() <= torch.finfo(out.dtype).eps
    assert (out[:, 81:] == 0).all()


@pytest.mark.slow
def test_a_radius_over_all_positions_is_global():
    problem = draw((2, 75, 1, 32), None, [75, 40])
    for radius in (74, 75, 10**12):
        assert_same_bits(run(problem._replace(radius=radius)), run(problem))


@pytest.mark.slow
@pytest.mark.parametrize("radius", [KINDS["band"], KINDS["wide"]], ids=["band", "wide"])
def test_rows_do_not_depend_on_what_they_cannot_see(radius):
    problem = draw((1, 150, 1, 32), radius)
    changed = problem._replace(qkv=problem.qkv.clone())
    changed.qkv[:, 140:, 1:] = 1000.0
    rows = slice(0, 140 - radius)
    before, after = run(problem), run(changed)
    assert torch.equal(before.out[:, rows], after.out[:, rows])
    assert torch.equal(before.lse[:, :, rows], after.lse[:, :, rows])
    assert torch.equal(before.grad_qkv[:, rows, 0], after.grad_qkv[:, rows, 0])


@pytest.mark.slow
@each_kind
def test_reversing_positions_commutes(radius):
    problem = draw((1, 90, 1, 32), radius, dtype=torch.float32)
    reverse = problem._replace(
        qkv=problem.qkv.flip(1), cos=problem.cos.flip(0), sin=problem.sin.flip(0), grad_out=problem.grad_out.flip(1)
    )
    forwards, backwards = run(problem), run(reverse)
    # The order of the sums is all that differs.
    for x, y in zip(forwards, (backwards.out.flip(1), backwards.lse.flip(2), backwards.grad_qkv.flip(1)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=32 * torch.finfo(torch.float32).eps)


@pytest.mark.slow
@each_kind
def test_padding_changes_nothing(radius):
    lengths = [90, 33, 0]
    problem = draw((3, 90, 1, 32), radius, lengths)
    expected = run(problem)
    padding = ~problem.real()
    problem.qkv[padding] = torch.nan
    problem.grad_out[padding] = torch.nan
    assert_same_bits(run(problem), expected)
    assert (expected.out[padding] == 0).all()
    assert (expected.grad_qkv[padding] == 0).all()
    assert (expected.lse.transpose(1, 2)[padding] == 0).all()


@each_kind
def test_full_lengths_are_no_lengths(radius):
    problem = draw((1, 90, 1, 32), radius, [90])
    assert_same_bits(run(problem), run(problem._replace(lengths=None)))


@pytest.mark.slow
@each_kind
def test_batch_rows_are_independent(radius):
    problem = draw((3, 75, 1, 32), radius, [75, 10, 64])
    together = run(problem)
    for row in range(3):
        one = slice(row, row + 1)
        alone = run(
            problem._replace(qkv=problem.qkv[one], lengths=problem.lengths[one], grad_out=problem.grad_out[one])
        )
        assert_same_bits(alone, Result(*(x[one] for x in together)))


@pytest.mark.slow
@each_kind
def test_strides_do_not_matter(radius):
    problem = draw((2, 40, 2, 32), radius, [40, 29])
    expanded = problem._replace(grad_out=problem.grad_out[:1, :1].expand_as(problem.grad_out))
    assert_same_bits(run(expanded), run(expanded._replace(grad_out=expanded.grad_out.contiguous())))
    permuted = problem._replace(
        qkv=problem.qkv.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        cos=problem.cos.T.contiguous().T,
        lengths=problem.lengths.repeat_interleave(2)[::2],
        grad_out=problem.grad_out.transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert_same_bits(run(permuted), run(problem))


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=dtype_id)
def test_lengths_beyond_the_row_are_clamped_and_nothing_beyond_it_is_read(radius, dtype):
    """-1 as an unsigned number, and 2^32 + 9 cut to 32 bits, are lengths too; around the tensors there is NaN."""
    problem = draw((4, 40, 1, 32), radius, [0, 40, 0, 40], dtype)
    expected = run(problem)
    qkv, grad_out = (
        torch.full((x.shape[0] + 2, *x.shape[1:]), torch.nan, dtype=dtype, device=DEVICE)
        for x in (problem.qkv, problem.grad_out)
    )
    qkv[1:-1], grad_out[1:-1] = problem.qkv, problem.grad_out
    lengths = torch.tensor([-1, 2**31 + 5, -(2**32) + 9, 2**32 + 9], device=DEVICE)
    assert_same_bits(run(problem._replace(qkv=qkv[1:-1], grad_out=grad_out[1:-1], lengths=lengths)), expected)


@each_kind
def test_tensors_may_begin_anywhere(radius):
    """A contiguous view that is not aligned to 16 bytes is copied, others are not."""
    problem = draw((2, 40, 1, 32), radius, [40, 29])
    shifted = {}
    for name in ("qkv", "cos", "sin", "lengths", "grad_out"):
        x = getattr(problem, name)
        shifted[name] = torch.empty(x.numel() + 1, dtype=x.dtype, device=DEVICE)[1:].view_as(x).copy_(x)
        assert shifted[name].data_ptr() % 16 and shifted[name].is_contiguous()
        assert contiguous(shifted[name])[0].data_ptr() % 16 == 0
        assert contiguous(x)[0] is x
    assert_same_bits(run(problem._replace(**shifted)), run(problem))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=dtype_id)
def test_lengths_of_any_integer_dtype(dtype):
    problem = draw((2, 40, 1, 32), 5, [40, 7])
    assert_same_bits(run(problem._replace(lengths=problem.lengths.to(dtype))), run(problem))


@pytest.mark.parametrize("radius", [64, 40])
def test_a_walk_gives_the_same_bits_however_it_is_split(radius, monkeypatch):
    """A row of three tiles by one program, by two, and by three."""
    problem = draw((2, 150, 1, 32), radius, [150, 70])
    results = []
    for programs in (1, 3, 6):
        monkeypatch.setattr(attention_triton_common, "PROGRAMS", programs)
        results.append(run(problem))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


# ---- limits and counts -----------------------------------------------------------------------------------------------


def test_limits():
    assert attention_triton.supports(torch.empty(1, 4, 3, 1, 128, dtype=torch.bfloat16))
    assert not attention_triton.supports(torch.empty(1, 4, 3, 1, 130))
    assert not attention_triton.supports(torch.empty(1, 4, 3, 1, 32, dtype=torch.float64))


@given(st.integers(1, 40), st.one_of(st.none(), st.integers(0, 50)))
def test_visible_pairs_are_counted(positions, radius):
    pairs = sum(radius is None or abs(i - j) <= radius for i in range(positions) for j in range(positions))
    assert visible_pairs(positions, radius) == pairs
    assert flops((2, positions, 3, 4, 8), radius) == 2 * 4 * pairs * (2 * 8) * 2
    assert flops((2, positions, 3, 4, 8), radius, backward=True) == 2 * 4 * pairs * (2 * 8) * 5
