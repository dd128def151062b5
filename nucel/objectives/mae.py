"""The masked autoencoder: the encoder sees what is not masked alone, a decoder rebuilds the rest (BarcodeMAE).

    tokens --mask--> Masked --gather--> Kept --Encoder--> hidden (B, K, C) --Decoder--> logits (B, M, V)

The encoder gets the tokens that are left, each at the position where it stood: about half of the row, so half of the
work, and never a [MASK], which no sequence has that it is used on later. The decoder gets the encoder's output there,
one learned vector at all other positions, and names the masked bases. It is thrown away after training.

Shapes are static. A row of length L has L - M(L) tokens left, M(L) being its masked positions; K is the largest of
these numbers. A row where so many blocks hold an [UNK] that fewer than M(L) bases could be masked has more tokens left:
its surplus is not shown to the encoder, [UNK] before bases. Nothing of it is a target.

Legend: B batch, T positions, K tokens that the encoder sees, M masked slots, C width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model.config import ElectraConfig
from ..model.encoder import Encoder
from ..model.networks import Decoder, initialize
from ..tokenizers.nucleotide import PAD, UNK
from .masking import mask, masked_cross_entropy, slots_of
from .mlm import MaskedLM
from .stages import Masked, Proposed


class Kept(NamedTuple):
    """What the encoder sees of each row."""

    tokens: Tensor
    """(B, K), in the order of their positions; [PAD] after the last."""
    positions: Tensor
    """int64 (B, K), where they stood; 0 for the padding."""
    lengths: Tensor
    """int32 (B,), how many they are."""


@functools.lru_cache(maxsize=64)
def capacity(positions: int, rate: float, span: int, variable: bool) -> int:
    """K: the most tokens left of a row of so many positions, or, if lengths are `variable`, of any shorter one."""
    shortest = 1 if variable else positions
    return max(length - slots_of(length, rate, span) for length in range(shortest, positions + 1))


def kept(masked: Masked, size: int, lengths: Tensor | None) -> Kept:
    """Gather the tokens (B, T) that are not masked, at most `size` of a row; see the module's docstring."""
    tokens, columns = masked.tokens, torch.arange(masked.tokens.shape[1], device=masked.tokens.device)
    end = tokens.shape[1]
    hidden = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, masked.positions, masked.used)
    if lengths is not None:
        hidden |= columns >= lengths[:, None]
    # Three groups in a row, each in the order of its positions: bases and [CLS], then [UNK], then what is hidden.
    order = columns + (end * (tokens == UNK)).masked_fill(hidden, 2 * end)
    chosen = order.sort(dim=1).values[:, :size]
    real = chosen < 2 * end
    positions = (chosen % end).masked_fill(~real, end).sort(dim=1).values
    positions = positions.masked_fill(positions == end, 0)
    counts = real.sum(1)
    padding = torch.arange(size, device=tokens.device) >= counts[:, None]
    return Kept(tokens.gather(1, positions).masked_fill(padding, PAD), positions, counts.int())


class MaskedAutoencoder(nn.Module):
    """An encoder of the discriminator's size, and the decoder that trains it; one stage.

    Args:
        encoder, decoder: by default they are built from the configuration.
        context: tokens of the windows they are trained on, where that is known.
    """

    def __init__(
        self,
        config: ElectraConfig,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        context: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.encoder = encoder or Encoder(config.discriminator, context)
        self.decoder = decoder or Decoder(config.decoder, config.discriminator.width)

    def initialize(self, seed: int) -> MaskedAutoencoder:
        """Draw all weights anew from a seed; returns self."""
        draws = torch.Generator().manual_seed(seed)
        initialize(self.encoder, draws)
        initialize(self.decoder, draws)
        return self

    def forward(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Proposed:
        """The loss of windows, over A, C, G, T at their masked bases; arguments as for `Electra`."""
        rate, span = self.config.mask_rate, self.config.mask_span
        masked = mask(tokens, rate, seed, rows, span, lengths)
        seen = kept(masked, capacity(tokens.shape[1], rate, span, lengths is not None), lengths)
        # Rows of one length have all K tokens.
        hidden = self.encoder(seen.tokens, None if lengths is None else seen.lengths, positions=seen.positions)
        logits = self.decoder(hidden, seen.positions, seen.lengths, masked.positions, tokens.shape[1], lengths)
        return Proposed(masked_cross_entropy(logits, masked), logits, masked)

    def stages(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Iterator[Proposed]:
        """The one stage that there is."""
        yield self(tokens, seed, rows, lengths)

    # What a masked language model is judged by is what this one is judged by: its loss at masked bases.
    sums = staticmethod(MaskedLM.sums)
    metrics = staticmethod(MaskedLM.metrics)
    scores = staticmethod(MaskedLM.scores)
    exact_metrics = staticmethod(MaskedLM.exact_metrics)
    interval = staticmethod(MaskedLM.interval)
    progress = staticmethod(MaskedLM.progress)
    summary = staticmethod(MaskedLM.summary)
    verdict = staticmethod(MaskedLM.verdict)
