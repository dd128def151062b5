"""Heads of frozen probes that scikit-learn fits: ridge and logistic regression, with a given or a tuned penalty, k-NN.

Legend: n rows, d features, K outputs (classes or numbers).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
"""From features (n, d) to probabilities or numbers, float32 (n, K)."""

PENALTY = 1e-3
"""L2 penalty of the linear head (Tang et al., *Evaluating the representational power of pre-trained DNA language models
for regulatory genomics*, Methods)."""
PENALTIES = tuple(10.0**power for power in range(-3, 6))
"""From which the tuned head takes the one with the lowest dev loss."""
_ITERATIONS = 1000


class Labels(NamedTuple):
    """What a head learns to predict from its features."""

    train: np.ndarray
    """int64 (n,) classes, or float64 (n, K), nan where nothing was measured."""
    dev: np.ndarray
    classes: int | None
    """K; None for numbers."""


@dataclass(frozen=True)
class FittedHead:
    """A head after its training."""

    predict: Callable[[Any], np.ndarray]
    """From its kind of features to probabilities or numbers, float32 (n, K)."""
    notes: dict[str, float] = field(default_factory=dict)
    """What was chosen on the dev table, and how the fit ended."""


def fit_linear(x: np.ndarray, labels: Labels) -> FittedHead:
    """Ridge, or logistic regression for classes, on the features as they are, with the paper's penalty."""
    predict, converged = _regularized(x, labels.train, labels.classes, PENALTY)
    return FittedHead(predict, {"penalty": PENALTY, "converged": float(converged)})


def fit_tuned(x: np.ndarray, labels: Labels, dev_x: np.ndarray) -> FittedHead:
    """The same on features of mean 0 and variance 1 over the training rows; the dev loss chooses the penalty."""
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 0, deviation, 1).astype(x.dtype)

    def standardized(features: np.ndarray) -> np.ndarray:
        return (features - mean) / deviation

    basis = _row_space(standardized(x))
    train, dev = _within(standardized(x), basis), _within(standardized(dev_x), basis)
    best: tuple[float, float, Predict, bool] | None = None
    for penalty in PENALTIES:
        predict, converged = _regularized(train, labels.train, labels.classes, penalty)
        loss = dev_loss(predict(dev), labels)
        if best is None or loss < best[0]:
            best = loss, penalty, predict, converged
    assert best is not None  # there are penalties
    loss, penalty, chosen, converged = best
    notes = {"penalty": penalty, "dev_loss": loss, "converged": float(converged)}
    return FittedHead(lambda features: chosen(_within(standardized(features), basis)), notes)


def fit_neighbors(x: np.ndarray, labels: Labels, neighbors: int) -> FittedHead:
    """The mean over the nearest training rows by cosine: shares of the classes, or the mean number."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor  # optional dependency

    def fit(rows: np.ndarray, targets: np.ndarray) -> Predict:
        settings = {"n_neighbors": min(neighbors, len(rows)), "metric": "cosine"}
        if labels.classes is None:
            regressor = KNeighborsRegressor(**settings).fit(rows, targets)
            return lambda features: regressor.predict(features)
        classifier = KNeighborsClassifier(**settings).fit(rows, targets)
        return _all_classes(classifier, labels.classes)

    return FittedHead(_by_column(fit, x, labels.train), {"neighbors": neighbors})


def dev_loss(outputs: np.ndarray, labels: Labels) -> float:
    """Cross-entropy in nats of probabilities, or mean squared error over what was measured, of the dev table."""
    if labels.classes is not None:
        return float(-np.log(outputs[np.arange(len(outputs)), labels.dev].astype(np.float64).clip(1e-12)).mean())
    errors = (outputs - labels.dev) ** 2
    return float(np.nanmean(errors)) if not np.isnan(errors).all() else math.nan


def _regularized(x: np.ndarray, targets: np.ndarray, classes: int | None, penalty: float) -> tuple[Predict, bool]:
    """A fit with an L2 penalty, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning  # optional dependency
    from sklearn.linear_model import LogisticRegression, Ridge

    if classes is None:
        return _by_column(lambda rows, y: Ridge(alpha=penalty).fit(rows, y).predict, x, targets), True
    basis = _row_space(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier = LogisticRegression(C=1 / penalty, max_iter=_ITERATIONS).fit(_within(x, basis), targets)
    predict = _all_classes(classifier, classes)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return lambda features: predict(_within(features, basis)), converged


def _row_space(x: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis (d, n) of the rows' span where it has fewer dimensions than there are features.

    An L2 penalty keeps the weights in this span, so that the fit is the same in its coordinates, and faster.
    """
    if x.shape[1] <= x.shape[0]:
        return None
    return np.linalg.svd(x, full_matrices=False)[2].T


def _within(features: np.ndarray, basis: np.ndarray | None) -> np.ndarray:
    return features if basis is None else features @ basis


def _by_column(fit: Callable[[np.ndarray, np.ndarray], Predict], x: np.ndarray, targets: np.ndarray) -> Predict:
    """A fit of all columns at once, or of each on its measured rows where some are missing."""
    if targets.ndim == 1 or not np.isnan(targets).any():
        whole = fit(x, targets)
        return lambda features: _columns(whole(features))
    known = ~np.isnan(targets)
    fits = [fit(x[rows], column[rows]) for rows, column in zip(known.T, targets.T, strict=True)]
    return lambda features: _columns(np.stack([predict(features) for predict in fits], 1))


def _columns(outputs: np.ndarray) -> np.ndarray:
    return np.asarray(outputs, np.float32).reshape(len(outputs), -1)


def _all_classes(classifier: Any, classes: int) -> Predict:
    """Probabilities (n, K) of all classes, 0 for one that was not in the training rows."""

    def predict(features: np.ndarray) -> np.ndarray:
        found = np.zeros((len(features), classes), np.float32)
        found[:, classifier.classes_] = classifier.predict_proba(features)
        return found

    return predict
