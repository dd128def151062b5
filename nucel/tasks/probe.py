"""Frozen probes: how much of a task a small head can read from an encoder's embeddings, whose weights stay as they are.

    sequences --EncoderFeatures--> features --fit_head--> FittedHead --> probabilities or numbers

`fit_probe` does it for one layer, pooling and head; `suites.probes` for many, beside their controls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..genome.sequences import Sequences
from ..inference.embedding import token_ids
from ..model.encoder import Encoder
from ..model.hub import load
from ..runtime.device import choose_precision
from ..runtime.errors import ConfigError, InputError, require
from .cnn_heads import Form, choose_form, cnn_fit, cnn_head
from .features import POOLINGS, EncoderFeatures, FeatureOptions, Maps, longest, resolve_layers
from .heads import FittedHead, Labels, fit_linear, fit_neighbors, fit_tuned
from .metrics import metrics_of, require_libraries
from .network_heads import MLP_FIT, Inputs, fit_network, mlp_head
from .task import Split, Task

HeadName = Literal["linear", "tuned", "knn", "mlp", "cnn"]
HEADS: tuple[HeadName, ...] = ("linear", "tuned", "knn", "mlp", "cnn")
DRAWN: tuple[HeadName, ...] = ("mlp", "cnn")
"""Heads that depend on a seed."""


@dataclass(frozen=True, kw_only=True)
class ProbeHeadOptions:
    """What a head is, where its name does not say it."""

    neighbors: int = 5
    """Nearest training rows, by cosine, of the k-NN head."""
    cnn_form: Form = "auto"
    """Which CNN of the gLM paper: auto takes binary for classes, mpra for numbers, splice for two sequences a row."""
    max_epochs: int | None = None
    """Epochs of the MLP and the CNN at most, in place of the paper's 100 (insert: 200)."""

    def __post_init__(self) -> None:
        for name in ("neighbors", "max_epochs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")


def labels_of(task: Task) -> Labels:
    """The targets that a head is fitted to and chosen by."""
    return Labels(task.train.targets, task.dev.targets, None if task.labels is None else len(task.labels))


def fit_head(
    head: HeadName,
    train: Inputs,
    dev: Inputs,
    labels: Labels,
    options: ProbeHeadOptions,
    seed: int,
    device: torch.device,
    show: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> FittedHead:
    """Fit a head to features: vectors (n, d), or maps for the CNN.

    Args:
        seed: of the weights, the order of the rows and dropout, where the head has any.
        device: of the MLP and the CNN.
    """
    if isinstance(train, Maps):
        form = choose_form(options.cnn_form, len(train.lengths), labels.classes is not None)
        network = cnn_head(form, train.channels, train.lengths, _outputs(labels), seed)
        fit = cnn_fit(form, train.channels)
    else:
        assert isinstance(dev, np.ndarray)
        match head:
            case "linear":
                return fit_linear(train, labels)
            case "tuned":
                return fit_tuned(train, labels, dev)
            case "knn":
                return fit_neighbors(train, labels, options.neighbors)
        network, fit = mlp_head(train.shape[1], _outputs(labels), seed), MLP_FIT
    if options.max_epochs is not None:
        fit = replace(fit, epochs=options.max_epochs)
    return fit_network(network, train, dev, labels, fit, seed, device, show)


def _outputs(labels: Labels) -> int:
    if labels.classes is not None:
        return labels.classes
    return 1 if labels.train.ndim == 1 else labels.train.shape[1]


@dataclass(frozen=True, eq=False)
class Probe:
    """A head on a frozen encoder, ready to predict.

    Attributes:
        labels: the classes' names in the order of the outputs; None for numbers.
        metrics: those of the test table.
        notes: what was chosen on the dev table.
    """

    labels: tuple[str, ...] | None
    metrics: dict[str, float]
    notes: dict[str, float]
    _features: Callable[[Split], Inputs]
    _head: FittedHead
    _longest: tuple[int, ...]

    def predict(self, *sequences: Sequence[str | np.ndarray]) -> np.ndarray:
        """Probabilities of the classes, or numbers, float32 (n, K).

        Args:
            sequences: a list of n sequences, as text or token ids (length,); two lists where rows have two.

        Raises:
            InputError: not one list per input, lists of different lengths, no or a wrong sequence, or, for a CNN, one
                longer than the longest it was made for.
        """
        if len(sequences) != len(self._longest) or len({len(part) for part in sequences}) != 1:
            raise InputError(f"give {len(self._longest)} list(s) of sequences, of equal length; got {len(sequences)}")
        if not len(sequences[0]):
            raise InputError("there are no sequences to predict")
        parts = [_listed(part) for part in sequences]
        split = Split(parts[0], np.empty(len(parts[0])), second=parts[1] if len(parts) > 1 else None)
        return self._head.predict(self._features(split))


def _listed(sequences: Sequence[str | np.ndarray]) -> Sequences:
    if isinstance(sequences, str):
        raise InputError("sequences must be a list of sequences, got one string; give [sequence]")
    names = [str(i) for i in range(1, len(sequences) + 1)]
    where = [f"sequence {name}" for name in names]
    tokens = [token_ids(sequence, line) for sequence, line in zip(sequences, where, strict=True)]
    return Sequences(Path("the given sequences"), names, tokens, where, {})


def fit_probe(
    model: Encoder | str | Path,
    task: Task,
    *,
    head: HeadName = "tuned",
    pooling: Literal["mean", "cls"] = "mean",
    layer: int = -1,
    seed: int = 0,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    features: FeatureOptions | None = None,
    **options: Any,
) -> Probe:
    """Fit a head on an encoder's embeddings of a task's training table. The encoder is not changed.

    Args:
        model: as `nucel.load` gives it, or the directory that it reads.
        task: as `nucel.read_task` gives it.
        head: linear (ridge or logistic regression), tuned (the same, its penalty chosen on the dev table), knn, mlp, or
            cnn, which reads one vector per base and ignores the pooling.
        pooling: mean of the bases, or [CLS].
        layer: as in `nucel.embed`.
        seed: of the MLP's and the CNN's weights and batches.
        dtype: the encoder's compute precision.
        features: strands, cache and limits.
        options: those of `ProbeHeadOptions`.

    Raises:
        ConfigError: scikit-learn is missing, or a setting that is not allowed.
        TrainingError: the MLP's or the CNN's loss is not finite.
    """
    require_libraries()
    for name, value, allowed in (("head", head, HEADS), ("pooling", pooling, POOLINGS)):
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    chosen = ProbeHeadOptions(**options)
    encoder = model if isinstance(model, Encoder) else load(model)
    (depth,) = resolve_layers([layer], encoder)
    device = encoder.final_norm.weight.device
    reader = EncoderFeatures(encoder, features or FeatureOptions(), choose_precision(str(device), dtype))
    lengths = longest(task)

    def inputs(split: Split) -> Inputs:
        if head != "cnn":
            return reader.vectors(split, (depth,))[:, 0, POOLINGS.index(pooling)]
        for tokens, length in zip(split.inputs, lengths, strict=True):
            if any(len(sequence) > length for sequence in tokens):
                raise InputError(f"the CNN was made for at most {length} bases; a given sequence has more")
        return reader.maps(split, depth, lengths)

    fitted = fit_head(head, inputs(task.train), inputs(task.dev), labels_of(task), chosen, seed, device)
    metrics = metrics_of(task.test.targets, fitted.predict(inputs(task.test)), task.labels is not None)
    return Probe(task.labels, metrics, fitted.notes, inputs, fitted, lengths)
