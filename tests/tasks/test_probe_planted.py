"""On planted motifs a probe of a trained encoder is above that of a random one, and that above dinucleotides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import TINY

from nucel.genome.kmers import kmer_frequencies
from nucel.genome.sequences import Sequences
from nucel.model.networks import Classifier, initialize
from nucel.runtime.device import Precision
from nucel.tasks.features import untrained
from nucel.tasks.fit import FitOptions, fit
from nucel.tasks.heads import Labels, fit_tuned
from nucel.tasks.metrics import metrics_of
from nucel.tasks.probe import fit_probe
from nucel.tasks.task import Split, Task
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")
MOTIFS = ("TGACTCAC", "TCACTGAC")
"""The same bases, and the same dinucleotides but for their order: what tells them apart is longer."""


def table(rows: int, seed: int) -> Split:
    """Three copies of one of two motifs among random bases."""
    draws = np.random.default_rng(seed)
    targets = draws.integers(2, size=rows)
    tokens = []
    for label in targets:
        bases = draws.choice(list("ACGT"), 48)
        for third in range(3):
            start = 16 * third + int(draws.integers(9))
            bases[start : start + 8] = list(MOTIFS[label])
        tokens.append(nucleotide.encode("".join(bases)))
    names = [str(i) for i in range(rows)]
    return Split(Sequences(None, names, tokens, names, {}), targets)


def dinucleotide_counts(text: str) -> list[str]:
    return sorted(text[i : i + 2] for i in range(len(text) - 1))


@pytest.mark.slow
def test_trained_is_above_random_and_random_above_dinucleotides():
    """The encoder learns the motifs from other rows than the probe's; a random one is judged by its mean of 3 seeds."""
    assert dinucleotide_counts(MOTIFS[0]) == dinucleotide_counts(MOTIFS[1])
    cpu = Precision(torch.device("cpu"), torch.float32)
    learner = Classifier(TINY, ("0", "1"), "mean", linear=True)
    initialize(learner, torch.Generator().manual_seed(0))
    earlier = Task(("0", "1"), table(2000, 10), table(100, 11), table(100, 12), 0, 0)
    fit(learner, earlier, FitOptions(epochs=3, lr=3e-3, warmup_steps=20), 0, cpu)
    task = Task(("0", "1"), table(300, 0), table(200, 1), table(1000, 2), 0, 0)
    trained = fit_probe(learner.model.eval(), task).metrics["auroc"]
    random = np.mean([fit_probe(untrained(learner.model, seed), task).metrics["auroc"] for seed in range(3)])
    counts = [kmer_frequencies(split.sequences.tokens, (2,)) for split in task.splits]
    head = fit_tuned(counts[0], Labels(task.train.targets, task.dev.targets, 2), counts[1])
    dinucleotides = metrics_of(task.test.targets, head.predict(counts[2]), True)["auroc"]
    assert trained > random + 0.05 > dinucleotides + 0.1
