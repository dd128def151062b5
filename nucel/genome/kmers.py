"""Frequencies of k-mers: what a sequence is made of, without any model. The strong and cheap control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tokenizers.nucleotide import BASES


def kmer_counts(tokens: np.ndarray, k: int) -> np.ndarray:
    """How often each k-mer occurs in a sequence, int64 (4^k,), in alphabetical order; k-mers with [UNK] are left out.

    Args:
        tokens: uint8 (length,), without [CLS].
    """
    if len(tokens) < k:
        return np.zeros(4**k, np.int64)
    digits = tokens.astype(np.int64) - BASES[0]
    known = (digits >= 0) & (digits < 4)
    words = np.zeros(len(tokens) - k + 1, np.int64)
    whole = np.ones(len(words), bool)
    for i in range(k):
        words = 4 * words + digits[i : i + len(words)]
        whole &= known[i : i + len(words)]
    return np.bincount(words[whole], minlength=4**k)


def kmer_frequencies(sequences: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Relative frequencies of the k-mers of each size, side by side, float32 (n, sum of 4^k).

    A sequence without a k-mer of a size has zeros there.

    Args:
        sequences: n arrays of tokens, uint8 (length,), without [CLS].
        sizes: the k of each block of columns.
    """
    found = np.zeros((len(sequences), sum(4**k for k in sizes)), np.float32)
    for row, tokens in zip(found, sequences, strict=True):
        start = 0
        for k in sizes:
            counts = kmer_counts(tokens, k)
            row[start : start + 4**k] = counts / max(1, counts.sum())
            start += 4**k
    return found
