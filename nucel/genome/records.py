"""Whole records as rows: one window for each record of a FASTA file of short sequences, such as DNA barcodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..runtime.environment import available_cpus
from ..runtime.errors import GenomeError
from ..tokenizers import nucleotide
from .fasta import Genome
from .sampler import WindowBatch, WindowSampler
from .windows import WindowOptions, Windows, contig_numbers

_GAP = ord("-")
_IS_GAP = (np.arange(256) == _GAP).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a genome, each to be read as a whole; ``len(records)`` is their number, N.

    Attributes:
        first: the first base of each record, as a window of one base: it stands for the record where records are held
            out, weighted and drawn.
        bases: bases of each contig of the genome, gaps left out if they are removed, int64 (contigs,).
        drop_gaps: whether ``-`` is removed; otherwise it reads as [UNK], as every letter that is not a base.
    """

    first: Windows
    bases: np.ndarray
    drop_gaps: bool

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lengths(self) -> np.ndarray:
        """Bases of each record, int64 (N,)."""
        return self.bases[self.first.contig]

    def tokens(self, contig: int) -> np.ndarray:
        """A record as a whole, forward, uint8 (bases,); `contig` is its number in the genome.

        Raises:
            OSError: the file was changed, cut short, replaced or removed.
        """
        letters = self.first.genome.letters(contig)
        return nucleotide.ENCODE[letters[letters != _GAP] if self.drop_gaps else letters]

    @classmethod
    def of(cls, genome: Genome, options: WindowOptions, drop_gaps: bool = False) -> Records:
        """All records that the options let through: contigs, unknown bases, repeats. Records without a base are none.

        Raises:
            GenomeError: no record is left.
        """
        gaps = _gaps_of(genome) if drop_gaps else np.zeros(len(genome.contigs), np.int64)
        bases = genome.lengths - gaps
        numbers = contig_numbers(genome, options.contigs) if options.contigs else np.arange(len(genome.contigs))
        numbers = numbers[bases[numbers] > 0]
        known = (genome.unknown_bp - gaps)[numbers] / bases[numbers] <= options.max_unknown
        if not known.any():
            raise GenomeError(
                f"each of the {len(numbers)} records with bases has a share of unknown bases above max_unknown = "
                f"{options.max_unknown}: raise it" + ("" if drop_gaps else ", or remove gaps with --drop-gaps")
            )
        numbers = numbers[known]
        repeat = genome.masked_bp[numbers] / genome.lengths[numbers] > options.max_masked
        weight = None
        if repeat.any() and options.masked_weight > 0:
            weight = np.where(repeat, options.masked_weight, 1.0)
        elif repeat.all():
            raise GenomeError(
                f"each of the {len(numbers)} records is soft-masked by more than max_masked = {options.max_masked}: "
                "raise it, or give masked_weight a value above 0"
            )
        else:
            numbers = numbers[~repeat]
        return cls(Windows(genome, 1, numbers, np.zeros(len(numbers), np.int64), weight), bases, drop_gaps)

    def hold_out(self, contigs: Sequence[str] = (), fraction: float = 0.0, seed: int = 0) -> tuple[Records, Records]:
        """Splits into (train, held_out), as `Windows.hold_out`. Equal sequences may fall on both sides."""
        train, held = self.first.hold_out(contigs, fraction, seed)
        return replace(self, first=train), replace(self, first=held)

    def weighted(self, genome_weights: Sequence[float]) -> Records:
        """The same records, drawn by these weights of the files; see `Windows.weighted`."""
        return replace(self, first=self.first.weighted(genome_weights))


def _gaps_of(genome: Genome) -> np.ndarray:
    """How many ``-`` each contig has, int64 (contigs,). Only files that have any are read."""
    gaps = np.zeros(len(genome.contigs), np.int64)
    doubtful = np.flatnonzero(genome.byte_counts[genome.file, _GAP] > 0)
    for length in np.unique(genome.lengths[doubtful]):
        some = doubtful[genome.lengths[doubtful] == length]
        start = np.zeros(len(some), np.int64)
        gaps[some] = genome._native.sum(some.astype(np.int32), start, int(length), _IS_GAP, available_cpus())
    return gaps


def _mixed(x: int) -> int:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _BITS
    return x ^ x >> 31


def _drawn(seed: int, row: int, count: int) -> int:
    """A number in [0, count), from a row's number: the same wherever and whenever the row is drawn."""
    bits = _mixed(_mixed(_mixed(seed) + _CROP & _BITS) + _GOLDEN * (row + 1) & _BITS)
    return bits * count >> 64


_BITS, _GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15
_CROP = 16
"""A stream of its own beside those that csrc/random.hpp draws from."""


class RecordBatch(NamedTuple):
    """Rows of one batch, as `WindowBatch`, but each of a length of its own, with [PAD] on the right.

    Attributes:
        tokens, rows, contig, strand: as there.
        start_bp: first of the row's bases in forward coordinates, not counting gaps that were removed, int64 (rows,).
        lengths: real tokens of each row, int32 (rows,).
    """

    tokens: np.ndarray
    rows: np.ndarray
    contig: np.ndarray
    start_bp: np.ndarray
    strand: np.ndarray
    lengths: np.ndarray


class RecordSampler:
    """Batches of whole records, each a pure function of (seed, step, rank, world_size).

    Which record and which strand a row shows is what a `WindowSampler` draws of windows of one base, so an epoch shows
    each record once, in an order of its own. A record of more than ``context - 1`` bases is cut to so many, at a place
    that is drawn per row. Shorter ones are padded on the right.

    Args:
        records: what to draw from.
        context: tokens of a row: [CLS] and at most context - 1 bases.
        batch_size, seed, rank, world_size, reverse_complement, threads: as `WindowSampler` has them.

    Attributes:
        rows: rows of a batch on this rank.
        steps_per_epoch: rows of an epoch / batch_size, not rounded.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(
        self,
        records: Records,
        context: int = 661,
        batch_size: int = 64,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reverse_complement: bool = True,
        threads: int | None = None,
    ):
        if context < 2:
            raise ValueError(f"context is [CLS] and one base at least: it must be 2 or more, got {context}")
        self.records, self.context, self.seed = records, context, seed
        self._order = WindowSampler(
            records.first, 2, batch_size, seed, rank, world_size, reverse_complement, threads
        )  # [CLS] and the first base
        self.rows, self.steps_per_epoch = self._order.rows, self._order.steps_per_epoch

    def batch(self, step: int) -> RecordBatch:
        """This rank's rows of a step, with their `lengths`; raises as `WindowSampler.batch`."""
        return self._filled(self._order.batch(step))

    def batch_of_all_ranks(self, step: int) -> RecordBatch:
        """The rows that all ranks together draw in a step."""
        return self._filled(self._order.batch_of_all_ranks(step))

    def _filled(self, drawn: WindowBatch) -> RecordBatch:
        tokens = np.full((len(drawn.rows), self.context), nucleotide.PAD, np.uint8)
        tokens[:, 0] = nucleotide.CLS
        lengths, start_bp = np.empty(len(drawn.rows), np.int32), np.zeros(len(drawn.rows), np.int64)
        for i, (row, contig, strand) in enumerate(
            zip(drawn.rows.tolist(), drawn.contig.tolist(), drawn.strand.tolist(), strict=True)
        ):
            bases = self.records.tokens(contig)
            if strand < 0:
                bases = nucleotide.reverse_complement(bases)
            if (surplus := len(bases) - (self.context - 1)) > 0:
                at = _drawn(self.seed, row, surplus + 1)
                bases = bases[at : at + self.context - 1]
                start_bp[i] = surplus - at if strand < 0 else at
            tokens[i, 1 : 1 + len(bases)] = bases
            lengths[i] = 1 + len(bases)
        return RecordBatch(tokens, drawn.rows, drawn.contig, start_bp, drawn.strand, lengths)
