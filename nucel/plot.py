"""A run's curves as a picture, from its metrics.jsonl. Needs matplotlib (the extra ``plots``)."""

from __future__ import annotations

import math
from pathlib import Path

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
