"""Batches of token windows, each a pure function of (seed, step, rank, world size): `WindowSampler`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import _nucel
import numpy as np

from ..runtime.environment import available_cpus
from ..tokenizers import nucleotide
from .fasta import FORWARD, REVERSE
from .windows import Windows, require_integers, require_seed


class WindowBatch(NamedTuple):
    """Rows of one batch: [CLS] and ``context - 1`` bases each.

    Attributes:
        tokens: uint8 (rows, context).
        rows: number of each row among all that a run draws, int64 (rows,).
        contig: position of each row's contig in ``genome.contigs``, int32 (rows,).
        start_bp: first of the row's bases in forward coordinates, on either strand, int64 (rows,).
        strand: 1 forward, -1 reverse complement, int8 (rows,).
    """

    tokens: np.ndarray
    rows: np.ndarray
    contig: np.ndarray
    start_bp: np.ndarray
    strand: np.ndarray


class WindowSampler:
    """Batches of rows cut from windows, each batch a pure function of (seed, step, rank, world_size).

    There is no state, so any step can be computed at any time and from any thread, and resuming needs the step alone.
    All rows ever drawn are numbered through: row r of step s is number s * batch_size + r. Number g shows a window of
    epoch g // n, in an order of the n windows that differs from epoch to epoch; each epoch shows every window once.
    Where in its window a row begins, and on which strand it is read, is drawn per epoch and window.

    If the windows have weights, those of one weight form a group. Of the rows of an epoch, about as many as there are
    windows, each group has a fixed number, in proportion to the sum of its weights and at least one, scattered over the
    epoch; through them it shows its windows in passes of its own, each window once a pass.

    Iteration gives the batches of the steps 0, 1, 2, ... and does not end. A sampler can be pickled, as its windows and
    their genome can. For PyTorch, the data set is the range of the steps, which any number of workers may share::

        steps = range(first, last)
        for batch in DataLoader(steps, batch_size=None, collate_fn=sampler.batch, num_workers=4):
            tokens = torch.from_numpy(batch.tokens)  # uint8 (rows, context)

    or, without workers, where an IterableDataset is wanted::

        class Batches(IterableDataset):
            def __iter__(self):
                return iter(sampler)

    Args:
        windows: what to draw from, n of them.
        context: tokens of a row: [CLS] and context - 1 bases, which must fit into a window.
        batch_size: rows of a batch over all ranks.
        seed: in [0, 2**64).
        rank: this process's number, r: it draws the rows [r * B // W, (r + 1) * B // W) of each batch.
        world_size: the number of processes, W.
        reverse_complement: read a row from the reverse strand with probability one half.
        threads: None is as many as the CPUs this process may use. They change nothing but the speed.

    Attributes:
        rows: rows of a batch on this rank.
        steps_per_epoch: rows of an epoch / batch_size, not rounded: a batch may begin in one epoch and end in the next.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(
        self,
        windows: Windows,
        context: int = 1024,
        batch_size: int = 192,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reverse_complement: bool = True,
        threads: int | None = None,
    ):
        require_integers(context=context, batch_size=batch_size, rank=rank, world_size=world_size, threads=threads)
        if not len(windows):
            raise ValueError("there are no windows to draw from")
        if not 1 <= context - 1 <= windows.window_bp:
            raise ValueError(
                f"context is [CLS] and 1 to window_bp bases: it must lie in [2, {windows.window_bp + 1}], got {context}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size) = [0, {world_size}), got {rank}")
        if batch_size < world_size:
            raise ValueError(
                f"batch_size is over all ranks, so it must be at least world_size = {world_size}, got {batch_size}"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, or None for all CPUs, got {threads}")
        require_seed(seed)
        self.windows = windows
        self.context = context
        self.batch_size = batch_size
        order, groups = _groups(windows)
        self.steps_per_epoch = int(groups[:, 1].sum()) / batch_size
        self._first_row = rank * batch_size // world_size
        self.rows = (rank + 1) * batch_size // world_size - self._first_row
        self._threads = available_cpus() if threads is None else threads
        self._arguments = (windows, context, batch_size, seed, rank, world_size, reverse_complement, threads)
        self._native = _nucel.Sampler(
            windows.genome._native, windows.contig[order], windows.start_bp[order], groups, windows.window_bp, context,
            seed, reverse_complement, FORWARD, REVERSE, nucleotide.CLS,
        )  # fmt: skip

    def __iter__(self) -> Iterator[WindowBatch]:
        return map(self.batch, itertools.count())

    def __reduce__(self) -> tuple[type[WindowSampler], tuple[object, ...]]:
        return WindowSampler, self._arguments

    def batch(self, step: int) -> WindowBatch:
        """This rank's rows of a step, in new arrays.

        Raises:
            ValueError: a negative step, or one whose rows can no longer be counted with 63 bits.
            OSError: a file of the genome was changed, cut short, replaced or removed.
        """
        return self._draw(step, self._first_row, self.rows)

    def batch_of_all_ranks(self, step: int) -> WindowBatch:
        """The rows that all ranks together draw in a step; raises as `batch`."""
        return self._draw(step, 0, self.batch_size)

    def _draw(self, step: int, first: int, count: int) -> WindowBatch:
        """`count` rows of a step, from its row `first`."""
        require_integers(step=step)
        if not 0 <= step < (1 << 63) // self.batch_size - 1:
            raise ValueError(f"step must lie in [0, 2**63 / batch_size), got {step}")
        first += step * self.batch_size
        tokens, contig, start_bp, strand = self._native.rows(first, count, self._threads)
        return WindowBatch(tokens, np.arange(first, first + count, dtype=np.int64), contig, start_bp, strand)


def _groups(windows: Windows) -> tuple[slice | np.ndarray, np.ndarray]:
    """An order in which windows of one weight stand together, and int64 (groups, 2): windows and rows of an epoch."""
    n = len(windows)
    uniform = np.ones(n) if windows.weight is None else windows.weight
    weights, group = np.unique(uniform, return_inverse=True)
    if len(weights) <= 1:
        return slice(None), np.array([[n, n]], np.int64)
    size = np.bincount(group)
    share = size * weights / (size * weights).sum()
    rows = np.maximum(1, np.round(n * share)).astype(np.int64)
    return np.argsort(group, kind="stable"), np.stack([size, rows], axis=1)
