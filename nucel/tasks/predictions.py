"""A fitted network's outputs for a table: probabilities or values, their metrics and their file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..genome.sequences import REGION_COLUMNS, Sequences
from ..inference.predict import BATCH_TOKENS, predict
from ..inference.tiles import Tiles
from ..runtime.device import Precision
from ..tokenizers import nucleotide
from .metrics import metrics_of
from .task import Split, Task


class Predictions(NamedTuple):
    """A trained network's predictions for a labelled table."""

    outputs: np.ndarray
    """float32 (n, K) probabilities, or (n, 1) numbers in the table's units."""
    metrics: dict[str, float]


def raw_outputs(
    network: nn.Module,
    tokens: list[np.ndarray],
    precision: Precision,
    both_strands: bool,
    batch_tokens: int = BATCH_TOKENS,
    progress: str | None = None,
) -> np.ndarray:
    """A network's outputs float32 (n, K), in the order of the sequences; the mean of both strands' where asked for."""
    strands = [tokens, [nucleotide.reverse_complement(sequence) for sequence in tokens]] if both_strands else [tokens]
    return np.mean(
        [
            np.stack(list(predict(lambda b: network(b.tokens, b.lengths), strand, precision, batch_tokens, progress)))
            for strand in strands
        ],
        axis=0,
    )


def tiled_outputs(
    network: nn.Module,
    tokens: list[np.ndarray],
    room: int | None,
    precision: Precision,
    both_strands: bool,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """What `raw_outputs` gives, where sequences of more than `room` bases are read in tiles that overlap by a quarter.

    Such a sequence's outputs are the mean of its tiles', weighted by the bases that each answers for.
    """
    pieces = [(i, t) for i, s in enumerate(tokens) for t in Tiles(len(s), room or len(s), (room or 0) // 4)]
    parts = [tokens[i][tile.start : tile.end] for i, tile in pieces]
    outputs = raw_outputs(network, parts, precision, both_strands, batch_tokens, "sequences")
    joined = np.zeros((len(tokens), outputs.shape[1]), np.float64)
    for (i, tile), row in zip(pieces, outputs, strict=True):
        joined[i] += row * ((tile.keep_end - tile.keep_start) / len(tokens[i]))
    return joined.astype(np.float32)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Softmax over the classes, (n, K)."""
    return torch.from_numpy(outputs).softmax(-1).numpy()


def evaluate(network: nn.Module, task: Task, split: Split, precision: Precision, both_strands: bool) -> Predictions:
    """A fitted network's outputs for a table of its task, and their metrics."""
    outputs = raw_outputs(network, split.sequences.tokens, precision, both_strands)
    classes = task.labels is not None
    outputs = probabilities(outputs) if classes else outputs
    return Predictions(outputs, metrics_of(split.targets, outputs, classes))


def predictions_table(
    sequences: Sequences, labels: tuple[str, ...] | None, outputs: np.ndarray, truth: Sequence[str] | None
) -> str:
    """Predictions as TSV: name, place and label where they are known, what is predicted, each class's probability.

    outputs are probabilities (n, K), or numbers (n, 1) where labels is None.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    regions = REGION_COLUMNS[:4] if sequences.is_regions else ()
    known = [] if truth is None else ["label"]
    table.writerow(["name", *regions, *known, "predicted", *(f"p_{label}" for label in labels or ())])
    for i, (name, output) in enumerate(zip(sequences.names, outputs, strict=True)):
        predicted = f"{output[0]:.7g}" if labels is None else labels[int(output.argmax())]
        shares = [] if labels is None else [f"{p:.6f}" for p in output]
        at = [sequences.columns[column][i] for column in regions]
        table.writerow([name, *at, *([] if truth is None else [truth[i]]), predicted, *shares])
    return text.getvalue()
