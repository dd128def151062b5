"""Dinucleotide shuffles: uniform over all sequences with the same dinucleotides, which are listed by hand here."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from nucel.genome.demo import write_demo_genome
from nucel.genome.fasta import Genome
from nucel.genome.shuffle import dinucleotide_shuffle
from nucel.tokenizers.nucleotide import decode, encode

stats = pytest.importorskip("scipy.stats")


def pairs(text: str) -> Counter:
    return Counter(itertools.pairwise(text))


def all_orders(text: str) -> set[str]:
    """Every walk over the dinucleotides, by exhaustion."""
    found = set()

    def walk(done: str, left: Counter) -> None:
        if len(done) == len(text):
            found.add(done)
        for pair in [pair for pair, count in left.items() if count and pair[0] == done[-1]]:
            walk(done + pair[1], left - Counter([pair]))

    walk(text[0], pairs(text))
    return found


@pytest.mark.parametrize(("text", "number"), [("AACA", 2), ("ACGATTACAGCA", 60), ("GATTACAGATC", 24), ("ANCNANGNA", 8)])
def test_all_sequences_are_equally_likely(text, number):
    """Chi-square over the sequences that exhaustion finds; by chance it fails once in 10,000 seeds."""
    possible = all_orders(text)
    if "N" not in text:
        assert len(possible) == number
    draws = np.random.default_rng(0)
    tokens = encode(text)
    counted = Counter(decode(dinucleotide_shuffle(tokens, draws)) for _ in range(100 * len(possible)))
    assert set(counted) == possible
    assert stats.chisquare([counted[order] for order in possible]).pvalue > 1e-4


def test_dinucleotides_and_ends_stay(tmp_path):
    """On 1,000 pieces of the demo genome, with its repeats and runs of N."""
    write_demo_genome(tmp_path / "demo.fa")
    genome = Genome(tmp_path / "demo.fa")
    draws = np.random.default_rng(1)
    changed = 0
    for _ in range(1000):
        start = int(draws.integers(100_000))
        tokens = genome.fetch(0, start, start + int(draws.integers(4, 300)))
        shuffled = dinucleotide_shuffle(tokens, draws)
        before, after = decode(tokens), decode(shuffled)
        assert pairs(before) == pairs(after) and before[0] == after[0] and before[-1] == after[-1]
        changed += before != after
    assert changed > 900  # but for runs of N and the shortest


def test_one_seed_gives_one_sequence():
    tokens = np.random.default_rng(2).choice([11, 12, 13, 14], 500).astype(np.uint8)
    one, other, third = (dinucleotide_shuffle(tokens, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (one == other).all() and (one != third).any()
    assert one.dtype == tokens.dtype and one is not tokens


@pytest.mark.parametrize("text", ["", "A", "AC", "ACA", "NCA", "AAAAAA"])
def test_sequences_with_one_order_stay(text):
    assert decode(dinucleotide_shuffle(encode(text), np.random.default_rng(0))) == text


def test_case_is_ignored():
    one, other = (
        dinucleotide_shuffle(encode(text), np.random.default_rng(0)) for text in ("gattacagatc", "GATTACAGATC")
    )
    assert (one == other).all()
