"""Convolutional heads on one vector per base: of embeddings, or of one-hot bases.

The forms are those of Tang, Somia, Yu and Koo, *Evaluating the representational power of pre-trained DNA language
models for regulatory genomics*, Methods. Where they read embeddings, a convolution of width 1 comes first. What the
paper leaves open: convolutions keep the length ("same" padding), and weights begin Glorot-uniform.

Legend: B rows, C channels, L positions, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import ConfigError
from ..tokenizers.nucleotide import BASES
from .baselines import convolution, convolutional_features, dense, initialize
from .fit import FitOptions

Form = Literal["auto", "binary", "mpra", "residualbind", "insert", "splice"]
_REDUCED = {"binary": 512, "mpra": 196, "insert": 48}
"""Channels of the first convolution, of width 1, where a form reads embeddings."""


class CNNHead(nn.Module):
    """A body, from the inputs (B, C, L) to a vector, and an output layer."""

    def __init__(self, body: nn.Module, width: int, outputs: int):
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(width, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits or numbers (B, K); several inputs stand one after the other along the positions."""
        return self.classifier(self.body(torch.cat(inputs, -1)))


class SpliceHead(nn.Module):
    """Two inputs with a convolution each, joined along the positions."""

    def __init__(self, channels: int, lengths: Sequence[int], outputs: int):
        super().__init__()
        pooled = sum(length // 4 for length in lengths) // 4 // 2
        self.first = nn.ModuleList(nn.Sequential(*convolution(channels, 128, width=7, pool=4)) for _ in lengths)
        self.body = nn.Sequential(
            *convolution(128, 164, width=5, pool=4),
            *convolution(164, 256, width=5, pool=2),
            nn.Flatten(),
            *dense(256 * pooled, 256),
            *dense(256, 256),
        )
        self.classifier = nn.Linear(256, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits or numbers (B, K) for one input (B, C, L) per convolution."""
        joined = torch.cat([first(x) for first, x in zip(self.first, inputs, strict=True)], -1)
        return self.classifier(self.body(joined))


class Exponential(nn.Module):
    """exp, as the activation after the first convolution (Koo and Ploenzke 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Residual(nn.Module):
    """Dilated convolutions of width 3, each after an activation, added to their input; an activation at the end."""

    def __init__(self, channels: int, dilations: Sequence[int], activation: type[nn.Module], dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for dilation in dilations:
            between: list[nn.Module] = [activation(), nn.Dropout(dropout)] if layers else []
            conv = nn.Conv1d(channels, channels, 3, padding="same", dilation=dilation, bias=False)
            layers += [*between, conv, nn.BatchNorm1d(channels)]
        self.layers = nn.Sequential(*layers)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.layers(x))


class _Mean(nn.Module):
    """Mean over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class _Padded(nn.Module):
    """Average of neighbouring pairs of positions; a single one stays."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, 2) if x.shape[-1] > 1 else x


def choose_form(form: Form, inputs: int, classes: bool) -> Form:
    """The form that "auto" stands for: splice for two inputs, binary for classes, mpra for numbers."""
    if form != "auto":
        return form
    return "splice" if inputs > 1 else "binary" if classes else "mpra"


def cnn_head(form: Form, channels: int, lengths: Sequence[int], outputs: int, seed: int) -> nn.Module:
    """A head with weights drawn from a seed.

    Args:
        form: not "auto"; `choose_form` resolves that.
        channels: C of the embeddings; 4 for one-hot bases.
        lengths: positions of each input.
        outputs: K.

    Raises:
        ConfigError: sequences too short for the form's pooling, or ResidualBind on embeddings.
    """
    if form == "residualbind" and channels != len(BASES):
        raise ConfigError("--cnn-form residualbind reads one-hot bases only; choose another form for embeddings")
    length = sum(lengths)
    needed = {"binary": 32, "mpra": 20, "residualbind": 25, "insert": 10, "splice": 32}[form]
    if length < needed:
        raise ConfigError(f"--cnn-form {form} pools {needed} bases into one, but the longest sequence has {length}")
    if form == "splice":
        network: nn.Module = SpliceHead(channels, lengths, outputs)
    else:
        reduce = _reduce(form, channels)
        inner = _REDUCED[form] if reduce else channels
        body, width = {"binary": _binary, "mpra": _mpra, "residualbind": _residualbind, "insert": _insert}[form](
            inner, length
        )
        network = CNNHead(nn.Sequential(*reduce, *body), width, outputs)
    initialize(network, torch.Generator().manual_seed(seed))
    return network


def cnn_fit(form: Form, channels: int) -> FitOptions:
    """How a form is trained: Adam, the rate times 0.2 after five epochs without a lower dev loss, stop after ten."""
    slow = form == "mpra" or (form == "insert" and channels != len(BASES))
    return FitOptions(
        epochs=200 if form == "insert" else 100, batch_size=128 if form == "insert" else 256,
        lr=1e-4 if slow else 1e-3, warmup_steps=0, decay="plateau", weight_decay=0.0, patience=10,
        max_grad_norm=float("inf"),
    )  # fmt: skip


def _reduce(form: Form, channels: int) -> list[nn.Module]:
    """What embeddings pass first: batch norm (not in the INSERT CNN), and a convolution of width 1."""
    if channels == len(BASES) or form not in _REDUCED:
        return []
    norm: list[nn.Module] = [] if form == "insert" else [nn.BatchNorm1d(channels)]
    return [*norm, nn.Conv1d(channels, _REDUCED[form], 1)]


def _binary(channels: int, length: int) -> tuple[nn.Sequential, int]:
    """ChIP-seq and CLIP-seq: the one-hot CNN of `baselines`, on any channels."""
    return convolutional_features(channels, length), 256


def _block(channels: int, filters: int, width: int, activation: nn.Module, dropout: float) -> list[nn.Module]:
    conv = nn.Conv1d(channels, filters, width, padding="same")
    return [conv, nn.BatchNorm1d(filters), activation, nn.Dropout(dropout)]


def _mpra(channels: int, length: int) -> tuple[nn.Sequential, int]:
    body = nn.Sequential(
        *_block(channels, 196, 7, Exponential(), 0.2),
        nn.MaxPool1d(5),
        *_block(196, 256, 7, nn.ReLU(), 0.2),
        nn.MaxPool1d(4),
        nn.Flatten(),
        *dense(256 * (length // 5 // 4), 512),
        *dense(512, 256),
    )
    return body, 256


def _residualbind(channels: int, length: int) -> tuple[nn.Sequential, int]:
    positions = length // 5 // 5
    body = nn.Sequential(
        *_block(channels, 196, 19, nn.SiLU(), 0.2),
        Residual(196, (1, 2, 4, 8, 16, 32), nn.SiLU, 0.1),
        nn.MaxPool1d(5),
        nn.Dropout(0.2),
        *_block(196, 256, 7, nn.SiLU(), 0.2),
        nn.MaxPool1d(5),
        nn.Conv1d(256, 256, 1),  # a dense layer at every position
        nn.BatchNorm1d(256),
        nn.SiLU(),
        _Padded(),
        nn.Flatten(),
        *dense(256 * max(1, positions // 2), 256),
    )
    return body, 256


def _insert(channels: int, length: int) -> tuple[nn.Sequential, int]:
    body = nn.Sequential(
        *_block(channels, 96, 19, Exponential(), 0.1),
        Residual(96, (1, 2, 4), nn.ReLU, 0.1),
        nn.MaxPool1d(10),
        nn.Dropout(0.1),
        *_block(96, 128, 7, nn.ReLU(), 0.0),
        _Mean(),
        nn.Dropout(0.1),
        *dense(128, 128),
    )
    return body, 128
