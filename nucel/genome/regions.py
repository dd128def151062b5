"""BED regions, and the stretches of a genome that they cover."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..runtime.cli import note
from ..runtime.errors import GenomeError
from .decompress import is_gzip
from .fasta import Genome


class Stretches(NamedTuple):
    """Ranges on contigs: contig int64 (n,), start_bp and end_bp int64 (n,)."""

    contig: np.ndarray
    start_bp: np.ndarray
    end_bp: np.ndarray


def usable_stretches(
    genome: Genome,
    numbers: np.ndarray,
    keep_bed: str | os.PathLike[str] | None,
    drop_bed: str | os.PathLike[str] | None,
) -> Stretches:
    """What is left of these contigs, or of the regions kept on them, without the regions left out. Sorted, disjoint."""
    kept = Stretches(numbers, np.zeros(len(numbers), np.int64), genome.lengths[numbers])
    if keep_bed is None and drop_bed is None:
        return kept
    # All contigs on one line, a base apart, so that ranges of two contigs neither overlap nor touch.
    first = np.cumsum(genome.lengths + 1) - (genome.lengths + 1)
    if keep_bed is not None:
        regions = _read_bed(genome, Path(keep_bed))
        chosen = np.isin(regions.contig, numbers)
        kept = Stretches(*(column[chosen] for column in regions))
    starts, ends = _united(first[kept.contig] + kept.start_bp, first[kept.contig] + kept.end_bp)
    if drop_bed is not None:
        dropped = _read_bed(genome, Path(drop_bed))
        holes = _united(first[dropped.contig] + dropped.start_bp, first[dropped.contig] + dropped.end_bp)
        # Between two neighbouring ends of ranges, all bases are kept or all are dropped.
        points = np.unique(np.concatenate([starts, ends, *holes]))
        left = inside(points[:-1], starts, ends) & ~inside(points[:-1], *holes)
        starts, ends = _united(points[:-1][left], points[1:][left])
    contig = np.searchsorted(first, starts, side="right") - 1
    return Stretches(contig, starts - first[contig], ends - first[contig])


def _united(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint ranges, sorted, that cover what the given ones cover."""
    order = np.argsort(starts[ends > starts], kind="stable")
    starts, ends = starts[ends > starts][order], np.maximum.accumulate(ends[ends > starts][order])
    new = np.ones(len(starts), bool)
    new[1:] = starts[1:] > ends[:-1]
    last = np.ones(len(starts), bool)
    last[:-1] = new[1:]
    return starts[new], ends[last]


def inside(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which points lie in one of these sorted, disjoint ranges, bool."""
    before = np.searchsorted(starts, points, side="right")
    return (before > 0) & (points < np.concatenate([[0], ends])[before])


class Region(NamedTuple):
    """A line of a BED file; name, score and strand are "." where it has none."""

    line: int
    contig: str
    start_bp: int
    end_bp: int
    name: str
    score: str
    strand: str

    def require_inside(self, genome: Genome, bed: Path) -> None:
        """Raises GenomeError unless the genome has the contig, and it these bases."""
        length = genome.lengths[genome.contig_number(self.contig)]
        if not 0 <= self.start_bp <= self.end_bp <= length:
            raise GenomeError(
                f"{bed}, line {self.line}: [{self.start_bp}, {self.end_bp}) is not inside contig '{self.contig}', "
                f"which has {length} bases; is it of another assembly?"
            )


def read_regions(bed: Path) -> Iterator[Region]:
    """The regions of a BED file, plain or gzip, in its order; comments and track lines are passed over.

    Raises:
        GenomeError: a line without contig, start and end.
    """
    with gzip.open(bed, "rt") if is_gzip(bed) else open(bed) as file:
        for i, line in enumerate(file, start=1):
            columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if not line.strip() or line.startswith("#") or columns[0].strip() in ("track", "browser"):
                continue
            name, score, strand = (columns[k] if len(columns) > k else "." for k in (3, 4, 5))
            try:
                yield Region(i, columns[0], int(columns[1]), int(columns[2]), name, score, strand)
            except (IndexError, ValueError):
                raise GenomeError(f"{bed}, line {i}: no contig, start and end: {line[:60]!r}") from None


def _read_bed(genome: Genome, bed: Path) -> Stretches:
    """The regions of a BED file, plain or gzip. Lines on contigs that the genome lacks are skipped, and announced."""
    rows: list[tuple[int, int, int]] = []
    unknown: dict[str, int] = {}
    for region in read_regions(bed):
        number = genome._number.get(region.contig)
        if number is None:
            unknown[region.contig] = region.line
        else:
            region.require_inside(genome, bed)
            rows.append((number, region.start_bp, region.end_bp))
    if not rows:
        some = f"; its contigs are {', '.join(list(unknown)[:5])}" if unknown else ""
        raise GenomeError(f"{bed} has no region on the genome's contigs, {', '.join(genome.contigs[:5])}{some}")
    if unknown:
        note(f"{bed}: skipping regions on {len(unknown)} contigs that are not there: {', '.join(list(unknown)[:5])}")
    return Stretches(*np.array(rows, np.int64).T)
