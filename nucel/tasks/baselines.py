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
        pooled = length // 4 // 4 // 2
        if pooled < 1:
            raise ValueError(f"the one-hot CNN pools 32 bases into one, but the longest sequence has {length}")
        self.length = length
        self.features = nn.Sequential(
            *_convolution(4, 64, width=7, pool=4),
            *_convolution(64, 96, width=5, pool=4),
            *_convolution(96, 128, width=5, pool=2),
            nn.Flatten(),
            nn.Linear(128 * pooled, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
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


def _convolution(channels: int, filters: int, width: int, pool: int) -> list[nn.Module]:
    return [
        nn.Conv1d(channels, filters, width, padding="same"),
        nn.BatchNorm1d(filters),
        nn.ReLU(),
        nn.MaxPool1d(pool),
        nn.Dropout(0.2),
    ]


def initialize(network: OneHotCNN, generator: torch.Generator) -> None:
    """Draw Glorot-uniform weights from the given generator; biases are 0, norms as torch makes them."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
