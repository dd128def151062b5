"""Fine-tune a model on a task: ``python -m nucel.finetune MODEL --train T.csv --dev D.csv --test S.csv --out DIR``.

    DIR/model/                   the network of the seed with the lowest dev loss, for python -m nucel.predict
    DIR/result.json              settings, sizes, and the figures of every seed
    DIR/seed-0/predictions.tsv   what the seed's network makes of the test table
    DIR/seed-0/history.tsv       losses and learning rate at every evaluation
    DIR/test.png                 confusion matrix and curves of DIR/model on the test table

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .model import hub
from .model.networks import Classifier
from .runtime import cli, environment
from .runtime.cli import console, progress_bar
from .runtime.device import DeviceOptions, choose_precision
from .runtime.errors import ConfigError
from .runtime.files import finite, replacing, write_text
from .tasks.classifier import HeadOptions, make_classifier
from .tasks.fit import Fit, FitOptions, fit, seed_figures
from .tasks.metrics import mean_and_deviation, require_libraries
from .tasks.plots import plot_predictions
from .tasks.predictions import Outcome, evaluate, predictions_table
from .tasks.task import Task, TaskOptions, describe_task, read_task, require_context


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FitOptions, HeadOptions, TaskOptions, DeviceOptions):
    """Fine-tune a model on a task of labelled sequences."""

    model: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a ModernBERT model directory over this alphabet."""
    train: Path
    """Table (CSV or TSV, also .gz) to train on."""
    dev: Path
    """Table by whose loss the best weights are chosen."""
    test: Path
    """Table for the figures that are reported."""
    out: Path
    """Directory for the results; it must be new or empty."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each; figures are also given as mean and standard deviation. Three is the paper's number."""
    from_scratch: bool = False
    """Draw the encoder's weights anew instead: what is gained without pre-training."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which the model was trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be distinct numbers of at least 0, got {self.seeds}")


def finetune(config: FinetuneConfig, command: str = "nucel.finetune") -> dict[str, Any]:
    """Carry out the command; returns its summary, the JSON object that `main` prints.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no directory is left.
        TrainingError: training went wrong; what earlier seeds gave is left.
    """
    require_libraries()
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    precision = choose_precision(config.device, config.dtype)
    encoder = hub.load(config.model)
    task = read_task(config.train, config.dev, config.test, config)
    require_context(task, config.context or encoder.context)
    console.print(describe_task(task), soft_wrap=True, markup=False)
    config.out.mkdir(parents=True, exist_ok=True)
    per_seed: list[dict[str, Any]] = []
    best: tuple[float, Classifier, Outcome] | None = None
    for seed in config.seeds:
        network = make_classifier(encoder, task.labels, config, seed, config.from_scratch).to(precision.device)
        if config.context is not None:
            network.model.context = config.context
        with progress_bar() as show:
            fitted = fit(network, task, config, seed, precision, show)
        outcome = evaluate(network, task, task.test, precision, config.average_reverse_complement)
        per_seed.append(seed_figures(seed, fitted, outcome))
        _write_seed(config.out / f"seed-{seed}", config, task, fitted, outcome)
        line = ", ".join(f"{name} {value:.4f}" for name, value in outcome.figures.items())
        console.print(f"seed {seed}: {line} ({fitted.seconds:.0f} s)", soft_wrap=True, markup=False)
        if best is None or fitted.best.dev_loss < best[0]:
            best = (fitted.best.dev_loss, network, outcome)

    names = [name for name in per_seed[0] if name.startswith("test_")]
    mean, deviation = mean_and_deviation([{name: figures[name] for name in names} for figures in per_seed])
    summary = {
        **finite(mean),
        **finite({f"{name}_sd": value for name, value in deviation.items()}),
        **task.sizes(),
        "seeds": [finite(figures) for figures in per_seed],
        "device": str(precision.device),
        "out": str(config.out),
    }
    with replacing(config.out / "model") as temporary:
        hub.save(best[1], temporary)
    _plot(config, task, best[2])
    settings = finite({field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    versions = environment.versions(precision.device)
    description = {"command": command, "settings": settings, "labels": task.labels, "versions": versions, **summary}
    write_text(config.out / "result.json", json.dumps(description, indent=2, default=str) + "\n")
    return summary


def _write_seed(folder: Path, config: FinetuneConfig, task: Task, fitted: Fit, outcome: Outcome) -> None:
    folder.mkdir()
    test = task.test.sequences
    table = predictions_table(test, task.labels, outcome.outputs, test.column(config.label_column))
    write_text(folder / "predictions.tsv", table)
    rows = ["\t".join(fitted.best._fields), *("\t".join(f"{x:.7g}" for x in line) for line in fitted.history)]
    write_text(folder / "history.tsv", "\n".join(rows) + "\n")


def _plot(config: FinetuneConfig, task: Task, outcome: Outcome) -> None:
    try:
        plot_predictions(task.labels, task.test.targets, outcome.outputs, config.out / "test.png")
    except ModuleNotFoundError as missing:
        console.print(f"No test.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune as the command line says; returns the exit status."""
    typed = cli.command_line("finetune", arguments)
    return cli.run("finetune", FinetuneConfig, lambda config: finetune(config, typed), arguments)


if __name__ == "__main__":
    sys.exit(main())
