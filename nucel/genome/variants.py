"""Variants against a genome: from a record's alleles to the bases that change, or to the reason why there are none.

    Variant(contig, start_bp, ref, alt) --trim--> changed bases --compare with the genome--> Allele(status, ...)

Positions are 0-based; `from_vcf` converts VCF's. Case is ignored and U reads as T.

An indel in a repeat has several spellings: of AAAA, any A may be the deleted one. Its `Allele` covers all of them, from
the leftmost to the rightmost placement, so that all spellings, and both strands, give the same bases.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from ..tokenizers import nucleotide
from .loci import Reference

OK, INDEL, TOO_LONG, UNSUPPORTED = "ok", "indel", "too_long", "unsupported"
REF_MISMATCH, REF_SWAPPED = "ref_mismatch", "ref_swapped"
UNKNOWN_BASE, OUTSIDE, NO_CONTIG = "unknown_base", "outside", "no_contig"
STATUSES = (OK, INDEL, TOO_LONG, UNSUPPORTED, REF_MISMATCH, REF_SWAPPED, UNKNOWN_BASE, OUTSIDE, NO_CONTIG)
MAX_ALLELE_BP = 50
"""Longest allele that is scored, after trimming."""
_ROLL_BP = 200
"""How far the placements of an indel are looked for on either side; in longer repeats it stays where it is written."""
_LETTERS = re.compile("[A-Za-z]+")
_EMPTY = np.empty(0, np.uint8)


class Variant(NamedTuple):
    """One change: the bases `ref` of a contig from start_bp on become `alt`. An empty allele is an indel's."""

    contig: str
    start_bp: int
    """0-based; an insertion goes before it."""
    ref: str
    alt: str

    @classmethod
    def from_vcf(cls, contig: str, position: int, ref: str, alt: str) -> Variant:
        """From VCF's position, which counts from 1."""
        return cls(contig, start_of(position), ref, alt)


def start_of(position: int) -> int:
    """0-based start of a position that counts from 1, as in VCF and in tables: the one place that converts them."""
    return position - 1


class Record(NamedTuple):
    """A line of a file of variants, which may hold several alternative alleles."""

    where: str
    """For messages: "line 7"."""
    contig: str
    start_bp: int
    ref: str
    alts: tuple[str, ...]
    """None at all where the line has no alternative."""
    source: Any
    """What the line is written from again: its text or its cells."""

    def variants(self) -> list[Variant]:
        """One for each alternative allele."""
        return [Variant(self.contig, self.start_bp, self.ref, alt) for alt in self.alts]


class Allele(NamedTuple):
    """A variant as the genome has it; start_bp and the bases mean something where the status is "ok" or "indel"."""

    status: str
    contig: int = -1
    """Number in `Genome.contigs`."""
    start_bp: int = 0
    """Of the first changed base, counted from the contig's first base in the file."""
    ref: np.ndarray = _EMPTY
    """Token ids uint8 of the bases that change, and of those that an indel may as well be placed at."""
    alt: np.ndarray = _EMPTY
    """Token ids uint8 of what stands there instead."""
    offset_bp: int = 0
    """Where that first base is on the contig that the variant names: 0 unless the file has only a piece of it."""

    @property
    def scored(self) -> bool:
        return self.status in (OK, INDEL)

    @property
    def end_bp(self) -> int:
        return self.start_bp + len(self.ref)

    @property
    def changed(self) -> np.ndarray:
        """Offsets from start_bp of the bases that differ, where both alleles are equally long."""
        return np.flatnonzero(self.ref != self.alt)


def trim(start_bp: int, ref: np.ndarray, alt: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Without the prefix, then the suffix, that both alleles share; arrays of any dtype. Equal alleles become empty."""
    shared = min(len(ref), len(alt))
    if not shared or (ref[0] != alt[0] and ref[-1] != alt[-1]):  # as nearly all variants are
        return start_bp, ref, alt
    prefix = int(np.argmin(np.append(ref[:shared] == alt[:shared], False)))
    ref, alt, shared = ref[prefix:], alt[prefix:], shared - prefix
    suffix = int(np.argmin(np.append(ref[::-1][:shared] == alt[::-1][:shared], False)))
    return start_bp + prefix, ref[: len(ref) - suffix], alt[: len(alt) - suffix]


def resolve(reference: Reference, variant: Variant) -> Allele:
    """What a variant changes in the genome, or the status that says why it cannot be scored."""
    if not _LETTERS.fullmatch(variant.ref + variant.alt):
        return Allele(UNSUPPORTED)
    ref, alt = nucleotide.encode(variant.ref), nucleotide.encode(variant.alt)
    first_bp, changed, instead = trim(variant.start_bp, ref, alt)
    if (instead == nucleotide.UNK).any():
        return Allele(UNSUPPORTED)
    end_bp = variant.start_bp + len(variant.ref)
    place = reference.locate(variant.contig, variant.start_bp, end_bp)
    if isinstance(place, str):
        return Allele(place)
    contig, start_bp = place
    offset_bp = variant.start_bp - start_bp
    there = reference.genome.fetch(contig, start_bp, start_bp + len(ref))
    differs = there != ref
    if differs.any():
        return Allele(_mismatch(reference, contig, start_bp, there[differs], alt), contig)
    start_bp, ref, alt = first_bp - offset_bp, changed, instead
    if (ref == nucleotide.UNK).any():
        return Allele(UNKNOWN_BASE, contig)
    if max(len(ref), len(alt)) > MAX_ALLELE_BP:
        return Allele(TOO_LONG, contig)
    if len(ref) == len(alt):
        return Allele(OK, contig, start_bp, ref, alt, offset_bp)
    return Allele(INDEL, contig, *_all_placements(reference, contig, start_bp, ref, alt), offset_bp)


def _mismatch(reference: Reference, contig: int, start_bp: int, there: np.ndarray, alt: np.ndarray) -> str:
    """Why the reference allele is not what the genome has; `there` are the genome's bases that differ from it."""
    if (there == nucleotide.UNK).all():
        return UNKNOWN_BASE
    end_bp = start_bp + len(alt)
    if len(alt) and end_bp <= reference.genome.lengths[contig]:
        swapped = np.array_equal(reference.genome.fetch(contig, start_bp, end_bp), alt)
        return REF_SWAPPED if swapped else REF_MISMATCH
    return REF_MISMATCH


def _all_placements(
    reference: Reference, contig: int, start_bp: int, ref: np.ndarray, alt: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """An indel, widened over all places where it could be written with the same result."""
    if len(ref) and len(alt):
        return start_bp, ref, alt  # bases change as well: there is one place
    unit, end_bp = ref if len(ref) else alt, start_bp + len(ref)
    length = int(reference.genome.lengths[contig])
    before = reference.genome.fetch(contig, max(0, start_bp - _ROLL_BP), start_bp)
    after = reference.genome.fetch(contig, end_bp, min(length, end_bp + _ROLL_BP))
    left = _agreeing(before[::-1], unit[::-1])
    right = _agreeing(after, unit)
    if max(left, right) == _ROLL_BP:
        return start_bp, ref, alt
    head, tail = before[len(before) - left :], after[:right]
    return start_bp - left, np.concatenate([head, ref, tail]), np.concatenate([head, alt, tail])


def _agreeing(bases: np.ndarray, unit: np.ndarray) -> int:
    """How many of the first bases repeat the unit."""
    return int(np.argmin(np.append(bases == np.resize(unit, len(bases)), False)))
