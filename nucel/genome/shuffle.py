"""Sequences shuffled so that every pair of neighbours occurs as often as before.

A sequence is a walk over its letters, and each dinucleotide an edge. All sequences with the same first and last letter
and the same dinucleotides are the walks that use every edge once (Altschul and Erickson 1985, Mol Biol Evol 2:526). One
of them is drawn uniformly: a random tree of the edges by which each letter is left for the last time, by Wilson's
loop-erased random walk (Wilson 1996, STOC), then every letter's other edges in random order, then the walk.

The tree is what makes it uniform. A shuffle that keeps each letter's last edge where it was reaches only some of the
sequences: one of the two that AACA allows.
"""

from __future__ import annotations

import numpy as np


def dinucleotide_shuffle(tokens: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """A sequence drawn uniformly from those with the same ends and the same dinucleotide counts.

    Args:
        tokens: token ids uint8 (length,), without [CLS]; any value is a letter, so [UNK] counts as a fifth one.
        draws: the source of random numbers; the same state gives the same sequence.

    Returns:
        uint8 (length,), a new array. Sequences of up to three letters have no other order.
    """
    if len(tokens) < 4:
        return tokens.copy()
    letters, walk = np.unique(tokens, return_inverse=True)
    last = int(walk[-1])
    successors = [walk[1:][walk[:-1] == letter] for letter in range(len(letters))]
    tree = _tree_towards(last, successors, draws)
    orders = []
    for letter, edges in enumerate(successors):
        if letter == last:
            orders.append(draws.permutation(edges).tolist())
            continue
        kept = np.delete(edges, tree[letter])
        orders.append([*draws.permutation(kept).tolist(), int(edges[tree[letter]])])
    order = [iter(edges) for edges in orders]
    shuffled = np.empty_like(walk)
    at = shuffled[0] = int(walk[0])
    for i in range(1, len(walk)):
        at = shuffled[i] = next(order[at])
    return letters[shuffled].astype(tokens.dtype)


def _tree_towards(root: int, successors: list[np.ndarray], draws: np.random.Generator) -> dict[int, int]:
    """For each letter but the root, which of its edges leads towards the root: a uniform spanning tree of edges.

    From each letter in turn, walk at random until the tree is reached. Overwriting the edge taken at each visit erases
    the walk's loops.
    """
    chosen: dict[int, int] = {}
    in_tree = {root}
    for start in range(len(successors)):
        at = start
        while at not in in_tree:
            chosen[at] = int(draws.integers(len(successors[at])))
            at = int(successors[at][chosen[at]])
        at = start
        while at not in in_tree:
            in_tree.add(at)
            at = int(successors[at][chosen[at]])
    return chosen
