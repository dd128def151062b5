"""Which kernels run: what the dispatcher holds, with Triton and without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from nucel.kernels import OPS, fused_ops

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from nucel.kernels import fused_ops
from nucel.kernels.attention import attention
qkv, table = torch.ones(1, 5, 3, 2, 4), torch.ones(5, 2)
assert fused_ops(torch.device("cuda")) == []
assert attention(qkv, table, table, 1).shape == (1, 5, 2, 4)
"""


def test_a_cpu_has_kernels_for_every_op():
    assert fused_ops(torch.device("cpu")) == list(OPS)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this platform")
def test_every_op_is_fused_for_cuda_where_triton_is_installed():
    assert fused_ops(torch.device("cuda")) == list(OPS)


def test_without_triton_everything_runs_the_reference():
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True)


OLD_TRITON = """
import importlib.metadata
import warnings
installed = importlib.metadata.version
importlib.metadata.version = lambda name: "3.5.1" if name == "triton" else installed(name)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from nucel.kernels import fused_ops
assert fused_ops(torch.device("cuda")) == []
(message,) = [str(one.message) for one in caught if "older than 3.6" in str(one.message)]
assert "slow PyTorch reference" in message
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this platform")
def test_a_triton_that_is_too_old_is_announced_and_not_used():
    subprocess.run([sys.executable, "-c", OLD_TRITON], check=True)
