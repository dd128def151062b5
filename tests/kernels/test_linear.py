"""The linear layer: oneDNN's product on a CPU in fp32, torch's everywhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import close
from torch.library import opcheck
from torch.nn import functional as F

from nucel.kernels.linear import HAS_ONEDNN, linear, product

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this build of torch has no oneDNN")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_values_and_gradients_are_those_of_torch(batch, inputs, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(*batch, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    grad = torch.randn(*batch, outputs, generator=generator)

    def run(function, x, weight, grad):
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function(x, weight)
        return out.detach(), *torch.autograd.grad(out, (x, weight), grad)

    ours, peer = run(linear, x, weight, grad), run(F.linear, x, weight, grad)
    exact = run(F.linear, x.double(), weight.double(), grad.double())
    sizes = run(F.linear, x.double().abs(), weight.double().abs(), grad.double().abs())
    for name, result, theirs, truth, size in zip(("out", "dx", "dw"), ours, peer, exact, sizes, strict=True):
        error = close.largest_error(theirs, truth)
        # eps is relative to the largest sum of the products' sizes.
        close.assert_as_good_as_pytorch(
            {name: result}, {name: truth}, {name: error}, torch.float32, floor=size.max().item()
        )


@needs_onednn
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_the_product_passes_opcheck(shape):
    opcheck(product, (torch.randn(shape, requires_grad=True), torch.randn(6, 8, requires_grad=True)))
    opcheck(product, (torch.randn(8, 5).t(), torch.randn(8, 6).t()))


@needs_onednn
def test_only_what_asks_for_a_gradient_gets_one():
    x, weight = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None and torch.allclose(weight.grad, x.sum(0).expand(2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_autocast_are_torchs_own(dtype):
    x, weight = torch.randn(3, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x.float(), weight.float()).dtype == torch.bfloat16
