"""Sequences with their biotypes, from FASTA headers, GTF, GFF3, or BED with the class in its fourth column.

| file | class | sequence |
|---|---|---|
| FASTA of Ensembl | `gene_biotype:X`, else `transcript_biotype:X`, in the header | the record |
| FASTA of GENCODE | the header's eighth field between bars | the record |
| GTF, GFF3 | attribute gene_biotype, gene_type or biotype, else the feature's type | the genome's, in sense direction |
| BED | the name | the genome's, in sense direction |
"""

from __future__ import annotations

import fnmatch
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..genome.decompress import is_gzip
from ..genome.fasta import Genome
from ..genome.regions import read_regions
from ..runtime.errors import ConfigError, GenomeError, InputError

_ATTRIBUTES = ("gene_biotype", "gene_type", "biotype")
_ENSEMBL = re.compile(r"\b(gene|transcript)_biotype:(\S+)")
_PLACE = re.compile(
    r"\b(?:chromosome|scaffold|supercontig|contig|primary_assembly|plasmid|group):[^:\s]*:([^:\s]+):\d+:"
)
_ANNOTATION = re.compile(r"\.(gtf|gff3?)(\.gz)?$")
_BED = re.compile(r"\.bed(\.gz)?$")


class Gene(NamedTuple):
    """One labelled sequence."""

    name: str
    biotype: str
    tokens: np.ndarray
    """uint8 (length,), without [CLS], in sense direction; the first bases only where it was longer."""
    contig: str
    """Where it lies; empty where the file does not say."""
    genome: str
    """The FASTA file that it was read from."""
    whole_bp: int
    """Its length before it was cut."""


def read_genes(
    paths: Sequence[Path],
    genomes: Sequence[Path] = (),
    features: Sequence[str] = ("*gene",),
    room_bp: int = 1024,
    cache_dir: Path | None = None,
) -> list[Gene]:
    """All labelled sequences of some files, each once, in their order.

    Args:
        genomes: FASTA files that annotations and BED files are of, together.
        features: globs of the types of features that are read of GTF and GFF3 files.
        room_bp: longer sequences are cut to so many first bases.

    Raises:
        InputError: a header or a line without a class, or a file without any; it is named.
        ConfigError: regions without a genome.
        GenomeError, OSError: a file that is not right, a region that the genome does not have.
    """
    genome = Genome(tuple(genomes), cache_dir, copy_beside=cache_dir is None) if genomes else None
    genes: list[Gene] = []
    for path in paths:
        if _ANNOTATION.search(path.name):
            found = _of_regions(path, _features(path, features), genome, room_bp)
        elif _BED.search(path.name):
            regions = ((r.line, r.contig, r.start_bp, r.end_bp, r.strand, r.name) for r in read_regions(path))
            found = _of_regions(path, regions, genome, room_bp)
        else:
            found = _of_fasta(path, room_bp, cache_dir)
        own = list(found)
        if not own:
            raise InputError(f"{path} has no labelled sequence; --feature names the features of a GTF or GFF3")
        genes += own
    return genes


def header_biotype(header: str) -> str | None:
    """The class that a FASTA header of Ensembl or GENCODE names; None where it names none."""
    found = {match[1]: match[2] for match in _ENSEMBL.finditer(header)}
    if found:
        return found.get("gene", found.get("transcript"))
    fields = header.split("|")
    return fields[7] if len(fields) > 7 and fields[7] else None


def _of_fasta(path: Path, room_bp: int, cache_dir: Path | None) -> Iterator[Gene]:
    genome = Genome(path, cache_dir, copy_beside=cache_dir is None, distinct_names=False)
    for i, (name, more) in enumerate(zip(genome.contigs, genome.descriptions, strict=True)):
        header = f"{name} {more}".rstrip()
        biotype = header_biotype(header)
        if biotype is None:
            raise InputError(
                f"{path}, record '{header[:80]}': no gene_biotype:X or transcript_biotype:X, and no eighth field |X|"
            )
        length = int(genome.lengths[i])
        if not length:
            raise InputError(f"{path}, record '{name}': the sequence is empty")
        place = _PLACE.search(header)
        tokens = genome.fetch(i, 0, min(room_bp, length))
        yield Gene(name.split("|")[0], biotype, tokens, place[1] if place else "", str(path), length)


_Region = tuple[int, str, int, int, str, str]
"""Line, contig, start_bp, end_bp, strand, class."""


def _of_regions(path: Path, regions: Iterator[_Region], genome: Genome | None, room_bp: int) -> Iterator[Gene]:
    if genome is None:
        raise ConfigError(f"{path} has regions but no sequences; give the FASTA they are of with --genome")
    for line, contig, start, end, strand, biotype in regions:
        if biotype in ("", "."):
            raise InputError(f"{path}, line {line}: no class")
        number = genome.contig_number(contig)
        if not 0 <= start < end <= genome.lengths[number]:
            raise GenomeError(
                f"{path}, line {line}: [{start}, {end}) is not inside contig '{contig}', which has "
                f"{genome.lengths[number]} bases, or is empty; is it of another assembly?"
            )
        sense = "-" if strand == "-" else "+"
        first, last = (max(start, end - room_bp), end) if sense == "-" else (start, min(end, start + room_bp))
        tokens = genome.fetch(number, first, last, sense)
        file = str(genome.files[genome.file[number]])
        yield Gene(f"{contig}:{start}-{end}({sense})", biotype, tokens, contig, file, end - start)


def _features(path: Path, wanted: Sequence[str]) -> Iterator[_Region]:
    """The features of these types; GTF and GFF3 count from 1 and include the end."""
    with gzip.open(path, "rt") if is_gzip(path) else open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.startswith("##FASTA"):
                return
            if not line.strip() or line.startswith("#"):
                continue
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) < 9 or not (cells[3].isdecimal() and cells[4].isdecimal()):
                raise InputError(f"{path}, line {number}: not nine columns of GTF or GFF3: {line[:60]!r}")
            if any(fnmatch.fnmatchcase(cells[2], one) for one in wanted):
                found = attributes(cells[8])
                biotype = next((found[name] for name in _ATTRIBUTES if name in found), cells[2])
                yield number, cells[0], int(cells[3]) - 1, int(cells[4]), cells[6], biotype


def attributes(text: str) -> dict[str, str]:
    """The ninth column by name, as GTF (name "value";) or GFF3 (name=value;) writes it."""
    found = {}
    for part in text.split(";"):
        name, separator, value = part.strip().partition("=") if "=" in part and '"' not in part else _gtf(part)
        if separator:
            found[name.strip()] = value.strip().strip('"')
    return found


def _gtf(part: str) -> tuple[str, str, str]:
    return part.strip().partition(" ")
