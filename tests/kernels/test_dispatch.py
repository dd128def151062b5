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


def test_a_cpu_has_kernels_for_attention_alone():
    assert fused_ops(torch.device("cpu")) == ["attention"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this platform")
def test_every_op_is_fused_for_cuda_where_triton_is_installed():
    assert fused_ops(torch.device("cuda")) == list(OPS)


def test_without_triton_everything_runs_the_reference():
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True)
