"""Small heads on frozen embeddings: ``python -m nucel.probe MODEL --train T.csv --dev D.csv --test S.csv --out DIR``.

    DIR/table.tsv      the probes of the model and all controls: metrics, spread over seeds, intervals, leaks
    DIR/layers.tsv     with several --layers: dev and test metrics of every layer
    DIR/few_shot.tsv   with --few-shot: metrics against the number of labels
    DIR/result.json    the command, settings, versions, sizes, and the rows of table.tsv

The encoder's weights stay as they are; small heads are fitted to its embeddings. Beside them stand always one-hot
bases, dinucleotides, 1- to 6-mers, untrained encoders of the same shape, and a constant guess. The last line on stdout
is one JSON object.

Examples:
    python -m nucel.probe runs/ecoli --train train.csv --dev dev.csv --test test.csv --out probes
    python -m nucel.probe runs/ecoli --train all.csv --split 80,10,10 --split-by cluster --out probes
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from .genome.sequences import SequenceOptions
from .model import hub
from .model.encoder import Encoder
from .runtime import cli, environment
from .runtime.cli import console, note
from .runtime.device import DeviceOptions, choose_precision
from .runtime.errors import ConfigError, require
from .runtime.files import finite, replacing, write_text
from .suites import probe_table
from .suites.few_shot import FewShot, FewShotOptions
from .suites.probe_table import Fit, Row, main_metric, make_rows, records, text_lines, tsv, verdict
from .suites.probes import Plan, all_fits, fine_tuned, limited
from .tasks.classifier import HeadOptions
from .tasks.features import FeatureOptions, resolve_layers
from .tasks.fit import FitOptions, require_seeds
from .tasks.intervals import DRAWS, SEED, Interval
from .tasks.metrics import require_libraries
from .tasks.probe import HeadName, ProbeHeadOptions
from .tasks.task import Task, TaskOptions, read_task


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Heads on a frozen model's embeddings, beside their controls."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or a ModernBERT model directory over this alphabet."""
    train: tuple[str, ...]
    """Table to train on, or CLASS=FASTA for each class."""
    dev: tuple[str, ...] = ()
    """The same by which penalties, layers and the best weights are chosen."""
    test: tuple[str, ...] = ()
    """The same for the metrics that are reported."""
    out: Path
    """Directory for the results; it must be new or empty."""
    heads: tuple[HeadName, ...] = ("linear", "tuned", "knn")
    """linear (ridge or logistic regression with the paper's penalty), tuned (standardised features, its penalty chosen
    on the dev table), knn, mlp, cnn (on one vector per base)."""
    poolings: tuple[Literal["mean", "cls"], ...] = ("mean", "cls")
    """What the heads but the CNN read: the mean of the bases, [CLS], or both in turn."""
    layers: tuple[str, ...] = ("-1",)
    """all, or numbers as in nucel.embed --layer. Among several the dev table chooses; the penultimate is shown too."""
    control: Path | None = None
    """The MLM control: a run or model directory, probed like the model."""
    finetune: bool = False
    """Also fine-tune the whole network; its settings are --finetuning.*."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each, of every head that is drawn, and one untrained encoder for each."""
    max_rows: int | None = None
    """Use at most so many rows of each table, drawn once: for a quick look."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which the model was trained on. Longer sequences are
    read in tiles."""
    task: OmitArgPrefixes[TaskOptions] = field(default_factory=TaskOptions)
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    options: OmitArgPrefixes[Annotated[ProbeHeadOptions, tyro.conf.arg(name="heads")]] = field(
        default_factory=ProbeHeadOptions
    )
    features: OmitArgPrefixes[FeatureOptions] = field(default_factory=FeatureOptions)
    labels: OmitArgPrefixes[FewShotOptions] = field(default_factory=FewShotOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)
    head: OmitArgPrefixes[HeadOptions] = field(default_factory=lambda: HeadOptions(classifier_pooling="mean"))
    finetuning: FitOptions = field(default_factory=lambda: FitOptions(lr=5e-4))

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        for name in ("heads", "poolings"):
            given = getattr(self, name)
            require(
                bool(given) and len(set(given)) == len(given), f"{name} must be distinct, at least one, got {given}"
            )
        require(self.context is None or self.context >= 2, f"context must be at least 2, got {self.context}")
        require(self.max_rows is None or self.max_rows >= 10, f"max_rows must be at least 10, got {self.max_rows}")


def probe(config: ProbeConfig, command: str = "nucel.probe") -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; nothing is left.
        TrainingError: the training of a head, or fine-tuning, went wrong; nothing is left.
    """
    require_libraries()
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoder, control = _encoder(config.model, config), None
    if config.control is not None:
        control = _encoder(config.control, config).to(precision.device)
    task = limited(_read(config), config.max_rows)
    if config.finetune:
        task.require_one_input()
        task.require_context(encoder.context)
    layers = resolve_layers(config.layers, encoder)
    plan = Plan(config.heads, config.poolings, layers, config.seeds, config.features, config.options)
    console.print(task.describe(), soft_wrap=True, markup=False)
    encoder.to(precision.device)
    penultimate = encoder.config.layers - 1
    curves = FewShot(task, plan, config.labels, penultimate if penultimate in layers else layers[-1], precision)
    also = curves.add if config.labels.few_shot else None
    fits = list(all_fits(encoder, control, task, plan, precision, also))
    if config.finetune:
        fits += fine_tuned(encoder, task, config.head, config.finetuning, config.seeds, precision)
    rows = make_rows(fits, task, penultimate)
    if any(fit.notes.get("converged", 1) == 0 for fit in fits):
        note("some logistic regressions did not converge; the column `converged` of table.tsv says which")
    for line in text_lines(rows, task):
        console.print(line, soft_wrap=True, markup=False)
    summary = _summary(config, task, rows) | {"device": str(precision.device), "out": str(config.out)}
    about = {
        "command": command, "settings": finite(dataclasses.asdict(config)),
        "versions": environment.versions(precision.device), "labels": task.labels, **summary,
    }  # fmt: skip
    _write(config.out, task, rows, fits, curves.records(), about)
    return cli.Result(summary, _report(config, task, rows))


def _encoder(directory: Path, config: ProbeConfig) -> Encoder:
    encoder = hub.load(directory)
    encoder.context = config.context or encoder.context
    return encoder


def _read(config: ProbeConfig) -> Task:
    return read_task(config.train, config.dev or None, config.test or None, config.task, config.columns)


def _summary(config: ProbeConfig, task: Task, rows: list[Row]) -> dict[str, Any]:
    main, found = main_metric(task), verdict(rows, task)
    return {
        "metric": main,
        **{f"model_{k}": v for k, v in _figures(found.model, main).items()},
        **{f"control_{k}": v for k, v in _figures(found.control, main).items()},
        **finite({"difference": found.difference, "difference_low": found.interval.low}),
        **finite({"difference_high": found.interval.high}),
        "rows": len(rows), "bootstrap_draws": DRAWS, "bootstrap_seed": SEED, **task.sizes(),
    }  # fmt: skip


def _figures(row: Row, main: str) -> dict[str, Any]:
    interval = Interval.of(row.draws[main])
    return {"probe": row.name, **finite({"test": row.test(main), "low": interval.low, "high": interval.high})}


def _write(
    out: Path, task: Task, rows: list[Row], fits: list[Fit], curves: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    table = records(rows, task)
    with replacing(out) as folder:
        folder.mkdir(parents=True)
        write_text(folder / "table.tsv", tsv(table))
        if len({fit.layer for fit in fits if fit.layer is not None}) > 1:
            write_text(folder / "layers.tsv", tsv([_layer(fit, task) for fit in fits if fit.layer is not None]))
        if curves:
            write_text(folder / "few_shot.tsv", tsv(curves))
        description = about | {"table": table}
        write_text(folder / "result.json", json.dumps(description, indent=2, default=str) + "\n")


def _layer(fit: Fit, task: Task) -> dict[str, Any]:
    main = main_metric(task)
    place = {"features": fit.features, "pooling": fit.pooling, "head": fit.head, "layer": fit.layer, "seed": fit.seed}
    return {**place, **finite({f"dev_{main}": fit.dev, f"test_{main}": fit.test[main]})}


def _report(config: ProbeConfig, task: Task, rows: list[Row]) -> tuple[str, ...]:
    """Three lines for people: is it better than its controls, where is the table, what next."""
    main, found = main_metric(task), verdict(rows, task)
    model, control = found.model, found.control
    name = "MCC" if main == "mcc" else "Pearson correlation"
    low, high = found.interval
    line = (
        f"The best probe by dev, {model.name}, has a test {name} of {model.test(main):.3f}, "
        f"{'above' if found.above else 'not above'} the best control, {control.name}, {control.test(main):.3f} "
        f"(difference {found.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})."
    )
    more = "compare with fine-tuning: the same command with --finetune and another --out"
    if config.finetune:
        more = f"read {config.out / 'table.tsv'}, whose rows for {probe_table.FINE_TUNED} show what fine-tuning adds"
    return line, f"The table is {config.out / 'table.tsv'}, all else is beside it.", f"Next: {more}"


def main(arguments: list[str] | None = None) -> int:
    """Probe as the command line says; returns the exit status."""
    typed = cli.command_line("probe", arguments)
    return cli.run("probe", ProbeConfig, lambda config: probe(config, typed), arguments)


if __name__ == "__main__":
    sys.exit(main())
