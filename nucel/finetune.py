"""Fine-tune a model on a task: ``python -m nucel.finetune MODEL --train T.csv --dev D.csv --test S.csv --out DIR``.

    DIR/model/                   the network of the seed with the lowest dev loss, for python -m nucel.predict
    DIR/result.json              settings, sizes, and the metrics of every seed
    DIR/seed-0/predictions.tsv   the seed's predictions for the test table
    DIR/seed-0/history.tsv       losses and learning rate at every validation
    DIR/test.png                 confusion matrix and curves of DIR/model on the test table

Learning rate, pooling and epochs are chosen for the model and the table where they are not given; --protocol takes the
paper's. A table is CSV or TSV (also .gz), or BED with --genome. --split 80,10,10 splits one table into three, and
--train CLASS=FASTA ... reads a FASTA file for each class. The last line on stdout is one JSON object.

Examples:
    python -m nucel.finetune runs/ecoli --train train.csv --dev dev.csv --test test.csv --out runs/promoters
    python -m nucel.finetune runs/ecoli --train all.csv --split 80,10,10 --split-by cluster --out runs/promoters
    python -m nucel.finetune runs/ecoli --train promoter=a.fa other=b.fa --split 80,10,10 --out runs/promoters
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.conf import OmitArgPrefixes

from .genome.sequences import SequenceOptions
from .model import hub
from .model.encoder import Encoder
from .model.networks import Classifier
from .runtime import cli, environment
from .runtime.cli import console, note, progress_bar
from .runtime.device import DeviceOptions, Precision, choose_precision
from .runtime.errors import ConfigError, require
from .runtime.files import finite, replacing, write_text
from .tasks.classifier import HeadOptions, make_classifier
from .tasks.fit import FitOptions, FitResult, fit, require_seeds
from .tasks.metrics import mean_and_deviation, require_libraries
from .tasks.plots import plot_predictions
from .tasks.predictions import Predictions, evaluate, predictions_table
from .tasks.search import PROTOCOL, Search, SearchedFitOptions, SearchedHeadOptions, Trial, plan_search, search
from .tasks.task import Task, TaskOptions, read_task


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune a model on a task of labelled sequences."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or a ModernBERT model directory over this alphabet."""
    train: tuple[str, ...]
    """Table to train on, or CLASS=FASTA for each class."""
    dev: tuple[str, ...] = ()
    """The same by whose loss the best weights are chosen."""
    test: tuple[str, ...] = ()
    """The same for the metrics that are reported."""
    out: Path
    """Directory for the results; it must be new or empty."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each; metrics are also given as mean and standard deviation. Three is the paper's number."""
    from_scratch: bool = False
    """Draw the encoder's weights anew instead: what is gained without pre-training."""
    protocol: bool = False
    """Take epochs, learning rate and pooling as the paper does, without a search: --epochs 3 (where none are given),
    --lr 3e-5, --classifier-pooling cls."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which the model was trained on."""
    task: OmitArgPrefixes[TaskOptions] = field(default_factory=TaskOptions)
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    head: OmitArgPrefixes[SearchedHeadOptions] = field(default_factory=SearchedHeadOptions)
    fit: OmitArgPrefixes[Annotated[SearchedFitOptions, tyro.conf.arg(name="training")]] = field(
        default_factory=SearchedFitOptions
    )
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require(self.context is None or self.context >= 2, f"context must be at least 2, got {self.context}")
        given = (self.fit.lr, self.head.classifier_pooling)
        require(
            not self.protocol or all(a in ("auto", b) for a, b in zip(given, PROTOCOL[:2], strict=True)),
            f"--protocol means --lr {PROTOCOL.lr:g} and --classifier-pooling {PROTOCOL.classifier_pooling}, given are "
            f"{given[0]} and {given[1]}; leave out --protocol, or those",
        )


class _Settings(NamedTuple):
    """What every seed is trained with, and the search that chose it, where there was one."""

    fit: FitOptions
    head: HeadOptions
    search: Search | None


class _Trained(NamedTuple):
    """One seed's network, how its training went, and its predictions for the test table."""

    seed: int
    network: Classifier
    result: FitResult
    test: Predictions


def finetune(config: FinetuneConfig, command: str = "nucel.finetune") -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no directory is left.
        TrainingError: training went wrong; what earlier seeds gave is left.
    """
    require_libraries()
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoder = hub.load(config.model)
    encoder.context = config.context or encoder.context
    task = read_task(config.train, config.dev or None, config.test or None, config.task, config.columns)
    task.require_one_input()
    task.require_context(encoder.context)
    console.print(task.describe(), soft_wrap=True, markup=False)
    chosen = _choose(config, encoder, task, precision)
    steps = chosen.fit.steps(len(task.train.targets))
    if chosen.fit.warmup_steps >= steps:
        note(f"the warm-up of {chosen.fit.warmup_steps} steps is not over after the {steps} steps of the training")
    config.out.mkdir(parents=True, exist_ok=True)
    summaries: list[dict[str, Any]] = []
    best: _Trained | None = None
    for seed in config.seeds:
        network = make_classifier(encoder, task.labels, chosen.head, seed, config.from_scratch)
        trained = _train(network, task, chosen.fit, seed, precision)
        summaries.append(trained.result.summary(seed, trained.test))
        _write_seed(config.out / f"seed-{seed}", task, trained)
        if best is None or trained.result.best.dev_loss < best.result.best.dev_loss:
            best = trained
    assert best is not None  # there is a seed

    with replacing(config.out / "model") as temporary:
        hub.save(best.network, temporary)
    _plot(task, best.test, config.out / "test.png")
    summary = _summary(chosen, task, summaries) | {"device": str(precision.device), "out": str(config.out)}
    description = {
        "command": command,
        "settings": finite(dataclasses.asdict(config)),
        "search": None if chosen.search is None else chosen.search.record(),
        "labels": task.labels,
        "versions": environment.versions(precision.device),
        **summary,
    }
    write_text(config.out / "result.json", json.dumps(description, indent=2, default=str) + "\n")
    return cli.Result(summary, _report(config, task, summary))


def _choose(config: FinetuneConfig, encoder: Encoder, task: Task, precision: Precision) -> _Settings:
    """Settings as they were given, and for the others what a search on the dev table finds, told on the console."""
    options, head, found = config.fit, config.head, None
    if config.protocol:
        options = dataclasses.replace(options, lr=PROTOCOL.lr)
        options = options if options.epochs != "auto" else dataclasses.replace(options, epochs=PROTOCOL.epochs)
        head = dataclasses.replace(head, classifier_pooling=PROTOCOL.classifier_pooling)
    plan = plan_search(task, options, head, config.seeds)
    if plan is not None:
        console.print(plan.describe(), soft_wrap=True, markup=False)
        with progress_bar() as show:
            found = search(plan, encoder, task, head, config.from_scratch, precision, show, _tell)
        if not found.decided:
            note(
                f"after {plan.steps} steps no setting was better than a constant guess ({found.constant_guess:.4f}), "
                f"so that the search could not choose and takes {found.best}; if that learns nothing, give --lr"
            )
        options = dataclasses.replace(options, lr=found.best.lr)
        head = dataclasses.replace(head, classifier_pooling=found.best.classifier_pooling)
    assert options.lr != "auto" and head.classifier_pooling != "auto"  # given, of the protocol, or found
    fit_options = options.at(options.lr, len(task.train.targets))
    if config.protocol or found is not None or config.fit.epochs == "auto":
        console.print(
            f"Training with lr {fit_options.lr:g}, pooling {head.classifier_pooling}, {fit_options.epochs} epochs of "
            f"{fit_options.steps_an_epoch(len(task.train.targets))} steps",
            soft_wrap=True,
            markup=False,
        )
    return _Settings(fit_options, head.at(head.classifier_pooling), found)


def _tell(trial: Trial) -> None:
    loss = f"dev loss {trial.dev_loss:.4f}" if math.isfinite(trial.dev_loss) else "the loss is not finite"
    console.print(f"  {trial}: {loss}", soft_wrap=True, markup=False)


def _report(config: FinetuneConfig, task: Task, summary: dict[str, Any]) -> tuple[str, ...]:
    """Three lines for people: is it better than a constant guess, where is it, what next."""
    main, guess = ("test_pearson", "predicting the mean") if task.labels is None else ("test_mcc", "a constant guess")
    value, spread = summary[main], summary[f"{main}_sd"]
    name = "Pearson correlation" if task.labels is None else "MCC"
    if value is None:
        verdict = f"{name} on the test table is not defined"
    else:
        seeds = f" ± {spread:.3f} over {len(config.seeds)} seeds" if spread is not None else ""
        learned = value > 2 * (spread or 0) and value > 0.05
        verdict = f"{name} {value:.3f}{seeds} on the test table, {'above' if learned else 'no better than'} {guess} (0)"
        searched = config.fit.lr == "auto" and not config.protocol
        advice = "more --epochs" if searched else "a larger --lr, more --epochs, or --lr auto"
        verdict += "" if learned else f"; try {advice}"
    again = cli.command_line("predict", [config.out, "SEQUENCES.fa", "--out", "predictions.tsv"])
    return (f"{verdict}.", f"The model is {config.out / 'model'}, all results are in {config.out}.", f"Next: {again}")


def _train(network: Classifier, task: Task, options: FitOptions, seed: int, precision: Precision) -> _Trained:
    network.to(precision.device)
    with progress_bar() as show:
        result = fit(network, task, options, seed, precision, show)
    test = evaluate(network, task, task.test, precision, options.average_reverse_complement)
    line = ", ".join(f"{name} {value:.4f}" for name, value in test.metrics.items())
    console.print(f"seed {seed}: {line} ({result.seconds:.0f} s)", soft_wrap=True, markup=False)
    return _Trained(seed, network, result, test)


def _summary(chosen: _Settings, task: Task, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the test table over all seeds, what they were trained with, sizes, and each seed's own figures."""
    names = [name for name in summaries[0] if name.startswith("test_")]
    mean, deviation = mean_and_deviation([{name: one[name] for name in names} for one in summaries])
    spread = {f"{name}_sd": value for name, value in deviation.items()}
    used = {"lr": chosen.fit.lr, "classifier_pooling": chosen.head.classifier_pooling, "epochs": chosen.fit.epochs}
    return {**finite(mean), **finite(spread), **used, **task.sizes(), "seeds": [finite(one) for one in summaries]}


def _write_seed(folder: Path, task: Task, trained: _Trained) -> None:
    folder.mkdir()
    table = predictions_table(task.test.sequences, task.labels, trained.test.outputs, task.test.labels)
    write_text(folder / "predictions.tsv", table)
    history = trained.result.history
    rows = ["\t".join(history[0]._fields), *("\t".join(f"{x:.7g}" for x in line) for line in history)]
    write_text(folder / "history.tsv", "\n".join(rows) + "\n")


def _plot(task: Task, test: Predictions, picture: Path) -> None:
    try:
        plot_predictions(task.labels, task.test.targets, test.outputs, picture)
    except ModuleNotFoundError as missing:
        console.print(f"No test.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune as the command line says; returns the exit status."""
    typed = cli.command_line("finetune", arguments)
    return cli.run("finetune", FinetuneConfig, lambda config: finetune(config, typed), arguments)


if __name__ == "__main__":
    sys.exit(main())
