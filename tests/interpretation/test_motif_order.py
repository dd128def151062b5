"""Motif order: the classes differ in order alone, and the SNR of made profiles is what it was made to be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tiny import tiny_encoder

import nucel
from nucel.interpretation.motif_order import (
    FLANK_BP,
    SequencePairs,
    aligned,
    attention_received,
    draw_sequences,
    occlude,
    random_starts,
    signal_to_noise,
)
from nucel.tokenizers import nucleotide

OPTIONS = SequencePairs()
WIDTH = 10
AUROC_ERROR = (401 / (12 * 200 * 200)) ** 0.5
"""Standard error of the AUROC of 200 against 200 that do not differ."""


def counts(tokens: list[np.ndarray], k: int):
    """How often each k-mer occurs, sparse (n, 4^k)."""
    sparse = pytest.importorskip("scipy.sparse")
    digits = np.stack(tokens).astype(np.int64) - nucleotide.BASES[0]
    windows = digits.shape[1] - k + 1
    codes = sum(digits[:, i : windows + i] * 4**i for i in range(k))
    rows = np.repeat(np.arange(len(tokens)), windows)
    return sparse.csr_matrix((np.ones(codes.size), (rows, codes.ravel())), shape=(len(tokens), 4**k))


@pytest.mark.parametrize("k", [1, 2, 4, 7, 10])
def test_k_mers_do_not_tell_the_classes_apart(k):
    """A ridge regression on k-mer counts, trained on other sequences, has an AUROC of 0.5 within four errors."""
    metrics = pytest.importorskip("sklearn.metrics")
    linear = pytest.importorskip("sklearn.linear_model")
    train, test = draw_sequences(OPTIONS, 600, 1), draw_sequences(OPTIONS, 400, 2)
    x, y = (counts(drawn.tokens, k) for drawn in (train, test))
    fitted = linear.Ridge(alpha=100.0, solver="sparse_cg").fit(x, train.labels)
    assert abs(metrics.roc_auc_score(test.labels, fitted.predict(y)) - 0.5) < 4 * AUROC_ERROR


def test_a_network_on_dinucleotides_is_at_chance():
    metrics = pytest.importorskip("sklearn.metrics")
    networks = pytest.importorskip("sklearn.neural_network")
    train, test = draw_sequences(OPTIONS, 600, 1), draw_sequences(OPTIONS, 400, 2)
    x, y = (counts(drawn.tokens, 2).toarray() / 511 for drawn in (train, test))
    fitted = networks.MLPClassifier((32,), max_iter=50, random_state=0, early_stopping=True).fit(x, train.labels)
    found = metrics.roc_auc_score(test.labels, fitted.predict_proba(y)[:, 1])
    assert abs(found - 0.5) < 4 * AUROC_ERROR


def test_the_classes_hold_the_same_words():
    """Each has both motifs once, far enough apart, in the order that its label says; one seed gives one set."""
    drawn = draw_sequences(OPTIONS, 200, 3)
    assert drawn.labels.sum() == 100
    for tokens, label, (a, b) in zip(drawn.tokens, drawn.labels, drawn.starts, strict=True):
        text = nucleotide.decode(tokens)
        assert len(text) == 512 and label == (a < b)
        assert text[a : a + WIDTH] == OPTIONS.motifs[0] and text[b : b + WIDTH] == OPTIONS.motifs[1]
        assert abs(a - b) - WIDTH >= 130 and text.count(OPTIONS.motifs[0]) == text.count(OPTIONS.motifs[1]) == 1
    again, other = draw_sequences(OPTIONS, 200, 3), draw_sequences(OPTIONS, 200, 4)
    assert all(map(np.array_equal, drawn.tokens, again.tokens))
    assert not any(map(np.array_equal, drawn.tokens, other.tokens))


@pytest.mark.parametrize(
    ("motifs", "message"),
    [
        (("TGACGTAAGC", "TGACGTAAGG"), "the same bases"),
        (("TGACGTAAGC", "TGACGTAACG"), "differ at 6 positions"),
        (("ACGAATTCGT", "TTTGGCCAAA"), "reverse complement"),
        (("TGACGTAAGN", "GTCAATGCAG"), "made of A, C, G and T"),
    ],
)
def test_motifs_that_would_not_do_are_refused(motifs, message):
    with pytest.raises(nucel.ConfigError, match=message):
        SequencePairs(motifs=motifs)


def test_attention_received_sums_to_what_queries_give():
    """Rows of attention sum to 1, so that what [CLS] and all bases receive sums to 1 as well."""
    encoder = tiny_encoder()
    tokens = draw_sequences(SequencePairs(length_bp=80, min_gap_bp=20), 2, 0).tokens
    found = attention_received(encoder, tokens, (0, 1))
    for layer, of in found.items():
        for i, sequence in enumerate(tokens):
            weights = nucel.attention_weights(encoder, sequence, [layer])[layer]
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
            np.testing.assert_allclose(of["all"][i].sum() + weights[:, :, 0].mean(), 1, rtol=1e-5)
            np.testing.assert_allclose(of["all"][i], weights.mean((0, 1))[1:], rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(of["cls"][i], weights[:, 0].mean(0)[1:], rtol=1e-5, atol=1e-9)


def test_profiles_are_cut_around_the_motif():
    received = np.arange(400.0).reshape(2, 200)
    found = aligned(received, np.array([60, 10]), WIDTH)
    assert found.shape == (2, 2 * FLANK_BP + WIDTH) and found[0].tolist() == list(range(10, 120))
    assert np.isnan(found[1, :40]).all() and found[1, 40:].tolist() == list(range(200, 270))


def test_a_spike_of_known_height_has_the_known_ratio():
    """Noise of mean 1 and standard deviation 0.5, a motif at 4: SNR 6, ratio 4. Beside the motif nothing counts."""
    profile = np.tile([0.5, 1.5], (2 * FLANK_BP + WIDTH) // 2)
    profile[FLANK_BP - 5 : FLANK_BP + WIDTH + 5] = 1000.0
    profile[FLANK_BP : FLANK_BP + WIDTH] = 4.0
    found = signal_to_noise(np.stack([profile, profile]), WIDTH)
    np.testing.assert_allclose(found, (6, 4, 6, 6))
    other = profile.copy()
    other[:8] = np.nan  # beyond the end of a sequence
    np.testing.assert_allclose(signal_to_noise(np.stack([profile, other]), WIDTH), (6, 4, 6, 6))


def test_noise_alone_has_a_small_ratio():
    """Below 3 in size in 95 % of profiles."""
    draws = np.random.default_rng(0)
    found = [signal_to_noise(draws.random((100, 2 * FLANK_BP + WIDTH)), WIDTH).snr for _ in range(100)]
    assert np.mean(np.abs(found) < 3) >= 0.95 and np.mean(found) == pytest.approx(0, abs=0.2)


def test_occlusion_and_random_places_leave_motifs_alone():
    drawn = draw_sequences(OPTIONS, 50, 5)
    places = random_starts(drawn, WIDTH, 1)
    for tokens, changed, place, starts in zip(
        drawn.tokens, occlude(drawn, places, WIDTH, 2), places, drawn.starts, strict=True
    ):
        moved = np.flatnonzero(tokens != changed)
        assert all(place <= i < place + WIDTH for i in moved)
        assert all(abs(i - j) >= 1 for i, j in itertools.product(moved, [*starts, *(starts + WIDTH - 1)]))
    hidden = occlude(drawn, drawn.starts[:, 0], WIDTH, 2)
    assert sum(OPTIONS.motifs[0] in nucleotide.decode(tokens) for tokens in hidden) == 0
