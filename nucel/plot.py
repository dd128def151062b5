"""A run's curves, from its metrics.jsonl, and predictions, as pictures. Needs matplotlib (the extra ``plots``)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .checkpoint import read_metrics


def plot_run(run: Path, target: Path) -> None:
    """Draw generator loss, RTD loss beside its blind value, and AUROC against the step.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # optional dependency

    lines = read_metrics(run)
    train = [line for line in lines if line["split"] == "train"]
    validation = [line for line in lines if line["split"] == "validation"]

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    generator, rtd, auroc = figure.subplots(1, 3)
    for axes, key in ((generator, "generator_loss"), (rtd, "rtd_loss")):
        axes.plot([line["step"] for line in train], [line[key] for line in train], color="0.7", label="training")
        axes.plot([line["step"] for line in validation], [line[key] for line in validation], "C0.-", label="held out")
    generator.axhline(math.log(4), color="k", lw=0.8, ls=":", label="uniform, ln 4")
    steps = [line["step"] for line in validation]
    rtd.plot(steps, [line["rtd_blind"] for line in validation], "C3--", label="blind guess")
    generator.set(title="Generator", ylabel="cross-entropy (nats)")
    rtd.set(title="Replaced-token detection", ylabel="cross-entropy (nats)")
    if validation:  # the first steps' huge losses would flatten all that follows
        generator.set_ylim(*_around([line["generator_loss"] for line in validation] + [math.log(4)]))
        rtd.set_ylim(*_around([line[key] for line in validation for key in ("rtd_loss", "rtd_blind")]))
    auroc.plot(steps, [line["rtd_auroc"] for line in validation], "C0.-", label="held out")
    auroc.axhline(0.5, color="k", lw=0.8, ls=":", label="chance")
    auroc.set(title="Replaced-token detection", ylabel="AUROC")
    for axes in (generator, rtd, auroc):
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    figure.savefig(target, dpi=150)


def _around(values: list[float]) -> tuple[float, float]:
    margin = 0.1 * (max(values) - min(values)) + 1e-3
    return min(values) - margin, max(values) + margin


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
