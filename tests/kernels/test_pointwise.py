"""GeGLU and LayerNorm by the kernels for CPUs, beside torch's own and an fp64 computation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import close
from support.ids import dtype_id
from torch.library import opcheck
from torch.nn import functional as F

from nucel.kernels import extension_cpu, pointwise

pytestmark = pytest.mark.usefixtures("scratch_of_nan")
every_set = pytest.mark.parametrize("kernels", extension_cpu.instruction_sets())
DTYPES = [torch.float32, torch.bfloat16]
sizes = {"rows": st.integers(0, 150), "width": st.integers(1, 70), "seed": st.integers(0, 2**31)}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- GeGLU -----------------------------------------------------------------------------------------------------------


def geglu_by_kernels(x, grad, kernels):
    return {"out": pointwise._geglu(x, None, kernels), "dx": pointwise._geglu(x, grad, kernels)}


def geglu_by_torch(x, grad):
    """In the dtype of x, as the definition has it."""
    x = x.clone().requires_grad_()
    a, gate = x.chunk(2, -1)
    out = F.gelu(a) * gate
    out.backward(grad)
    return {"out": out.detach(), "dx": x.grad}


def errors(results, truth):
    return {name: close.largest_error(results[name], truth[name]) for name in truth}


@every_set
@given(dtype=st.sampled_from(DTYPES), **sizes)
def test_geglu_equals_the_fp64_truth(kernels, dtype, rows, width, seed):
    x, grad = normal(rows, 2 * width, seed=seed).to(dtype), normal(rows, width, seed=seed + 1).to(dtype)
    truth = geglu_by_torch(x.double(), grad.double())
    rounding = torch.finfo(dtype).eps
    for name, result in geglu_by_kernels(x, grad, kernels).items():
        torch.testing.assert_close(result.double(), truth[name], rtol=rounding, atol=4e-6)


@every_set
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_geglu_is_as_precise_as_torch(kernels, dtype):
    # Every value of bf16 in [-12, 12], and what lies between.
    a = torch.linspace(-12, 12, 40_001)
    x = torch.stack((a, normal(len(a))), -1).to(dtype)
    grad = normal(len(a), 1, seed=1).to(dtype)
    truth = geglu_by_torch(x.double(), grad.double())
    theirs = errors(geglu_by_torch(x, grad), truth)
    close.assert_as_good_as_pytorch(geglu_by_kernels(x, grad, kernels), truth, theirs, dtype)


def test_geglu_of_extreme_values():
    a = torch.tensor([60.0, -60.0, 1e30, -1e30, torch.nan])
    out = pointwise.geglu(torch.stack((a, torch.ones(5)), -1)).squeeze(-1)
    torch.testing.assert_close(out, a.clamp(min=0), atol=1e-6, rtol=1e-6, equal_nan=True)


# ---- LayerNorm -------------------------------------------------------------------------------------------------------


def norm_by_kernels(x, weight, grad, kernels):
    out, mean, rstd = pointwise._norm(x, weight, 1e-5, kernels)
    dx, dw = pointwise._norm_backward(grad, x, weight, mean, rstd, kernels)
    return {"out": out, "dx": dx, "dw": dw}


def norm_by_torch(x, weight, grad, rounded=True):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = F.layer_norm(x, weight.shape, weight, None, 1e-5)
    out.backward(grad.to(x.dtype))
    return {"out": out.detach().to(torch.bfloat16) if rounded else out.detach(), "dx": x.grad, "dw": weight.grad}


@every_set
@given(mean=st.sampled_from([0.0, 30.0]), **sizes)
def test_norm_equals_the_fp64_truth(kernels, mean, rows, width, seed):
    x, weight = normal(rows, width, seed=seed) + mean, normal(width, seed=seed + 1)
    grad = normal(rows, width, seed=seed + 2).to(torch.bfloat16)
    truth = norm_by_torch(x.double(), weight.double(), grad.double(), rounded=False)
    ours = norm_by_kernels(x, weight, grad, kernels)
    # A row of one or two nearly equal numbers has a large rstd, which gradients are multiplied with.
    size = 1 + truth["dx"].abs().amax().item() if rows else 1
    torch.testing.assert_close(ours["out"].double(), truth["out"], rtol=2**-8, atol=1e-3)
    torch.testing.assert_close(ours["dx"].double(), truth["dx"], rtol=1e-4, atol=2e-3 * size)
    torch.testing.assert_close(ours["dw"].double(), truth["dw"], rtol=1e-4, atol=1e-3 * max(rows, 1))


@every_set
@pytest.mark.parametrize(("rows", "width"), [(200, 256), (130, 512), (70, 33)])
def test_norm_is_as_precise_as_torch(kernels, rows, width):
    x, weight = 3 * normal(rows, width) + 1, normal(width, seed=1)
    grad = normal(rows, width, seed=2).to(torch.bfloat16)
    truth = norm_by_torch(x.double(), weight.double(), grad.double(), rounded=False)
    theirs, ours = errors(norm_by_torch(x, weight, grad), truth), norm_by_kernels(x, weight, grad, kernels)
    for name, dtype in (("out", torch.bfloat16), ("dx", torch.float32), ("dw", torch.float32)):
        close.assert_as_good_as_pytorch({name: ours[name]}, {name: truth[name]}, theirs, dtype)


# ---- both ------------------------------------------------------------------------------------------------------------


def test_the_ops_pass_opcheck():
    x, weight = normal(3, 5, 12).requires_grad_(), normal(12, seed=1).requires_grad_()
    opcheck(pointwise.geglu_op, (x,))
    opcheck(pointwise.geglu_op, (x.detach().mT.contiguous().mT.to(torch.bfloat16).requires_grad_(),))
    opcheck(pointwise.geglu_backward_op, (normal(3, 5, 6), x.detach()))
    # opcheck's own gradients are in fp32, where this norm's result is in bf16.
    opcheck(pointwise.norm_op, (x.detach().mT.contiguous().mT, weight.detach(), 1e-5))
    out, mean, rstd = pointwise.norm_op(x.detach(), weight.detach(), 1e-5)
    opcheck(pointwise.norm_backward_op, (out.mT.contiguous().mT, x.detach(), weight.detach(), mean, rstd))


def layers(x, weight):
    return pointwise.geglu(pointwise.norm(x, weight, 1e-5))


def test_the_number_of_threads_changes_no_bit():
    x, weight = normal(300, 48).requires_grad_(), normal(48, seed=1).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", torch.bfloat16):
                out = layers(x, weight)
            results.append((out.detach(), *torch.autograd.grad(out.float().square().sum(), (x, weight))))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_torchs_own(dtype):
    x, weight = normal(4, 12).to(dtype), normal(12).to(dtype)
    normed = F.layer_norm(x, (12,), weight, None, 1e-5)
    a, gate = normed.chunk(2, -1)
    assert torch.equal(layers(x, weight), F.gelu(a) * gate)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=dtype_id)
def test_under_autocast_the_norm_is_what_the_product_takes(dtype):
    x, weight = normal(4, 12), normal(12)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        normed = pointwise.norm(x, weight, 1e-5)
    assert normed.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert torch.equal(normed.float(), F.layer_norm(x, (12,), weight, None, 1e-5).to(normed.dtype).float())


def test_gradcheck_in_fp64_passes_through_torch():
    x, weight = normal(3, 8).double().requires_grad_(), normal(8).double().requires_grad_()
    assert torch.autograd.gradcheck(layers, (x, weight))
