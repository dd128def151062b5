"""Intervals of metrics by bootstrap over the sequences of a test table.

All models of a table are drawn with the same weights, so that differences between them are paired.

Legend: n sequences, K classes or columns, D draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

DRAWS, SEED = 1000, 0
LEVEL = (2.5, 97.5)
"""Percentiles that a 95 % interval lies between."""
_BLOCK = 4_000_000
"""Weights that are held at once."""


class Interval(NamedTuple):
    """The central 95 % of a bootstrap's draws; nan where the metric is not defined."""

    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Interval:
        known = draws[np.isfinite(draws)]
        if not len(known):
            return cls(float("nan"), float("nan"))
        low, high = np.percentile(known, LEVEL)
        return cls(float(low), float(high))


def bootstrap(
    targets: np.ndarray, outputs: Sequence[np.ndarray], classes: int | None, draws: int = DRAWS, seed: int = SEED
) -> dict[str, np.ndarray]:
    """Metrics of each draw of n sequences with replacement, float64 (D,), the mean over several fits' outputs.

    Args:
        targets: int (n,) classes, or float (n,) or (n, K) numbers with nan where nothing was measured.
        outputs: of each fit, probabilities or numbers (n, K).
        classes: K; None for numbers.

    Returns:
        mcc, and auroc as `metrics.classification` defines it; or pearson, the mean over columns.
    """
    parts: list[dict[str, np.ndarray]] = []
    for weights in _weights(len(targets), draws, seed):
        own = [_metrics(weights, targets, one, classes) for one in outputs]
        parts.append({name: np.mean([values[name] for values in own], axis=0) for name in own[0]})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weights(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n sequences is drawn, float64 (d, n), in blocks of draws."""
    rng = np.random.default_rng(seed)
    left = draws
    while left:
        size = min(left, max(1, _BLOCK // n))
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        left -= size


def _metrics(
    weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray, classes: int | None
) -> dict[str, np.ndarray]:
    if classes is None:
        return {"pearson": weighted_pearson(weights, targets, outputs)}
    mcc = weighted_mcc(weights, targets, outputs.argmax(1), classes)
    chosen = (1,) if classes == 2 else range(classes)
    areas = [weighted_auroc(weights, targets == k, outputs[:, k]) for k in chosen]
    return {"mcc": mcc, "auroc": np.mean(areas, axis=0)}


def weighted_mcc(weights: np.ndarray, targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Matthews' correlation of K classes (Gorodkin 2004), (D,) for weights (D, n); 0 where a side is constant."""
    cells = np.eye(classes * classes)[targets * classes + predicted]
    table = (weights @ cells).reshape(-1, classes, classes)
    total, right = table.sum((1, 2)), np.trace(table, axis1=1, axis2=2)
    true, guessed = table.sum(2), table.sum(1)
    scale = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (guessed**2).sum(1)))
    return np.divide(right * total - (true * guessed).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)


def weighted_auroc(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Share of pairs in which the positive scores higher, ties by half, (D,) for weights (D, n); nan for one class."""
    values, group = np.unique(scores, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(values)))
    ups, downs = (np.add.reduceat((weights * mark)[:, order], starts, axis=1) for mark in (positive, ~positive))
    below = np.cumsum(downs, 1) - downs / 2
    pairs = ups.sum(1) * downs.sum(1)
    return np.divide((ups * below).sum(1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_pearson(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Pearson's correlation, the mean over the columns where it is defined, (D,) for weights (D, n)."""
    columns = []
    for target, output in zip(targets.reshape(len(targets), -1).T, outputs.T, strict=True):
        known = ~np.isnan(target)
        x, y, w = target[known], output[known].astype(np.float64), weights[:, known]
        x, y = x - x.mean(), y - y.mean()
        n, sx, sy, sxx, sxy, syy = (w @ v for v in (np.ones(len(x)), x, y, x * x, x * y, y * y))
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.maximum(sxx / n - (sx / n) ** 2, 0) * np.maximum(syy / n - (sy / n) ** 2, 0)
            columns.append(np.where(spread > 0, (sxy / n - sx * sy / n**2) / np.sqrt(spread), np.nan))
    found = np.stack(columns)
    known_columns = np.isfinite(found).sum(0)
    return np.divide(np.nansum(found, 0), known_columns, out=np.full(len(weights), np.nan), where=known_columns > 0)
