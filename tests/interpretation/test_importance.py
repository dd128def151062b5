"""Importance: on an additive model effects are sums of weights, and patterns that mean nothing have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.genomes import random_bases
from support.linear import LENGTH, linear_discriminator
from support.pair import tiny_pair

import nucel
from nucel.interpretation.importance import (
    ImportanceOptions,
    Model,
    Planted,
    backgrounds,
    effect,
    interaction,
    plant,
    sites_above,
)
from nucel.interpretation.targets import Subject
from nucel.model.networks import Discriminator
from nucel.runtime.device import choose_precision
from nucel.tokenizers import nucleotide

pytest.importorskip("scipy.stats")
PRECISION = choose_precision("cpu", "fp32")
FIRST = nucleotide.BASES[0]
SEQUENCE = nucleotide.encode(random_bases(LENGTH, 1))


def ask(network, **options) -> Model:
    options.setdefault("average_reverse_complement", False)
    return Model.of(Subject.of(network), ImportanceOptions(**options), PRECISION)


def pattern(text: str, start: int) -> Planted:
    return Planted(start, nucleotide.encode(text))


def test_an_additive_model_gives_the_sum_of_its_weights():
    network = linear_discriminator()
    model = ask(network, shuffles=50)
    found = backgrounds([SEQUENCE], model.options)
    weights = network.weights.double().numpy()
    start, text = 10, "ACNGT"
    result = effect(model, found, [[pattern(text, start)]] * len(found.tokens))
    sites = [start + i for i, letter in enumerate(text) if letter != "N"]
    planted = sum(weights[start + i, "ACGT".index(letter)] for i, letter in enumerate(text) if letter != "N")
    there = [sum(weights[i, tokens[i] - FIRST] for i in sites) for tokens in found.tokens]
    np.testing.assert_allclose(result.changes, planted - np.array(there), atol=1e-5)
    assert result.mean == pytest.approx(planted - np.mean(there), abs=1e-5) and result.low < result.mean < result.high
    pair = interaction(model, found, [pattern("AC", 3)] * 50, [pattern("GGT", 30)] * 50)
    np.testing.assert_allclose(pair.changes, 0, atol=1e-5)


def test_an_empty_pattern_does_nothing():
    model = ask(tiny_pair(), shuffles=7)
    found = backgrounds([SEQUENCE], model.options)
    for text in ("", "NNNN"):
        result = effect(model, found, [[pattern(text, 5)]] * 7)
        assert (result.changes == 0).all() and (result.mean, result.wilcoxon) == (0, 1)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("target", ["originality", "plausibility", "surprise"])
def test_effects_are_what_each_sequence_gives_alone(target, both):
    pair = tiny_pair()
    model = ask(pair, shuffles=5, target=target, average_reverse_complement=both)
    found = backgrounds([SEQUENCE, nucleotide.encode(random_bases(40, 2))], model.options)
    assert found.units.tolist() == [0] * 5 + [1] * 5
    result = effect(model, found, [[pattern("TATAAA", 9)]] * 10)

    def f(tokens, inserted):
        with torch.no_grad():
            z = pair.discriminator.logits(torch.tensor([[nucleotide.CLS, *tokens.tolist()]]))[0, 1:].double().numpy()
        if target == "surprise":
            return np.logaddexp(0, -z)[inserted].sum()
        return z.sum() if target == "originality" else -np.logaddexp(0, -z).sum()

    for background, change in zip(found.tokens, result.changes, strict=True):
        values = []
        for tokens in (plant(background, [pattern("TATAAA", 9)]), background):
            inserted = np.zeros(len(tokens), bool)
            inserted[9:15] = True
            strands = [f(tokens, inserted)]
            if both:
                strands.append(f(nucleotide.reverse_complement(tokens), inserted[::-1]))
            values.append(np.mean(strands))
        assert change == pytest.approx(values[0] - values[1], abs=2e-5)


class Pairs(Discriminator):
    """Sums to 1 for each AC, 1 for each GT, and 5 more where both occur: an interaction of known size."""

    def logits(self, tokens, lengths=None):
        texts = [nucleotide.decode(row[1:].numpy()) for row in tokens]
        z = torch.zeros(tokens.shape)
        for row, text in zip(z, texts, strict=True):
            row[1] = text.count("AC") + text.count("GT") + 5 * ("AC" in text and "GT" in text)
        return z


def test_an_interaction_of_known_size():
    model = ask(Pairs(tiny_pair().config.discriminator), shuffles=4)
    found = backgrounds([nucleotide.encode("T" * 30)], model.options)
    result = interaction(model, found, [pattern("AC", 3)] * 4, [pattern("CGTC", 20)] * 4)
    np.testing.assert_allclose(result.changes, 5)
    np.testing.assert_allclose(effect(model, found, [[pattern("AC", 3)]] * 4).changes, 1)


@pytest.mark.slow
def test_intervals_cover_zero_where_a_pattern_means_nothing():
    """An additive model of equal weights along the sequence, and planted what was drawn like the background."""
    weights = torch.randn(1, 4, generator=torch.Generator().manual_seed(3)).expand(LENGTH, 4)
    network = linear_discriminator()
    network.weights = weights
    covered, runs = 0, 200
    draws = np.random.default_rng(5)
    for seed in range(runs):
        model = ask(network, shuffles=40, seed=seed)
        found = backgrounds([SEQUENCE], model.options)
        other = [tokens[draws.permutation(LENGTH)][:6] for tokens in found.tokens]
        result = effect(model, found, [[Planted(20, tokens)] for tokens in other])
        # Inside a shuffle, bases are as frequent as in the sequence but for its fixed ends.
        covered += result.low <= 0 <= result.high
    assert 0.88 < covered / runs < 0.99


def test_planting():
    background = nucleotide.encode("AAAAAAAA")
    whole = plant(background, [pattern("CNG", 1), pattern("T", 7)])
    assert nucleotide.decode(whole) == "ACAGAAAT" and nucleotide.decode(background) == "AAAAAAAA"
    for start in (-1, 6):
        with pytest.raises(nucel.InputError, match="is not inside a sequence of 8"):
            plant(background, [pattern("CNG", start)])


def test_sites_of_a_map():
    tokens = nucleotide.encode("ACGTACGTACGTACGTACGT")
    values = np.zeros(20)
    values[9], values[0] = 3.0, np.nan
    assert nucleotide.decode(sites_above(values, tokens)) == "N" * 7 + "TACGT" + "N" * 8


def test_backgrounds_keep_to_their_seed():
    one, other, third = (backgrounds([SEQUENCE], ImportanceOptions(shuffles=3, seed=s)).tokens for s in (1, 1, 2))
    assert all(map(np.array_equal, one, other)) and not all(map(np.array_equal, one, third))
    assert not np.array_equal(one[0], one[1])
