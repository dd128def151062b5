"""The registered RTD loss op on a GPU: what the interpreter cannot show.

The kernels' laws run here too: tests/kernels/test_rtd_loss_triton.py takes the GPU where there is one.
"""

from __future__ import annotations

import pytest
import torch
from support.ids import dtype_id
from support.truth_rtd_loss import EPS, Problem, Result, assert_as_good_as_pytorch

from nucel.kernels import fused_ops, reference
from nucel.kernels.rtd_loss import rtd_loss, rtd_loss_backward_op, rtd_loss_op

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)


def run(problem: Problem) -> Result:
    *inputs, grad_loss = problem
    loss, logits = rtd_loss_op(*inputs, EPS)
    dense, norm_weight, weight, _, original, lengths = inputs
    return Result(
        loss, logits, *rtd_loss_backward_op(grad_loss, dense, norm_weight, weight, original, logits, lengths, EPS)
    )


def test_the_op_is_fused_here():
    assert "rtd_loss" in fused_ops(torch.device("cuda"))


@each_dtype
@pytest.mark.parametrize("width", [1, 64, 100, 256, 512, 768, 1024, 2048], ids="C{}".format)
def test_every_kernel_is_as_good_as_pytorch(width, dtype):
    problem = Problem.draw((3, 451, width), [451, 0, 300], dtype, "cuda")
    assert_as_good_as_pytorch(run(problem), problem)


@each_dtype
@pytest.mark.parametrize("width", [256, 512], ids="C{}".format)
def test_shapes_of_the_model_are_as_good_as_pytorch(width, dtype):
    problem = Problem.draw((8, 1024, width), None, dtype, "cuda", parameter_dtype=torch.float32)
    assert_as_good_as_pytorch(run(problem), problem)


@each_dtype
def test_runs_give_the_same_bits(dtype):
    problem = Problem.draw((64, 1024, 512), None, dtype, "cuda")
    first = run(problem)
    for _ in range(5):
        for name, x, y in zip(Result._fields, first, run(problem), strict=True):
            assert torch.equal(x, y), name


def test_gradients_flow_through_the_public_function():
    problem = Problem.draw((2, 200, 512), [200, 130], torch.bfloat16, "cuda", parameter_dtype=torch.float32)
    leaves = [x.clone().requires_grad_() for x in problem[:4]]
    loss, logits = rtd_loss(*leaves, problem.original, problem.lengths)
    loss.backward(problem.grad_loss)
    results = (loss, logits, *(x.grad for x in leaves))
    for name, x, y in zip(Result._fields, results, run(problem), strict=True):
        assert torch.equal(x, y), name


def test_nothing_waits_for_the_gpu():
    problem = Problem.draw((2, 200, 512), [200, 130], torch.bfloat16, "cuda")
    run(problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_graph_gives_the_same_bits():
    problem = Problem.draw((2, 200, 512), [200, 130], torch.bfloat16, "cuda")
    expected = run(problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(problem)
    graph.replay()
    for name, x, y in zip(Result._fields, captured, expected, strict=True):
        assert torch.equal(x, y), name


def test_a_compiled_function_calls_the_same_kernels():
    problem = Problem.draw((2, 200, 512), None, torch.bfloat16, "cuda")

    def doubled(dense):
        return 2 * rtd_loss(dense, *problem[1:5])[0]

    torch.testing.assert_close(torch.compile(doubled, fullgraph=True)(problem.dense), doubled(problem.dense))


def test_the_op_is_registered_as_pytorch_wants_it():
    problem = Problem.draw((2, 40, 64), [40, 7], torch.float32, "cuda")
    leaves = [x.requires_grad_() for x in problem[:4]]
    torch.library.opcheck(rtd_loss_op, (*leaves, problem.original, problem.lengths, EPS))


@pytest.mark.parametrize(
    ("width", "dtype"), [(2049, torch.bfloat16), (64, torch.float64)], ids=["C2049-bfloat16", "C64-float64"]
)
def test_what_the_kernels_do_not_take_runs_the_reference_and_says_so(width, dtype):
    problem = Problem.draw((1, 40, width), None, dtype, "cuda")
    with pytest.warns(UserWarning, match="PyTorch reference"):
        loss, logits = rtd_loss(*problem[:6])
    expected = reference.rtd_loss_forward(*problem[:6], EPS)
    assert torch.equal(loss, expected[0]) and torch.equal(logits, expected[1])


@pytest.mark.parametrize(("batch", "positions"), [(8200, 1024), (3, 2_800_001)], ids=["many rows", "long rows"])
def test_offsets_beyond_32_bits(batch, positions):
    """The last row of more than 2^32 elements is what it is alone, forward and backward."""
    width = 512
    dense = torch.empty((batch, positions, width), dtype=torch.bfloat16, device="cuda").normal_()
    assert dense.numel() > 2**32
    weight = torch.randn(width, device="cuda") * 2 / width**0.5
    original = torch.rand((batch, positions), device="cuda") < 0.9
    one = torch.ones((), device="cuda")
    # Times the number of positions, the gradient of a mean is that of a sum: the same for one row as for all of them.
    together = run(Problem(dense, weight, weight, one, original, None, one * batch * positions))
    alone = run(Problem(dense[-1:], weight, weight, one, original[-1:], None, one * positions))
    assert torch.equal(alone.logits, together.logits[-1:])
    assert torch.equal(alone.grad_dense, together.grad_dense[-1:])


def test_a_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem = Problem.draw((1, 200, 64), None, torch.bfloat16, "cuda:1")
    assert_as_good_as_pytorch(run(problem), problem)
