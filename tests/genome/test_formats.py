"""Every file that other tools test themselves with, and every whole genome, where the data folder is present.

What is read is compared with a parser of five lines and, where samtools has an index of the file, with that.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
from support.data import DATA, real

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.tokenizers import nucleotide

pytestmark = real()

REFUSED = {
    "derived/only_gt.fa": "line 1: this record has no name",
    "derived/only_gt_no_newline.fa": "line 1: this record has no name",
    "derived/phi-X174_blank_line_inside.fa": "line 6: the line ends early; record 'NC_001422.1'",
    "odd/barrnap_empty.fa": "1 records but no bases",
    "odd/barrnap_null_0_bytes.fa": "is empty",
    "odd/biopython_aster_blast.pro": "line 1: no FASTA record begins here",
    "odd/biopython_aster_pearson.pro": "line 1: no FASTA record begins here",
    "odd/biopython_dups.fasta": "two records are named 'alpha', at lines",
    "odd/empty_0_bytes.fx": "is empty",
    "odd/empty_id_and_seq.fa": "this record has no name",
    "odd/pyfaidx_issue_144_no_defline.fasta": "line 1: no FASTA record begins here",
    "odd/pyfaidx_long_line.fasta": "line 6: the line goes on too long; record 'AB821309.1'",
    "protein/NC_005816.faa": "looks like protein",
    "protein/f003.fa": "looks like protein",
    "protein/fa01_gaps.fasta": "looks like protein",
    "protein/flowers.pro.gz": "looks like protein",
    "protein/titin.fas": "looks like protein",
    "rna/hairpin.fa.xz": "compressed with xz",
    "rna/hairpin.fa.zst": "compressed with zstd",
    "seqkit/a.fa": "line 2: a '1' stands among the bases",
    "twobit/sequence.bigendian.2bit": "is not FASTA but 2bit",
    "twobit/sequence.littleendian.2bit": "is not FASTA but 2bit",
    "twobit/sequence.long.2bit": "is not FASTA but 2bit",
}
# The index beside a file has another length, lines of no bases, a name twice.
WRONG_INDEX = {
    "bgzip/end.fa.gz": "different",
    "indexed/no-newline.fa": "different",
    "odd/pyfaidx_dup_fai.fasta": "damaged",
}
NO_FASTA = (".fai", ".fai.gz", ".gzi", ".tsv")


def files(folder: str) -> list[str]:
    root = DATA / folder
    return [str(file.relative_to(root)) for file in sorted(root.rglob("*")) if file.is_file()]


def decompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def same_bases(genome: Genome, contig: int) -> bytes:
    same = np.arange(256, dtype=np.uint8)
    return genome._native.fetch(contig, 0, int(genome.lengths[contig]), same, False).tobytes()


def entries(index: bytes) -> dict[bytes, list[int]]:
    rows = [line.split(b"\t") for line in index.splitlines()]
    return {name: [int(value) for value in values] for name, *values in rows}


@pytest.mark.parametrize("name", files("formats"))
def test_file(tmp_path, capsys, name):
    path = tmp_path / Path(name).name
    shutil.copyfile(DATA / "formats" / name, path)
    if name in REFUSED or name.endswith(NO_FASTA):
        with pytest.raises(GenomeError, match=REFUSED.get(name, "no FASTA record begins here|is not FASTA")) as refusal:
            Genome(path)
        assert str(path) in str(refusal.value)
        return
    for suffix, beside in ((".fai", ".fai"), (".bad.fai", ".fai"), (".gzi", ".gzi")):
        index = DATA / "formats" / (name + suffix)
        if index.exists():
            shutil.copyfile(index, tmp_path / (path.name + beside))
    genome = Genome(path)
    announced = [line for line in capsys.readouterr().err.splitlines() if "decompressing" not in line]
    assert len(announced) == (name in WRONG_INDEX) and WRONG_INDEX.get(name, "") in "".join(announced)
    text = decompressed(path)
    records = text.split(b">")[1:]
    assert list(genome.contigs) == [record.split()[0].decode() for record in records]
    assert [same_bases(genome, i) for i in range(len(records))] == [
        b"".join(record.splitlines()[1:]).replace(b" ", b"") for record in records
    ]
    golden = DATA / "formats" / (name + ".htslib.fai")
    if not golden.exists():
        golden = DATA / "formats" / (name + ".fai")
    if golden.exists() and name not in WRONG_INDEX:
        native = genome._opened[0].native
        ours = dict(zip(native.names, native.entries.tolist(), strict=True))
        for contig, entry in entries(golden.read_bytes()).items():
            assert ours[contig][:2] == entry[:2]
            assert ours[contig][2:] == entry[2:] or entry[0] <= entry[2]


def test_thousands_of_records_have_the_index_that_seqkit_has(tmp_path):
    path = tmp_path / "hairpin.fa.gz"
    shutil.copyfile(DATA / "formats" / "rna" / "hairpin.fa.gz", path)
    native = Genome(path)._opened[0].native
    golden = entries(gzip.decompress((DATA / "formats" / "rna" / "hairpin.fa.fai.gz").read_bytes()))
    ours = dict(zip(native.names, native.entries.tolist(), strict=True))
    assert len(ours) == 28_645 and ours == golden


def test_an_index_of_another_file_is_noticed(tmp_path, capsys):
    """A .fai in htslib's own tests: an empty name, blank lines, CRLF; its FASTA is not here."""
    path = tmp_path / "phi.fa"
    shutil.copyfile(DATA / "formats" / "indexed" / "phi-X174.fa", path)
    shutil.copyfile(DATA / "formats" / "indexed" / "htslib_faidx.fa.expected.fai", tmp_path / "phi.fa.fai")
    assert Genome(path).lengths.tolist() == [5386]
    assert "is of another file" in capsys.readouterr().err


@pytest.mark.parametrize("name", files("genomes"))
def test_every_base_of_a_genome_is_pyfaidxs(tmp_path, name):
    path = tmp_path / Path(name).name
    shutil.copyfile(DATA / "genomes" / name, path)
    plain = tmp_path / "independent.fa"
    plain.write_bytes(decompressed(path))
    genome = Genome(path)
    with pyfaidx.Fasta(str(plain), as_raw=True) as fasta:
        assert list(genome.contigs) == list(fasta.keys())
        for i, contig in enumerate(genome.contigs):
            letters = str(fasta[contig][:])
            assert same_bases(genome, i) == letters.encode()
            tokens = nucleotide.encode(letters)
            assert (genome.fetch(i) == tokens).all()
            assert (genome.fetch(i, strand="-") == nucleotide.reverse_complement(tokens)).all()
