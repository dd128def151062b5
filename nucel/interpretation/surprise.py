"""Surprise: how unexpected a discriminator finds each base of a genome, in one pass per strand.

    genome --parts of tiles--> tokens --discriminator--> z (B, T) --> s = -ln sigma(z) >= 0, the mean of both strands

z is the log-odds that a base is the one that belongs there, so that s is -ln P(original): near 0 where a base is as
expected, high where it looks replaced. A masked model needs one pass for each base to say as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..genome.fasta import Genome
from ..inference.predict import BATCH_TOKENS, make_batch
from ..inference.tiles import Tiles
from ..model.networks import Discriminator
from ..runtime.device import Precision
from ..runtime.errors import require
from ..tokenizers import nucleotide

_PART_BP = 1 << 20
"""Bases that a part keeps, about: small enough to lose by a kill, large enough that files are few."""


@dataclass(frozen=True, kw_only=True)
class SurpriseOptions:
    """How a genome is read."""

    average_reverse_complement: bool = True
    """Take the mean of both strands, so that a genome and its reverse complement have the same track."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once, padding included; a longer sequence makes a batch of its own."""
    context: int | None = None
    """Longest tile in tokens, [CLS] and bases; by default that of the windows which the model was trained on."""
    overlap_bp: int | None = None
    """Bases that neighbouring tiles share at least; by default a quarter of the context."""

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("context", 2), ("overlap_bp", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{name} must be at least {least}, got {value}")

    def tiles(self, length: int, context: int) -> Tiles:
        """The tiles that a contig is read in."""
        overlap = context // 4 if self.overlap_bp is None else self.overlap_bp
        require(overlap < context - 1, f"overlap_bp must be below the {context - 1} bases of a tile, got {overlap}")
        return Tiles(length, context - 1, overlap)


class Part(NamedTuple):
    """Bases [start_bp, end_bp) of a contig, kept by the tiles [first, last) of it."""

    contig: int
    first: int
    last: int
    start_bp: int
    end_bp: int


def parts_of(genome: Genome, contigs: Sequence[int], options: SurpriseOptions, context: int) -> Iterator[Part]:
    """The parts of these contigs, in order; together they keep every base once."""
    for contig in contigs:
        tiles = options.tiles(int(genome.lengths[contig]), context)
        step = max(1, _PART_BP // (tiles.room - tiles.overlap))
        for first in range(0, len(tiles), step):
            last = min(first + step, len(tiles))
            yield Part(contig, first, last, tiles[first].keep_start, tiles[last - 1].keep_end)


@torch.no_grad()
def surprise(
    discriminator: Discriminator,
    genome: Genome,
    part: Part,
    options: SurpriseOptions,
    context: int,
    precision: Precision,
) -> np.ndarray:
    """-ln P(original) of each base of a part, float32 (end_bp - start_bp,); nan where the base is not known.

    Args:
        discriminator: on the precision's device.
        context: tokens of a tile, [CLS] and bases.

    Raises:
        OSError: a file of the genome was changed, cut short, replaced or removed.
    """
    length = int(genome.lengths[part.contig])
    tiles = options.tiles(length, context)[part.first : part.last]
    start, end = tiles[0].start, tiles[-1].end
    tokens = genome.fetch(part.contig, start, end)
    values = np.full(part.end_bp - part.start_bp, np.nan, np.float32)
    if not len(tokens):
        return values
    rows = max(1, options.batch_tokens // (1 + tiles[0].end - tiles[0].start))
    for i in range(0, len(tiles), rows):
        chosen = tiles[i : i + rows]
        forward = np.stack([tokens[tile.start - start : tile.end - start] for tile in chosen])
        strands = [forward]
        if options.average_reverse_complement:
            strands.append(nucleotide.reverse_complement(forward))
        read = [_strand(discriminator, strand, precision) for strand in strands]
        mean = read[0] if len(read) == 1 else (read[0] + read[1][:, ::-1]) / 2
        for tile, row in zip(chosen, mean, strict=True):
            kept = slice(tile.keep_start - tile.start, tile.keep_end - tile.start)
            values[tile.keep_start - part.start_bp : tile.keep_end - part.start_bp] = row[kept]
    kept_tokens = tokens[part.start_bp - start : part.end_bp - start]
    values[~np.isin(kept_tokens, nucleotide.BASES)] = np.nan
    return values


def _strand(discriminator: Discriminator, tokens: np.ndarray, precision: Precision) -> np.ndarray:
    """-ln P(original), float32 (B, L), of bases uint8 (B, L) without [CLS]."""
    batch = make_batch(tokens, precision.device)
    with precision.autocast():
        logits = discriminator.logits(batch.tokens)
    return F.softplus(-logits[:, 1:].float()).cpu().numpy()
