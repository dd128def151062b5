"""The training loop of tasks, and the one-hot CNN."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import planted_rows, tiny_classifier

from nucel.genome.sequences import Sequences
from nucel.runtime.device import Precision
from nucel.runtime.errors import ConfigError, TrainingError
from nucel.tasks import baselines
from nucel.tasks.baselines import OneHotCNN
from nucel.tasks.fit import FitOptions, fit, learning_rate
from nucel.tasks.predictions import evaluate, raw_outputs
from nucel.tasks.task import Split, Task
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")

CPU = Precision(torch.device("cpu"), torch.float32)
QUICK = FitOptions(epochs=3, lr=5e-3, warmup_steps=5)


def split(rows) -> Split:
    texts, targets = zip(*rows, strict=True)
    names = [str(i) for i in range(len(texts))]
    return Split(Sequences(None, names, [nucleotide.encode(t) for t in texts], names, {}), np.array(targets))


def task(train=200, labels=("0", "1")) -> Task:
    return Task(labels, *(split(planted_rows(n, seed)) for seed, n in enumerate((train, 60, 60))), 0, 0)


def network(seed=0, labels=("0", "1")):
    classifier = tiny_classifier(labels, seed=seed)
    torch.nn.init.zeros_(classifier.classifier.weight)
    return classifier


def state(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_network_learns_and_keeps_its_best_weights():
    learner, whole = network(), task()
    fitted = fit(learner, whole, replace(QUICK, validate_every=4), 0, CPU)
    assert [e.step for e in fitted.history] == [4, 8, 12, 16, 20, 21]
    assert fitted.best.dev_loss == min(e.dev_loss for e in fitted.history) < 0.6
    predictions = evaluate(learner, whole, whole.dev, CPU, QUICK.average_reverse_complement)
    expected = -np.log(predictions.outputs[np.arange(60), whole.dev.targets]).mean()
    assert expected == pytest.approx(fitted.best.dev_loss, rel=1e-5)
    assert evaluate(learner, whole, whole.test, CPU, QUICK.average_reverse_complement).metrics["mcc"] > 0.5
    assert not learner.training


def test_a_fit_is_a_function_of_its_seed():
    def result(seed, **changes):
        learner = network()
        fit(learner, task(64), replace(QUICK, epochs=2, **changes), seed, CPU)
        return state(learner)

    first, again, other = result(0), result(0), result(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    both = result(0, augment_reverse_complement=True)
    assert not torch.equal(first["classifier.weight"], both["classifier.weight"])
    cnn = [OneHotCNN(46, 2) for _ in range(2)]
    before = torch.get_rng_state()
    for module in cnn:  # its dropout draws from torch's global generator
        baselines.initialize(module, torch.Generator().manual_seed(3))
        fit(module, task(64), QUICK, 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    one, two = map(state, cnn)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_linear_head_s_dense_layer_stays_the_identity():
    learner = network()
    before = state(learner)
    fit(learner, task(64), QUICK, 0, CPU)
    assert torch.equal(learner.head.dense.weight, torch.eye(32))
    moved = [name for name, tensor in learner.state_dict().items() if not torch.equal(tensor, before[name])]
    assert set(before) - set(moved) == {"head.dense.weight"}


def test_numbers_are_predicted_in_the_table_s_units():
    """Mean 1000 and deviation about 50: out of reach of a few steps, were they not trained in standard units."""
    rows = [[(text, 950.0 + 100 * label) for text, label in planted_rows(n, i)] for i, n in enumerate((200, 60, 60))]
    numbers = Task(None, *map(split, rows), 0, 0)
    learner = network(labels=None)
    fitted = fit(learner, numbers, QUICK, 0, CPU)
    predictions = evaluate(learner, numbers, numbers.dev, CPU, QUICK.average_reverse_complement)
    error = ((predictions.outputs[:, 0] - numbers.dev.targets) / numbers.train.targets.std()) ** 2
    assert error.mean() == pytest.approx(fitted.best.dev_loss, rel=1e-3)
    assert predictions.metrics["pearson"] > 0.5 and 900 < predictions.outputs.mean() < 1100


def test_averaging_strands_makes_them_alike():
    learner = tiny_classifier()
    tokens = task(5).train.sequences.tokens
    other = [nucleotide.reverse_complement(sequence) for sequence in tokens]
    one, two, both = (raw_outputs(learner, t, CPU, b) for t, b in ((tokens, False), (other, False), (tokens, True)))
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both, raw_outputs(learner, other, CPU, True), rtol=1e-5, atol=1e-6)
    assert not np.allclose(one, two)


def test_augmentation_shows_both_strands(monkeypatch):
    seen = []
    keep = lambda tokens, *rest: seen.extend(t.tobytes() for t in tokens) or 1 / 0  # noqa: E731
    monkeypatch.setattr("nucel.tasks.fit.make_batch", keep)
    whole = task(64)
    forward = {t.tobytes() for t in whole.train.sequences.tokens}
    for augment in (False, True):
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            fit(network(), whole, replace(QUICK, batch_size=64, augment_reverse_complement=augment), 0, CPU)
        share = np.mean([tokens in forward for tokens in seen])
        assert len(seen) == 64 and (0.3 < share < 0.7 if augment else share == 1)


def test_training_stops_when_patience_ends():
    options = FitOptions(epochs=20, lr=1e-12, warmup_steps=0, decay="constant", patience=2)
    fitted = fit(tiny_classifier(("0", "1")), task(32), options, 0, CPU)
    assert fitted.history[-1].step < 20
    assert len(fitted.history) - 1 - fitted.history.index(fitted.best) == 2


def test_a_loss_that_is_no_number_is_an_error():
    learner = network()
    with torch.no_grad():
        learner.classifier.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"after 1 steps the loss is nan.*lower --lr"):
        fit(learner, task(32), replace(QUICK, epochs=1), 0, CPU)


def test_learning_rates():
    linear = FitOptions(lr=1.0, warmup_steps=4)
    assert [learning_rate(linear, step, 12, []) for step in (0, 3, 4, 8, 11)] == [0.25, 1, 1, 0.5, 0.125]
    constant = replace(linear, decay="constant")
    assert [learning_rate(constant, step, 12, []) for step in (1, 11)] == [0.5, 1]
    plateau = replace(linear, decay="plateau", warmup_steps=0)
    falling, flat = [1.0, 0.9, 0.8], [0.8] * 5
    for losses, rate in ((falling, 1), (falling + flat[:4], 1), (falling + flat, 0.2), (falling + flat * 2, 0.04)):
        assert learning_rate(plateau, 0, 12, losses) == pytest.approx(rate)
    assert learning_rate(plateau, 0, 12, [*falling, *flat[:4], 0.7, *flat[:4]]) == 1


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": 0}, {"warmup_steps": -1}, {"patience": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FitOptions(**options)


# ---- the one-hot CNN -------------------------------------------------------------------------------------------------


def test_the_cnn_is_the_paper_s():
    """Parameters counted from its description, for the paper's 200 bases and one output."""
    convolutions = (4 * 7 * 64 + 64) + (64 * 5 * 96 + 96) + (96 * 5 * 128 + 128)
    dense = 128 * (200 // 4 // 4 // 2) * 256 + 256
    norms = 2 * (64 + 96 + 128 + 256)
    assert sum(p.numel() for p in OneHotCNN(200, 1).parameters()) == convolutions + dense + norms + 256 + 1


def test_the_cnn_sees_bases_and_nothing_else():
    module = OneHotCNN(40, 3).eval()
    baselines.initialize(module, torch.Generator().manual_seed(0))
    tokens = torch.tensor([[nucleotide.CLS, *nucleotide.encode("ACGTTGCA" * 4)]])
    padded = torch.nn.functional.pad(tokens, (0, 5), value=nucleotide.PAD)
    unknown = torch.nn.functional.pad(tokens, (0, 5), value=nucleotide.UNK)
    with torch.no_grad():
        expected = module(tokens)
        assert expected.shape == (1, 3)
        assert torch.equal(module(padded), expected) and torch.equal(module(unknown), expected)
        assert not torch.equal(module(tokens.flip(1)), expected)
    with pytest.raises(ValueError, match="was made for 40 bases, got 41"):
        module(torch.full((1, 42), nucleotide.BASES[0]))


def test_a_cnn_for_sequences_that_its_poolings_use_up_is_refused():
    with pytest.raises(ValueError, match="pools 32 bases into one, but the longest sequence has 31"):
        OneHotCNN(31, 2)
