"""A convolutional network on one-hot bases, trained from nothing: what a pre-trained model has to beat.

It is the "baseline CNN for ChIP-seq and CLIP-seq" of Tang, Somia, Yu and Koo (*Evaluating the representational power of
pre-trained DNA language models for regulatory genomics*, Methods), with its optimizer and schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tokenizers.nucleotide import BASES


class OneHotCNN(nn.Module):
    """Three convolutions with pooling and a dense layer on the one-hot bases of sequences up to a fixed length.

    What the paper leaves open: convolutions keep the length ("same" padding) and weights begin Glorot-uniform.

    Args:
        length: bases of the longest sequence; shorter ones are followed by zeros. At least 32.
        outputs: K, classes or 1.

    Raises:
        ValueError: a length that the poolings leave nothing of.
    """

    def __init__(self, length: int, outputs: int):
        super().__init__()
        self.length = length
        self.features = convolutional_features(len(BASES), length)
        self.classifier = nn.Linear(256, outputs)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits or a number (B, K) for tokens (B, T), [CLS] first; padding and unknown bases are zeros.

        Raises:
            ValueError: a sequence longer than the network's length.
        """
        bases = tokens[:, 1:].long()
        if bases.shape[1] > self.length:
            raise ValueError(f"the one-hot CNN was made for {self.length} bases, got {bases.shape[1]}")
        one_hot = (bases[:, None, :] == bases.new_tensor(BASES)[None, :, None]).float()
        return self.classifier(self.features(F.pad(one_hot, (0, self.length - bases.shape[1]))))


def convolutional_features(channels: int, length: int) -> nn.Sequential:
    """The network below the output layer: from maps (B, channels, length) to (B, 256).

    Raises:
        ValueError: a length that the poolings leave nothing of.
    """
    pooled = length // 4 // 4 // 2
    if pooled < 1:
        raise ValueError(f"the CNN pools 32 bases into one, but the longest sequence has {length}")
    return nn.Sequential(
        *convolution(channels, 64, width=7, pool=4),
        *convolution(64, 96, width=5, pool=4),
        *convolution(96, 128, width=5, pool=2),
        nn.Flatten(),
        *dense(128 * pooled, 256),
    )


def dense(inputs: int, outputs: int) -> list[nn.Module]:
    """A layer on vectors (B, inputs), with batch norm, ReLU and dropout 0.5."""
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.5)]


def convolution(channels: int, filters: int, width: int, pool: int) -> list[nn.Module]:
    """A convolution that keeps the length, with batch norm, ReLU, max pooling and dropout 0.2."""
    return [
        nn.Conv1d(channels, filters, width, padding="same"),
        nn.BatchNorm1d(filters),
        nn.ReLU(),
        nn.MaxPool1d(pool),
        nn.Dropout(0.2),
    ]


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw Glorot-uniform weights from the given generator; biases are 0, norms as torch makes them."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
