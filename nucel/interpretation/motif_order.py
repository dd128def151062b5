"""Two motifs in either order: sequences that differ in nothing else, and how far attention stands out at the motifs.

A before B is positive, B before A negative. Both motifs have the same bases, and lie farther apart than local attention
reaches, so that a model which tells the classes apart has to bring both together in its global layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..inference.attention import attention_weights
from ..model.encoder import Encoder
from ..runtime.errors import require
from ..tokenizers import nucleotide

FLANK_BP = 50
"""Bases of a profile on either side of the motif."""
_BESIDE_BP = 5
"""Bases beside the motif that belong neither to it nor to the rest."""
_LEAST_DISTANCE = 6
BOOTSTRAP_DRAWS = 1000
Queries = ("all", "cls")


@dataclass(frozen=True, kw_only=True)
class SequencePairs:
    """The sequences of the task."""

    motifs: tuple[str, str] = ("TGACGTAAGC", "GTCAATGCAG")
    """The two motifs, of the same bases, that differ at 6 positions at least and are no reverse complements."""
    length_bp: int = 512
    """Bases of a sequence, drawn uniformly."""
    min_gap_bp: int = 130
    """Bases between the motifs at least: beyond twice the radius of local attention."""

    def __post_init__(self) -> None:
        one, other = self.motifs
        for text in self.motifs:
            require(bool(text) and set(text) <= set("ACGT"), f"motifs are made of A, C, G and T, got {text!r}")
        require(sorted(one) == sorted(other), f"both motifs must have the same bases, got {one} and {other}")
        distance = sum(a != b for a, b in zip(one, other, strict=True))
        require(distance >= _LEAST_DISTANCE, f"the motifs must differ at 6 positions at least, got {distance}")
        require(
            not {one, other} & {_reverse(one), _reverse(other)},
            f"no motif may be its own or the other's reverse complement, got {one} and {other}",
        )
        least = 5 * len(one) + 2 * (2 * _BESIDE_BP - 1)  # so that there always is a place away from both motifs
        require(self.length_bp >= least, f"length_bp must be at least {least}, got {self.length_bp}")
        room = self.length_bp - 2 * len(one)
        require(0 <= self.min_gap_bp <= room, f"min_gap_bp must lie in [0, {room}], got {self.min_gap_bp}")


def _reverse(text: str) -> str:
    return nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode(text)))


class Drawn(NamedTuple):
    """n sequences of the task."""

    tokens: list[np.ndarray]
    """uint8 (length,) each, without [CLS]."""
    labels: np.ndarray
    """int64 (n,): 1 where A comes first."""
    starts: np.ndarray
    """int64 (n, 2), where A and where B begins."""


def draw_sequences(options: SequencePairs, number: int, seed: int) -> Drawn:
    """Balanced sequences, in which each motif occurs once and no reverse complement of one; the same for one seed."""
    draws = np.random.default_rng(seed)
    texts = [*options.motifs, *map(_reverse, options.motifs)]
    a, b = (nucleotide.encode(text) for text in options.motifs)
    width = len(a)
    labels = draws.permutation(np.arange(number) % 2)
    tokens, starts = [], []
    for label in labels.tolist():
        while True:
            bases = draws.integers(nucleotide.BASES[0], nucleotide.BASES[-1] + 1, options.length_bp).astype(np.uint8)
            gap = int(draws.integers(options.min_gap_bp, options.length_bp - 2 * width + 1))
            first = int(draws.integers(options.length_bp - 2 * width - gap + 1))
            second = first + width + gap
            at_a, at_b = (first, second) if label else (second, first)
            bases[at_a : at_a + width], bases[at_b : at_b + width] = a, b
            text = nucleotide.decode(bases)
            if [_occurrences(text, motif) for motif in texts] == [1, 1, 0, 0]:
                break
        tokens.append(bases)
        starts.append((at_a, at_b))
    return Drawn(tokens, labels.astype(np.int64), np.array(starts, np.int64).reshape(-1, 2))


def _occurrences(text: str, word: str) -> int:
    return sum(text.startswith(word, i) for i in range(len(text) - len(word) + 1))


def occlude(drawn: Drawn, starts: np.ndarray, width: int, seed: int) -> list[np.ndarray]:
    """The sequences with `width` random bases written from `starts` (n,) on."""
    draws = np.random.default_rng(seed)
    found = []
    for tokens, start in zip(drawn.tokens, starts.tolist(), strict=True):
        changed = tokens.copy()
        changed[start : start + width] = draws.integers(nucleotide.BASES[0], nucleotide.BASES[-1] + 1, width)
        found.append(changed)
    return found


def random_starts(drawn: Drawn, width: int, seed: int) -> np.ndarray:
    """A place in each sequence that touches no motif, int64 (n,): the control for what happens at motifs."""
    draws = np.random.default_rng(seed)
    found = []
    for tokens, starts in zip(drawn.tokens, drawn.starts, strict=True):
        places = np.arange(len(tokens) - width + 1)
        found.append(draws.choice(places[(np.abs(places[:, None] - starts) >= width + _BESIDE_BP).all(1)]))
    return np.array(found, np.int64)


def attention_received(
    encoder: Encoder, tokens: Sequence[np.ndarray], layers: Collection[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Attention that each base receives, by layer and by the queries it comes from, float64 (n, L).

    `all` is the mean over heads and over all queries, [CLS] included; `cls` that over heads from [CLS] alone.
    """
    received: dict[int, dict[str, list[np.ndarray]]] = {layer: {name: [] for name in Queries} for layer in layers}
    for sequence in tokens:
        for layer, weights in attention_weights(encoder, sequence, layers).items():
            mean = weights.astype(np.float64).mean(0)
            received[layer]["all"].append(mean.mean(0)[1:])
            received[layer]["cls"].append(mean[0, 1:])
    return {layer: {name: np.stack(rows) for name, rows in of.items()} for layer, of in received.items()}


def aligned(received: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Cut from FLANK_BP before each motif's start to FLANK_BP after its end, float64 (n, 2 FLANK_BP + width).

    nan beyond the ends of the sequence.
    """
    wide = np.pad(received, ((0, 0), (FLANK_BP, FLANK_BP)), constant_values=np.nan)
    columns = starts[:, None] + np.arange(2 * FLANK_BP + width)
    return np.take_along_axis(wide, columns, axis=1)


class SignalToNoise(NamedTuple):
    """How far the motif stands out of its profile."""

    snr: float
    """(mean over the motif - mean over the rest) / standard deviation over the rest."""
    ratio: float
    """Mean over the motif / mean over the rest."""
    low: float
    """2.5 % of the SNR over the bootstrap's draws of sequences."""
    high: float


def signal_to_noise(profiles: np.ndarray, width: int, seed: int = 0) -> SignalToNoise:
    """SNR of the mean of aligned profiles (n, P), the motif in their middle; 5 bp beside it are left out.

    The interval is that of a bootstrap over sequences.
    """
    counts = np.random.default_rng(seed).multinomial(len(profiles), np.full(len(profiles), 1 / len(profiles)),
                                                     size=BOOTSTRAP_DRAWS)  # fmt: skip
    weights = np.concatenate([np.ones((1, len(profiles))), counts])
    there = np.isfinite(profiles)
    sums, sizes = weights @ np.where(there, profiles, 0), weights @ there
    mean = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    motif = slice(FLANK_BP, FLANK_BP + width)
    rest = np.ones(profiles.shape[1], bool)
    rest[FLANK_BP - _BESIDE_BP : FLANK_BP + width + _BESIDE_BP] = False
    signal, noise = mean[:, motif].mean(1), mean[:, rest]
    level, spread = np.nanmean(noise, axis=1), np.nanstd(noise, axis=1)
    snr = (signal - level) / spread
    low, high = np.quantile(snr[1:], [0.025, 0.975]).tolist()
    return SignalToNoise(float(snr[0]), float(signal[0] / level[0]), low, high)
