"""A first reading of all variants, before anything is computed: does the file fit the genome?"""

from __future__ import annotations

import collections
from typing import NamedTuple

from ..genome.loci import Reference
from ..genome.variants import INDEL, NO_CONTIG, OK, REF_MISMATCH, REF_SWAPPED, TOO_LONG, Variant, resolve
from ..runtime.cli import note
from ..runtime.errors import GenomeError, InputError
from .saturation import Source


class Survey(NamedTuple):
    """What a file holds."""

    records: int
    variants: int
    contigs: dict[str, None]
    """Names in the order in which they come."""
    first: Variant | None
    """The first variant that can be scored."""


def survey(source: Source, reference: Reference, max_mismatches: float) -> Survey:
    """Read a source of records once; what it holds does not grow with their number.

    Raises:
        InputError: it has no variants, or it is damaged.
        GenomeError: the genome has none of its contigs, or too many reference alleles are not the genome's.
    """
    statuses: collections.Counter[str] = collections.Counter()
    contigs: dict[str, None] = {}
    first, wrong, records = None, "", 0
    for record in source.records():
        records += 1
        contigs.setdefault(record.contig)
        for variant in record.variants():
            status = resolve(reference, variant).status
            statuses[status] += 1
            if first is None and status == OK:
                first = variant
            if not wrong and status in (REF_MISMATCH, REF_SWAPPED):
                wrong = f"{record.where}, {variant.contig}:{variant.start_bp + 1} {variant.ref}>{variant.alt}"
    if not records:
        raise InputError(f"{source.path} holds no variants")
    _require_fit(source, reference, statuses, wrong, max_mismatches)
    if not any(reference.find(name) for name in contigs):
        raise GenomeError(
            f"the genome has none of the contigs of {source.path}, {', '.join(list(contigs)[:5])}; it has "
            f"{', '.join(reference.genome.contigs[:5])}: is it of another assembly or species?"
        )
    return Survey(records, sum(statuses.values()), contigs, first)


def _require_fit(
    source: Source, reference: Reference, statuses: collections.Counter[str], wrong: str, max_mismatches: float
) -> None:
    """Refuse a file of another assembly, and say what else is odd."""
    mismatched = statuses[REF_MISMATCH] + statuses[REF_SWAPPED]
    compared = mismatched + statuses[OK] + statuses[INDEL] + statuses[TOO_LONG]
    swapped = f", {statuses[REF_SWAPPED]:,} of them with ref and alt exchanged" if statuses[REF_SWAPPED] else ""
    if mismatched > max_mismatches * compared:
        raise GenomeError(
            f"{source.path}: {mismatched:,} of {compared:,} reference alleles are not the genome's{swapped} "
            f"(first: {wrong}); is the genome of another assembly? --max-mismatches allows more than "
            f"{max_mismatches:.0%}"
        )
    if mismatched:
        note(f"{mismatched:,} variants are not scored: their reference alleles are not the genome's{swapped}")
    if statuses[NO_CONTIG]:
        note(f"{statuses[NO_CONTIG]:,} variants are not scored: the genome does not have their contigs")
