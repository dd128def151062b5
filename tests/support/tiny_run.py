"""The smallest run of the trainer that still learns: a model, windows, and a genome for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MODEL = (
    "debug", "--device", "cpu", "--context", "64", "--window-bp", "80", "--overlap-bp", "0",
    "--model.generator.layers", "1", "--model.discriminator.layers", "2", "--model.discriminator.width", "64",
    "--batch-size", "8", "--warmup-steps", "2", "--validate-every", "4", "--validation-windows", "16",
)  # fmt: skip


def write_genome(path: Path) -> Path:
    """One contig of 6 kb, rich in A and T: a composition to learn within a few steps."""
    bases = np.random.default_rng(0).choice(list("ACGT"), 6000, p=[0.4, 0.1, 0.1, 0.4])
    path.write_text(">contig\n" + "".join(bases) + "\n")
    return path
