"""Settings and fixtures of all tests.

Without a GPU, Triton kernels run in its interpreter. Triton reads the variable when a kernel is declared, and many
packages import Triton: it is set before any of them.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Workers of pytest-xdist share the CPUs: if each, and each process that it starts, had as many threads as there are
# CPUs, they would mostly wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="module")
def scratch_of_nan():
    """Fill kernels' outputs with NaN: what no kernel writes stays NaN, what is read before it is written spreads it."""
    from nucel.kernels import tiles

    def scratch(shape, dtype, device):
        return torch.full(shape, torch.nan, dtype=dtype, device=device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "scratch", scratch)
        yield
