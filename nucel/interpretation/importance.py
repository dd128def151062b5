"""Global importance: what a pattern does to a model's output when it is planted in random sequences.

    sequence --dinucleotide shuffles--> backgrounds --plant--> with pattern --model--> f(with) - f(without)

The shuffles keep each background's dinucleotides, so that the difference is the pattern's alone (Koo et al. 2021, PLoS
Comput Biol 17:e1008925). Differences are paired: Wilcoxon's signed-rank test uses that; the Mann-Whitney test, which
does not, is what is often published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..genome.shuffle import dinucleotide_shuffle
from ..inference.predict import BATCH_TOKENS, Batch, predict
from ..runtime.device import Precision
from ..runtime.errors import InputError, require
from ..tokenizers import nucleotide
from .passes import known_bases
from .targets import Rows, Subject, Target

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class ImportanceOptions:
    """How backgrounds are made and how the model is asked."""

    target: str | None = None
    """What the model is asked: class:K of a fine-tuned model, originality, plausibility, or surprise: -ln P(original)
    summed over the planted bases, low where the model expects them. By default as in attribution."""
    shuffles: int = 300
    """Dinucleotide shuffles of each sequence."""
    seed: int = 0
    """Of the shuffles, of what is drawn from matrices, and of the bootstrap."""
    average_reverse_complement: bool = True
    """Take the mean of the model's outputs for both strands."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once."""

    def __post_init__(self) -> None:
        require(self.shuffles >= 1, f"shuffles must be at least 1, got {self.shuffles}")
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        require(self.batch_tokens >= 1, f"batch_tokens must be at least 1, got {self.batch_tokens}")


class Planted(NamedTuple):
    """A pattern at a place."""

    start_bp: int
    tokens: np.ndarray
    """uint8 (w,); what is not A, C, G or T leaves the background as it is."""


class Effect(NamedTuple):
    """What a pattern does, over n backgrounds."""

    changes: np.ndarray
    """float64 (n,), f(with) - f(without) of each background."""
    mean: float
    low: float
    """2.5 % of the bootstrap's means; nan where there is only one unit to draw."""
    high: float
    wilcoxon: float
    """Two-sided p of the paired signed-rank test."""
    mann_whitney: float
    """Two-sided p of the test of the two sets."""


class Backgrounds(NamedTuple):
    """Shuffled sequences, n of them."""

    tokens: list[np.ndarray]
    units: np.ndarray
    """int64 (n,): which sequence each is a shuffle of, or its own number where there is one sequence. The bootstrap
    draws units."""


def backgrounds(tokens: Sequence[np.ndarray], options: ImportanceOptions) -> Backgrounds:
    """Shuffles of each sequence, the same for the same seed, however many sequences there are."""
    shuffled = [
        dinucleotide_shuffle(sequence, np.random.default_rng((options.seed, i, number)))
        for i, sequence in enumerate(tokens)
        for number in range(options.shuffles)
    ]
    units = np.arange(len(shuffled)) if len(tokens) == 1 else np.repeat(np.arange(len(tokens)), options.shuffles)
    return Backgrounds(shuffled, units)


def plant(background: np.ndarray, pieces: Sequence[Planted]) -> np.ndarray:
    """A background with patterns written over it, a new array.

    Raises:
        InputError: a pattern does not fit there.
    """
    whole = background.copy()
    for start, tokens in pieces:
        if not 0 <= start <= len(whole) - len(tokens):
            raise InputError(f"a pattern of {len(tokens)} bases at {start} is not inside a sequence of {len(whole)}")
        written = known_bases(tokens)
        whole[start : start + len(tokens)][written] = tokens[written]
    return whole


def sites_above(values: np.ndarray, tokens: np.ndarray, percentile: float = 95.0, widen_bp: int = 2) -> np.ndarray:
    """The bases that a map marks, as a pattern uint8 (L,): [UNK] wherever it does not.

    Marked are values above a percentile of the map, and so many bases on either side.
    """
    marked = np.nan_to_num(values, nan=-np.inf) > np.nanpercentile(values, percentile)
    wide = np.convolve(marked, np.ones(2 * widen_bp + 1), mode="same") > 0 if marked.size > 2 * widen_bp else marked
    return np.where(wide, tokens, np.uint8(nucleotide.UNK))


class Model(NamedTuple):
    """f: a number for a sequence.

    Attributes:
        target: None for surprise.
    """

    subject: Subject
    target: Target | None
    options: ImportanceOptions
    precision: Precision

    @classmethod
    def of(cls, subject: Subject, options: ImportanceOptions, precision: Precision) -> Model:
        """Raises HubError, ConfigError where the model cannot be asked that."""
        if options.target == "surprise":
            subject.discriminator("surprise")
            return cls(subject, None, options, precision)
        return cls(subject, Target.parse(options.target, subject), options, precision)

    def scores(self, tokens: Sequence[np.ndarray], inserted: Sequence[np.ndarray]) -> np.ndarray:
        """f of sequences, float64 (n,).

        Args:
            inserted: bool (L,) for each: which bases surprise is summed over.
        """
        strands = [self._strand(list(tokens), list(inserted))]
        if self.options.average_reverse_complement:
            other = [nucleotide.reverse_complement(sequence) for sequence in tokens]
            strands.append(self._strand(other, [chosen[::-1] for chosen in inserted]))
        return np.mean(strands, axis=0)

    def _strand(self, tokens: list[np.ndarray], inserted: list[np.ndarray]) -> np.ndarray:
        def f(batch: Batch) -> Tensor:
            rows = batch.rows.tolist()
            score = self._score(batch, [inserted[i] for i in rows])
            high = score.float()  # `predict` hands on fp32; in two parts it keeps the digits that differences need
            return torch.stack([high, (score - high.double()).float()], dim=1)

        parts = predict(f, tokens, self.precision, self.options.batch_tokens)
        return np.array(list(parts), dtype=np.float64).sum(1)

    def _score(self, batch: Batch, inserted: list[np.ndarray]) -> Tensor:
        if self.target is not None:
            sites = torch.full((len(batch.tokens),), self.target.number, device=batch.tokens.device)
            return self.target.score(Rows(batch.tokens, batch.lengths, sites))
        z = self.subject.discriminator("surprise").logits(batch.tokens, batch.lengths).double()[:, 1:]
        chosen = np.zeros(z.shape, bool)
        for row, one in zip(chosen, inserted, strict=True):
            row[: len(one)] = one
        return torch.where(torch.from_numpy(chosen).to(z.device), F.softplus(-z), 0).sum(1)


def effect(model: Model, found: Backgrounds, pieces: Sequence[Sequence[Planted]]) -> Effect:
    """What planting does: f(with) - f(without), and its statistics.

    Args:
        pieces: for each background, what is planted in it.
    """
    changes, without = _changes(model, found.tokens, pieces)
    return _statistics(changes, without, found.units, model.options.seed)


def interaction(model: Model, found: Backgrounds, one: Sequence[Planted], other: Sequence[Planted]) -> Effect:
    """f(AB) - f(A) - f(B) + f(0), for two patterns of each background: 0 where their effects add up.

    Surprise is summed over the bases of both patterns in all four.
    """
    both = [[a, b] for a, b in zip(one, other, strict=True)]
    inserted = [_inserted(tokens, pieces) for tokens, pieces in zip(found.tokens, both, strict=True)]
    parts = []
    nothing: list[list[Planted]] = [[] for _ in one]
    for chosen in (both, [[a] for a in one], [[b] for b in other], nothing):
        planted = [plant(tokens, pieces) for tokens, pieces in zip(found.tokens, chosen, strict=True)]
        parts.append(model.scores(planted, inserted))
    changes = parts[0] - parts[1] - parts[2] + parts[3]
    return _statistics(changes, parts[1] + parts[2] - parts[3], found.units, model.options.seed)


def _changes(
    model: Model, tokens: list[np.ndarray], pieces: Sequence[Sequence[Planted]]
) -> tuple[np.ndarray, np.ndarray]:
    """f(with) - f(without) and f(without), float64 (n,); exactly 0 where planting changes nothing."""
    planted = [plant(background, chosen) for background, chosen in zip(tokens, pieces, strict=True)]
    inserted = [_inserted(background, chosen) for background, chosen in zip(tokens, pieces, strict=True)]
    without = model.scores(tokens, inserted)
    changes = model.scores(planted, inserted) - without
    same = [np.array_equal(one, other) for one, other in zip(tokens, planted, strict=True)]
    return np.where(same, 0.0, changes), without


def _inserted(background: np.ndarray, pieces: Sequence[Planted]) -> np.ndarray:
    """Which bases are of a pattern, bool (L,)."""
    chosen = np.zeros(len(background), bool)
    for start, tokens in pieces:
        chosen[start : start + len(tokens)] |= known_bases(tokens)
    return chosen


def _statistics(changes: np.ndarray, without: np.ndarray, units: np.ndarray, seed: int) -> Effect:
    from scipy import stats  # optional dependency, of scikit-learn

    _, unit = np.unique(units, return_inverse=True)
    means = np.bincount(unit, changes) / np.bincount(unit)
    low = high = float("nan")
    if len(means) > 1:
        draws = np.random.default_rng(seed).integers(len(means), size=(BOOTSTRAP_DRAWS, len(means)))
        low, high = np.quantile(means[draws].mean(1), [0.025, 0.975]).tolist()
    if not changes.any():
        return Effect(changes, 0.0, low, high, 1.0, 1.0)
    paired = float(stats.wilcoxon(changes).pvalue)
    return Effect(
        changes, float(means.mean()), low, high, paired, float(stats.mannwhitneyu(without + changes, without).pvalue)
    )
