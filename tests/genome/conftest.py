"""Genomes that several files of tests use."""

from __future__ import annotations

import pytest
from support.genomes import SEQUENCE, random_bases, tile, wrap, write

from nucel.genome.fasta import Genome
from nucel.genome.windows import Windows


@pytest.fixture
def three_contigs(tmp_path) -> Windows:
    text = "".join(f">c{i}\n{wrap(random_bases(length, i))}" for i, length in enumerate((9_000, 4_000, 1_000)))
    return tile(Genome(write(tmp_path / "a.fa", text)), window_bp=100, overlap_bp=20)


@pytest.fixture
def masked(tmp_path) -> Genome:
    """Contig a: 400 bases, of which [100, 200) and [300, 330) are soft-masked; b: 300 bases; chr1_alt: 300 bases."""
    sequence = SEQUENCE[:400]
    sequence = (
        sequence[:100] + sequence[100:200].lower() + sequence[200:300] + sequence[300:330].lower() + sequence[330:]
    )
    text = f">a\n{wrap(sequence)}>b\n{wrap(SEQUENCE[:300], 7)}>chr1_alt\n{wrap(SEQUENCE[100:400])}"
    return Genome(write(tmp_path / "m.fa", text))
