"""The control: masked language modelling with the same encoder, windows and masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..model.config import ElectraConfig
from ..model.networks import Generator, initialize
from .masking import fill_in, mask
from .stages import Losses


class MaskedLM(nn.Module):
    """The control: an encoder of the discriminator's size that learns from masked bases alone (BERT's objective).

    It reads the same windows with the same masks as the pair.
    """

    def __init__(self, config: ElectraConfig, masked_lm: nn.Module | None = None, context: int | None = None):
        super().__init__()
        self.config = config
        self.masked_lm = masked_lm or Generator(config.discriminator, config.tie_embeddings, context)

    def initialize(self, seed: int) -> MaskedLM:
        """Draw all weights anew from a seed; returns self."""
        initialize(self.masked_lm, torch.Generator().manual_seed(seed))
        return self

    def forward(
        self,
        tokens: Tensor,
        seed: int,
        rows: Tensor,
        lengths: Tensor | None = None,
        backward: Callable[[Tensor], None] | None = None,
    ) -> Losses:
        """Losses of windows; as for `Electra`."""
        masked = mask(tokens, self.config.mask_rate, seed, rows)
        loss, logits = fill_in(self.masked_lm, masked, lengths, backward)
        return Losses(loss, loss, logits, masked)
