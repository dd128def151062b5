"""Bootstrapped metrics against scikit-learn and scipy on the drawn rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from nucel.tasks import intervals
from nucel.tasks.intervals import Interval, bootstrap
from nucel.tasks.metrics import metrics_of

pytest.importorskip("sklearn")


def drawn_rows(n, draws, seed):
    for weights in np.concatenate(list(intervals._weights(n, draws, seed))):
        yield np.repeat(np.arange(n), weights.astype(int))


@pytest.mark.parametrize("classes", [2, 3])
def test_classes(classes):
    rng = np.random.default_rng(0)
    targets = rng.integers(classes, size=40)
    outputs = rng.dirichlet(np.ones(classes), 40).round(1).astype(np.float32)  # ties
    found = bootstrap(targets, [outputs], classes, draws=20, seed=3)
    for draw, rows in enumerate(drawn_rows(40, 20, 3)):
        expected = metrics_of(targets[rows], outputs[rows], True)
        assert found["mcc"][draw] == pytest.approx(expected["mcc"], abs=1e-9)
        assert found["auroc"][draw] == pytest.approx(expected["auroc"], abs=1e-9)


def test_numbers_with_missing_ones(monkeypatch):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 2))
    outputs = (targets + rng.normal(size=(40, 2))).astype(np.float32)
    targets[::3, 1] = np.nan
    monkeypatch.setattr(intervals, "_BLOCK", 100)  # blocks of two draws
    found = bootstrap(targets, [outputs], None, draws=15, seed=1)["pearson"]
    for draw, rows in enumerate(drawn_rows(40, 15, 1)):
        assert found[draw] == pytest.approx(metrics_of(targets[rows], outputs[rows], False)["pearson"], abs=1e-6)


def test_several_fits_are_averaged_within_a_draw():
    rng = np.random.default_rng(0)
    targets, outputs = rng.normal(size=30), [rng.normal(size=(30, 1)) for _ in range(2)]
    one, two = (bootstrap(targets, [x], None, draws=10)["pearson"] for x in outputs)
    np.testing.assert_allclose(bootstrap(targets, outputs, None, draws=10)["pearson"], (one + two) / 2)


def test_what_is_constant_has_no_correlation_and_mcc_0():
    constant = np.full((20, 2), 0.5, np.float32)
    found = bootstrap(np.arange(20) % 2, [constant], 2, draws=5)
    assert not found["mcc"].any() and np.allclose(found["auroc"], 0.5)
    assert np.isnan(bootstrap(np.arange(20.0), [constant[:, :1]], None, draws=5)["pearson"]).all()
    assert np.isnan(Interval.of(np.array([np.nan]))).all() and Interval.of(np.arange(101.0)) == (2.5, 97.5)
