"""Markov models: counts beside a plain loop, a known source, whole records."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucel.genome.fasta import Genome
from nucel.genome.markov import counts_of, cross_entropies
from nucel.genome.records import Records
from nucel.genome.windows import WindowOptions, Windows
from nucel.tokenizers.nucleotide import ENCODE


@given(st.text("ACGTN", max_size=40), st.integers(0, 3))
def test_counts_are_those_of_a_loop(text, order):
    words = (text[i : i + order + 1] for i in range(len(text) - order))
    expected = Counter(word for word in words if "N" not in word)
    found = counts_of(ENCODE[np.frombuffer(text.encode(), np.uint8)], order).ravel()
    assert found.sum() == expected.total()
    for word, count in expected.items():
        assert found[int("".join(str("ACGT".index(x)) for x in word), 4)] == count


def windows_of(tmp_path, text: str):
    (tmp_path / "g.fa").write_text(f">c\n{text}\n")
    return Windows.tile(Genome(tmp_path / "g.fa"), WindowOptions(window_bp=100, overlap_bp=0)).hold_out((), 0.3)


def test_a_known_source_has_its_entropy(tmp_path):
    """Each base is followed by the next of ACGT with probability 0.7, and else by one of the other three."""
    draws, bases = np.random.default_rng(0), [0]
    for stays in draws.random(40_000) < 0.7:
        bases.append((bases[-1] + (1 if stays else int(draws.choice([0, 2, 3])))) % 4)
    train, held = windows_of(tmp_path, "".join("ACGT"[x] for x in bases))
    found = cross_entropies(train, held, (0, 1, 2), both_strands=False)
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.1)
    assert found[0] == pytest.approx(math.log(4), abs=0.01)
    assert found[1] == pytest.approx(entropy, abs=0.02) and found[2] == pytest.approx(entropy, abs=0.02)


def test_both_strands_and_fewer_windows(tmp_path):
    """All C: only with the other strand is G known; every second window says the same as all of them."""
    train, held = windows_of(tmp_path, "C" * 10_000)
    one, both = (cross_entropies(train, held, (0,), strands)[0] for strands in (False, True))
    assert one < 0.01 and both == pytest.approx(math.log(2), abs=0.01)
    fewer = cross_entropies(train, held, (0,), True, most_bp=2_000)[0]
    assert fewer == pytest.approx(both, abs=0.01) and fewer != both  # add-one counts weigh more


def test_records_are_read_whole_without_their_gaps(tmp_path):
    (tmp_path / "r.fa").write_text(">a\nAC-GT\n>b\nAC--GTA\n")
    records = Records.of(Genome(tmp_path / "r.fa"), WindowOptions(max_unknown=1.0), drop_gaps=True)
    counts = np.log((np.array([4, 3, 3, 3])) / 13)  # 3 A, 2 C, 2 G, 2 T, plus one each
    expected = -(3 * counts[0] + 2 * counts[1:].sum()) / 9
    assert cross_entropies(records, records, (0,), both_strands=False)[0] == pytest.approx(expected)
