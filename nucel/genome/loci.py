"""Where a position of a named contig is in a genome whose file may use other names, or hold only pieces of contigs."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..runtime.cli import note
from .fasta import Genome

_REGION = re.compile(r"(?P<contig>[^\s:]+):(?P<first>[\d,]+)-(?P<last>[\d,]+)")


class Region(NamedTuple):
    """Bases [start_bp, end_bp) of a contig, counted from 0."""

    contig: str
    start_bp: int
    end_bp: int


def parse_region(text: str) -> Region | None:
    """The region that `contig:first-last` names, as samtools does: both counted from 1 and included. None if none."""
    match = _REGION.fullmatch(text)
    return match and _region(match)


def _region(match: re.Match[str]) -> Region | None:
    first, last = (int(match[name].replace(",", "") or 0) for name in ("first", "last"))
    return Region(match["contig"], first - 1, last) if 1 <= first <= last else None


class _Piece(NamedTuple):
    """A record of the file, which is a contig from start_bp to end_bp."""

    start_bp: int
    end_bp: int
    number: int


def canonical(contig: str) -> str:
    """A contig's name without what assemblies differ in: 1 for chr1, MT for chrM."""
    bare = contig[3:] if contig[:3].lower() == "chr" else contig
    return "MT" if bare == "M" else bare


class Reference:
    """The contigs of a genome by the names that variants use.

    A record is the whole contig of its name. If its name or its description holds `contig:first-last`, counted from 1
    and of the record's length, as samtools faidx writes it, it is also that piece of that contig. `1` and `chr1`, and
    `MT` and `chrM`, match each other where the genome does not have the exact name; a note says so once.

    Attributes:
        genome: as given.
    """

    def __init__(self, genome: Genome):
        self.genome = genome
        self._pieces: dict[str, list[_Piece]] = {}
        for number, (name, length) in enumerate(zip(genome.contigs, genome.lengths.tolist(), strict=True)):
            self._pieces.setdefault(name, []).append(_Piece(0, length, number))
            for match in _REGION.finditer(f"{name} {genome.descriptions[number]}"):
                region = _region(match)
                if region is not None and region.end_bp - region.start_bp == length:
                    self._pieces.setdefault(region.contig, []).append(_Piece(region.start_bp, region.end_bp, number))
        self._alias: dict[str, str | None] = {}
        for name in self._pieces:
            short = canonical(name)
            self._alias[short] = None if short in self._alias else name  # None: several, so none is meant
        self._said = False

    def find(self, contig: str) -> list[_Piece]:
        """The records that hold parts of a contig; none where the genome does not know it."""
        pieces = self._pieces.get(contig)
        if pieces is None:
            name = self._alias.get(canonical(contig))
            if name is None:
                return []
            if not self._said:
                note(f"contig '{contig}' of the variants is read as '{name}' of the genome, and others like it")
                self._said = True
            pieces = self._pieces[contig] = self._pieces[name]
        return pieces

    def locate(self, contig: str, start_bp: int, end_bp: int) -> tuple[int, int] | str:
        """(number of the record, start on it) of bases [start_bp, end_bp), or "no_contig", or "outside".

        Where several records hold them, it is the one that reaches farthest on the shorter side.
        """
        pieces = self.find(contig)
        best = max(pieces, key=lambda piece: min(start_bp - piece.start_bp, piece.end_bp - end_bp), default=None)
        if best is None:
            return "no_contig"
        if start_bp < best.start_bp or end_bp > best.end_bp:
            return "outside"
        return best.number, start_bp - best.start_bp
