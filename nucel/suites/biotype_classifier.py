"""XGBoost on vectors, F1 in three means with intervals, and how many test sequences train has nearly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..genome.sequences import Sequences
from ..runtime.errors import InputError
from ..tasks.intervals import LEVEL
from ..tasks.splitting import canonical_kmers, split_rows
from .biotype_sources import Gene

MEANS = ("macro", "micro", "weighted")
_NEARLY = 0.95


class Fold(NamedTuple):
    """Rows to train on and to test on, int64 arrays, and what was held out."""

    train: np.ndarray
    test: np.ndarray
    held_out: str


def fold(genes: Sequence[Gene], by: str, seed: int, share: float = 0.2) -> Fold:
    """A split: a genome in turn, or a share of contigs, clusters or rows that is drawn by the seed.

    Args:
        by: "genome" holds out file number seed (modulo their number); "contig", "cluster" and "rows" as
            `tasks.splitting.split_rows` has them.

    Raises:
        InputError: there are too few groups, or the contigs are not known.
    """
    source = Sequences(
        source=_joined(genes), names=[gene.name for gene in genes], tokens=[gene.tokens for gene in genes],
        where=[gene.name for gene in genes], columns={"contig": [gene.contig for gene in genes]},
    )  # fmt: skip
    if by == "genome":
        files = sorted({gene.genome for gene in genes})
        if len(files) < 2:
            raise InputError(f"--split-by genome needs two genomes, all sequences are from {files[0]}; take contig")
        held = files[seed % len(files)]
        inside = np.array([gene.genome == held for gene in genes])
        return Fold(np.flatnonzero(~inside), np.flatnonzero(inside), held)
    if by == "contig" and not all(gene.contig for gene in genes):
        raise InputError(f"{source.source} does not say what contigs its sequences are from; take --split-by cluster")
    train, test = split_rows(source, (1 - share, share), by, seed)  # type: ignore[arg-type]
    return Fold(train, test, f"{len(test)} rows by {by}")


def _joined(genes: Sequence[Gene]) -> Path:
    return Path(", ".join(sorted({gene.genome for gene in genes})))


def nearly_identical(genes: Sequence[Gene], rows: Fold) -> float:
    """Share of the test sequences 95 % of whose 12-mers, on either strand, are in one training sequence."""
    known = [np.unique(canonical_kmers(genes[i].tokens)) for i in rows.train.tolist()]
    kmers = np.concatenate(known)
    owner = np.repeat(np.arange(len(known)), [len(one) for one in known])
    order = np.argsort(kmers, kind="stable")
    kmers, owner = kmers[order], owner[order]
    near = 0
    for i in rows.test.tolist():
        own = np.unique(canonical_kmers(genes[i].tokens))
        starts, ends = np.searchsorted(kmers, own), np.searchsorted(kmers, own, side="right")
        hits = [owner[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True) if b > a]
        most = np.bincount(np.concatenate(hits)).max() if hits else 0
        near += most >= _NEARLY * len(own)
    return near / len(rows.test)


def classify(
    vectors: np.ndarray, labels: np.ndarray, rows: Fold, seed: int, trees: int = 300, threads: int | None = None
) -> np.ndarray:
    """Predicted labels of the test rows, by gradient-boosted trees: depth 6, eta 0.1, histograms.

    Args:
        vectors: float32 (n, C).
        labels: (n,) names of classes.
        threads: None leaves it to XGBoost.
    """
    from xgboost import XGBClassifier  # optional dependency

    classes, numbers = np.unique(labels[rows.train], return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"the training rows are all of class {classes[0]}; split otherwise")
    model = XGBClassifier(
        n_estimators=trees, max_depth=6, learning_rate=0.1, tree_method="hist", random_state=seed, n_jobs=threads
    )
    model.fit(vectors[rows.train], numbers)
    return classes[model.predict(vectors[rows.test]).astype(np.int64)]


def confusion(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How many rows of each class are predicted as each, int64 (K, K), over the classes of both, sorted."""
    classes, numbers = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    rows, columns = np.split(numbers, 2)
    return np.bincount(rows * len(classes) + columns, minlength=len(classes) ** 2).reshape(len(classes), len(classes))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """Macro, micro and weighted F1, float64 (..., 3), of confusion matrices (..., K, K).

    Classes that neither occur nor are predicted are left out, as scikit-learn leaves them.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, guessed = counts.sum(-1), counts.sum(-2)
    f1 = 2 * right / np.maximum(true + guessed, 1)
    there = (true + guessed) > 0
    total = counts.sum((-2, -1))
    macro = f1.sum(-1) / there.sum(-1)
    return np.stack([macro, right.sum(-1) / total, (f1 * true).sum(-1) / total], -1)


def intervals(counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """95 % intervals of the three F1 by bootstrap over sequences, float64 (3, 2)."""
    cells = counts.ravel()
    drawn = np.random.default_rng(seed).multinomial(cells.sum(), cells / cells.sum(), draws)
    return np.percentile(f1_scores(drawn.reshape(draws, *counts.shape)), LEVEL, axis=0).T
