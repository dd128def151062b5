"""Surprise of a network that was trained where motifs repeat points at the base that breaks one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import TINY

import nucel
from nucel.model.networks import Discriminator, initialize
from nucel.tokenizers import nucleotide

metrics = pytest.importorskip("sklearn.metrics")
pytestmark = pytest.mark.slow
MOTIF = "TTGACATATAAT"


def with_motifs(draws: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bases uint8 (rows, 60) with three motifs in each, and where each begins, (rows, 3)."""
    bases = draws.integers(nucleotide.BASES[0], nucleotide.BASES[-1] + 1, (rows, 60)).astype(np.uint8)
    starts = draws.integers(0, 20 - len(MOTIF) + 1, (rows, 3)) + 20 * np.arange(3)
    for row, places in zip(bases, starts, strict=True):
        for start in places:
            row[start : start + len(MOTIF)] = nucleotide.encode(MOTIF)
    return bases, starts


def test_a_broken_motif_is_surprising():
    """Trained to detect replaced bases where motifs repeat: one wrong base in a motif stands out of all others."""
    network = Discriminator(TINY)
    initialize(network, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    draws = np.random.default_rng(0)
    for _ in range(150):
        true, _ = with_motifs(draws, 32)
        proposals = draws.integers(nucleotide.BASES[0], nucleotide.BASES[-1] + 1, true.shape)
        seen = np.where(draws.random(true.shape) < 0.15, proposals, true).astype(np.uint8)
        cls = np.full((32, 1), nucleotide.CLS, np.uint8)
        tokens, original = np.concatenate([cls, seen], 1), np.concatenate([cls == cls, seen == true], 1)
        loss, _ = network(torch.from_numpy(tokens), torch.from_numpy(original))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    bases, starts = with_motifs(draws, 100)
    broken = starts[:, 1] + draws.integers(2, len(MOTIF) - 2, 100)
    first = nucleotide.BASES[0]
    rows = np.arange(100)
    bases[rows, broken] = first + (bases[rows, broken] - first + draws.integers(1, 4, 100)) % 4
    found = nucel.attribute(network.eval(), list(bases), "surprise", average_reverse_complement=False)
    values = np.stack([one.values for one in found])
    wrong = np.zeros(values.shape, bool)
    wrong[rows, broken] = True
    assert metrics.roc_auc_score(wrong.ravel(), values.ravel()) > 0.7
    untrained = Discriminator(TINY)
    initialize(untrained, torch.Generator().manual_seed(1))
    found = nucel.attribute(untrained.eval(), list(bases), "surprise", average_reverse_complement=False)
    assert metrics.roc_auc_score(wrong.ravel(), np.stack([one.values for one in found]).ravel()) < 0.65
