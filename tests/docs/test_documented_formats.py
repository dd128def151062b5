"""Each row of the table in docs/fasta.md, tried here, and in the versions of the tools that it is about."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyfaidx
import pysam
import pytest

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome

PAGE = Path(__file__).parents[2] / "docs" / "fasta.md"
ROW = re.compile(
    r"\| (?P<oddity>.+) \| (?:`(?P<example>.+)`|0 bytes) \| (?P<ours>.+) \| (?P<samtools>.+) \| (?P<pyfaidx>.+) \|"
)
ROWS = [match for line in PAGE.read_text(encoding="utf-8").splitlines() if (match := ROW.fullmatch(line))]
Records = list[tuple[str, str]]


def unescaped(text: str | None) -> bytes:
    return (text or "").encode().decode("unicode_escape").encode("latin-1")


def our_records(path: Path) -> Records:
    genome = Genome(path)
    same = np.arange(256, dtype=np.uint8)
    return [
        (name, genome._native.fetch(i, 0, int(genome.lengths[i]), same, False).tobytes().decode())
        for i, name in enumerate(genome.contigs)
    ]


def samtools_records(path: Path) -> Records | None:
    try:
        pysam.faidx(str(path))
        with pysam.FastaFile(str(path)) as fasta:
            return [(name, fasta.fetch(name)) for name in fasta.references]
    except (pysam.SamtoolsError, OSError, ValueError):
        return None


def pyfaidx_records(path: Path) -> Records | None:
    try:
        with pyfaidx.Fasta(str(path), as_raw=True) as fasta:
            return [(name, fasta[name][:]) for name in fasta.keys()]  # noqa: SIM118
    except (pyfaidx.FastaIndexingError, ValueError, RuntimeError):
        return None


def as_documented(cell: str, ours: Records | None) -> Records | None:
    if cell == "refused":
        return None
    if cell == "read":
        return ours
    parts = re.findall(r"`(.*?): (.*?)`", cell)
    return [(name, unescaped(bases).decode()) for name, bases in parts]


def test_the_page_has_its_table():
    assert len(ROWS) >= 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["oddity"])
def test_row(tmp_path, row):
    ours: Records | None = None
    path = tmp_path / "a.fa"
    path.write_bytes(unescaped(row["example"]))
    if row["ours"] == "read":
        ours = our_records(path)
        assert ours
    else:
        with pytest.raises(GenomeError) as refusal:
            Genome(path)
        assert row["ours"].removeprefix("**refused**: ") in str(refusal.value) and str(path) in str(refusal.value)
    # The page speaks of these versions; others may have changed their minds.
    if pysam.__samtools_version__.startswith("1.24"):
        assert samtools_records(path) == as_documented(row["samtools"], ours)
    path.with_name("a.fa.fai").unlink(missing_ok=True)
    if pyfaidx.__version__.startswith("0.9"):
        assert pyfaidx_records(path) == as_documented(row["pyfaidx"], ours)
