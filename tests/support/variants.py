"""Genomes and variants for the tests of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nucel.genome.fasta import Genome
from nucel.genome.variants import Variant

COMPLEMENT = str.maketrans("ACGTacgtN", "TGCAtgcaN")


def random_bases(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write_fasta(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return path


def other_base(base: str, step: int = 1) -> str:
    return "ACGT"[("ACGT".index(base.upper()) + step) % 4]


def substitutions(contigs: dict[str, str], per_contig: int, seed: int = 0) -> list[Variant]:
    """Random single-base variants, the first and the last base of each contig among them."""
    draws = np.random.default_rng(seed)
    found = []
    for name, bases in contigs.items():
        places = {0, len(bases) - 1, *draws.choice(len(bases), per_contig - 2, replace=False).tolist()}
        found += [Variant(name, i, bases[i], other_base(bases[i], int(draws.integers(1, 4)))) for i in sorted(places)]
    return found


def applied(contigs: dict[str, str], variant: Variant) -> dict[str, str]:
    """The contigs with a variant in them."""
    bases = contigs[variant.contig]
    after = variant.start_bp + len(variant.ref)
    assert bases[variant.start_bp : after] == variant.ref
    return contigs | {variant.contig: bases[: variant.start_bp] + variant.alt + bases[after:]}


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def mirrored(contigs: dict[str, str], variant: Variant) -> Variant:
    """The same variant on the reverse-complemented contigs."""
    start = len(contigs[variant.contig]) - variant.start_bp - len(variant.ref)
    return Variant(variant.contig, start, reverse_complement(variant.ref), reverse_complement(variant.alt))


def genome_of(folder: Path, contigs: dict[str, str], name: str = "g.fa") -> Genome:
    return Genome(write_fasta(folder / name, contigs))


def write_vcf(path: Path, variants: list[Variant], header: str = "") -> Path:
    """A plain VCF; empty alleles are not for it."""
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = (f"{v.contig}\t{v.start_bp + 1}\t.\t{v.ref}\t{v.alt}\t.\t.\t.\n" for v in variants)
    path.write_text("##fileformat=VCFv4.2\n" + header + columns + "".join(lines))
    return path


def write_variant_table(path: Path, variants: list[Variant]) -> Path:
    lines = (f"{v.contig}\t{v.start_bp + 1}\t{v.ref or '-'}\t{v.alt or '-'}\n" for v in variants)
    path.write_text("Chrom\tPos\tRef\tAlt\n" + "".join(lines))
    return path
