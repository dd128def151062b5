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

_BATCH_TOKENS = 16_384
"""Tokens of a batch, padding included, where no number of sequences is asked for."""
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


def make_batch(tokens: Sequence[np.ndarray], rows: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Some of the sequences, uint8 (length,) without [CLS], padded on the right to the longest of them."""
    lengths = np.array([1 + len(tokens[i]) for i in rows], np.int32)
    padded = np.full((len(lengths), lengths.max()), nucleotide.PAD, np.uint8)
    padded[:, 0] = nucleotide.CLS
    for row, i in zip(padded, rows, strict=True):
        row[1 : 1 + len(tokens[i])] = tokens[i]
    even = (lengths == lengths[0]).all()
    return Batch(
        torch.from_numpy(padded).to(device),
        None if even else torch.from_numpy(lengths).to(device),
        torch.as_tensor(np.asarray(rows, np.int64), device=device),
    )


def _blocks(lengths: np.ndarray, batch_size: int | None) -> Iterator[list[list[int]]]:
    """Rows in blocks, in order; each block in batches, longest rows first, each within its share of tokens or rows."""
    limit = _BLOCK_BATCHES * (batch_size or _BATCH_TOKENS)
    weight = np.ones_like(lengths) if batch_size else lengths
    block_of = (np.cumsum(weight) - weight) // limit
    for rows in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(block_of)) + 1):
        rows = rows[np.argsort(-lengths[rows], kind="stable")].tolist()
        batches: list[list[int]] = []
        while rows:
            size = batch_size or max(1, _BATCH_TOKENS // int(lengths[rows[0]]))
            batches.append(rows[:size])
            rows = rows[size:]
        yield batches


@torch.no_grad()
def predict(
    network: Callable[[Batch], Tensor],
    tokens: Sequence[np.ndarray],
    precision: Precision,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """What a network gives for each sequence, in the order of the sequences, as they become known.

    Sequences of like length share a batch. What a row gives does not depend on what it shares its batch with, up to the
    rounding of matrix products of other shapes.

    Args:
        network: from a batch to (B, ...); it is called without gradients, under the precision's autocast.
        tokens: n arrays uint8 (length,) of token ids, without [CLS].
        precision: where the batches go; the network must be there already.
        batch_size: sequences of a batch; None is as many as make 16,384 tokens, padding included.
        progress: what the sequences are called in a progress bar; None shows none.

    Yields:
        n arrays float32 (...): a row of the network's result each. One with positions has those of padding as well.
    """
    if not len(tokens):
        return
    lengths = np.array([1 + len(sequence) for sequence in tokens], np.int64)
    with counting(len(tokens), progress) as count:
        for batches in _blocks(lengths, batch_size):
            found: dict[int, np.ndarray] = {}
            for rows in batches:
                with precision.autocast():
                    result = network(make_batch(tokens, rows, precision.device))
                found.update(zip(rows, result.float().cpu().numpy(), strict=True))
                count(len(rows))
            for row in sorted(found):
                yield found.pop(row)
