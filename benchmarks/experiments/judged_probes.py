"""Frozen probes of two models and of their controls on a folder of tasks, for `benchmarks.experiments.judged`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import table
from nucel.genome.sequences import SequenceOptions
from nucel.model.encoder import Encoder
from nucel.model.networks import fingerprint
from nucel.runtime.cli import console
from nucel.runtime.device import Precision
from nucel.runtime.parts import Parts
from nucel.runtime.version import __version__
from nucel.suites.layouts import find_layouts
from nucel.suites.probe_table import CONTROL, MODEL, UNTRAINED, Fit, Row, make_rows, verdicts
from nucel.suites.probes import Plan, Source, Vectors, constant, embedded, fit_one, without_network
from nucel.tasks.features import untrained
from nucel.tasks.intervals import Interval
from nucel.tasks.probe import HeadName
from nucel.tasks.task import Task, TaskOptions

NAMES = {MODEL: "rtd", CONTROL: "mlm"}
HEAD: HeadName = "tuned"
POOLINGS = ("cls", "mean")
NOTES = (
    "Test MCC [95 % interval of a bootstrap over the test sequences]; of untrained encoders the mean over the seeds ± "
    "standard deviation. Logistic regression on standardised features of the last layer, its penalty chosen on dev; on "
    "a trained model it draws nothing, so that its seeds do not differ. Leaked: test sequences that occur in train, "
    "and further ones whose reverse complement does, among these rows. Below, dev chooses the pooling, and an interval "
    "is of the difference on the same draws of test sequences; it is not corrected for the number of comparisons."
)


def probes(folder: Path, encoders: dict[str, Encoder], seeds: tuple[int, ...], work: Path, precision: Precision) -> str:
    """Frozen probes on every task of a folder: the figures, and each model beside all other features.

    Args:
        encoders: MODEL's and CONTROL's, in this order.
        seeds: one untrained encoder for each.
        work: folder that keeps the fits of each kind of features on each task.
    """
    shape = encoders[MODEL]
    plan = Plan((HEAD,), POOLINGS, (shape.config.layers,), seeds)
    rows_of: dict[str, list[Row]] = {}
    tasks: dict[str, Task] = {}
    for name, layout in find_layouts((folder,)).items():
        tasks[name] = task = layout.read(TaskOptions(), SequenceOptions())
        identity = {
            "version": __version__,
            "models": [fingerprint(encoder) for encoder in encoders.values()],
            "task": task.fingerprint,
            "context": shape.context,
            "dtype": precision.dtype_name,
        }
        parts = Parts(work / name, "table of probes", identity)
        fits: list[Fit] = []
        for number, made in _vectors(task, encoders, plan, precision):
            console.print(f"{name}: features {number}", markup=False)
            fits += _unpacked(parts.once(number, functools.partial(_packed, made, task, plan, precision)))
        fits.append(constant(task))
        rows_of[name] = make_rows(fits, task, shape.config.layers - 1)
    return _probe_table(rows_of, tasks)


def _vectors(
    task: Task, encoders: dict[str, Encoder], plan: Plan, precision: Precision
) -> Iterator[tuple[int, Callable[[], Iterator[Vectors]]]]:
    """Features by a number that no other setting changes, and what computes them."""
    known = [(number, Source(name, encoder)) for number, (name, encoder) in enumerate(encoders.items(), start=1)]
    new = [(10 + seed, Source(UNTRAINED, untrained(encoders[MODEL], seed), seed)) for seed in plan.seeds]
    for number, source in (*known, *new):
        yield number, functools.partial(embedded, source, task, plan, precision)
    yield 0, functools.partial(without_network, task)


def _packed(
    made: Callable[[], Iterator[Vectors]], task: Task, plan: Plan, precision: Precision
) -> dict[str, np.ndarray]:
    fits = [fit_one(vectors, HEAD, task, plan, precision, vectors.seed) for vectors in made()]
    about = json.dumps([fit._replace(outputs=np.empty(0)) for fit in fits], default=lambda array: None)
    return {"about": np.array(about), **{f"outputs{i}": fit.outputs for i, fit in enumerate(fits)}}


def _unpacked(arrays: dict[str, np.ndarray]) -> list[Fit]:
    fits = [Fit(*values) for values in json.loads(str(arrays["about"]))]
    return [fit._replace(outputs=arrays[f"outputs{i}"]) for i, fit in enumerate(fits)]


def _probe_table(rows_of: dict[str, list[Row]], tasks: dict[str, Task]) -> str:
    names = list(dict.fromkeys(_name(row) for rows in rows_of.values() for row in rows))
    lines = []
    for name, task in tasks.items():
        sizes = task.sizes()
        cells = {_name(row): _cell(row) for row in rows_of[name]}
        counts = " / ".join(f"{sizes[part]:,}" for part in ("train", "dev", "test"))
        lines.append([name, counts, f"{sizes['leaked']} + {sizes['leaked_reverse']}", *(cells[x] for x in names)])
    means = [np.mean([_mcc(row) for rows in rows_of.values() for row in rows if _name(row) == x]) for x in names]
    lines.append(["mean", "", "", *(f"{mean:.3f}" for mean in means)])
    shown = table.markdown_table(["task", "train / dev / test", "leaked", *names], lines)
    of_mlm = {name: list(map(_swapped, rows)) for name, rows in rows_of.items()}
    found = [*_tallies(rows_of, tasks, NAMES[MODEL], NAMES[CONTROL]), *_tallies(of_mlm, tasks, NAMES[CONTROL], None)]
    return shown + "\n\n" + NOTES + "\n\n" + "\n".join(found)


def _swapped(row: Row) -> Row:
    """With the other model in the place of the one that is judged."""
    other = {MODEL: CONTROL, CONTROL: MODEL}
    return row._replace(fits=[fit._replace(features=other.get(fit.features, fit.features)) for fit in row.fits])


def _name(row: Row) -> str:
    first = row.first
    return " ".join(filter(None, (NAMES.get(first.features, first.features), first.pooling)))


def _mcc(row: Row) -> float:
    return row.test("mcc")


def _cell(row: Row) -> str:
    low, high = Interval.of(row.draws["mcc"])
    values = [fit.test["mcc"] for fit in row.fits]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{_mcc(row):.3f}{spread} [{low:.3f}, {high:.3f}]"


def _tallies(rows_of: dict[str, list[Row]], tasks: dict[str, Task], name: str, other: str | None) -> Iterator[str]:
    """Sentences that compare a model with each kind of features, over all tasks; without `other`, not with CONTROL."""
    found = {task: verdicts(rows, tasks[task]) for task, rows in rows_of.items()}
    for control in next(iter(found.values())):
        if control == CONTROL and other is None:
            continue
        own = [one[control] for one in found.values()]
        above, below = sum(one.interval.low > 0 for one in own), sum(one.interval.high < 0 for one in own)
        mean = np.mean([one.difference for one in own])
        shown = other if control == CONTROL else control
        counts = f"better on {above} of {len(own)} tasks, worse on {below}"
        yield f"- {name} against {shown}: {counts}; mean difference {mean:+.3f}."
