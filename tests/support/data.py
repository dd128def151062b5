"""Real genomes and tasks, which are not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("NUCEL_DATA", Path(__file__).parents[2] / "../shared/data"))
"""The folder that the environment variable NUCEL_DATA names."""


def real(part: str = "") -> list[pytest.MarkDecorator]:
    """Marks of tests that need a part of the data: `real`, and a skip where it is missing."""
    reason = f"no {DATA / part} (set NUCEL_DATA)"
    return [pytest.mark.real, pytest.mark.skipif(not (DATA / part).exists(), reason=reason)]
