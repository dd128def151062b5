"""Features that need no network: one-hot bases, and how often each k-mer occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tokenizers.nucleotide import BASES

_FIRST, _LETTERS = BASES[0], len(BASES)


def kmer_frequencies(tokens: Sequence[np.ndarray], ks: Sequence[int]) -> np.ndarray:
    """Shares of all k-mers, float32 (n, sum of 4^k): for each k in turn they sum to 1.

    K-mers with an unknown base are not counted. A sequence without any k-mer of known bases has zeros.

    Args:
        tokens: n arrays uint8 (length,).
        ks: lengths of the k-mers, such as (2,) for dinucleotides.
    """
    found = np.zeros((len(tokens), sum(_LETTERS**k for k in ks)), np.float32)
    for row, sequence in zip(found, tokens, strict=True):
        bases = sequence.astype(np.int64) - _FIRST
        known = (bases >= 0) & (bases < _LETTERS)
        start = 0
        for k in ks:
            end = start + _LETTERS**k
            if len(bases) >= k:
                powers = _LETTERS ** np.arange(k - 1, -1, -1)
                codes = np.lib.stride_tricks.sliding_window_view(bases, k) @ powers
                whole = np.lib.stride_tricks.sliding_window_view(known, k).all(1)
                row[start:end] = np.bincount(codes[whole], minlength=_LETTERS**k) / max(1, int(whole.sum()))
            start = end
    return found


def one_hot(tokens: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Bases as vectors of four, float32 (n, 4, length); unknown bases and what follows a sequence are zeros."""
    found = np.zeros((len(tokens), _LETTERS, length), np.float32)
    for row, sequence in zip(found, tokens, strict=True):
        row[:, : len(sequence)] = sequence == np.array(BASES)[:, None]
    return found
