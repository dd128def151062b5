"""A discriminator whose logits are known weights: on it, attributions can be computed by hand."""

from __future__ import annotations

import torch

from nucel.model.networks import Discriminator
from nucel.tokenizers import nucleotide

from .tiny import TINY

LENGTH = 48


class LinearDiscriminator(Discriminator):
    """z_i = w[i, x_i], through embeddings that are one-hot, so that a gradient flows as in any other network."""

    def __init__(self, weights: torch.Tensor):
        super().__init__(TINY)
        self.weights = weights
        table = torch.zeros_like(self.model.embeddings.tok_embeddings.weight)
        table[range(len(nucleotide.TOKENS)), range(len(nucleotide.TOKENS))] = 1
        self.model.embeddings.tok_embeddings.weight = torch.nn.Parameter(table)

    def logits(self, tokens, lengths=None):
        rows = self.model.embeddings.tok_embeddings(tokens.long())[..., nucleotide.BASES[0] : nucleotide.BASES[-1] + 1]
        z = torch.zeros(tokens.shape, dtype=rows.dtype)
        z[:, 1:] = (rows[:, 1:] * self.weights[: tokens.shape[1] - 1]).sum(-1)
        return z


def linear_discriminator(seed: int = 0, length: int = LENGTH) -> LinearDiscriminator:
    return LinearDiscriminator(torch.randn(length, 4, generator=torch.Generator().manual_seed(seed)))
