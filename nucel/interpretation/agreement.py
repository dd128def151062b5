"""How well two maps of the same sequences agree: Pearson's and Spearman's correlation for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime import files


def correlations(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """Pearson's and Spearman's correlation of two maps over the bases with a value in both, float64 (n, 2).

    nan where fewer than two bases have values, or where a map is constant.
    """
    rows = []
    for first, second in zip(one, other, strict=True):
        both = np.isfinite(first) & np.isfinite(second)
        x, y = first[both].astype(np.float64), second[both].astype(np.float64)
        rows.append((_pearson(x, y), _pearson(_ranks(x), _ranks(y))))
    return np.array(rows).reshape(-1, 2)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def draw_histogram(table: np.ndarray, path: Path) -> None:
    """Draw how the correlations (n, 2) are distributed; needs matplotlib."""
    from matplotlib.figure import Figure  # optional dependency

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    for values, label in zip(table.T, ("Pearson", "Spearman"), strict=True):
        axes.hist(values[np.isfinite(values)], bins=np.linspace(-1, 1, 41).tolist(), histtype="step", label=label)
    axes.set(xlabel="correlation of the two maps", ylabel="sequences")
    axes.legend(frameon=False)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
