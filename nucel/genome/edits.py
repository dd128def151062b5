"""Edit distance (Levenshtein): how many bases must be replaced, inserted or deleted to make one sequence another.

The distance is computed by Myers' bit-parallel algorithm (Myers 1999, J. ACM 46), in Hyyrö's form (2001), with a
column of the table in one Python integer. Neighbours are found without comparing all pairs: an edit changes at most k
of the k-mers of each sequence, so that two sequences whose k-mer counts differ by D are at least D / 2k edits apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .kmers import kmer_counts

_K = 5
"""Long enough that sequences of several hundred bases share few 5-mers by chance."""


def edit_distance(one: np.ndarray, other: np.ndarray) -> int:
    """Edits between two sequences of tokens, uint8 (length,). An [UNK] equals an [UNK] and nothing else."""
    if not len(one):
        return len(other)
    places: dict[int, int] = {}
    for i, token in enumerate(one.tolist()):
        places[token] = places.get(token, 0) | 1 << i
    mask, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = mask, 0, len(one)  # vertical differences of +1 and -1 in the present column
    for token in other.tolist():
        equal = places.get(token, 0)
        zero = (((equal & up) + up) ^ up) | equal | down
        right, left = down | ~(zero | up) & mask, up & zero
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & mask, (left << 1) & mask
        up, down = left | ~(zero | right) & mask, right & zero
    return distance


def nearest_by_edits(reference: Sequence[np.ndarray], queries: Sequence[np.ndarray]) -> np.ndarray:
    """The nearest reference of each query by edit distance, int64 (queries,); the first of those equally near.

    Args:
        reference, queries: tokens of each sequence, uint8 (length,).
    """
    first: dict[bytes, int] = {}
    for i, tokens in enumerate(reference):
        first.setdefault(tokens.tobytes(), i)
    rows = np.array(list(first.values()))
    counts = np.stack([kmer_counts(reference[i], _K) for i in rows]).astype(np.int32)
    lengths = np.array([len(reference[i]) for i in rows])
    found: dict[bytes, int] = {}
    for query in queries:
        key = query.tobytes()
        if key in found:
            continue
        apart = np.abs(counts - kmer_counts(query, _K).astype(np.int32)).sum(1)
        least = np.maximum(-(-apart // (2 * _K)), np.abs(lengths - len(query)))
        best, nearest = len(query) + int(lengths.max()) + 1, -1
        for candidate in np.argsort(least, kind="stable").tolist():
            i = int(rows[candidate])
            if least[candidate] > best:
                break
            if least[candidate] == best and i > nearest:
                continue
            distance = edit_distance(query, reference[i])
            if (distance, i) < (best, nearest):
                best, nearest = distance, i
        found[key] = nearest
    return np.array([found[query.tobytes()] for query in queries], np.int64)
