"""A fitted network's outputs for a table: probabilities or values, their metrics and their file."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..genome.sequences import Sequences
from ..inference.predict import predict
from ..runtime.device import Precision
from ..tokenizers import nucleotide
from .metrics import figures
from .task import Split, Task


class Outcome(NamedTuple):
    """What a trained network makes of a table."""

    outputs: np.ndarray
    """float32 (n, K) probabilities, or (n, 1) numbers in the table's units."""
    figures: dict[str, float]


def raw_outputs(
    network: nn.Module,
    tokens: list[np.ndarray],
    precision: Precision,
    both_strands: bool,
    batch_size: int | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """A network's outputs float32 (n, K), in the order of the sequences; the mean of both strands' where asked for."""
    strands = [tokens, [nucleotide.reverse_complement(sequence) for sequence in tokens]] if both_strands else [tokens]
    return np.mean(
        [
            np.stack(list(predict(lambda b: network(b.tokens, b.lengths), strand, precision, batch_size, progress)))
            for strand in strands
        ],
        axis=0,
    )


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Softmax over the classes, (n, K)."""
    return torch.from_numpy(outputs).softmax(-1).numpy()


def evaluate(network: nn.Module, task: Task, split: Split, precision: Precision, both_strands: bool) -> Outcome:
    """A fitted network's outputs for a table of its task, and their metrics."""
    outputs = raw_outputs(network, split.sequences.tokens, precision, both_strands)
    classes = task.labels is not None
    outputs = probabilities(outputs) if classes else outputs
    return Outcome(outputs, figures(split.targets, outputs, classes))


def predictions_table(
    sequences: Sequences, labels: tuple[str, ...] | None, outputs: np.ndarray, truth: list[str] | None
) -> str:
    """Predictions as TSV: name, label where it is known, what is predicted, and each class's probability.

    outputs are probabilities (n, K), or numbers (n, 1) where labels is None.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    known = [] if truth is None else ["label"]
    table.writerow(["name", *known, "predicted", *(f"p_{label}" for label in labels or ())])
    for i, (name, output) in enumerate(zip(sequences.names, outputs, strict=True)):
        predicted = f"{output[0]:.7g}" if labels is None else labels[int(output.argmax())]
        shares = [] if labels is None else [f"{p:.6f}" for p in output]
        table.writerow([name, *([] if truth is None else [truth[i]]), predicted, *shares])
    return text.getvalue()
