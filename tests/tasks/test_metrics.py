"""Figures of predictions, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nucel.objectives.metrics import RankedScores
from nucel.tasks.metrics import classification, mean_and_deviation, regression, require_libraries

pytest.importorskip("sklearn")


def test_two_classes():
    draws = np.random.default_rng(0)
    targets = draws.integers(0, 2, 60)
    positive = np.clip(draws.normal(0.4 + 0.2 * targets, 0.3), 0, 1)
    found = classification(targets, np.stack([1 - positive, positive], axis=1))
    yes = positive > 0.5
    tp, fp = (yes & (targets == 1)).sum(), (yes & (targets == 0)).sum()
    fn, tn = (~yes & (targets == 1)).sum(), (~yes & (targets == 0)).sum()
    mcc = (tp * tn - fp * fn) / math.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    ranked = RankedScores(torch.from_numpy(positive), torch.from_numpy(targets == 1))
    assert found == pytest.approx({
        "mcc": mcc,
        "accuracy": (tp + tn) / 60,
        "f1": (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2,
        "auroc": ranked.auroc(),
        "average_precision": ranked.average_precision(),
    })  # fmt: skip


def test_three_classes_count_the_same_each():
    draws = np.random.default_rng(1)
    targets = draws.choice(3, 90, p=[0.6, 0.3, 0.1])
    probabilities = draws.dirichlet([1, 1, 1], 90) * 0.7 + 0.3 * np.eye(3)[targets]
    found = classification(targets, probabilities)
    each = [RankedScores(torch.from_numpy(probabilities[:, k]), torch.from_numpy(targets == k)) for k in range(3)]
    assert found["auroc"] == pytest.approx(np.mean([r.auroc() for r in each]))
    assert found["average_precision"] == pytest.approx(np.mean([r.average_precision() for r in each]))
    assert found["accuracy"] == (probabilities.argmax(1) == targets).mean()


def test_perfect_and_constant_predictions():
    targets = np.array([0, 1, 2, 1])
    perfect = classification(targets, np.eye(3)[targets])
    assert all(value == pytest.approx(1) for value in perfect.values())
    assert classification(targets, np.tile([0.2, 0.5, 0.3], (4, 1)))["mcc"] == 0


def test_curves_of_a_class_that_does_not_occur_are_nan():
    found = classification(np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]))
    assert found["accuracy"] == 0.5 and math.isnan(found["auroc"]) and math.isnan(found["average_precision"])


def test_numbers():
    targets, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 40.0])
    found = regression(targets, predicted)
    assert found["pearson"] == pytest.approx(np.corrcoef(targets, predicted)[0, 1])
    assert found["spearman"] == pytest.approx(0.8)
    assert found["r2"] == pytest.approx(1 - ((targets - predicted) ** 2).sum() / ((targets - 2.5) ** 2).sum())
    constant = regression(targets, np.full(4, 2.5))
    assert math.isnan(constant["pearson"]) and math.isnan(constant["spearman"]) and constant["r2"] == 0


def test_mean_and_deviation_over_seeds():
    mean, deviation = mean_and_deviation([{"mcc": 0.1}, {"mcc": 0.2}, {"mcc": 0.6}])
    assert mean["mcc"] == pytest.approx(0.3) and deviation["mcc"] == pytest.approx(math.sqrt(0.07))
    assert math.isnan(mean_and_deviation([{"mcc": 0.1}])[1]["mcc"])


def test_a_missing_scikit_learn_is_announced(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"scikit-learn, which is not installed: pip install 'nucel\[eval\]'"):
        require_libraries()
