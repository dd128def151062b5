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
    keys = random_bits(seed, MASK_STREAM, rows[:, None], columns)
    chosen = keys.masked_fill(~maskable, -1).topk(slots, dim=1)
    positions = chosen.indices.masked_fill(chosen.values < 0, 0)
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
