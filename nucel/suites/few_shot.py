"""Few-shot curves: what a probe reaches with 5, 10, 20, ... labels, from repeated draws of the training table.

The heads are those that choose nothing on the dev table: linear and k-NN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..runtime.device import Precision
from ..runtime.errors import require
from ..runtime.files import finite
from ..tasks.probe import HeadName
from ..tasks.task import Task
from .probe_table import main_metric
from .probes import Plan, Vectors, fit_one

_HEADS: tuple[HeadName, ...] = ("linear", "knn")
_STEPS = (1, 2, 5)


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """Learning curves."""

    few_shot: bool = False
    """Also fit linear and k-NN heads to 5, 10, 20, 50, ... and all training rows."""
    few_shot_draws: int = 5
    """Draws of the rows for each number of them."""

    def __post_init__(self) -> None:
        require(self.few_shot_draws >= 1, f"few_shot_draws must be at least 1, got {self.few_shot_draws}")


def sizes(task: Task) -> list[int]:
    """5, 10, 20, 50, ... below the number of training rows, then all; at least one row for each class."""
    rows, least = len(task.train.targets), max(5, len(task.labels or ()))
    steps = (step * 10**power for power, step in itertools.product(range(7), _STEPS))
    return [*(size for size in steps if least <= size < rows), rows]


def drawn(task: Task, size: int, draw: int) -> np.ndarray:
    """Rows of a draw, ascending: one of each class, where labels are classes, and the others at random.

    With numbers in several columns some column may have fewer than two measured rows; such rows are drawn again.
    """
    targets = task.train.targets
    for attempt in itertools.count():
        order = np.random.default_rng((size, draw, attempt)).permutation(len(targets))
        if task.labels is not None:
            _, first = np.unique(targets[order], return_index=True)
            order = np.concatenate([order[first], np.delete(order, first)])
        rows = np.sort(order[:size])
        enough = task.labels is not None or (~np.isnan(targets[rows].reshape(size, -1))).sum(0).min() >= 2
        if enough or attempt >= 100:
            return rows
    raise AssertionError("itertools.count does not end")


class FewShot:
    """Collects the curves of all vectors that it is given, of one layer each.

    Args:
        layer: whose vectors are taken; of a control with fewer blocks, its last.
    """

    def __init__(self, task: Task, plan: Plan, options: FewShotOptions, layer: int, precision: Precision):
        self._task, self._plan, self._options, self._precision = task, plan, options, precision
        self._layer = layer
        self._values: dict[tuple[str, str, int | None, str, int], list[float]] = {}

    def add(self, vectors: Vectors) -> None:
        if vectors.layer is not None and vectors.layer != min(self._layer, max(vectors.layers)):
            return
        for head, size in itertools.product(_HEADS, sizes(self._task)):
            key = (vectors.features, vectors.pooling, vectors.layer, head, size)
            self._values.setdefault(key, []).extend(self._fits(vectors, head, size))

    def _fits(self, vectors: Vectors, head: HeadName, size: int) -> Iterator[float]:
        """The main metric of each draw; all rows are drawn once."""
        train, dev, test = vectors.splits
        assert isinstance(train, np.ndarray)
        for draw in range(self._options.few_shot_draws if size < len(train) else 1):
            rows = drawn(self._task, size, draw)
            smaller = replace(self._task, train=self._task.train.take(rows))
            some = vectors._replace(splits=(train[rows], dev, test))
            fitted = fit_one(some, head, smaller, self._plan, self._precision, vectors.seed)
            yield fitted.test[main_metric(self._task)]

    def records(self) -> list[dict[str, Any]]:
        """One for each kind of features, head and number of labels: mean and deviation over draws and seeds."""
        main = f"test_{main_metric(self._task)}"
        names = ("features", "pooling", "layer", "head", "labels")
        found = []
        for key, values in self._values.items():
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            figures = finite({main: float(np.mean(values)), f"{main}_sd": spread})
            found.append({**dict(zip(names, key, strict=True)), "fits": len(values), **figures})
        return found
