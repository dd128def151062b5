"""Metrics of classification and regression, by scikit-learn."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from ..runtime.errors import ConfigError


def require_libraries() -> None:
    """Refuse at once, not after training, where scikit-learn is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("metrics need scikit-learn, which is not installed: pip install 'nucel[eval]'")


def metrics_of(targets: np.ndarray, outputs: np.ndarray, classes: bool) -> dict[str, float]:
    """Those of `classification` or of `regression`, for probabilities (n, K) or numbers (n, 1).

    For targets (n, K) with nan where nothing was measured: the mean over the columns for which a metric is defined,
    each on its own rows.
    """
    if classes:
        return classification(targets, outputs)
    if targets.ndim == 1:
        return regression(targets, outputs[:, 0])
    columns = []
    for target, output in zip(targets.T, outputs.T, strict=True):
        known = ~np.isnan(target)
        columns.append(regression(target[known], output[known]))
    defined = {name: [c[name] for c in columns if not math.isnan(c[name])] for name in columns[0]}
    return {name: float(np.mean(values)) if values else math.nan for name, values in defined.items()}


def classification(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """MCC, accuracy, F1, AUROC and average precision of probabilities (n, K) for classes int (n,).

    With two classes the second is the positive one. With more, AUROC (one against the rest), average precision and F1
    are the mean over classes, each counting the same; F1 is that mean with two classes too, as GUE has it. AUROC and
    average precision are nan where a class does not occur.
    """
    from sklearn import metrics  # optional dependency

    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    by_class = {
        "mcc": float(metrics.matthews_corrcoef(targets, predicted)),
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
        "f1": float(metrics.f1_score(targets, predicted, labels=range(classes), average="macro", zero_division=0)),
    }
    if len(np.unique(targets)) < classes:
        return {**by_class, "auroc": math.nan, "average_precision": math.nan}
    positive = targets == 1 if classes == 2 else np.eye(classes, dtype=bool)[targets]
    scores = probabilities[:, 1] if classes == 2 else probabilities
    return {
        **by_class,
        "auroc": float(metrics.roc_auc_score(positive, scores, average="macro")),
        "average_precision": float(metrics.average_precision_score(positive, scores, average="macro")),
    }


def regression(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation and R2 of numbers (n,); correlations with a constant are nan."""
    from scipy import stats  # comes with scikit-learn
    from sklearn import metrics  # optional dependency

    constant = len(targets) < 2 or np.ptp(targets) == 0 or np.ptp(predicted) == 0
    return {
        "pearson": math.nan if constant else float(stats.pearsonr(targets, predicted).statistic),
        "spearman": math.nan if constant else float(stats.spearmanr(targets, predicted).statistic),
        "r2": math.nan if len(targets) < 2 or np.ptp(targets) == 0 else float(metrics.r2_score(targets, predicted)),
    }


def mean_and_deviation(per_seed: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation of each metric over seeds; with one seed, deviations are nan."""
    names = per_seed[0].keys()
    values = {name: np.array([metrics[name] for metrics in per_seed], np.float64) for name in names}
    mean = {name: float(x.mean()) for name, x in values.items()}
    deviation = {name: float(x.std(ddof=1)) if len(x) > 1 else math.nan for name, x in values.items()}
    return mean, deviation
