"""The nouns of the data flow: what each stage of pre-training hands to the next."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..tokenizers.nucleotide import CLS, PAD


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

    @property
    def bases(self) -> Tensor:
        """bool (B, T): neither padding nor [CLS], which is never replaced."""
        return (self.tokens != PAD) & (self.tokens != CLS)


class Proposed(NamedTuple):
    """A masked language model's stage: all there is of an MLM, and of a pair what its discriminator builds on."""

    loss: Tensor
    """(), mean cross-entropy over the masked positions, in nats."""
    logits: Tensor
    """(B, M, V)."""
    masked: Masked

    @property
    def share(self) -> Tensor:
        """(), what this stage adds to the loss."""
        return self.loss


class Discriminated(NamedTuple):
    """The discriminator's stage, and the proposals that it builds on."""

    share: Tensor
    """(), what this stage adds to the loss: discriminator_weight * rtd_loss."""
    rtd_loss: Tensor
    """(), mean binary cross-entropy over the real positions, in nats."""
    logits: Tensor
    """(B, T), log-odds that a token is the original."""
    corrupted: Corrupted
    proposed: Proposed

    @property
    def loss(self) -> Tensor:
        """(), of both stages."""
        return self.proposed.loss + self.share
