"""A pair that is made, not trained: exact conditionals of a Markov source, any proposals, z from the identity.

What the corrected score must recover is then known: the log-odds ratio of the true conditional.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.variants import genome_of, random_bases, substitutions
from torch import Tensor, nn

import nucel
from nucel.interpretation.networks import Networks
from nucel.tokenizers.nucleotide import BASES, TOKENS

A, T = BASES[0], BASES[-1]
CONTIGS = {"c": random_bases(400, 7)}
SCORES = ("rtd_corrected", "rtd", "llr")
ONE_STRAND = {"context": 64, "average_reverse_complement": False, "scores": SCORES}


def conditional(transitions: Tensor, tokens: Tensor) -> Tensor:
    """p(b at i | the bases beside it), (B, T, 4), of a Markov chain; a neighbour that is no base says nothing."""
    bases = tokens.long() - A
    known = (bases >= 0) & (bases < 4)
    before, after = (torch.ones(*tokens.shape, 4, dtype=torch.float64) for _ in range(2))
    safe = bases.clamp(0, 3)
    before[:, 1:] = torch.where(known[:, :-1, None], transitions[safe[:, :-1]], before[:, 1:])
    after[:, :-1] = torch.where(known[:, 1:, None], transitions.T[safe[:, 1:]], after[:, :-1])
    weights = before * after
    return weights / weights.sum(-1, keepdim=True)


class MadeGenerator(nn.Module):
    """Proposes from a chain of its own, at the run's temperature."""

    def __init__(self, transitions: Tensor, temperature: float):
        super().__init__()
        self.transitions, self.temperature = transitions, temperature

    def proposals(self, tokens: Tensor) -> Tensor:
        return conditional(self.transitions, tokens)

    def forward(self, tokens: Tensor, positions: Tensor, lengths: Tensor | None = None) -> Tensor:
        q = self.proposals(tokens).gather(1, positions[..., None].expand(-1, -1, 4))
        logits = torch.full((*positions.shape, len(TOKENS)), -30.0, dtype=torch.float64)
        logits[..., A : T + 1] = q.log() * self.temperature + 3  # a constant does not matter
        return logits


class MadeDiscriminator(nn.Module):
    """The ideal one: z from the identity, for the true conditional p and the generator's q."""

    def __init__(self, transitions: Tensor, generator: MadeGenerator, rate: float):
        super().__init__()
        self.transitions, self.generator, self.rate = transitions, generator, rate

    def logits(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        base = (tokens.long() - A).clamp(0, 3)[..., None]
        p = conditional(self.transitions, tokens).gather(-1, base)[..., 0]
        q = self.generator.proposals(tokens).gather(-1, base)[..., 0]
        return torch.logit(p) - q.log() + (((1 - self.rate) + self.rate * q) / self.rate).log()


class Undecided(nn.Module):
    """A discriminator that knows nothing."""

    def logits(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.full(tokens.shape, 1.7)


def chain(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(4), size=4)) * 0.9 + 0.025


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return genome_of(tmp_path_factory.mktemp("genome"), CONTIGS), substitutions(CONTIGS, 60)


def true_log_odds(transitions: Tensor, variants) -> np.ndarray:
    """logit p(alt) - logit p(ref), from the genome alone."""
    tokens = torch.from_numpy(nucel.encode(CONTIGS["c"]).copy())[None]
    log_odds = torch.logit(conditional(transitions, tokens))[0].numpy()
    return np.array(
        [log_odds[v.start_bp]["ACGT".index(v.alt)] - log_odds[v.start_bp]["ACGT".index(v.ref)] for v in variants]
    )


@pytest.mark.parametrize(("rate", "temperature"), [(0.15, 1.0), (0.3, 1.0), (0.15, 2.0)])
def test_the_corrected_score_is_the_true_log_odds_ratio(setting, rate, temperature):
    """However poor the generator is, and whatever the mask rate and the temperature are."""
    genome, variants = setting
    generator = MadeGenerator(chain(1), temperature)
    networks = Networks(None, MadeDiscriminator(chain(0), generator, rate), generator, rate, temperature)
    scored = nucel.score_variants(
        networks, variants, genome, context=64, average_reverse_complement=False, scores=SCORES
    )
    expected = true_log_odds(chain(0), variants)
    np.testing.assert_allclose(scored["rtd_corrected"], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(scored["rtd"] - expected).max() > 1  # the raw difference is something else


def test_with_the_true_conditional_as_generator_the_raw_difference_is_nearly_nothing(setting):
    """A good generator leaves z little to say: what is left is 1 / (1 - p), and the share of what was kept."""
    genome, variants = setting
    generator = MadeGenerator(chain(0), 1.0)
    networks = Networks(None, MadeDiscriminator(chain(0), generator, 0.15), generator, 0.15, 1.0)
    scored = nucel.score_variants(
        networks, variants, genome, context=64, average_reverse_complement=False, scores=SCORES
    )
    expected = true_log_odds(chain(0), variants)
    assert np.corrcoef(scored["rtd_corrected"], expected)[0, 1] > 0.99999
    assert np.std(scored["rtd"]) < 0.5 * np.std(expected)


def test_a_discriminator_that_knows_nothing_leaves_the_generator_s_ratio(setting):
    genome, variants = setting
    networks = Networks(None, Undecided(), MadeGenerator(chain(1), 1.0), 0.15, 1.0)
    scored = nucel.score_variants(
        networks, variants, genome, context=64, average_reverse_complement=False, scores=SCORES
    )
    gap = np.abs(scored["rtd_corrected"] - scored["llr"])
    assert 0.01 < gap.max() <= -np.log(0.85) + 1e-6 < 0.163
    assert (scored["rtd"] == 0).all()
