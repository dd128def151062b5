"""The one batched inference loop: sequences sorted by length, padded, run, and put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..runtime.cli import counting
from ..runtime.device import Precision
from ..tokenizers import nucleotide

BATCH_TOKENS = 16_384
"""Tokens of a batch, padding included, where nothing else is asked for."""
_BLOCK_BATCHES = 16
"""Batches whose sequences are sorted by length together: enough to keep padding small, few enough to hold."""


class Batch(NamedTuple):
    """Sequences as a network takes them."""

    tokens: Tensor
    """uint8 (B, T) on the network's device: [CLS], the sequence, [PAD]."""
    lengths: Tensor | None
    """int32 (B,), real positions of each row, [CLS] included; None where no row has padding."""
    rows: Tensor
    """int64 (B,) on the same device: which of the sequences each row is."""


def make_batch(
    sequences: Sequence[np.ndarray] | np.ndarray, device: torch.device, rows: Sequence[int] | None = None
) -> Batch:
    """Sequences, uint8 (length,) without [CLS], padded on the right to the longest; `rows` are 0, 1, ... by default."""
    lengths = np.array([1 + len(tokens) for tokens in sequences], np.int32)
    padded = np.full((len(lengths), lengths.max()), nucleotide.PAD, np.uint8)
    padded[:, 0] = nucleotide.CLS
    for row, tokens in zip(padded, sequences, strict=True):
        row[1 : 1 + len(tokens)] = tokens
    even = (lengths == lengths[0]).all()
    return Batch(
        torch.from_numpy(padded).to(device),
        None if even else torch.from_numpy(lengths).to(device),
        torch.as_tensor(range(len(sequences)) if rows is None else rows, dtype=torch.int64, device=device),
    )


def _blocks(lengths: np.ndarray, batch_tokens: int) -> Iterator[list[list[int]]]:
    """Rows in blocks, in order; each block in batches, longest rows first, each of so many tokens or of one row."""
    block_of = (np.cumsum(lengths) - lengths) // (_BLOCK_BATCHES * batch_tokens)
    for rows in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(block_of)) + 1):
        rows = rows[np.argsort(-lengths[rows], kind="stable")].tolist()
        batches: list[list[int]] = []
        while rows:
            size = max(1, batch_tokens // int(lengths[rows[0]]))
            batches.append(rows[:size])
            rows = rows[size:]
        yield batches


@torch.no_grad()
def predict(
    network: Callable[[Batch], Tensor],
    tokens: Sequence[np.ndarray],
    precision: Precision,
    batch_tokens: int = BATCH_TOKENS,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """What a network gives for each sequence, in the order of the sequences, as they become known.

    Sequences of like length share a batch. What a row gives does not depend on what it shares its batch with, up to the
    rounding of matrix products of other shapes.

    Args:
        network: from a batch to (B, ...); it is called without gradients, under the precision's autocast.
        tokens: n arrays uint8 (length,) of token ids, without [CLS].
        precision: where the batches go; the network must be there already.
        batch_tokens: tokens of a batch at most, padding included; a longer sequence makes a batch of its own.
        progress: what the sequences are called in a progress bar; None shows none.

    Yields:
        n arrays float32 (...): a row of the network's result each. One with positions has those of padding as well.
    """
    if not len(tokens):
        return
    lengths = np.array([1 + len(sequence) for sequence in tokens], np.int64)
    with counting(len(tokens), progress) as count:
        for batches in _blocks(lengths, batch_tokens):
            results: dict[int, np.ndarray] = {}
            for rows in batches:
                with precision.autocast():
                    result = network(make_batch([tokens[i] for i in rows], precision.device, rows))
                results.update(zip(rows, result.float().cpu().numpy(), strict=True))
                count(len(rows))
            for row in sorted(results):
                yield results.pop(row)
