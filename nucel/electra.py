"""The method: mask, propose, corrupt, judge (ELECTRA; NucEL's label, 1 = original).

    tokens --mask--> Masked --Generator--> logits --propose--> proposals --corrupt--> Corrupted --Discriminator--> loss

All randomness is counter-based: a draw is a hash of (seed, row, stream, column), where a row is a window's place in the
whole run. So the same windows get the same masks and the same proposals on any device, in any micro-batch, on any
number of ranks, after any resume, and no generator has a state to save.

Legend: B batch, T positions, M masked slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ElectraConfig
from .model import Discriminator, Generator, initialize
from .vocab import BASES, MASK

_MASK_STREAM, _PROPOSAL_STREAM = 1, 2
_UNUSED = -100


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


def _signed(x: int) -> int:
    """A 64-bit constant as torch's int64 holds it."""
    return x - (1 << 64) if x >= 1 << 63 else x


_GOLDEN, _MIX_1, _MIX_2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: Tensor) -> Tensor:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014): int64, any shape; products wrap."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def random_bits(seed: int, stream: int, rows: Tensor, columns: Tensor) -> Tensor:
    """63 random bits, int64 >= 0, for every (row, column) of two broadcastable int64 tensors."""
    key = _mix(_mix(rows.new_full((), seed)) + rows.new_full((), stream))
    return _mix(_mix(key + rows * _GOLDEN) + (columns + 1) * _GOLDEN) & ((1 << 63) - 1)


def mask(tokens: Tensor, rate: float, seed: int, rows: Tensor) -> Masked:
    """Choose round(rate * (T - 1)) distinct bases per row, uniformly, and replace each by [MASK].

    Args:
        tokens: (B, T), [CLS] first. Only A, C, G, T are chosen: never a special or an unknown token.
        rate: share of the positions after [CLS].
        seed, rows: rows int64 (B,), each window's number in the run; see the module's docstring.
    """
    slots = round(rate * (tokens.shape[1] - 1))
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    maskable = (tokens >= BASES[0]) & (tokens <= BASES[-1])
    keys = random_bits(seed, _MASK_STREAM, rows[:, None], columns)
    chosen = keys.masked_fill(~maskable, -1).topk(slots, dim=1)
    positions = chosen.indices.masked_fill(chosen.values < 0, 0)
    originals = tokens.gather(1, positions)
    filling = originals.masked_fill(positions > 0, MASK)
    return Masked(tokens.scatter(1, positions, filling), positions, originals)


@torch.no_grad()
def propose(logits: Tensor, temperature: float, seed: int, rows: Tensor, positions: Tensor) -> Tensor:
    """Draw one of A, C, G, T per slot from softmax(logits / temperature), by Gumbel-max in fp32; token ids (B, M).

    Args:
        logits: (B, M, V).
        seed, rows, positions: as for `mask`; the draw belongs to the position, not to its slot.
    """
    base = torch.arange(len(BASES), device=logits.device)
    bits = random_bits(seed, _PROPOSAL_STREAM, rows[:, None, None], positions[..., None] * len(BASES) + base)
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
    """

    def __init__(
        self, config: ElectraConfig, generator: nn.Module | None = None, discriminator: nn.Module | None = None
    ):
        super().__init__()
        self.config = config
        self.generator = generator or Generator(config.generator, config.tie_embeddings)
        self.discriminator = discriminator or Discriminator(config.discriminator)

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
        generator_loss, generator_logits = _fill_in(self.generator, masked, lengths, backward)
        proposals = propose(generator_logits, config.temperature, seed, rows, masked.positions)
        corrupted = corrupt(tokens, masked, proposals)
        rtd_loss, rtd_logits = self.discriminator(corrupted.tokens, corrupted.original, lengths)
        if backward is not None:
            backward(config.discriminator_weight * rtd_loss)
            rtd_loss = rtd_loss.detach()

        loss = generator_loss + config.discriminator_weight * rtd_loss
        return Losses(loss, generator_loss, generator_logits, masked, rtd_loss, rtd_logits, corrupted)


class MaskedLM(nn.Module):
    """The control: an encoder of the discriminator's size that learns from masked bases alone (BERT's objective).

    It reads the same windows with the same masks as the pair.
    """

    def __init__(self, config: ElectraConfig, masked_lm: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.masked_lm = masked_lm or Generator(config.discriminator, config.tie_embeddings)

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
        loss, logits = _fill_in(self.masked_lm, masked, lengths, backward)
        return Losses(loss, loss, logits, masked)


def _fill_in(
    network: nn.Module, masked: Masked, lengths: Tensor | None, backward: Callable[[Tensor], None] | None
) -> tuple[Tensor, Tensor]:
    """A masked language model's loss () and logits (B, M, V); detached, once `backward` has been through them."""
    logits = network(masked.tokens, masked.positions, lengths)
    loss = masked_cross_entropy(logits, masked)
    if backward is None:
        return loss, logits
    backward(loss)
    return loss.detach(), logits.detach()


def masked_cross_entropy(logits: Tensor, masked: Masked) -> Tensor:
    """Mean cross-entropy () over the used slots, in nats; 0 where no slot is used. logits (B, M, V)."""
    targets = masked.originals.long().masked_fill(~masked.used, _UNUSED)
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=_UNUSED, reduction="sum")
    return total / masked.used.sum().clamp(min=1)
