"""Fits of probes and of their controls become one table, and a verdict.

A row is one kind of features with one pooling and one head: several fits where something is drawn from a seed. With
several layers, the dev table chooses the row's layer; the penultimate layer, the paper's, has a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..runtime.files import finite
from ..tasks.intervals import Interval, bootstrap
from ..tasks.metrics import mean_and_deviation
from ..tasks.task import Task

MODEL, UNTRAINED, CONTROL = "model", "untrained", "MLM control"
ONE_HOT, DINUCLEOTIDES, KMERS = "one-hot", "dinucleotides", "1- to 6-mers"
CONSTANT, FINE_TUNED = "constant guess", "model, all weights"
OWN = (MODEL, FINE_TUNED)
"""What is judged; all others are controls."""


class Fit(NamedTuple):
    """One head on one kind of features, with its outputs for the test table."""

    features: str
    pooling: str
    """cls, mean, "per base", or nothing."""
    layer: int | None
    head: str
    seed: int | None
    dev: float
    """The table's main metric on dev; nan where it is not defined."""
    test: dict[str, float]
    outputs: np.ndarray
    notes: dict[str, float]
    seconds: float


class Row(NamedTuple):
    """All seeds of one line of the table."""

    fits: list[Fit]
    chosen: str
    """What chose the layer: dev, penultimate, or given."""
    draws: dict[str, np.ndarray]
    """The bootstrap's metrics, each (draws,)."""

    @property
    def first(self) -> Fit:
        return self.fits[0]

    @property
    def dev(self) -> float:
        return float(np.mean([fit.dev for fit in self.fits]))

    @property
    def name(self) -> str:
        if self.first.features in (CONSTANT, FINE_TUNED):
            return self.first.head
        parts = (self.first.features, self.first.pooling, "" if self.first.layer is None else f"layer {self.layer}")
        return f"{self.first.head} on {', '.join(part for part in parts if part)}"

    @property
    def layer(self) -> int | None:
        return self.first.layer

    def test(self, name: str) -> float:
        return float(np.mean([fit.test[name] for fit in self.fits]))


def main_metric(task: Task) -> str:
    """The metric that chooses and that is shown first: MCC of classes, Pearson's correlation of numbers."""
    return "pearson" if task.labels is None else "mcc"


def make_rows(fits: Sequence[Fit], task: Task, penultimate: int) -> list[Row]:
    """The table's rows, in the order of the fits; among layers, the first of those that the dev table likes best."""
    groups: dict[tuple[str, str, str], dict[int | None, list[Fit]]] = {}
    for fit in fits:
        layers = groups.setdefault((fit.features, fit.pooling, fit.head), {})
        layers.setdefault(fit.layer, []).append(fit)
    rows = []
    for layers in groups.values():
        best = max(layers, key=lambda layer: _or_lowest(np.mean([fit.dev for fit in layers[layer]])))
        rows.append(_row(layers[best], "dev" if len(layers) > 1 else "given", task))
        if len(layers) > 1 and penultimate in layers:
            rows.append(_row(layers[penultimate], "penultimate", task))
    return rows


def _or_lowest(value: Any) -> float:
    return -math.inf if math.isnan(value) else float(value)


def _row(fits: list[Fit], chosen: str, task: Task) -> Row:
    classes = None if task.labels is None else len(task.labels)
    return Row(fits, chosen, bootstrap(task.test.targets, [fit.outputs for fit in fits], classes))


# ---- texts -----------------------------------------------------------------------------------------------------------


def records(rows: Sequence[Row], task: Task) -> list[dict[str, Any]]:
    """A record of each row: what it is, its metrics over the seeds, intervals, and the task's sizes and leaks."""
    return [_record(row, task) for row in rows]


def _record(row: Row, task: Task) -> dict[str, Any]:
    mean, deviation = mean_and_deviation([fit.test for fit in row.fits])
    figures: dict[str, Any] = {}
    for name in mean:
        figures |= {f"test_{name}": mean[name], f"test_{name}_sd": deviation[name]}
        if name in row.draws:
            interval = Interval.of(row.draws[name])
            figures |= {f"test_{name}_low": interval.low, f"test_{name}_high": interval.high}
    first = row.first
    return finite(
        {
            "features": first.features, "pooling": first.pooling, "layer": first.layer, "layer_by": row.chosen,
            "head": first.head, "fits": len(row.fits), f"dev_{main_metric(task)}": row.dev, **figures,
            **{name: float(np.mean([fit.notes[name] for fit in row.fits])) for name in first.notes},
            "seconds": round(sum(fit.seconds for fit in row.fits), 3), **task.sizes(),
        }
    )  # fmt: skip


def tsv(table: Sequence[dict[str, Any]]) -> str:
    """Records as a table; what a record does not have is empty."""
    names = list(dict.fromkeys(name for record in table for name in record))
    lines = [names, *([_cell(record.get(name)) for name in names] for record in table)]
    return "".join("\t".join(line) + "\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def text_lines(rows: Sequence[Row], task: Task) -> list[str]:
    """The table for a terminal: each row's name, the main metric with its interval, and the seeds' spread."""
    main = main_metric(task)
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  test {main}  95 % interval     spread over seeds"]
    for row in rows:
        interval = Interval.of(row.draws[main])
        values = [fit.test[main] for fit in row.fits]
        spread = f"± {np.std(values, ddof=1):.3f} ({len(values)})" if len(values) > 1 else ""
        by = "  (penultimate layer)" if row.chosen == "penultimate" else ""
        figure = f"{row.test(main):8.3f}  {interval.low:7.3f} to {interval.high:.3f}"
        lines.append(f"{row.name:{width}}  {figure}   {spread}{by}".rstrip())
    return lines


class Verdict(NamedTuple):
    """The model's best row by dev, the controls' best row by dev, and the difference between them on test."""

    model: Row
    control: Row
    difference: float
    interval: Interval

    @property
    def above(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.interval.low > 0


def verdict(rows: Sequence[Row], task: Task) -> Verdict:
    """Compare the model's probes with all controls; fine-tuning takes no part."""
    return _compared(rows, [row for row in rows if row.first.features not in OWN], task)


def verdicts(rows: Sequence[Row], task: Task) -> dict[str, Verdict]:
    """Compare the model's probes with each kind of control by itself, by the control's name."""
    names = dict.fromkeys(row.first.features for row in rows if row.first.features not in OWN)
    return {name: _compared(rows, [row for row in rows if row.first.features == name], task) for name in names}


def _compared(rows: Sequence[Row], controls: Sequence[Row], task: Task) -> Verdict:
    main = main_metric(task)

    def best(wanted: Sequence[Row]) -> Row:
        return max(wanted, key=lambda row: _or_lowest(row.dev))

    model, control = best([row for row in rows if row.first.features == MODEL]), best(controls)
    paired = model.draws[main] - control.draws[main]
    return Verdict(model, control, model.test(main) - control.test(main), Interval.of(paired))
