"""The registered attention op on a GPU: what the interpreter cannot show.

The kernels' laws run here too: tests/kernels/test_attention_triton.py takes the GPU where there is one.
"""

from __future__ import annotations

import pytest
import torch
from support.ids import dtype_id
from support.truth_attention import Problem, Result, assert_as_good_as_pytorch

from nucel.kernels import fused_ops, reference
from nucel.kernels.attention import attention, attention_backward_op, attention_op

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
RADII = {"band": 64, "wide": 200, "global": None}

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
each_kind = pytest.mark.parametrize("radius", RADII.values(), ids=RADII.keys())


def run(problem: Problem) -> Result:
    qkv, cos, sin, radius, lengths, grad_out = problem
    out, lse = attention_op(qkv, cos, sin, radius, lengths)
    return Result(out, lse, attention_backward_op(grad_out, qkv, cos, sin, out, lse, radius, lengths))


def test_the_op_is_fused_here():
    assert "attention" in fused_ops(torch.device("cuda"))


@each_dtype
@each_kind
@pytest.mark.parametrize("width", [16, 32, 64, 128], ids="D{}".format)
def test_every_kernel_is_as_good_as_pytorch(width, radius, dtype):
    problem = Problem.draw((3, 451, 4, width), radius, [451, 0, 300], dtype, "cuda")
    assert_as_good_as_pytorch(run(problem), problem)


@each_dtype
@each_kind
@pytest.mark.parametrize(("heads", "width"), [(16, 32), (8, 32), (12, 64)], ids=["H16-D32", "H8-D32", "H12-D64"])
def test_shapes_of_the_model_are_as_good_as_pytorch(heads, width, radius, dtype):
    problem = Problem.draw((2, 1024, heads, width), radius, None, dtype, "cuda")
    assert_as_good_as_pytorch(run(problem), problem)


@each_dtype
@each_kind
def test_runs_give_the_same_bits(radius, dtype):
    problem = Problem.draw((16, 1024, 16, 32), radius, None, dtype, "cuda")
    first = run(problem)
    for _ in range(5):
        for name, x, y in zip(Result._fields, first, run(problem), strict=True):
            assert torch.equal(x, y), name


@each_kind
def test_gradients_flow_through_the_public_function(radius):
    problem = Problem.draw((2, 200, 4, 32), radius, [200, 130], torch.bfloat16, "cuda")
    qkv = problem.qkv.clone().requires_grad_()
    out = attention(qkv, problem.cos, problem.sin, radius, problem.lengths)
    out.backward(problem.grad_out)
    expected = run(problem)
    assert torch.equal(out, expected.out)
    assert torch.equal(qkv.grad, expected.grad_qkv)


def test_a_compiled_function_calls_the_same_kernels():
    problem = Problem.draw((2, 200, 4, 32), 64, None, torch.bfloat16, "cuda")

    def doubled(qkv):
        return 2 * attention(qkv, problem.cos, problem.sin, 64)

    torch.testing.assert_close(torch.compile(doubled, fullgraph=True)(problem.qkv), doubled(problem.qkv))


def test_the_op_is_registered_as_pytorch_wants_it():
    problem = Problem.draw((2, 40, 2, 16), 5, [40, 7], torch.float32, "cuda")
    arguments = (problem.qkv.requires_grad_(), problem.cos, problem.sin, problem.radius, problem.lengths)
    torch.library.opcheck(attention_op, arguments)


@pytest.mark.parametrize(
    ("width", "dtype"), [(160, torch.bfloat16), (32, torch.float64)], ids=["D160-bfloat16", "D32-float64"]
)
def test_what_the_kernels_do_not_take_runs_the_reference_and_says_so(width, dtype):
    problem = Problem.draw((1, 40, 2, width), 5, None, dtype, "cuda")
    with pytest.warns(UserWarning, match="PyTorch reference"):
        out = attention(problem.qkv, problem.cos, problem.sin, 5)
    assert torch.equal(out, reference.attention_forward(*problem[:5])[0])


@pytest.mark.parametrize(("batch", "positions"), [(2816, 1024), (3, 1_000_003)], ids=["many rows", "long rows"])
def test_offsets_beyond_32_bits(batch, positions):
    """The last row of more than 2^32 elements of qkv is what it is alone, forward and backward."""
    heads, width, radius = 16, 32, 64
    qkv = torch.empty((batch, positions, 3, heads, width), dtype=torch.bfloat16, device="cuda").normal_()
    assert qkv.numel() > 2**32
    angle = torch.rand(positions, width // 2, device="cuda")
    grad_out = torch.empty((batch, positions, heads, width), dtype=torch.bfloat16, device="cuda").normal_()
    together = run(Problem(qkv, angle.cos(), angle.sin(), radius, None, grad_out))
    alone = run(Problem(qkv[-1:], angle.cos(), angle.sin(), radius, None, grad_out[-1:]))
    for name, x, y in zip(Result._fields, alone, together, strict=True):
        assert torch.equal(x, y[-1:]), name


@each_kind
def test_a_second_gpu(radius):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem = Problem.draw((1, 200, 2, 32), radius, None, torch.bfloat16, "cuda:1")
    assert_as_good_as_pytorch(run(problem), problem)
