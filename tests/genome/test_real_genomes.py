"""Windows and rows of real genomes, where the data folder is present."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
from support.data import DATA, real

from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import WindowOptions, Windows
from nucel.tokenizers import nucleotide


def tile(genome, window_bp=1224, overlap_bp=100, **options):
    """Windows.tile with some of its options."""
    return Windows.tile(genome, WindowOptions(window_bp=window_bp, overlap_bp=overlap_bp, **options))


pytestmark = real()

GENOMES = [
    "ecoli_K12_MG1655.fa.gz",
    "human_chr22_20-21M.fa",
    "human_chrMT.fa",
    "human_hg19_chr17_part_softmasked.fa",
    "human_hg19_chr1_first30k.fa",
    "viruses/phage_phiX174.fa.gz",
]


def copied(name: str, tmp_path: Path) -> Path:
    source = DATA / name
    if not source.exists():
        pytest.skip(f"{name} is not in {DATA}")
    target = tmp_path / source.name
    shutil.copyfile(source, target)
    return target


def independent(path: Path, folder: Path) -> pyfaidx.Fasta:
    """pyfaidx on a copy of its own, with an index of its own."""
    raw = path.read_bytes()
    plain = folder / "independent.fa"
    plain.write_bytes(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    return pyfaidx.Fasta(str(plain), as_raw=True)


@pytest.mark.parametrize("name", GENOMES)
def test_whole_contigs_and_sampled_rows_equal_pyfaidx(tmp_path, name):
    path = copied(f"genomes/{name}", tmp_path)
    genome = Genome(path)
    with independent(path, tmp_path) as fasta:
        text = {contig: nucleotide.encode(str(fasta[contig][:])) for contig in genome.contigs}
        assert list(genome.contigs) == list(fasta.keys())
    for contig, tokens in text.items():
        assert (genome.fetch(contig) == tokens).all()
        assert (genome.fetch(contig, strand="-") == nucleotide.reverse_complement(tokens)).all()
    windows = tile(genome, window_bp=1224)
    batch = WindowSampler(windows, context=1024, batch_size=300, seed=1).batch(17)
    for row, _, contig, start_bp, strand in zip(*batch, strict=True):
        expected = text[genome.contigs[contig]][start_bp : start_bp + 1023]
        assert (row[1:] == (expected if strand > 0 else nucleotide.reverse_complement(expected))).all()


def test_windows_leave_out_the_gap_of_chr22(tmp_path):
    genome = Genome(copied("genomes/human_chr22_20-21M.fa", tmp_path))
    tokens = genome.fetch(0)
    windows = tile(genome)
    unknown = np.concatenate([[0], np.cumsum(tokens == nucleotide.UNK)])
    share = (unknown[windows.start_bp + 1224] - unknown[windows.start_bp]) / 1224
    assert share.max() <= 0.1
    dropped = len(tile(genome, max_unknown=1)) - len(windows)
    assert 0.95 < dropped * 1124 / unknown[-1] < 1.05


def test_thousands_of_short_rna_records(tmp_path):
    genome = Genome(copied("formats/rna/hairpin.fa.gz", tmp_path))
    assert (len(genome.contigs), int(genome.lengths.sum())) == (28_645, 2_949_871)
    windows = tile(genome, window_bp=80, overlap_bp=10)
    batch = WindowSampler(windows, context=81, batch_size=64).batch(0)
    assert np.isin(batch.tokens[:, 1:], nucleotide.BASES).mean() > 0.99
