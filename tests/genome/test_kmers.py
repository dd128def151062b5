"""k-mer frequencies against scikit-learn's counts, and edit distances against the textbook's table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucel.genome.edits import edit_distance, nearest_by_edits
from nucel.genome.kmers import kmer_counts, kmer_frequencies
from nucel.tokenizers import nucleotide

letters = st.text("ACGTN", max_size=80)


def table(one: str, other: str) -> int:
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(letters, letters)
def test_edit_distance_is_the_table_s(one, other):
    assert edit_distance(nucleotide.encode(one), nucleotide.encode(other)) == table(one, other)


@given(letters, st.integers(0, 80), st.sampled_from("ACGTN"))
def test_one_change_is_one_edit_at_most(text, place, letter):
    place = min(place, len(text))
    for changed in (text[:place] + letter + text[place:], text[:place] + letter + text[place + 1 :]):
        assert edit_distance(nucleotide.encode(text), nucleotide.encode(changed)) <= 1


@given(st.integers(0, 1000))
def test_the_nearest_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    kinds = [rng.choice(list("ACGT"), 60) for _ in range(4)]

    def draw() -> str:
        bases = kinds[rng.integers(4)].copy()
        places = rng.integers(0, 60, rng.integers(0, 20))
        bases[places] = rng.choice(list("ACGTN"), len(places))
        return "".join(np.delete(bases, rng.integers(0, 60, rng.integers(0, 3))))

    reference, queries = [draw() for _ in range(12)], [draw() for _ in range(4)]
    reference[7] = reference[2]
    queries[1] = reference[2]
    found = nearest_by_edits(*([nucleotide.encode(text) for text in side] for side in (reference, queries)))
    expected = [min(range(12), key=lambda i: (table(query, reference[i]), i)) for query in queries]
    assert found.tolist() == expected


def test_of_equally_near_ones_the_first_is_taken_whatever_the_k_mers_say():
    """Both are two changes away; at the end they touch fewer k-mers, so that the second one is tried first."""
    query = "".join(np.random.default_rng(5).choice(list("ACGT"), 60))
    swap = str.maketrans("ACGT", "CATG")
    inside = query[:20] + query[20].translate(swap) + query[21:40] + query[40].translate(swap) + query[41:]
    reference = [inside, query[:-2] + query[-2:].translate(swap)]
    assert [table(query, one) for one in reference] == [2, 2]
    assert nearest_by_edits([nucleotide.encode(one) for one in reference], [nucleotide.encode(query)]).tolist() == [0]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_counts_are_scikit_learn_s(k):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    rng = np.random.default_rng(k)
    sequences = [
        "".join(rng.choice(list("ACGTN"), rng.integers(1, 90), p=[0.3, 0.2, 0.2, 0.25, 0.05])) for _ in range(9)
    ]
    words = ["".join(word) for word in itertools.product("ACGT", repeat=k)]
    counter = text.CountVectorizer(analyzer="char", ngram_range=(k, k), vocabulary=words, lowercase=False)
    expected = counter.transform(sequences).toarray()
    tokens = [nucleotide.encode(sequence) for sequence in sequences]
    assert (np.stack([kmer_counts(one, k) for one in tokens]) == expected).all()
    both = kmer_frequencies(tokens, (1, k))
    np.testing.assert_allclose(both[:, 4:], expected / expected.sum(1, keepdims=True).clip(1), rtol=1e-6)
