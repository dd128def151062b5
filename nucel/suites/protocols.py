"""How the suites' papers fine-tune, as far as they say it."""

from __future__ import annotations

import dataclasses
import fnmatch

from ..tasks.fit import FitOptions
from ..tasks.search import PROTOCOL
from .layouts import GENOMIC_BENCHMARKS, TABLES

_GUE_EPOCHS = {
    "*EMP/*": 3, "*tf/*": 3, "*prom*_tata": 10, "*prom*core_*": 4, "*prom*300_*": 4, "*splice/*": 5, "*mouse/*": 5,
    "*covid": 8,
}  # fmt: skip
"""Of DNABERT-2's protocol, which the NucEL paper follows; the first pattern that fits counts, so tata comes first."""


def published_fit(suite: str, task: str, fit: FitOptions) -> FitOptions:
    """Settings of a suite's protocol; what the papers leave open is taken from `fit`.

    GUE (DNABERT-2): learning rate 3e-5, batch 32, 50 steps of warm-up, epochs by task. Genomic Benchmarks (Caduceus):
    at most 10 epochs, batch 128. The Nucleotide Transformer's tasks: nothing that fits an encoder that is trained
    whole, so all of `fit`. Weights are chosen by the lowest dev loss everywhere, as the NucEL paper does.
    """
    if suite == TABLES:
        epochs = next((n for pattern, n in _GUE_EPOCHS.items() if fnmatch.fnmatchcase(task, pattern)), fit.epochs)
        return dataclasses.replace(fit, lr=PROTOCOL.lr, batch_size=32, warmup_steps=50, epochs=epochs)
    if suite == GENOMIC_BENCHMARKS:
        return dataclasses.replace(fit, epochs=10, batch_size=128)
    return fit
