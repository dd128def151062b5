"""Carry out a suite: one fit for each task, method and seed, skipping those whose results are there."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from tyro.conf import OmitArgPrefixes

from ..genome.sequences import SequenceOptions
from ..runtime import cli, distributed, environment
from ..runtime.cli import console, progress_bar
from ..runtime.device import DeviceOptions, Precision, choose_precision
from ..runtime.errors import ConfigError, require
from ..runtime.files import differences, finite, write_text
from ..tasks.classifier import HeadOptions
from ..tasks.fit import FitOptions, fit, require_seeds
from ..tasks.metrics import require_libraries
from ..tasks.predictions import evaluate, predictions_table
from ..tasks.task import Task, TaskOptions
from .layouts import Layout, cut, find_layouts, with_dev
from .methods import ONE_HOT_CNN, Method, from_scratch, load_encoder, one_hot_cnn, parse_models, pretrained
from .protocols import published_fit
from .results import markdown, summarize, tsv


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Models and their controls on a folder of tasks. See also: suite barcodes --help, suite biotypes --help."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folders below which tasks are, or tasks themselves."""
    out: Path
    """Directory for the results; those that are there are kept, and what is missing is added."""
    models: tuple[str, ...] = ()
    """NAME=MODEL, each a run or a ModernBERT directory: pretrained=runs/a mlm=runs/b/generator."""
    scratch: bool = True
    """Train the first model's architecture from new weights too."""
    scratch_lr: float | None = None
    """Peak learning rate from scratch, where --lr does not suit it."""
    cnn: bool = True
    """Train the one-hot CNN too, with the settings of its paper."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each, of each method on each task."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which each model was trained on."""
    long: Literal["refuse", "cut"] = "refuse"
    """How to handle sequences longer than the context: an error, or their first bases alone, for all methods; the
    results count them."""
    protocol: bool = False
    """Take epochs, batch and learning rate as each suite's paper states them, where it does (docs/suites.md)."""
    task: OmitArgPrefixes[TaskOptions] = field(default_factory=TaskOptions)
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    head: OmitArgPrefixes[HeadOptions] = field(default_factory=HeadOptions)
    fit: OmitArgPrefixes[Annotated[FitOptions, tyro.conf.arg(name="training")]] = field(default_factory=FitOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require(self.context is None or self.context >= 2, f"context must be at least 2, got {self.context}")
        require(bool(self.models) or self.cnn, "there is nothing to train: give --models NAME=MODEL")
        require(self.task.split is None, "a suite's tasks have their own dev and test tables; leave --split out")
        if self.scratch_lr is not None:
            dataclasses.replace(self.fit, lr=self.scratch_lr)


class Job(NamedTuple):
    """One fit, and the file that holds its result."""

    task_name: str
    task: Task
    method: Method
    seed: int
    path: Path
    settings: dict[str, Any]
    """All that decides the result."""
    about: dict[str, Any]
    """Of the task, for the table: its suite, the metric that is shown, the share of the most frequent class."""


def choose_methods(config: SuiteConfig) -> list[Method]:
    """All that is trained on every task, in the order of the table's columns.

    Raises:
        ConfigError: a model without a name, or a name twice.
        HubError: a model that cannot be loaded.
    """
    models = parse_models(config.models)
    encoders = {name: load_encoder(path, config.context) for name, path in models.items()}
    methods = [pretrained(name, encoder, config.fit, config.head) for name, encoder in encoders.items()]
    if encoders and config.scratch:
        first = next(iter(encoders.values()))
        slower = dataclasses.replace(config.fit, lr=config.scratch_lr or config.fit.lr)
        methods.append(from_scratch(first, slower, config.head))
    return [*methods, one_hot_cnn(config.fit)] if config.cnn else methods


def run_suite(config: SuiteConfig) -> cli.Result | None:
    """Carry out the command; returns its summary and report, on the first rank.

    Under torchrun each fit is one rank's.

    Raises:
        ConfigError, InputError, HubError, OSError: bad input; results of finished fits stay.
        TrainingError: training went wrong.
    """
    require_libraries()
    with distributed.world(distributed.PATIENT) as ranks:
        console.quiet |= not ranks.is_main
        precision = choose_precision(config.compute.device, config.compute.dtype)
        layouts = find_layouts(config.folders)
        methods = choose_methods(config)
        names = [method.name for method in methods]
        console.print(f"{len(layouts)} tasks, {', '.join(names)}, seeds {config.seeds}", markup=False)
        mine, number = 0, itertools.count()
        for task_name, layout in layouts.items():
            task = layout.read(config.task, config.columns)
            task.require_one_input()
            console.print(f"{task_name}: {task.describe()}", soft_wrap=True, markup=False)
            for job in _jobs(task_name, layout, task, methods, config, precision):
                turn = next(number) % ranks.size == ranks.rank
                if job.path.exists():
                    _require_same(job)
                elif turn:
                    _run(job, precision)
                    mine += 1
            if ranks.is_main:
                _write_tables(config.out, names)
        total = torch.tensor(mine)
        ranks.add(total)  # when all are here, all fits are done
        if not ranks.is_main:
            return None
        done = int(total)
        _write_tables(config.out, names)
    table = config.out / "table.md"
    report = (
        f"{done} fits on {len(layouts)} tasks done, all that were missing.",
        f"The table of all results is {table}.",
        "Next: read the last lines of the table, which compare the first method with its controls",
    )
    return cli.Result({"tasks": len(layouts), "fits": done, "table": str(table), "out": str(config.out)}, report)


def _jobs(
    task_name: str, layout: Layout, task: Task, methods: Sequence[Method], config: SuiteConfig, precision: Precision
) -> Iterator[Job]:
    """All fits on a task."""
    contexts = [method.context for method in methods if method.context is not None]
    longer = 0
    if config.long == "cut" and contexts:
        task, longer = cut(task, min(contexts) - 1)
    about = {
        "suite": layout.suite, "metric": layout.metric(task, task_name), "majority": majority(task), "cut": longer
    }  # fmt: skip
    tasks = {seed: task if layout.has_dev else with_dev(task, seed) for seed in config.seeds}
    for method in methods:
        task.require_context(method.context)
        if config.protocol and method.name != ONE_HOT_CNN:
            method = method._replace(fit=published_fit(layout.suite, task_name, method.fit))
        for seed, own in tasks.items():
            settings = {
                "task": own.fingerprint,
                "seed": seed,
                "fit": finite(dataclasses.asdict(method.fit)),
                "dtype": precision.dtype_name,
                **method.identity,
            }
            path = config.out / "results" / task_name / method.name / f"seed-{seed}.json"
            yield Job(task_name, own, method, seed, path, settings, about)


def majority(task: Task) -> float | None:
    """Share of the test rows that are of the training table's most frequent class; None without classes."""
    if task.labels is None:
        return None
    most = np.bincount(task.train.targets).argmax()
    return float((task.test.targets == most).mean())


def _run(job: Job, precision: Precision) -> None:
    """Carry out a fit. Its predictions are written first, so that a result that exists is complete."""
    task, method = job.task, job.method
    network = method.build(task, job.seed).to(precision.device)
    with progress_bar() as show:
        fitted = fit(network, task, method.fit, job.seed, precision, show)
    test = evaluate(network, task, task.test, precision, method.fit.average_reverse_complement)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    table = predictions_table(task.test.sequences, task.labels, test.outputs, task.test.labels)
    write_text(job.path.with_suffix(".tsv"), table)
    result = {
        "task": job.task_name,
        "method": method.name,
        "kind": "regression" if task.labels is None else "classification",
        "parameters": sum(p.numel() for p in network.parameters()),
        "device": str(precision.device),
        **task.sizes(),
        **job.about,
        **finite(fitted.summary(job.seed, test)),
        "settings": job.settings,
        "versions": environment.versions(precision.device),
    }
    write_text(job.path, json.dumps(result, indent=2) + "\n")
    name, value = next(iter(test.metrics.items()))
    text = f"  {method.name}, seed {job.seed}: test {name} {value:.4f} ({fitted.seconds:.0f} s)"
    console.print(text, soft_wrap=True, markup=False)


def _require_same(job: Job) -> None:
    """Refuse to take a result of other settings, another model or other data for one of these."""
    stored = json.loads(job.path.read_text(encoding="utf-8"))["settings"]
    changed = differences(stored, json.loads(json.dumps(job.settings)))
    if changed:
        raise ConfigError(
            f"{job.path} is of another fit:\n  " + "\n  ".join(changed) + "\nChoose another --out, or delete that file"
        )


def _write_tables(out: Path, names: list[str]) -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "results").rglob("seed-*.json"))]
    rows = summarize(results, names)
    write_text(out / "table.md", markdown(rows))
    write_text(out / "table.tsv", tsv(rows))
