"""One labelled table becomes three: rows, contigs or clusters of similar sequences go to train, dev or test whole.

Sequences of one contig, or copies of one gene, look alike. Where they are spread over train and test, a model is
rewarded for remembering them; hence the choice of what stays together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..genome.sequences import Sequences
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide

SplitBy = Literal["rows", "contig", "cluster"]
_CONTIG_COLUMNS = ("contig", "chrom", "chromosome", "chr", "seqname")
_REGION = re.compile(r"(.+):\d+-\d+(\([+-]\))?")
_K, _BANDS, _ROWS = 12, 24, 2
"""Sketches of canonical 12-mers: 24 bands of two minima. Two sequences that share half of their 12-mers meet in a band
with probability 0.999, two that share a tenth with 0.21."""


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, dev and test from a text such as "80,10,10"; they sum to 1.

    Raises:
        ConfigError: they are not three positive numbers.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 < share < float("inf") for share in shares):
        raise ConfigError(f"--split takes three positive numbers, as in 80,10,10, got {text!r}")
    train, dev, test = (share / sum(shares) for share in shares)
    return train, dev, test


def split_rows(sequences: Sequences, shares: Sequence[float], by: SplitBy, seed: int = 0) -> list[np.ndarray]:
    """Rows of each part, in the table's order: int64 arrays, one for each share.

    Groups are drawn in random order, each to the part that lacks most of its share.

    Args:
        shares: of the rows, for each part.
        by: what stays together: a row, the rows of a contig, or a cluster of similar sequences (`clusters`).
        seed: of the order.

    Raises:
        InputError: the contigs are not known, or there are too few groups, so that a part is empty.
    """
    groups = {"rows": lambda s: np.arange(len(s)), "contig": _contigs, "cluster": clusters}[by](sequences)
    sizes = np.bincount(groups)
    wanted, held = np.array(shares) * len(groups), np.zeros(len(shares))
    part_of_group = np.empty(len(sizes), np.int64)
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        part_of_group[group] = part = int(np.argmax((wanted - held) / wanted))
        held[part] += sizes[group]
    if not held.all():
        what = {"rows": "rows", "contig": "contigs", "cluster": "clusters of similar sequences"}[by]
        raise InputError(f"{sequences.source} has {len(sizes)} {what}, too few to split into {len(shares)} parts")
    return [np.flatnonzero(part_of_group[groups] == part) for part in range(len(shares))]


def _contigs(sequences: Sequences) -> np.ndarray:
    """Each row's contig by number: from a column, or from names such as chr1:100-200."""
    column = next((name for name in _CONTIG_COLUMNS if name in sequences.columns), None)
    if column is not None:
        names = sequences.columns[column]
    else:
        regions = [_REGION.fullmatch(name) for name in sequences.names]
        if not all(regions):
            raise InputError(
                f"{sequences.source} does not say what contig its sequences are from: --split-by contig needs a column "
                f"named {', '.join(_CONTIG_COLUMNS)}, or names such as chr1:100-200"
            )
        names = [region[1] for region in regions if region]
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def clusters(sequences: Sequences) -> np.ndarray:
    """Each sequence's cluster by number, int64 (n,): those that share many 12-mers, directly or by way of others.

    Strands count as the same. Neighbours are found by MinHash (Broder 1997) with banding, without comparing all pairs.
    """
    draws = np.random.default_rng(0)
    multipliers = draws.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    parent = np.arange(len(sequences))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[tuple[int, bytes], int] = {}
    for i, tokens in enumerate(sequences.tokens):
        kmers = canonical_kmers(tokens)
        minima = np.array([(kmers * multiplier).min() for multiplier in multipliers])
        for band, values in enumerate(minima.reshape(_BANDS, _ROWS)):
            other = seen.setdefault((band, values.tobytes()), i)
            if other != i:
                parent[root(i)] = root(other)
    return np.unique([root(i) for i in range(len(sequences))], return_inverse=True)[1].reshape(-1)


def canonical_kmers(tokens: np.ndarray) -> np.ndarray:
    """The smaller of each k-mer and its reverse complement, mixed to 64 bits; of a shorter sequence, the whole."""
    k = min(_K, len(tokens))
    powers = np.uint64(len(nucleotide.TOKENS)) ** np.arange(k, dtype=np.uint64)
    strands = (tokens, nucleotide.reverse_complement(tokens))
    one, other = (np.lib.stride_tricks.sliding_window_view(s, k).astype(np.uint64) @ powers for s in strands)
    kmers = np.minimum(one, other[::-1])
    kmers = (kmers ^ (kmers >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return kmers ^ (kmers >> np.uint64(29))
