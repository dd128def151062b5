"""Losses and replaced-token detection on held-out windows, the same ones in every run."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..genome.sampler import WindowSampler
from ..model.compiled import uncompiled
from ..objectives.electra import Electra
from ..objectives.mlm import MaskedLM
from ..runtime.device import Precision
from .meter import Meter, RankedScores
from .step import upload

VALIDATION_SEED = 0
"""Validation uses the same windows, masks and draws in every run, so that runs can be compared."""


class Validation(NamedTuple):
    """What a validation finds."""

    figures: dict[str, float]
    rtd_logits: Tensor | None
    """(windows, T); None without a discriminator."""
    replaced: Tensor | None
    """bool (windows, T)."""


@torch.no_grad()
def validate(model: Electra | MaskedLM, sampler: WindowSampler, windows: int, precision: Precision) -> Validation:
    """Losses, and replaced-token detection, over the first `windows` rows of a held-out sampler, the same each time."""
    model.eval()
    meter, logits, replaced = Meter(precision.device), [], []
    for step in range(math.ceil(windows / sampler.rows)):
        first = step * sampler.rows
        tokens = upload(sampler.batch(step).tokens[: windows - first], precision.device)
        rows = torch.arange(first, first + len(tokens), device=precision.device)
        with precision.autocast(), uncompiled(model):
            losses = model(tokens, VALIDATION_SEED, rows)
        meter.add(losses)
        if losses.rtd_logits is not None:
            logits.append(losses.rtd_logits.float().cpu())
            replaced.append(~losses.corrupted.original.cpu())
    model.train()
    figures = meter.read()
    if not logits:
        return Validation(figures, None, None)

    logits, replaced = torch.cat(logits), torch.cat(replaced)
    ranked = RankedScores(-logits.flatten(), replaced.flatten())
    exact = {"rtd_auroc": ranked.auroc(), "rtd_average_precision": ranked.average_precision()}
    return Validation(figures | exact, logits, replaced)
