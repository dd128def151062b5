"""Figures of merit of a pair: exact ones for validation, and running ones that never make a training step wait.

The class of interest is the replaced token: it is rare (about a tenth), so accuracy says little, and a constant guess
already reaches a low cross-entropy. Hence AUROC, average precision, and the loss beside its blind value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..objectives.stages import Losses


def blind_cross_entropy(fraction: float) -> float:
    """Binary cross-entropy in nats of the best constant guess where a fraction of the labels is 1."""
    return -sum(p * math.log(p) for p in (fraction, 1 - fraction) if p > 0)


class RankedScores:
    """Scores with binary labels, sorted once, for AUROC and average precision under any weights.

    Args:
        scores: (N,), higher means more likely positive. Ties count one half.
        positive: bool (N,).
    """

    def __init__(self, scores: Tensor, positive: Tensor):
        ordered, self.order = scores.double().sort(descending=True)
        self.positive = positive[self.order]
        _, counts = ordered.unique_consecutive(return_counts=True)
        self.group_ends = counts.cumsum(0) - 1

    def _cumulative(self, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight of positives and of negatives ranked at or above each distinct score."""
        if weights is None:
            weights = torch.ones_like(self.order, dtype=torch.float64)
        weights = weights.double()[self.order]
        true = (weights * self.positive).cumsum(0)[self.group_ends]
        false = (weights * ~self.positive).cumsum(0)[self.group_ends]
        return true, false

    def auroc(self, weights: Tensor | None = None) -> float:
        """Chance that a positive outranks a negative; nan without one of either. weights (N,) count each score."""
        true, false = self._cumulative(weights)
        if len(true) == 0 or true[-1] == 0 or false[-1] == 0:
            return math.nan
        zero = true.new_zeros(1)
        return float(torch.trapezoid(torch.cat((zero, true)), torch.cat((zero, false))) / (true[-1] * false[-1]))

    def average_precision(self) -> float:
        """Precision averaged over the recalled positives; nan without a positive."""
        true, false = self._cumulative(None)
        if len(true) == 0 or true[-1] == 0:
            return math.nan
        gained = torch.diff(true, prepend=true.new_zeros(1))
        return float((gained * true / (true + false)).sum() / true[-1])


def bootstrap_auroc(scores: Tensor, positive: Tensor, seed: int = 0, draws: int = 200) -> tuple[float, float]:
    """95 % interval of the AUROC of scores (B, T) with labels positive, bool (B, T), by resampling whole rows.

    Rows (windows) are the unit, since neighbouring positions are not independent.
    """
    ranked = RankedScores(scores.flatten(), positive.flatten())
    windows, positions = scores.shape
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        picked = torch.randint(windows, (windows,), generator=generator)
        weights = torch.bincount(picked, minlength=windows).to(scores.device)
        values.append(ranked.auroc(weights.repeat_interleave(positions)))
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


class Meter:
    """Figures of several forward passes, accumulated on the device; only `read` waits for it.

    The AUROC comes from a histogram of sigmoid(logit), so that it is exact up to ties within a bin; precision and
    recall are exact, since 0 is a bin's edge.
    """

    BINS = 1024

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.losses = torch.zeros(3, device=self.device)
        self.counts = torch.zeros(4, dtype=torch.int64, device=self.device)
        self.histogram = torch.zeros(2 * self.BINS, dtype=torch.int64, device=self.device)

    @torch.no_grad()
    def add(self, losses: Losses) -> None:
        """Take in one forward pass: no host synchronisation, no shape that depends on data."""
        masked, corrupted = losses.masked, losses.corrupted
        windows = len(masked.tokens)
        likeliest = (losses.generator_logits.argmax(-1) == masked.originals) & masked.used
        used = masked.used.sum()
        sums, counts = [losses.loss * windows, losses.generator_loss * used], [likeliest.sum(), used]
        if corrupted is not None:
            sampled = (corrupted.tokens.gather(1, masked.positions) == masked.originals) & masked.used
            sums.append(losses.rtd_loss * windows)
            counts.append(sampled.sum())
            bins = (losses.rtd_logits.sigmoid().nan_to_num(0) * self.BINS).long().clamp(max=self.BINS - 1)
            bins += self.BINS * corrupted.original
            self.histogram.index_add_(0, bins.flatten(), torch.ones_like(bins).flatten())
        self.losses[: len(sums)] += torch.stack(sums)
        self.counts[: len(counts)] += torch.stack(counts)
        self.counts[3] += windows

    def read(self, add_ranks: Callable[[Tensor], None] = lambda total: None) -> dict[str, float]:
        """Means over what was added since the last reading; starts anew.

        Args:
            add_ranks: adds a tensor up over all ranks, in place.
        """
        for total in (self.losses, self.counts, self.histogram):
            add_ranks(total)
        loss, generator_loss, rtd_loss = self.losses.tolist()
        likeliest, used, sampled, windows = self.counts.tolist()
        figures = {
            "loss": loss / windows,
            "generator_loss": generator_loss / max(1, used),
            "generator_accuracy": likeliest / max(1, used),
        }
        replaced, original = self.histogram.cpu().view(2, self.BINS)
        if positions := int(replaced.sum() + original.sum()):
            replaced_below, original_below = (int(counts[: self.BINS // 2].sum()) for counts in (replaced, original))
            fraction = int(replaced.sum()) / positions
            ranked = RankedScores(-torch.arange(self.BINS).repeat(2), torch.arange(2 * self.BINS) < self.BINS)
            figures |= {
                "generator_sampled_accuracy": sampled / max(1, used),
                "rtd_loss": rtd_loss / windows,
                "rtd_blind": blind_cross_entropy(fraction),
                "rtd_auroc": ranked.auroc(torch.cat((replaced, original))),
                "rtd_recall": replaced_below / max(1, int(replaced.sum())),
                "rtd_precision": replaced_below / max(1, replaced_below + original_below),
                "replaced_fraction": fraction,
            }
        self.reset()
        return figures
