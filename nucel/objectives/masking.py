"""Counter-based masks: functions of the seed and of a window's number, the same on any device, rank and resume."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tokenizers.nucleotide import BASES, MASK
from .stages import Masked, Proposed

MASK_STREAM, PROPOSAL_STREAM = 1, 2
_UNUSED = -100


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


def slots_of(positions: int, rate: float, span: int = 1) -> int:
    """Masked positions of a window of so many positions, [CLS] first: round(rate * blocks) blocks of `span` bases."""
    return span * round(rate * ((positions - 1) // span))


def mask(tokens: Tensor, rate: float, seed: int, rows: Tensor, span: int = 1, lengths: Tensor | None = None) -> Masked:
    """Choose round(rate * blocks) distinct blocks of bases per row, uniformly, and replace their bases by [MASK].

    Blocks are the `span` positions from 1, from 1 + span, and so on; bases after a row's last whole block are never
    chosen. With a span of 1, single bases are chosen.

    Args:
        tokens: (B, T), [CLS] first. Only blocks of A, C, G, T alone are chosen: none with a special or unknown token.
        rate: share of the blocks after [CLS].
        seed, rows: rows int64 (B,), each window's number in the run; see the module's docstring.
        lengths: (B,) integer, real positions of right-padded rows: each row has as many blocks as its own length gives.
    """
    blocks = (tokens.shape[1] - 1) // span
    first = 1 + span * torch.arange(blocks, device=tokens.device)
    bases = (tokens >= BASES[0]) & (tokens <= BASES[-1])
    maskable = bases[:, 1 : 1 + blocks * span].unflatten(1, (blocks, span)).all(2)
    keys = random_bits(seed, MASK_STREAM, rows[:, None], first).masked_fill(~maskable, -1)
    chosen = keys.topk(round(rate * blocks), dim=1)
    used = chosen.values >= 0
    if lengths is not None:
        wanted = (rate * ((lengths - 1) // span).double()).round()  # to even where half, as Python rounds
        used &= torch.arange(used.shape[1], device=tokens.device) < wanted[:, None]
    within = torch.arange(span, device=tokens.device)
    positions = (first[chosen.indices][..., None] + within).masked_fill(~used[..., None], 0).flatten(1)
    originals = tokens.gather(1, positions)
    filling = originals.masked_fill(positions > 0, MASK)
    return Masked(tokens.scatter(1, positions, filling), positions, originals)


def fill_in(network: nn.Module, masked: Masked, lengths: Tensor | None) -> Proposed:
    """A masked language model's logits at the masked positions, and their loss."""
    logits = network(masked.tokens, masked.positions, lengths)
    return Proposed(masked_cross_entropy(logits, masked), logits, masked)


def masked_cross_entropy(logits: Tensor, masked: Masked) -> Tensor:
    """Mean cross-entropy () over the used slots, in nats; 0 where no slot is used. logits (B, M, V)."""
    targets = masked.originals.long().masked_fill(~masked.used, _UNUSED)
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=_UNUSED, reduction="sum")
    return total / masked.used.sum().clamp(min=1)
