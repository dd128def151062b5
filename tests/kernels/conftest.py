"""Skips Triton's interpreter in the one pair of versions where it does not work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton 3.6's interpreter raises TypeError at a loop's bound under NumPy 2.4: "only 0-dimensional arrays"."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return
    if version(importlib.metadata.version("triton")) < (3, 7) and version(np.__version__) >= (2, 4):
        reason = "the interpreter of Triton 3.6 does not work with NumPy 2.4 or newer: install numpy<2.4"
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.stem.endswith("_triton"):
                item.add_marker(pytest.mark.skip(reason=reason))
