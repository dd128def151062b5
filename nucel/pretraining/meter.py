"""An objective's metrics over several forward passes; only reading them waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..objectives.kinds import Objective


class Meter:
    """Adds up what an objective's `sums` says of each forward pass, on the device; `read` gives its `metrics`."""

    def __init__(self, objective: Objective):
        self.objective: Any = objective
        self.reset()

    def reset(self) -> None:
        self._totals: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def add(self, last: Any) -> None:
        """Take in an objective's last stage: no host synchronisation, no shape that depends on data."""
        sums = self.objective.sums(last)
        self._totals = tuple(map(torch.add, self._totals, sums)) if self._totals else sums

    def read(self, add_ranks: Callable[[Tensor], None] = lambda total: None) -> dict[str, float]:
        """Metrics of what was added since the last reading; starts anew.

        Args:
            add_ranks: adds a tensor up over all ranks, in place.
        """
        for total in self._totals:
            add_ranks(total)
        metrics = self.objective.metrics(*self._totals)
        self.reset()
        return metrics
