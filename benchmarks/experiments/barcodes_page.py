"""The page of `benchmarks.experiments.barcodes`: means over the sets, what the trainings were, and all tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from nucel.runs.directory import RunDirectory
from nucel.suites.barcode_protocols import NEW, Row

from .. import table

Runs = dict[tuple[str, str], list[Path]]
"""Directories of a run for each seed, by set and objective."""


def means(rows: Sequence[Row]) -> str:
    """Main figure of each evaluation, the mean over the sets: mean and standard deviation over the seeds."""
    evaluations = list(dict.fromkeys(row.evaluation for row in rows))
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        cells = [method]
        for evaluation in evaluations:
            by_seed: dict[int, list[float]] = {}
            for row in rows:
                if (row.method, row.evaluation, row.rows) == (method, evaluation, NEW):
                    by_seed.setdefault(row.seed, []).append(next(iter(row.metrics.values())))
            cells.append(in_words([statistics.mean(values) for values in by_seed.values()]))
        lines.append(cells)
    return table.markdown_table(["method", *evaluations], lines)


def in_words(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, where values differ, their standard deviation; nothing for no values."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(set(values)) > 1 else text


def trainings(runs: Runs) -> str:
    """What each objective was given on each set, and its loss at masked bases of held-out rows."""
    lines = []
    for (name, objective), paths in runs.items():
        found = [RunDirectory(path).read_summary() for path in paths]
        losses = in_words([one["val_generator_loss"] for one in found])
        aurocs = in_words([one["val_rtd_auroc"] for one in found if "val_rtd_auroc" in one])
        lines.append([name, objective, f"{found[0]['step']:,}", f"{found[0]['tokens'] / 1e6:.2f}", losses, aurocs])
    return table.markdown_table(["set", "objective", "steps", "M tokens", "masked bases, nats", "AUROC"], lines)


def page(command: str, rows: Sequence[Row], runs: Runs, tables: str) -> str:
    """Markdown.

    Args:
        tables: of every set and evaluation, as `nucel.suites.barcode_table.markdown` makes them.
    """
    lines = [
        "# DNA barcodes: three objectives, one encoder", "",
        "This table compares a masked autoencoder (mae), a masked LM of the same masks (mlm) and replaced-token "
        "detection (electra). They train the same encoder on the same rows, with the same number of operations. It is "
        "reported as it came out.", "",
        f"{table.machine_line(table.machine(torch.device('cpu')))}.", "",
        "```sh", command, "```", "",
        "## Means over the sets", "",
        "The main figure of each evaluation below, without test rows that are identical to a reference row: accuracy, "
        "or AMI x 100 for clusters. Mean over the sets ± standard deviation over the seeds.", "",
        means(rows), "",
        "## Trainings", "",
        "Loss at masked bases of held-out rows. Masks are the same for mae and mlm; electra masks less, so that its "
        "loss cannot be compared.", "",
        trainings(runs), "",
        "## Sets", "", tables.replace("\n## ", "\n### "),
    ]  # fmt: skip
    return "\n".join(lines)
