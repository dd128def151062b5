"""Figures of predictions: for classes, for numbers, over several seeds, and as a picture. Needs the extra ``eval``."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np

from .config import ConfigError


def require_libraries() -> None:
    """Refuse at once, not after training, where scikit-learn is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("figures need scikit-learn, which is not installed: pip install 'nucel[eval]'")


def figures(targets: np.ndarray, outputs: np.ndarray, classes: bool) -> dict[str, float]:
    """Those of `classification` or of `regression`, for probabilities (n, K) or numbers (n, 1)."""
    return classification(targets, outputs) if classes else regression(targets, outputs[:, 0])


def classification(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """MCC, accuracy, F1, AUROC and average precision of probabilities (n, K) for classes int (n,).

    With two classes the second is the positive one. With more, AUROC (one against the rest), average precision and F1
    are the mean over classes, each counting the same; F1 is that mean with two classes too, as GUE has it. AUROC and
    average precision are nan where a class does not occur.
    """
    from sklearn import metrics  # optional dependency

    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    found = {
        "mcc": float(metrics.matthews_corrcoef(targets, predicted)),
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
        "f1": float(metrics.f1_score(targets, predicted, labels=range(classes), average="macro", zero_division=0)),
    }
    if len(np.unique(targets)) < classes:
        return {**found, "auroc": math.nan, "average_precision": math.nan}
    positive = targets == 1 if classes == 2 else np.eye(classes, dtype=bool)[targets]
    scores = probabilities[:, 1] if classes == 2 else probabilities
    return {
        **found,
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
    """Mean and sample standard deviation of each figure over seeds; with one seed, deviations are nan."""
    names = per_seed[0].keys()
    values = {name: np.array([figures[name] for figures in per_seed], np.float64) for name in names}
    mean = {name: float(x.mean()) for name, x in values.items()}
    deviation = {name: float(x.std(ddof=1)) if len(x) > 1 else math.nan for name, x in values.items()}
    return mean, deviation


def plot_predictions(labels: tuple[str, ...] | None, targets: np.ndarray, outputs: np.ndarray, target: Path) -> None:
    """Draw what was predicted against what is true.

    Args:
        labels: names of K classes; None for regression.
        targets: int (n,) classes by number, or (n,) numbers.
        outputs: (n, K) probabilities, or (n, 1) numbers.
        target: the picture to write: confusion matrix, ROC and precision-recall curves (of the second of two classes,
            else of each class against the rest), or numbers against numbers.

    Raises:
        ModuleNotFoundError: matplotlib or scikit-learn is not installed.
    """
    from matplotlib.figure import Figure  # optional dependency
    from sklearn import metrics  # optional dependency

    if labels is None:
        figure = Figure(figsize=(4, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(targets, outputs[:, 0], ".", ms=3, alpha=0.5)
        axes.axline((float(np.mean(targets)),) * 2, slope=1, color="k", lw=0.8, ls=":")
        axes.set(xlabel="true", ylabel="predicted")
        figure.savefig(target, dpi=150)
        return
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    matrix, roc, recall = figure.subplots(1, 3)
    counts = metrics.confusion_matrix(targets, outputs.argmax(1), labels=range(len(labels)))
    matrix.imshow(counts / counts.sum(1, keepdims=True).clip(min=1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = count / max(1, counts[row].sum())
        matrix.text(column, row, str(count), ha="center", va="center", color="w" if share > 0.5 else "k")
    ticks = range(len(labels))
    matrix.set(xlabel="predicted", ylabel="true", xticks=ticks, yticks=ticks, xticklabels=labels, yticklabels=labels)
    for number in ticks if len(labels) > 2 else (1,):
        positive = targets == number
        if positive.all() or not positive.any():
            continue  # neither curve exists for a class that all or none of the rows have
        false_rate, true_rate, _ = metrics.roc_curve(positive, outputs[:, number])
        precision, found, _ = metrics.precision_recall_curve(positive, outputs[:, number])
        roc.plot(false_rate, true_rate, label=labels[number])
        recall.plot(found, precision, label=labels[number])
    roc.plot([0, 1], [0, 1], color="k", lw=0.8, ls=":")
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate")
    recall.set(xlabel="recall", ylabel="precision", ylim=(0, 1.05))
    if len(labels) > 2:
        roc.legend(frameon=False)
    figure.savefig(target, dpi=150)
