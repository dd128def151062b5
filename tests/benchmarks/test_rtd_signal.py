"""The theory of RTD's signal: against its own simulation, and at its ends."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.experiments.rtd_signal import conditionals, proposals, signal


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_a_simulation_of_the_corruption_agrees(temperature):
    """Bases are drawn, masked and replaced; the discriminator's posterior is counted, not derived."""
    draws = np.random.default_rng(0)
    number, mask_rate = 400_000, 0.15
    weights = np.exp(2 * draws.normal(size=(8, 4)))  # few contexts, so that each can be counted
    kinds = weights / weights.sum(1, keepdims=True)
    tempered = kinds ** (1 / temperature)
    tempered /= tempered.sum(1, keepdims=True)
    context = draws.integers(0, 8, number)

    def draw(p):
        return (p[context].cumsum(1) < draws.random((number, 1))).sum(1).clip(0, 3)

    true, proposed = draw(kinds), draw(tempered)
    shown = np.where(draws.random(number) < mask_rate, proposed, true)
    replaced = shown != true
    cell = 4 * context + shown
    share = np.bincount(cell[replaced], minlength=32) / np.bincount(cell, minlength=32)
    posterior = share[cell]
    mean = replaced.mean()
    blind = -mean * np.log(mean) - (1 - mean) * np.log1p(-mean)
    loss = -np.where(replaced, np.log(posterior), np.log1p(-posterior)).mean()

    p = kinds[np.sort(context)[::20]]  # each kind as often as it was drawn
    found = signal(p, proposals(p, temperature), mask_rate)
    assert found.nats == pytest.approx(blind - loss, abs=0.002)
    assert found.auroc == pytest.approx(roc_auc_score(replaced, posterior), abs=0.01)


def test_the_ends():
    uniform = np.full((100, 4), 0.25)
    nothing = signal(uniform, uniform)
    assert nothing.nats == pytest.approx(0, abs=1e-12)
    assert nothing.auroc == pytest.approx(0.5)
    certain = np.tile(np.eye(4) * (1 - 4e-9) + 1e-9, (25, 1))
    all_that_can_be_known = signal(certain, uniform)
    assert all_that_can_be_known.auroc == pytest.approx(1, abs=1e-6)
    share = 0.15 * 0.75
    assert all_that_can_be_known.nats == pytest.approx(-share * np.log(share) - 0.8875 * np.log(0.8875), abs=1e-5)


@pytest.mark.parametrize("entropy", [1.35, 1.1, 0.8])
def test_uniform_proposals_tell_most(entropy):
    p = conditionals(entropy, 20_000)
    assert -(p * np.log(p)).sum(1).mean() == pytest.approx(entropy, abs=1e-6)
    gains = [signal(p, proposals(p, t)).nats for t in (1.0, 2.0, 1000.0)]
    assert gains == sorted(gains)
