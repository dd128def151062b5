"""How good a pair is: exact metrics for validation, and sums for training that never make a step wait.

The class of interest is the replaced token: it is rare (about a tenth), so accuracy says little, and a constant guess
already reaches a low cross-entropy. Hence AUROC, average precision, and the loss beside that of the constant guess.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .stages import Discriminated, Proposed

BINS = 1024
"""Of the histogram of sigmoid(logit), from which training's AUROC comes."""


def constant_guess_cross_entropy(fraction: float) -> float:
    """Binary cross-entropy in nats of the best constant guess where a fraction of the labels is 1."""
    return -sum(p * math.log(p) for p in (fraction, 1 - fraction) if p > 0)


def composition_cross_entropy(gc: float) -> float:
    """Cross-entropy in nats of guessing bases by a genome's composition, which both strands share: its GC content."""
    return constant_guess_cross_entropy(gc) + math.log(2)


class Verdict(NamedTuple):
    """A validation beside the best constant guess."""

    what: str
    loss: float
    constant_guess: float
    details: str
    ranks: bool = True
    """Whether what it predicts is shown to rank better than chance, where that is measured."""

    @property
    def learned(self) -> bool:
        return self.loss < self.constant_guess and self.ranks

    def __str__(self) -> str:
        below = self.loss < self.constant_guess
        beginning, relation = ("It has learned", "below") if below else ("It has not learned yet", "not below")
        if below and not self.ranks:
            beginning = "It is not shown that it has learned"
        chance = " The interval of the AUROC reaches down to 0.5: that it ranks bases better than chance is not shown."
        return (
            f"{beginning}: on held-out windows {self.what} is {self.loss:.4f}, {relation} a constant guess's "
            f"{self.constant_guess:.4f} ({self.details})." + ("" if self.ranks else chance)
        )


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


def bootstrap_auroc(
    scores: Tensor, positive: Tensor, counted: Tensor | None = None, seed: int = 0, draws: int = 200
) -> tuple[float, float]:
    """95 % interval of the AUROC of scores (B, T) with labels positive, bool (B, T), by resampling whole rows.

    Where `counted`, bool (B, T), is False, a position does not count: [CLS] and padding.

    Rows (windows) are the unit, since neighbouring positions are not independent. One row tells nothing of how much
    rows differ: its bounds are nan.
    """
    if len(scores) < 2:
        return math.nan, math.nan
    counted = torch.ones_like(positive) if counted is None else counted
    ranked = RankedScores(scores[counted], positive[counted])
    windows, counts = len(scores), counted.sum(1)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        picked = torch.randint(windows, (windows,), generator=generator)
        weights = torch.bincount(picked, minlength=windows).to(scores.device)
        values.append(ranked.auroc(weights.repeat_interleave(counts)))
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def masked_sums(proposed: Proposed, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Losses fp32 (2,) and counts int64 (3,) of the masked positions; no host synchronisation, no data-made shape.

    Losses are those of windows and of masked positions; counts are right guesses, masked positions, windows.
    """
    masked = proposed.masked
    windows, used = len(masked.tokens), masked.used.sum()
    likeliest = (proposed.logits.argmax(-1) == masked.originals) & masked.used
    losses = torch.stack([loss * windows, proposed.loss * used]).detach()
    return losses, torch.stack([likeliest.sum(), used, used.new_tensor(windows)])


def masked_metrics(losses: Tensor, counts: Tensor) -> dict[str, float]:
    """Metrics of the masked positions, from totals of `masked_sums`."""
    loss, generator_loss = losses.tolist()
    likeliest, used, windows = counts.tolist()
    return {
        "loss": loss / windows,
        "generator_loss": generator_loss / max(1, used),
        "generator_accuracy": likeliest / max(1, used),
    }


def replaced_sums(last: Discriminated) -> tuple[Tensor, Tensor, Tensor]:
    """RTD loss fp32 (), bases drawn right int64 (), a histogram int64 (2 * BINS) of bases: replaced, then original."""
    masked, corrupted = last.proposed.masked, last.corrupted
    sampled = (corrupted.tokens.gather(1, masked.positions) == masked.originals) & masked.used
    bins = (last.logits.sigmoid().nan_to_num(0) * BINS).long().clamp(max=BINS - 1) + BINS * corrupted.original
    histogram = torch.zeros(2 * BINS, dtype=torch.int64, device=bins.device)
    histogram.index_add_(0, bins.flatten(), corrupted.bases.long().flatten())
    return (last.rtd_loss * len(masked.tokens)).detach(), sampled.sum(), histogram


def replaced_metrics(histogram: Tensor, windows: int) -> dict[str, float]:
    """Metrics of replaced-token detection; the AUROC is exact up to ties within a bin, the others are exact.

    0, from which recall and precision are counted, is a bin's edge. [CLS] is never replaced, which any network learns
    within a few steps. So it counts in no metric but the loss, whose constant guess is one for bases that knows [CLS].

    Args:
        histogram: of the bases, from `replaced_sums`.
        windows: how many rows they are from.
    """
    replaced, original = histogram.cpu().view(2, BINS)
    replaced_below, original_below = (int(counts[: BINS // 2].sum()) for counts in (replaced, original))
    bases = int(histogram.sum())
    fraction = int(replaced.sum()) / bases
    ranked = RankedScores(-torch.arange(BINS).repeat(2), torch.arange(2 * BINS) < BINS)
    return {
        "rtd_blind": constant_guess_cross_entropy(fraction) * bases / (bases + windows),
        "rtd_auroc": ranked.auroc(torch.cat((replaced, original))),
        "rtd_recall": replaced_below / max(1, int(replaced.sum())),
        "rtd_precision": replaced_below / max(1, replaced_below + original_below),
        "replaced_fraction": fraction,
    }
