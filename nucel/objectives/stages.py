"""The nouns of the data flow: what each stage of pre-training hands to the next."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Masked(NamedTuple):
    tokens: Tensor
    """(B, T) like the input, [MASK] at the chosen positions."""
    positions: Tensor
    """int64 (B, M), distinct within a row. An unused slot (a row with fewer bases than slots) holds 0: [CLS]."""
    originals: Tensor
    """(B, M), the tokens that stood there."""

    @property
    def used(self) -> Tensor:
        """bool (B, M): slots that hold a masked position."""
        return self.positions > 0


class Corrupted(NamedTuple):
    tokens: Tensor
    """(B, T), the proposals in place of the masked tokens."""
    original: Tensor
    """bool (B, T): the token is the one that stood there, proposed or never masked."""


class Losses(NamedTuple):
    """One forward pass: what is minimised, and what its metrics are made from. A masked LM has nothing of RTD."""

    loss: Tensor
    """(), generator_loss + discriminator_weight * rtd_loss."""
    generator_loss: Tensor
    """(), mean cross-entropy over the masked positions, in nats."""
    generator_logits: Tensor
    """(B, M, V)."""
    masked: Masked
    rtd_loss: Tensor | None = None
    """(), mean binary cross-entropy over the real positions, in nats."""
    rtd_logits: Tensor | None = None
    """(B, T)."""
    corrupted: Corrupted | None = None
