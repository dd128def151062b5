"""Files of variants: VCF, BCF and tables give the same records; what is damaged is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nucel.genome.variant_files import open_variants
from nucel.runtime.errors import InputError

pysam = pytest.importorskip("pysam")
pytest.importorskip("pysam.bcftools")

HEADER = """##fileformat=VCFv4.2
##contig=<ID=chr1>
##INFO=<ID=AF,Number=A,Type=Float,Description="share">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
"""
LINES = [
    "chr1\t5\trs1\tA\tC,G\t29.50\tPASS\tAF=0.5000,0.1",
    "chr1\t3\t.\tAT\t<DEL>\t.\t.\t.",
    "chr1\t9\t.\tA\t.\t.\t.\t.",
]
VCF = HEADER + "".join(line + "\n" for line in LINES)
EXPECTED = [("chr1", 4, "A", ("C", "G")), ("chr1", 2, "AT", ("<DEL>",)), ("chr1", 8, "A", ())]


def bgzipped(path: Path, text: str) -> Path:
    with pysam.BGZFile(str(path), "w") as file:
        file.write(text.encode())
    return path


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".bcf"):
        text = folder / "for_bcf.vcf"
        text.write_text(VCF)
        pysam.bcftools.view("-Ob", "-o", str(path), str(text), catch_stdout=False)
    elif name.endswith(".parquet"):
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"POS": [5, 3, 9], "Ref": ["A", "AT", "A"], "chrom": ["chr1"] * 3, "Alt": ["C,G", "<DEL>", None]}
        parquet.write_table(pa.table(columns), path)
    elif name.endswith("plain.vcf.gz"):
        path.write_bytes(gzip.compress(VCF.encode()))
    elif name.endswith(".vcf.gz"):
        bgzipped(path, VCF)
    elif "sv" in name:
        comma = name.removesuffix(".gz").endswith("csv")
        rows = [
            ("note", "#CHROM", "pos", "REF", "alt"),
            ("x", "chr1", "5", "A", "C,G"),
            ("y", "chr1", "3", "AT", "<DEL>"),
            ("", "chr1", "9", "A", "."),
        ]
        text = "\r\n".join(
            (",".join(f'"{c}"' if "," in c else c for c in row)) if comma else "\t".join(row) for row in rows
        )
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    else:
        path.write_text(VCF.replace("\n", "\r\n") if "crlf" in name else VCF)
    return path


NAMES = [
    "a.vcf",
    "crlf.vcf",
    "a.vcf.gz",
    "plain.vcf.gz",
    "a.bcf",
    "a.tsv",
    "a.csv",
    "a.tsv.gz",
    "a.csv.gz",
    "a.parquet",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_records_twice(tmp_path, name):
    file = open_variants(written(tmp_path, name))
    for _ in range(2):
        assert [(r.contig, r.start_bp, r.ref, r.alts) for r in file.records()] == EXPECTED
    first = next(file.records())
    assert str(file.cells(first)[file.alt_column]) == "C,G" and len(file.cells(first)) == len(file.columns)


def test_dashes_in_tables_are_indels(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("Chrom\tPos\tRef\tAlt\n1\t5\tA\t-\n1\t5\t-\tGG\n")
    assert [(r.start_bp, r.ref, r.alts) for r in open_variants(path).records()] == [(4, "A", ("",)), (4, "", ("GG",))]


BAD = {
    "empty.vcf": ("", "is empty"),
    "nothing.tsv": ("\n", "is empty"),
    "text.vcf": ("hello\n", "#CHROM"),
    "short.vcf": (VCF + "chr1\t5\t.\tA\n", "line 8: 4 columns"),
    "position.vcf": (VCF + "chr1\tfive\t.\tA\tC\t.\t.\t.\n", "line 8: not a contig"),
    "columns.tsv": ("chrom\tpos\tref\n", "one column alt"),
    "twice.tsv": ("chrom\tpos\tref\tALT\talt\n", "one column alt"),
    "cells.tsv": ("chrom\tpos\tref\talt\n1\t2\tA\n", "line 2: 3 cells"),
    "zero.tsv": ("chrom\tpos\tref\talt\n1\t-2\tA\tC\n", "line 2: not a contig"),
    "quote.csv": ('chrom,pos,ref,alt\n1,2,A,"C\n', "not a regular table"),
    "other.txt": ("chrom\tpos\tref\talt\n", "end with"),
    "fake.bcf": ("BCF, they said", "BCF"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(tmp_path, name):
    text, message = BAD[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        list(open_variants(path).records())
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["a.vcf.gz", "a.bcf"])
@pytest.mark.parametrize("lost", [28, 60])
def test_truncated_bgzip_is_refused(tmp_path, name, lost):
    """28 bytes are exactly the block that marks the end: gzip itself would see nothing wrong."""
    path = written(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, match="truncated"):
        list(open_variants(path).records())


def test_truncated_gzip_is_refused(tmp_path):
    path = written(tmp_path, "plain.vcf.gz")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged or incomplete"):
        list(open_variants(path).records())
