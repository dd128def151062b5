"""Markov models of windows: what the last few bases tell of the next one, for a network's loss to be compared with.

windows --count words of order + 1 bases--> add-one frequencies --> cross-entropy of other windows, nats per base
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..tokenizers.nucleotide import BASES, reverse_complement
from .records import Records
from .windows import Windows

ORDERS = (0, 2, 5, 8, 10)
MOST_BP = 100_000_000
"""Bases that are counted at most; of more, windows at equal distances stand for all."""
_BLOCK_BP = 2_000_000
"""Bases that are held at once."""


def cross_entropies(
    train: Windows | Records,
    held_out: Windows | Records,
    orders: Sequence[int] = ORDERS,
    both_strands: bool = True,
    most_bp: int = MOST_BP,
) -> dict[int, float]:
    """Nats per base of chains on held-out windows, by order; each is fitted to the training windows, all alike.

    Args:
        both_strands: fit to the reverse complements too.
        most_bp: bases that are read at most of each kind of windows.
    """
    fitted = {order: np.ones((4**order, 4), np.int64) for order in orders}
    for tokens in blocks(train, most_bp):
        for strand in (tokens, reverse_complement(tokens)) if both_strands else (tokens,):
            for order, counts in fitted.items():
                counts += counts_of(strand, order)
    totals = dict.fromkeys(orders, 0.0)
    numbers = dict.fromkeys(orders, 0)
    logs = {order: np.log(counts / counts.sum(1, keepdims=True)) for order, counts in fitted.items()}
    for tokens in blocks(held_out, most_bp):
        for order in orders:
            seen = counts_of(tokens, order)
            totals[order] -= float((seen * logs[order]).sum())
            numbers[order] += int(seen.sum())
    return {order: totals[order] / numbers[order] if numbers[order] else math.nan for order in orders}


def counts_of(tokens: np.ndarray, order: int) -> np.ndarray:
    """How often each base follows each context of `order` bases, int64 (4^order, 4); unknown bases are skipped.

    Args:
        tokens: uint8 (..., length); no word reaches from one row into the next.
    """
    if tokens.shape[-1] <= order:
        return np.zeros((4**order, 4), np.int64)
    known = (tokens >= BASES[0]) & (tokens <= BASES[-1])
    codes = np.where(known, tokens - BASES[0], 0).astype(np.int64)
    length = tokens.shape[-1] - order
    index = np.zeros((*tokens.shape[:-1], length), np.int64)
    whole = np.ones(index.shape, bool)
    for i in range(order + 1):
        index = 4 * index + codes[..., i : i + length]
        whole &= known[..., i : i + length]
    return np.bincount(index[whole], minlength=4 ** (order + 1)).reshape(-1, 4)


def blocks(windows: Windows | Records, most_bp: int = MOST_BP) -> Iterator[np.ndarray]:
    """Tokens uint8 (N, window_bp) of some windows after the other, or (1, length) of one record after the other."""
    if isinstance(windows, Records):
        for contig in windows.first.contig[:: _every(int(windows.lengths.sum()), most_bp)].tolist():
            yield windows.tokens(contig)[None]
        return
    size = windows.window_bp
    every = _every(len(windows) * size, most_bp)
    places = list(zip(windows.contig[::every].tolist(), windows.start_bp[::every].tolist(), strict=True))
    at_once = max(1, _BLOCK_BP // size)
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        yield np.stack([windows.genome.fetch(contig, start, start + size) for contig, start in some])


def _every(total_bp: int, most_bp: int) -> int:
    return max(1, math.ceil(total_bp / most_bp))
