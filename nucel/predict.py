"""Predictions of a fine-tuned model: ``python -m nucel.predict MODEL INPUT --out FILE.tsv``.

MODEL is the directory model/ that ``python -m nucel.finetune`` leaves, or any ModernBertForSequenceClassification over
this alphabet. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .genome.sequences import InputOptions, read_sequences
from .model.hub import load_classifier
from .runtime import cli
from .runtime.device import DeviceOptions, choose_precision
from .runtime.errors import ConfigError
from .runtime.files import finite, write_text
from .tasks.metrics import figures, require_libraries
from .tasks.predictions import predictions_table, probabilities, raw_outputs
from .tasks.task import targets_of


@dataclass(frozen=True, kw_only=True)
class PredictConfig(InputOptions, DeviceOptions):
    """Predictions of a fine-tuned model for the sequences in a file."""

    model: Annotated[Path, tyro.conf.Positional]
    """Directory of a fine-tuned model."""
    input: Annotated[Path, tyro.conf.Positional]
    """FASTA, CSV or TSV (each also as .gz), or BED with --genome."""
    out: Path
    """TSV to write: name, predicted class or number, and each class's probability."""
    label_column: str | None = None
    """Column of a table with the true labels; figures are computed from them."""
    average_reverse_complement: bool = False
    """Predict from the mean of both strands' outputs."""
    batch_size: int | None = None
    """Sequences of a batch; by default as many as make 16,384 tokens."""
    context: int | None = None
    """Longest sequence in tokens; by default the model's own."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.context is not None and self.context < 2:
            raise ConfigError(f"context must be at least 2, [CLS] and a base, got {self.context}")


def predict_file(config: PredictConfig) -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no file is left.
    """
    if config.label_column is not None:
        require_libraries()
    precision = choose_precision(config.device, config.dtype)
    network = load_classifier(config.model).to(precision.device)
    found = read_sequences(config.input, config)
    found.require_within(config.context or network.model.context)
    labels = network.labels
    targets = None if config.label_column is None else targets_of(found, config.label_column, labels)
    started = time.perf_counter()
    outputs = raw_outputs(
        network, found.tokens, precision, config.average_reverse_complement, config.batch_size, "sequences"
    )
    seconds = time.perf_counter() - started
    if labels is not None:
        outputs = probabilities(outputs)
    truth = None if config.label_column is None else found.column(config.label_column)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, predictions_table(found, labels, outputs, truth))
    measured = {} if targets is None else figures(targets, outputs, classes=labels is not None)
    summary = {
        "sequences": len(found),
        **finite(measured),
        "seconds": round(seconds, 3),
        "sequences_per_s": round(len(found) / seconds, 1),
        "device": str(precision.device),
        "out": str(config.out),
    }
    measures = ", ".join(f"{name} {value:.4f}" for name, value in finite(measured).items() if value is not None)
    again = cli.command_line("predict", [config.model, "OTHER.fa", "--out", "other.tsv"])
    lines = (
        f"Predicted {'a number' if labels is None else f'one of {len(labels)} classes'} for {len(found):,} sequences"
        + (f"; against {config.label_column}: {measures}." if measures else "."),
        f"The predictions are in {config.out}, in the order of the input.",
        f"Next: {again}" if measures else "Next: to evaluate, add --label-column with a column of true labels",
    )
    return cli.Result(summary, lines)


def main(arguments: list[str] | None = None) -> int:
    """Predict as the command line says; returns the exit status."""
    return cli.run("predict", PredictConfig, predict_file, arguments)


if __name__ == "__main__":
    sys.exit(main())
