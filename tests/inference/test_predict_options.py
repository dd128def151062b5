"""Options of ``python -m nucel.predict`` that are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from nucel.predict import PredictConfig
from nucel.runtime.errors import ConfigError


@pytest.mark.parametrize("batch_tokens", [-1, 0])
def test_an_empty_batch_is_refused(batch_tokens):
    with pytest.raises(ConfigError, match="batch_tokens must be at least 1"):
        PredictConfig(model=Path("model"), input=Path("x.fa"), out=Path("y.tsv"), batch_tokens=batch_tokens)


@pytest.mark.parametrize("context", [-5, 0, 1])
def test_a_context_without_a_base_is_refused(context):
    with pytest.raises(ConfigError, match="context must be at least 2"):
        PredictConfig(model=Path("model"), input=Path("x.fa"), out=Path("y.tsv"), context=context)
