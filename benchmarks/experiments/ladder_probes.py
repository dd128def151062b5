"""One number for what is read out of frozen vectors: the mean test MCC over a folder of tasks, for the ladder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.experiments.judged_data import CACHE, prepare
from benchmarks.experiments.judged_probes import HEAD
from nucel.genome.sequences import SequenceOptions
from nucel.model.encoder import Encoder
from nucel.model.networks import fingerprint
from nucel.runtime.device import choose_precision
from nucel.runtime.parts import Parts
from nucel.runtime.version import __version__
from nucel.suites.layouts import find_layouts
from nucel.suites.probe_table import KMERS, MODEL
from nucel.suites.probes import COMPOSITIONS, Plan, Source, Vectors, embedded, fit_one
from nucel.tasks.features import composition_features, longest
from nucel.tasks.task import Task, TaskOptions

POOLING = "mean"


class Probes:
    """Probes on all labelled tables at hand, which are prepared once in WORK.

    Logistic regression on the mean of the last layer, its penalty chosen on dev: nothing of it is drawn.

    Args:
        data: the folder of real data.
        work: keeps the tables, and every score.
        rows: of each table at most, from one fixed draw.
        dtype: of the networks.
    """

    def __init__(self, data: Path, work: Path, rows: int, dtype: str):
        self.work, self.rows = work, rows
        self.precision = choose_precision("auto", dtype)
        columns = SequenceOptions(cache_dir=work / CACHE)
        layouts = find_layouts((prepare(data, work, rows),))
        self.tasks = {name: layout.read(TaskOptions(), columns) for name, layout in layouts.items()}
        self.context = 1 + max(max(longest(task)) for task in self.tasks.values())

    def of_encoder(self, encoder: Encoder) -> float:
        """The mean MCC of an encoder, which reads every sequence as a whole, whatever it was trained on."""
        name = fingerprint(encoder)
        encoder.context = self.context
        encoder.to(self.precision.device)
        plan = Plan((HEAD,), (POOLING,), (encoder.config.layers,), (0,))
        return self._mean(
            name, plan, lambda task: next(iter(embedded(Source(MODEL, encoder), task, plan, self.precision)))
        )

    def of_kmers(self) -> float:
        """The mean MCC of the counts of 1- to 6-mers, which need no training."""

        def counted(task: Task) -> Vectors:
            train, dev, test = (composition_features(split, COMPOSITIONS[KMERS]) for split in task.splits)
            return Vectors(KMERS, "", None, None, (train, dev, test))

        return self._mean("kmers", Plan((HEAD,), (), (), (0,)), counted)

    def _mean(self, name: str, plan: Plan, vectors: Callable[[Task], Vectors]) -> float:
        identity = {
            "version": __version__,
            "of": name,
            "tasks": [task.fingerprint for task in self.tasks.values()],
            "dtype": self.precision.dtype_name,
        }
        parts = Parts(self.work / f"probes-{self.rows}" / name, "probe scores", identity)

        def scores() -> Iterator[float]:
            for number, task in enumerate(self.tasks.values()):
                yield parts.once_json(number, lambda task=task: self._mcc(vectors(task), task, plan))

        return float(np.mean(list(scores())))

    def _mcc(self, vectors: Vectors, task: Task, plan: Plan) -> float:
        return fit_one(vectors, HEAD, task, plan, self.precision, None).test["mcc"]
