"""The method: mask, propose, corrupt, judge (ELECTRA; NucEL's label, 1 = original).

    tokens --mask--> Masked --Generator--> logits --propose--> proposals --corrupt--> Corrupted --Discriminator--> loss

All randomness is counter-based: a draw is a hash of (seed, row, stream, column), where a row is a window's place in the
whole run. So the same windows get the same masks and the same proposals on any device, in any micro-batch, on any
number of ranks, after any resume, and no generator has a state to save.

Legend: B batch, T positions, M masked slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..model.config import ElectraConfig
from ..model.networks import Discriminator, Generator, initialize
from ..tokenizers.nucleotide import BASES
from .masking import PROPOSAL_STREAM, fill_in, mask, random_bits
from .stages import Corrupted, Losses, Masked


@torch.no_grad()
def propose(logits: Tensor, temperature: float, seed: int, rows: Tensor, positions: Tensor) -> Tensor:
    """Draw one of A, C, G, T per slot from softmax(logits / temperature), by Gumbel-max in fp32; token ids (B, M).

    Args:
        logits: (B, M, V).
        seed, rows, positions: as for `mask`; the draw belongs to the position, not to its slot.
    """
    base = torch.arange(len(BASES), device=logits.device)
    bits = random_bits(seed, PROPOSAL_STREAM, rows[:, None, None], positions[..., None] * len(BASES) + base)
    uniform = ((bits >> 40).float() + 0.5) * 2.0**-23  # 23 bits: both ends stay off 0 and 1 in fp32
    gumbel = -(-uniform.log()).log()
    scores = logits[..., BASES[0] : BASES[-1] + 1].float() / temperature
    return (scores + gumbel).argmax(-1) + BASES[0]


def corrupt(tokens: Tensor, masked: Masked, proposals: Tensor) -> Corrupted:
    """Put the proposals (B, M) into tokens (B, T). A proposal that equals the original token counts as original."""
    filling = torch.where(masked.used, proposals.to(tokens.dtype), masked.originals)
    corrupted = tokens.scatter(1, masked.positions, filling)
    return Corrupted(corrupted, corrupted == tokens)


class Electra(nn.Module):
    """Generator and discriminator, trained together (NucEL, eq. 1-3).

    Args:
        generator, discriminator: by default they are built from the configuration.
        context: tokens of the windows they are trained on, where that is known.
    """

    def __init__(
        self,
        config: ElectraConfig,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        context: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.generator = generator or Generator(config.generator, config.tie_embeddings, context)
        self.discriminator = discriminator or Discriminator(config.discriminator, context)

    def initialize(self, seed: int) -> Electra:
        """Draw all weights anew from a seed; returns self."""
        draws = torch.Generator().manual_seed(seed)
        initialize(self.generator, draws)
        initialize(self.discriminator, draws)
        return self

    def forward(
        self,
        tokens: Tensor,
        seed: int,
        rows: Tensor,
        lengths: Tensor | None = None,
        backward: Callable[[Tensor], None] | None = None,
    ) -> Losses:
        """Losses of windows.

        Args:
            tokens: (B, T), [CLS] first.
            seed, rows: rows int64 (B,), each window's number in the run; they decide masks and proposals.
            lengths: (B,) integer, real positions of right-padded rows.
            backward: called with each network's share of the loss as soon as it is known. No gradient flows from the
                discriminator to the generator, so the generator's activations need not outlive its own backward pass.
        """
        config = self.config
        masked = mask(tokens, config.mask_rate, seed, rows)
        generator_loss, generator_logits = fill_in(self.generator, masked, lengths, backward)
        proposals = propose(generator_logits, config.temperature, seed, rows, masked.positions)
        corrupted = corrupt(tokens, masked, proposals)
        rtd_loss, rtd_logits = self.discriminator(corrupted.tokens, corrupted.original, lengths)
        if backward is not None:
            backward(config.discriminator_weight * rtd_loss)
            rtd_loss = rtd_loss.detach()

        loss = generator_loss + config.discriminator_weight * rtd_loss
        return Losses(loss, generator_loss, generator_logits, masked, rtd_loss, rtd_logits, corrupted)
