"""Statistics that judge scores: correlations, partial correlations, ranking, with intervals by bootstrap over blocks.

A block is what may be drawn independently: a position of saturation data, whose three variants share most of their
effect; a chromosome of genome-wide variants, whose neighbours are linked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tasks.intervals import Interval


class Figure(NamedTuple):
    """A figure, its 95 % interval, and the draws that gave it."""

    value: float
    low: float
    high: float
    draws: np.ndarray

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Figure:
        return cls(float(value), *Interval.of(draws), draws)

    @classmethod
    def mean(cls, figures: list[Figure]) -> Figure:
        """The mean of figures of independent data."""
        return cls.of(float(np.mean([f.value for f in figures])), np.mean([f.draws for f in figures], axis=0))


def _weights(blocks: int, draws: int, seed: int) -> np.ndarray:
    """How often each block is drawn, (draws, blocks); all blocks once in the first row."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws)
    return np.concatenate([np.ones((1, blocks)), drawn])


def correlations(
    x: np.ndarray, y: np.ndarray, given: np.ndarray, blocks: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[Figure, Figure]:
    """Pearson's r of x and y, and their partial correlation given a third variable.

    Args:
        x, y, given: float (n,).
        blocks: (n,), equal for what is drawn together.
        draws, seed: of the bootstrap.
    """
    number, block = np.unique(blocks, return_inverse=True)
    columns = [np.ones(len(x)), *map(_standardized, (x, y, given))]
    products = [a * b for i, a in enumerate(columns) for b in columns[i:]]  # 1, x, y, z, xx, xy, xz, yy, yz, zz
    sums = np.stack([np.bincount(block, product, len(number)) for product in products], 1)
    n, sx, sy, sz, sxx, sxy, sxz, syy, syz, szz = (_weights(len(number), draws, seed) @ sums).T
    with np.errstate(invalid="ignore", divide="ignore"):

        def r(ab: np.ndarray, a: np.ndarray, b: np.ndarray, aa: np.ndarray, bb: np.ndarray) -> np.ndarray:
            covariance = ab / n - a * b / n**2
            return covariance / np.sqrt(np.maximum(aa / n - (a / n) ** 2, 0) * np.maximum(bb / n - (b / n) ** 2, 0))

        xy, xz, yz = r(sxy, sx, sy, sxx, syy), r(sxz, sx, sz, sxx, szz), r(syz, sy, sz, syy, szz)
        partial = (xy - xz * yz) / np.sqrt(np.maximum(1 - xz**2, 0) * np.maximum(1 - yz**2, 0))
    return Figure.of(xy[0], xy[1:]), Figure.of(partial[0], partial[1:])


def _standardized(values: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1; sums of products then keep their digits."""
    deviation = values.std()
    return (values - values.mean()) / (deviation if deviation > 0 else 1)


class Ranking(NamedTuple):
    """How well scores rank positives above negatives."""

    auroc: Figure
    auprc: Figure
    auprc_by_block: Figure
    """The mean of the blocks' own AUPRC, weighted by their numbers of variants; blocks of one class are left out."""


def ranking(scores: np.ndarray, labels: np.ndarray, blocks: np.ndarray, draws: int = 1000, seed: int = 0) -> Ranking:
    """AUROC and AUPRC (average precision) of scores (n,) for labels bool (n,); ties count half, or together."""
    names, block = np.unique(blocks, return_inverse=True)
    weights = _weights(len(names), draws, seed)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the end of each group of equal scores
    found = np.array([_areas(row[block[order]], labels[order], last) for row in weights])
    own, sizes = [], []
    for i in range(len(names)):
        here = block[order] == i
        marks = labels[order][here]
        if 0 < marks.sum() < len(marks):
            ends = np.append(np.diff(scores[order][here]) != 0, True)
            own.append(_areas(np.ones(len(marks)), marks, ends)[1])
            sizes.append(len(marks))
        else:
            own.append(0.0)
            sizes.append(0)
    shares = weights * sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        by_block = (shares @ np.array(own)) / shares.sum(1)
    columns = (found[:, 0], found[:, 1], by_block)
    return Ranking(*(Figure.of(column[0], column[1:]) for column in columns))


def _areas(weights: np.ndarray, labels: np.ndarray, last: np.ndarray) -> tuple[float, float]:
    """AUROC and average precision of weighted items, best first; `last` marks the end of each group of equal scores."""
    positives = np.cumsum(weights * labels)[last]
    negatives = np.cumsum(weights * ~labels)[last]
    if not positives[-1] or not negatives[-1]:
        return np.nan, np.nan
    gained, lost = np.diff(positives, prepend=0), np.diff(negatives, prepend=0)
    above = positives - gained / 2  # positives that a negative of the group is below, ties by half
    with np.errstate(invalid="ignore"):
        precision = np.where(gained > 0, positives / np.maximum(positives + negatives, 1e-300), 0)
    return float((above * lost).sum() / (positives[-1] * negatives[-1])), float(
        (gained * precision).sum() / positives[-1]
    )
