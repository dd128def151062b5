"""A classifier on an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..model.encoder import Encoder
from ..model.networks import Classifier, initialize

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class HeadLayers:
    """What stands between the pooled output of an encoder and its classes."""

    head: Literal["linear", "dense"] = "linear"
    """linear is the paper's one layer; dense puts ModernBERT's own dense layer and GELU in front of it."""


@dataclass(frozen=True, kw_only=True)
class HeadOptions(HeadLayers):
    """How an encoder becomes a classifier."""

    classifier_pooling: Pooling = "cls"
    """What of the encoder's output is classified: [CLS], or the mean of all positions, [CLS] included, as transformers'
    setting of this name has it. The paper takes [CLS]."""


def make_classifier(
    encoder: Encoder, labels: tuple[str, ...] | None, options: HeadOptions, seed: int, from_scratch: bool
) -> Classifier:
    """A classifier with the encoder's weights, or with new ones, and a head that is drawn from the seed."""
    linear = options.head == "linear"
    network = Classifier(encoder.config, labels, options.classifier_pooling, linear, encoder.context)
    initialize(network, torch.Generator().manual_seed(seed))
    if not from_scratch:
        network.model.load_state_dict(encoder.state_dict())
    return network
