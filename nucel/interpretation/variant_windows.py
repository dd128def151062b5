"""The windows in which variants are scored, and both alleles in them, as the networks read them.

    Allele --place--> Window [start_bp, end_bp) --rows--> Row(ref, alt, ...), one for each strand

A window has equally many bases on both sides of the change, so that it is the same window on either strand. Near an end
of the contig it is shifted, and it is shorter only where the contig is; it is never padded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..genome.loci import Reference
from ..genome.variants import Allele
from ..tokenizers import nucleotide

UNKNOWN_NEAR_BP = 64
"""How far around a change unknown bases are counted."""


class Window(NamedTuple):
    """Bases [start_bp, end_bp) of a record of the genome."""

    contig: int
    start_bp: int
    end_bp: int


class Row(NamedTuple):
    """One allele on one strand. Positions are counted from the window's first base in the strand's direction."""

    window: tuple[Window, bool]
    """With the strand, True for the reverse; rows of one window share the pass of the reference."""
    ref: np.ndarray
    """Token ids uint8 (n,) of the window."""
    alt: np.ndarray
    """Token ids uint8 (n + alt_bp - ref_bp,) of the same with the other allele."""
    left: int
    """Bases before the change."""
    ref_bp: int
    alt_bp: int
    sites: tuple[int, ...]
    """Positions of the bases that differ, where both alleles are equally long; else none."""

    @property
    def is_indel(self) -> bool:
        return self.ref_bp != self.alt_bp

    def site_bases(self) -> tuple[np.ndarray, np.ndarray]:
        """The bases at the sites of the reference and of the other allele: 0-3 for A, C, G, T, (K,) each."""
        sites = list(self.sites)
        ref, alt = (tokens[sites].astype(np.int64) - nucleotide.BASES[0] for tokens in (self.ref, self.alt))
        return ref, alt


def around(start_bp: int, end_bp: int, length_bp: int, room_bp: int) -> tuple[int, int]:
    """The longest range of at most room_bp with equal flanks around [start_bp, end_bp), shifted into [0, length_bp)."""
    span = end_bp - start_bp
    size = span + 2 * max(0, (room_bp - span) // 2)
    if size >= length_bp:
        return 0, length_bp
    start = min(max(start_bp - (size - span) // 2, 0), length_bp - size)
    return start, start + size


def place(allele: Allele, length_bp: int, room_bp: int, share_bp: int | None = None) -> Window:
    """The window of an allele on a record of length_bp, for a context of room_bp bases.

    Args:
        share_bp: put all single-base changes of a bin of so many bases into the bin's window; 1 is the same as None.
    """
    start, end, room = allele.start_bp, allele.end_bp, room_bp
    if share_bp is not None and len(allele.ref) == len(allele.alt) == 1:
        start -= start % share_bp
        end = min(start + share_bp, length_bp)
    room -= max(0, len(allele.alt) - len(allele.ref))  # what an insertion adds must fit too
    return Window(allele.contig, *around(start, end, length_bp, room))


def rows_of(allele: Allele, window: Window, tokens: np.ndarray, both_strands: bool) -> list[Row]:
    """An allele in its window, whose tokens are uint8 (n,), on the forward strand and, if asked for, on the other."""
    left, after = allele.start_bp - window.start_bp, allele.end_bp - window.start_bp
    alt = np.concatenate([tokens[:left], allele.alt, tokens[after:]])
    sizes = len(allele.ref), len(allele.alt)
    sites = tuple((left + allele.changed).tolist()) if sizes[0] == sizes[1] else ()
    rows = [Row((window, False), tokens, alt, left, *sizes, sites)]
    if both_strands:
        n = len(tokens)
        mirrored = tuple(n - 1 - site for site in reversed(sites))
        strands = nucleotide.reverse_complement(tokens), nucleotide.reverse_complement(alt)
        rows.append(Row((window, True), *strands, n - after, *sizes, mirrored))
    return rows


def unknown_near(reference: Reference, allele: Allele) -> float:
    """The share of unknown bases within 64 bp of a change."""
    start = max(0, allele.start_bp - UNKNOWN_NEAR_BP)
    end = min(int(reference.genome.lengths[allele.contig]), allele.end_bp + UNKNOWN_NEAR_BP)
    tokens = reference.genome.fetch(allele.contig, start, end)
    return float((tokens == nucleotide.UNK).mean())
