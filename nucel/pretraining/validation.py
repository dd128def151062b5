"""An objective's metrics on held-out windows, the same ones in every run."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..genome.records import RecordSampler
from ..genome.sampler import WindowSampler
from ..model.compiled import uncompiled
from ..objectives.kinds import Objective
from ..runtime.device import Precision
from .meter import Meter
from .step import upload

VALIDATION_SEED = 0
"""Validation uses the same windows, masks and draws in every run, so that runs can be compared."""


class Validation(NamedTuple):
    """What a model reaches on held-out windows."""

    metrics: dict[str, float]
    scores: tuple[Tensor, ...]
    """The objective's `scores` of all windows, for its `interval`."""


@torch.no_grad()
def validate(
    model: Objective, sampler: WindowSampler | RecordSampler, windows: int, precision: Precision
) -> Validation:
    """Metrics over the first `windows` rows of a held-out sampler, the same each time."""
    model.eval()
    meter, scores = Meter(model), []
    for step in range(math.ceil(windows / sampler.rows)):
        _, tokens, rows, lengths = upload(sampler, step, precision.device)
        real = rows < windows
        with precision.autocast(), uncompiled(model):
            last = model(tokens[real], VALIDATION_SEED, rows[real], None if lengths is None else lengths[real])
        meter.add(last)
        scores.append(model.scores(last))
    model.train()
    together = tuple(torch.cat(column) for column in zip(*scores, strict=True))
    return Validation(meter.read() | model.exact_metrics(*together), together)
