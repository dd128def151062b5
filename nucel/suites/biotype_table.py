"""Lines of the evaluation of biotypes as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .biotype_classifier import MEANS


class Line(NamedTuple):
    """A row of the table."""

    method: str
    seed: int
    held_out: str
    test: int
    nearly_identical: float
    f1: list[float]
    """Macro, micro, weighted."""
    intervals: list[list[float]]
    """Both ends of each, (3, 2)."""


def methods(lines: Sequence[Line]) -> list[str]:
    """Each method once, in the order of the lines."""
    return list(dict.fromkeys(line.method for line in lines))


def tsv(lines: Sequence[Line]) -> str:
    """Every line of every seed, with the ends of its intervals."""
    header = ["method", "seed", "held_out", "test", "nearly_identical"]
    header += [f"{mean}_f1{part}" for mean in MEANS for part in ("", "_low", "_high")]
    rows = ["\t".join(header)]
    for line in lines:
        numbers = [f"{x:.6g}" for f1, (low, high) in zip(line.f1, line.intervals, strict=True) for x in (f1, low, high)]
        head = [line.method, str(line.seed), line.held_out, str(line.test), f"{line.nearly_identical:.4f}"]
        rows.append("\t".join([*head, *numbers]))
    return "\n".join(rows) + "\n"


def markdown(lines: Sequence[Line], about: dict[str, Any]) -> str:
    """A line for each method, over its seeds, and what both say."""
    rows = [f"| method | {' | '.join(f'{mean} F1' for mean in MEANS)} |", "| --- | --- | --- | --- |"]
    for method in methods(lines):
        own = [line for line in lines if line.method == method]
        cells = []
        for i in range(len(MEANS)):
            values = np.array([line.f1[i] for line in own])
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            low, high = np.mean([line.intervals[i] for line in own], axis=0)
            cells.append(f"{values.mean():.3f}{spread} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    settings, evaluation = about["settings"], about["settings"]["evaluation"]
    shares = ", ".join(f"{seed}: {share:.1%}" for seed, share in about["nearly_identical"].items())
    classes = ", ".join(f"{name} {count:,}" for name, count in about["classes"].items())
    notes = (
        f"Mean over seeds ± standard deviation, which are splits by {evaluation['split_by']}; in brackets the mean "
        f"of the seeds' 95 % intervals ({evaluation['draws']:,} draws over sequences). Classes: {classes}; "
        f"{about['cut']:,} sequences were cut to {settings['room_bp']} bp. Test sequences 95 % of whose 12-mers "
        f"are in one training sequence, by seed: {shares}."
    )
    return "\n".join(rows) + f"\n\n{notes}\n"
