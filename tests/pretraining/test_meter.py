"""Figures of merit against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, precision_score, recall_score, roc_auc_score

from nucel.objectives.electra import Electra
from nucel.objectives.metrics import RankedScores, bootstrap_auroc, constant_guess_cross_entropy
from nucel.pretraining.config import PRESETS
from nucel.pretraining.meter import Meter


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60))
def test_ranking_figures_equal_scikit_learn_s_with_ties_and_weights(rows):
    scores, positive, weights = (torch.tensor(column) for column in zip(*rows, strict=True))
    ranked = RankedScores(scores.float(), positive)
    if positive.any():
        assert ranked.average_precision() == pytest.approx(average_precision_score(positive, scores))
    else:
        assert math.isnan(ranked.average_precision())
    for counts, w in ((None, torch.ones(len(rows))), (weights, weights)):
        if (w[positive] > 0).any() and (w[~positive] > 0).any():
            assert ranked.auroc(counts) == pytest.approx(roc_auc_score(positive, scores, sample_weight=w))
        else:
            assert math.isnan(ranked.auroc(counts))


@pytest.mark.parametrize("replaced", [0, 1, 37, 500, 1000])
def test_constant_guess_cross_entropy_is_that_of_the_best_constant(replaced):
    labels = [1] * replaced + [0] * (1000 - replaced)
    expected = log_loss(labels, [replaced / 1000] * 1000, labels=[0, 1]) if 0 < replaced < 1000 else 0
    assert constant_guess_cross_entropy(replaced / 1000) == pytest.approx(expected)


def test_known_values_of_the_constant_guess():
    for accuracy, expected in ((0.25, 0.352), (0.45, 0.285), (0.5, 0.266)):
        assert constant_guess_cross_entropy(0.15 * (1 - accuracy)) == pytest.approx(expected, abs=5e-4)


def test_bootstrap_interval_holds_the_truth_and_narrows_with_more_windows():
    generator = torch.Generator().manual_seed(0)

    def interval(windows):
        positive = torch.rand(windows, 50, generator=generator) < 0.2
        scores = torch.randn(windows, 50, generator=generator) + positive * 0.5
        low, high = bootstrap_auroc(scores, positive)
        assert low < RankedScores(scores.flatten(), positive.flatten()).auroc() < high
        return low, high

    truth = 0.5 * (1 + math.erf(0.5 / 2))  # two unit normals half a standard deviation apart
    (low, high), (lower, higher) = interval(400), interval(25)
    assert low < truth < high
    assert high - low < 0.5 * (higher - lower)


def test_running_figures_equal_the_exact_ones_of_the_same_batches():
    electra = Electra(PRESETS["debug"]().model).initialize(0)
    meter, passes = Meter(electra), []
    for first in (0, 8):
        tokens = torch.randint(11, 15, (8, 128), generator=torch.Generator().manual_seed(first)).to(torch.uint8)
        tokens[:, 0] = 2
        with torch.no_grad():
            losses = electra(tokens, 0, torch.arange(first, first + 8))
        # The untrained discriminator's logits hardly differ; spread them, and let them know something.
        spread = (losses.logits - losses.logits.mean()) / losses.logits.std()
        losses = losses._replace(logits=spread + losses.corrupted.original)
        meter.add(losses)
        passes.append(losses)
    figures = meter.read()

    logits = torch.cat([x.logits[:, 1:].flatten() for x in passes])  # [CLS] is known, and counts in the loss alone
    replaced = torch.cat([~x.corrupted.original[:, 1:].flatten() for x in passes])
    called = logits < 0
    originals = torch.cat([x.proposed.masked.originals for x in passes])
    likeliest = torch.cat([x.proposed.logits.argmax(-1) for x in passes])
    assert figures["rtd_auroc"] == pytest.approx(roc_auc_score(replaced, -logits), abs=1e-3)
    assert figures["rtd_recall"] == pytest.approx(recall_score(replaced, called))
    assert figures["rtd_precision"] == pytest.approx(precision_score(replaced, called))
    assert figures["replaced_fraction"] == pytest.approx(float(replaced.double().mean()))
    assert figures["generator_accuracy"] == pytest.approx(float((likeliest == originals).double().mean()))
    slots = originals.numel()
    assert figures["generator_sampled_accuracy"] == pytest.approx((slots - int(replaced.sum())) / slots)
    means = {
        "loss": sum(x.loss for x in passes) / 2,
        "generator_loss": sum(x.proposed.loss for x in passes) / 2,
        "rtd_loss": sum(x.rtd_loss for x in passes) / 2,
    }
    for name, mean in means.items():
        assert figures[name] == pytest.approx(float(mean))
    meter.add(passes[0])
    assert meter.read()["rtd_loss"] == pytest.approx(float(passes[0].rtd_loss)), "reading starts anew"


def test_knowing_cls_and_nothing_else_is_the_constant_guess():
    """A discriminator that died does know that [CLS] is never replaced; that must not look like learning."""
    electra = Electra(PRESETS["debug"]().model).initialize(0)
    tokens = torch.randint(11, 15, (8, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tokens[:, 0] = 2
    with torch.no_grad():
        losses = electra(tokens, 0, torch.arange(8))
    original = losses.corrupted.original
    share = original[:, 1:].double().mean()
    logits = torch.full(original.shape, float(torch.logit(share)))
    logits[:, 0] = 40
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, original.float())
    meter = Meter(electra)
    meter.add(losses._replace(logits=logits, rtd_loss=loss))
    figures = meter.read()
    assert figures["rtd_loss"] == pytest.approx(figures["rtd_blind"], abs=1e-6)
    assert figures["rtd_auroc"] == 0.5
