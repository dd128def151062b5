"""Pictures of predictions: confusion matrix, ROC, scatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
        precision, recalled, _ = metrics.precision_recall_curve(positive, outputs[:, number])
        roc.plot(false_rate, true_rate, label=labels[number])
        recall.plot(recalled, precision, label=labels[number])
    roc.plot([0, 1], [0, 1], color="k", lw=0.8, ls=":")
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate")
    recall.set(xlabel="recall", ylabel="precision", ylim=(0, 1.05))
    if len(labels) > 2:
        roc.legend(frameon=False)
    figure.savefig(target, dpi=150)
