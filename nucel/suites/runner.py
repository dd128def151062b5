"""Models and their controls on a folder of tasks: ``python -m nucel.suite FOLDER... --out DIR --models NAME=MODEL...``.

A task is a folder with tables train, dev and test (.csv or .tsv, also .gz), named by its path below FOLDER: tf/0. On
each task are trained, with every seed, the models that are given, the first of them from scratch (no pre-training), and
a CNN on one-hot bases.

    DIR/results/TASK/CONTENDER/seed-0.json   settings, figures, times; a fit that has one is not done again
    DIR/results/TASK/CONTENDER/seed-0.tsv    its predictions for the test table
    DIR/table.md, DIR/table.tsv              all results, beside the published ones; written anew after each task

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import nn

from ..model import hub
from ..runtime import environment
from ..runtime.cli import console, progress_bar
from ..runtime.device import DeviceOptions, Precision, choose_precision
from ..runtime.errors import ConfigError
from ..runtime.files import differences, finite, write_text
from ..tasks import baselines
from ..tasks.classifier import HeadOptions, make_classifier
from ..tasks.fit import FitOptions, fit, seed_figures
from ..tasks.metrics import require_libraries
from ..tasks.predictions import evaluate, predictions_table
from ..tasks.task import _PARTS, Task, TaskOptions, describe_task, find_tasks, read_task, require_context
from .results import markdown, summarize, tsv

SCRATCH, CNN = "from scratch", "one-hot CNN"
_CNN_FIT = FitOptions(
    epochs=100, batch_size=128, lr=1e-3, warmup_steps=0, decay="plateau", weight_decay=0.0, patience=10
)
"""As the paper of the baseline states it; it leaves open the batch and the largest number of epochs."""


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(FitOptions, HeadOptions, TaskOptions, DeviceOptions):
    """Models and their controls on a folder of tasks."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
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
    """One training for each, of each contender on each task."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which each model was trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be distinct numbers of at least 0, got {self.seeds}")
        if not self.models and not self.cnn:
            raise ConfigError("there is nothing to train: give --models NAME=MODEL")


class Contender(NamedTuple):
    """What is trained on every task."""

    name: str
    options: FitOptions
    identity: dict[str, Any]
    """What tells its results from another's of the same name."""
    context: int | None
    build: Callable[[Task, int], nn.Module]
    """From a task and a seed to a network with the weights that training begins with."""


class Job(NamedTuple):
    """One fit, and the file that holds its result."""

    task_name: str
    task: Task
    contender: Contender
    seed: int
    path: Path
    settings: dict[str, Any]
    """All that decides the result."""


def contenders(config: SuiteConfig) -> list[Contender]:
    """All that is trained on every task, in the order of the table's columns.

    Raises:
        ConfigError: a model without a name, or a name twice.
        HubError: a model that cannot be loaded.
    """
    options = FitOptions(**{field.name: getattr(config, field.name) for field in dataclasses.fields(FitOptions)})
    head = HeadOptions(pooling=config.pooling, head=config.head)
    found: list[Contender] = []
    for number, word in enumerate(config.models):
        name, _, path = word.partition("=")
        if not name or not path or "/" in name:
            raise ConfigError(f"--models are NAME=MODEL, got {word!r}")
        encoder = hub.load(path)
        shape = {"encoder": dataclasses.asdict(encoder.config), **dataclasses.asdict(head)}
        found.append(
            Contender(
                name,
                options,
                {"weights": _fingerprint(encoder), **shape},
                encoder.context,
                lambda task, seed, e=encoder: make_classifier(e, task.labels, head, seed, from_scratch=False),
            )
        )
        if number == 0 and config.scratch:
            scratch = Contender(
                SCRATCH,
                dataclasses.replace(options, lr=config.scratch_lr or options.lr),
                shape,
                encoder.context,
                lambda task, seed, e=encoder: make_classifier(e, task.labels, head, seed, from_scratch=True),
            )
    if config.models and config.scratch:
        found.append(scratch)
    if config.cnn:
        strands = {
            name: getattr(options, name) for name in ("augment_reverse_complement", "average_reverse_complement")
        }
        found.append(Contender(CNN, dataclasses.replace(_CNN_FIT, **strands), {}, None, _make_cnn))
    names = [contender.name for contender in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"names of --models must differ from each other and from those of the controls, got {names}")
    return found


def _make_cnn(task: Task, seed: int) -> baselines.OneHotCNN:
    longest = max(len(tokens) for part in _PARTS for tokens in getattr(task, part).sequences.tokens)
    network = baselines.OneHotCNN(longest, task.outputs)
    baselines.initialize(network, torch.Generator().manual_seed(seed))
    return network


def _fingerprint(network: nn.Module) -> str:
    """SHA-256 in hexadecimal over a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def run_suite(config: SuiteConfig) -> dict[str, Any]:
    """Carry out the command; returns its summary.

    Raises:
        ConfigError, InputError, HubError, OSError: bad input; results of finished fits stay.
        TrainingError: training went wrong.
    """
    require_libraries()
    precision = choose_precision(config.device, config.dtype)
    paths = find_tasks(config.folders)
    field = contenders(config)
    console.print(f"{len(paths)} tasks, {', '.join(c.name for c in field)}, seeds {config.seeds}", markup=False)
    done = 0
    for task_name, tables in paths.items():
        task = read_task(*tables, config)
        console.print(f"{task_name}: {describe_task(task)}", soft_wrap=True, markup=False)
        for contender in field:
            if contender.context is not None:
                require_context(task, config.context or contender.context)
            for seed in config.seeds:
                settings = {
                    "task": task.fingerprint,
                    "seed": seed,
                    "fit": finite(dataclasses.asdict(contender.options)),
                    "dtype": str(precision.dtype).removeprefix("torch."),
                    **contender.identity,
                }
                path = config.out / "results" / task_name / contender.name / f"seed-{seed}.json"
                if path.exists():
                    _require_same(path, settings)
                else:
                    _run(Job(task_name, task, contender, seed, path, settings), precision, config.label_column)
                    done += 1
        _write_tables(config.out, [contender.name for contender in field])
    return {"tasks": len(paths), "fits": done, "table": str(config.out / "table.md"), "out": str(config.out)}


def _run(job: Job, precision: Precision, label_column: str) -> None:
    """Carry out a fit. Its predictions are written first, so that a result that exists is complete."""
    network = job.contender.build(job.task, job.seed).to(precision.device)
    with progress_bar() as show:
        fitted = fit(network, job.task, job.contender.options, job.seed, precision, show)
    outcome = evaluate(network, job.task, job.task.test, precision, job.contender.options.average_reverse_complement)
    test = job.task.test.sequences
    job.path.parent.mkdir(parents=True, exist_ok=True)
    table = predictions_table(test, job.task.labels, outcome.outputs, test.column(label_column))
    write_text(job.path.with_suffix(".tsv"), table)
    result = {
        "task": job.task_name,
        "contender": job.contender.name,
        "kind": "regression" if job.task.labels is None else "classification",
        "parameters": sum(p.numel() for p in network.parameters()),
        "device": str(precision.device),
        **job.task.sizes(),
        **finite(seed_figures(job.seed, fitted, outcome)),
        "settings": job.settings,
        "versions": environment.versions(precision.device),
    }
    write_text(job.path, json.dumps(result, indent=2) + "\n")
    name, value = next(iter(outcome.figures.items()))
    text = f"  {job.contender.name}, seed {job.seed}: test {name} {value:.4f} ({fitted.seconds:.0f} s)"
    console.print(text, soft_wrap=True, markup=False)


def _require_same(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to take a result of other settings, another model or other data for one of these."""
    stored = json.loads(path.read_text(encoding="utf-8"))["settings"]
    changed = differences(stored, json.loads(json.dumps(settings)))
    if changed:
        raise ConfigError(
            f"{path} is of another fit:\n  " + "\n  ".join(changed) + "\nChoose another --out, or delete that file"
        )


def _write_tables(out: Path, contenders: list[str]) -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "results").rglob("seed-*.json"))]
    rows = summarize(results, contenders)
    write_text(out / "table.md", markdown(rows))
    write_text(out / "table.tsv", tsv(rows))
