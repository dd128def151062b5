"""Predictions of a fine-tuned model: ``python -m nucel.predict MODEL INPUT --out FILE.tsv``.

MODEL is what ``python -m nucel.finetune`` leaves, or any ModernBertForSequenceClassification over this alphabet. The
last line on stdout is one JSON object.

Examples:
    python -m nucel.predict runs/promoters genes.fa --out genes.tsv
    python -m nucel.predict runs/promoters test.csv --label-column label --out test.tsv
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from .genome.sequences import SequenceOptions, Sequences, read_sequences
from .inference.predict import BATCH_TOKENS
from .model.hub import load_classifier
from .runtime import cli
from .runtime.cli import note
from .runtime.device import DeviceOptions, choose_precision
from .runtime.errors import require
from .runtime.files import finite, write_text
from .tasks.labels import class_numbers, numbers_to_predict
from .tasks.metrics import metrics_of, require_libraries
from .tasks.predictions import predictions_table, probabilities, tiled_outputs


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predictions of a fine-tuned model for the sequences in a file."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Directory that python -m nucel.finetune has written, or its folder model/."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCES")]
    """FASTA, CSV or TSV (each also as .gz), or BED with --genome."""
    out: Path
    """TSV to write: name, predicted class or number, and each class's probability; of a BED file, coordinates too."""
    label_column: str | None = None
    """Column of a table with the true labels; metrics are computed from them."""
    average_reverse_complement: bool = False
    """Predict from the mean of both strands' outputs."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once, padding included; a longer sequence makes a batch of its own."""
    context: int | None = None
    """Longest sequence in tokens; by default the model's own."""
    long: Literal["tile", "refuse"] = "tile"
    """How to handle sequences longer than the context: the mean of the outputs for tiles of its length, or an error."""
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require(self.batch_tokens >= 1, f"batch_tokens must be at least 1, got {self.batch_tokens}")
        require(
            self.context is None or self.context >= 2,
            f"context must be at least 2, [CLS] and a base, got {self.context}",
        )


def predict_file(config: PredictConfig) -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no file is left.
    """
    if config.label_column is not None:
        require_libraries()
    precision = choose_precision(config.compute.device, config.compute.dtype)
    network = load_classifier(_fine_tuned(config.model)).to(precision.device)
    sequences = read_sequences(config.input, config.columns)
    context = config.context or network.model.context
    _announce_long(sequences, context, config.long)
    truth = None if config.label_column is None else sequences.column(config.label_column)
    names, targets = network.labels, None
    if truth is not None:
        targets = numbers_to_predict(sequences, truth) if names is None else class_numbers(sequences, truth, names)
    started = time.perf_counter()
    room = None if context is None else context - 1
    outputs = tiled_outputs(
        network, sequences.tokens, room, precision, config.average_reverse_complement, config.batch_tokens
    )
    seconds = time.perf_counter() - started
    if names is not None:
        outputs = probabilities(outputs)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, predictions_table(sequences, names, outputs, truth))
    metrics = {} if targets is None else metrics_of(targets, outputs, classes=names is not None)
    summary = {
        "sequences": len(sequences),
        **finite(metrics),
        "seconds": round(seconds, 3),
        "sequences_per_s": round(len(sequences) / seconds, 1),
        "device": str(precision.device),
        "out": str(config.out),
    }
    measures = ", ".join(f"{name} {value:.4f}" for name, value in finite(metrics).items() if value is not None)
    again = cli.command_line("predict", [config.model, "OTHER.fa", "--out", "other.tsv"])
    lines = (
        f"Predicted {'a number' if names is None else f'one of {len(names)} classes'} for {len(sequences):,} sequences"
        + (f"; against {config.label_column}: {measures}." if measures else "."),
        f"The predictions are in {config.out}, in the order of the input.",
        f"Next: {again}" if measures else "Next: to evaluate, add --label-column with a column of true labels",
    )
    return cli.Result(summary, lines)


def _fine_tuned(directory: Path) -> Path:
    """The directory itself, or the folder model/ in what fine-tuning leaves."""
    inner = directory / "model"
    return inner if not (directory / "config.json").exists() and (inner / "config.json").exists() else directory


def _announce_long(sequences: Sequences, context: int | None, long: str) -> None:
    if context is None:
        return
    if long == "refuse":
        sequences.require_within(context)
    elif longer := sum(len(tokens) >= context for tokens in sequences.tokens):
        note(
            f"{longer} sequences are longer than the {context - 1} bases of the context: their predictions are means "
            f"over tiles (--long refuse)"
        )


def main(arguments: list[str] | None = None) -> int:
    """Predict as the command line says; returns the exit status."""
    return cli.run("predict", PredictConfig, predict_file, arguments)


if __name__ == "__main__":
    sys.exit(main())
