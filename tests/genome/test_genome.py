"""Genome: layouts of FASTA that are read, content that is refused, indexes that are not believed."""

from __future__ import annotations

import gzip
import hashlib
import os

import numpy as np
import pysam
import pytest
from support.genomes import FASTA, SEQUENCE, bases, random_bases, wrap, write

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.tokenizers import nucleotide


def test_attributes(tmp_path):
    path = write(tmp_path / "a.fa", FASTA)
    genome = Genome(path)
    assert genome.contigs == ("one", "two")
    assert genome.lengths.tolist() == [500, 5] and genome.lengths.dtype == np.int64
    assert genome.byte_counts.tolist() == [[(SEQUENCE + "ACGTN").count(chr(byte)) for byte in range(256)]]
    assert genome.gc_bp.tolist() == [sum(map(SEQUENCE.count, "GC")), 2]
    assert genome.masked_bp.tolist() == [0, 0] and genome.unknown_bp.tolist() == [0, 1]
    assert genome.fingerprint == hashlib.sha256(FASTA.encode()).hexdigest()
    assert repr(genome) == "Genome(a.fa: 2 contigs, 505 bp)"


def test_fetch_reads_both_strands_in_forward_coordinates(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    assert nucleotide.decode(genome.fetch("one", 50, 130)) == SEQUENCE[50:130]
    assert nucleotide.decode(genome.fetch("two")) == "ACGTN"
    assert nucleotide.decode(genome.fetch("two", strand="-")) == "NACGT"
    assert nucleotide.decode(genome.fetch(1, 1, 3, "-")) == "CG"
    assert (genome.fetch(0, 3, 400, "-") == nucleotide.reverse_complement(genome.fetch(0, 3, 400))).all()
    assert genome.fetch("one", 500, 500).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("three",), "no contig 'three'; the genome has one, two"),
        ((2,), r"contig must lie in \[0, 2\), got 2"),
        ((-1,), "contig must lie in"),
        (("two", 0, 6), "'two', which has 5 bases"),
        (("two", -1, 3), "not inside contig"),
        (("two", 4, 3), "not inside contig"),
        (("two", 0, 3, "reverse"), "strand must be"),
    ],
)
def test_fetch_refuses_what_is_not_there(tmp_path, arguments, message):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    with pytest.raises(ValueError, match=message):
        genome.fetch(*arguments)


def test_several_files_are_numbered_through(tmp_path):
    first = write(tmp_path / "a.fa", ">a\nAAAA\n>b\nCC\n")
    second = write(tmp_path / "b.fa", ">c\nGGG\n")
    genome = Genome([first, str(second)])
    assert genome.contigs == ("a", "b", "c")
    assert [bases(genome, i) for i in range(3)] == ["AAAA", "CC", "GGG"]
    assert genome.fingerprint == hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (">a\r\nACGT\r\nAC\r\n>b\r\nGG\r\n", ["ACGTAC", "GG"]),
        (">a\nACGT\nAC", ["ACGTAC"]),
        (">a\nACGT\nACGT", ["ACGTACGT"]),
        (">a\nACGT", ["ACGT"]),
        ("\n\n>a\nACGT\n\n>b\nGG\n\n", ["ACGT", "GG"]),
        (">empty\n>b\nACG\n>last", ["", "ACG", ""]),
        (">a\nNNNN\n>b\nAC\n", ["NNNN", "AC"]),
        (">a\nacgu\n", ["ACGT"]),
        ("> spaced name\nACGT\n", ["ACGT"]),
        (">a\nACGT\n\n\n", ["ACGT"]),
        (">a\nACGT\nAC \n \n>b x>y\nAC\n\r\n", ["ACGTAC", "AC"]),
    ],
    ids=[
        "CRLF", "no-final-newline", "full-last-line", "one-line", "blank-lines", "empty-record", "N", "RNA", "space",
        "blanks-at-the-end", "blanks-after-records",
    ],
)  # fmt: skip
def test_layouts(tmp_path, content, expected):
    genome = Genome(write(tmp_path / "a.fa", content))
    assert [bases(genome, i) for i in range(len(genome.contigs))] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("ACGT\n", "line 1: no FASTA record begins here"),
        ("\n ; comment\n>a\nACGT\n", "line 2: no FASTA record begins here"),
        (" >a\nACGT\n", "line 1: no FASTA record begins here"),
        ("@read\nACGT\n+\nIIII\n", "FASTQ"),
        (">a\n>b\n", "2 records but no bases"),
        (">a\nACGT\nAC\nACGT\n", "line 3: the line ends early; record 'a' has 4 bases"),
        (">ok\nACGT\n>bad\nACGT\nACGT\nACGTA\n", "line 6: the line goes on too long; record 'bad'"),
        (">a\nACGT\nACGTAC\nACG\n", "line 3: the line goes on too long"),
        (">a\r\nACGT\r\nACGTA\r\n", "line 3: the line goes on too long"),
        (">a\nACGT\n\nACGT\n", "line 3: the line ends early"),
        (">a\n\nACGT\nACGT\n", "line 2: record 'a' begins with a blank line"),
        (">a\nAC T\nACGT\n", "line 2: byte 32 stands among the bases; record 'a'"),
        (">a\nACGT \nACGT \n", "line 2: byte 32 stands"),
        (">a\nACGT\nA>GT\n", "line 3: a '>' stands among the bases"),
        (">a\nACGT\n;cccAC\n", "line 3: a ';' stands among the bases"),
        (">a\nACG1\n", "line 2: a '1' stands among the bases"),
        (">a\nAC\0T\n", "line 2: byte 0 stands among the bases"),
        (">a\r\nACGT\r\nACGTA\nACGT\r\nAC\r\n", "line 3: the line goes on too long"),
        (">a\nACGT\r\nACGT\nAC\n", "line 3"),
        (">a\rACGT\rAC\r", "line 1: the header has a carriage return inside; are lines ended by CR alone"),
        (">a\nACGT\n>\nACGT\n", "line 3: this record has no name"),
        (">a\nACGT\n>b\nAC\n>a\nGG\n", "two records are named 'a', at lines 1 and 5"),
        (">a\nMKVLAARWERTPQ\n", "looks like protein: of 13 letters only 3"),
        (">a\n----\n", "looks like protein"),
        (b">b\nACGT\n>a\xff\nACGT\n", r"line 3: the name b'a\\xff' is not UTF-8"),
        (b">a\xff\nAC\xffT\n", r"line 2: byte 255 stands among the bases; record 'a\?'"),
        (b"\xef\xbb\xbf>a\nACGT\n", "byte order mark"),
        (b"PK\x03\x04", "zip archive"),
    ],
)
def test_content_that_is_refused(tmp_path, content, message):
    path = write(tmp_path / "a.fa", content)
    with pytest.raises(GenomeError, match=message) as refusal:
        Genome(path, cache_dir=tmp_path / "cache")
    assert str(path) in str(refusal.value)


def test_paths_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such FASTA file.*missing\.fa"):
        Genome(tmp_path / "missing.fa")
    with pytest.raises(GenomeError, match=r"a folder without FASTA files, whose names end with \.fa"):
        Genome(tmp_path)
    with pytest.raises(ValueError, match="no FASTA file"):
        Genome([])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GenomeError, match="not a regular file"):
        Genome(tmp_path / "pipe")


def test_a_name_in_two_files_gets_the_files_stem(tmp_path):
    first, second = write(tmp_path / "a.fa", ">x\nAC\n>y\nA\n"), write(tmp_path / "b.x.fasta.gz", b">x\nGT\n>z\nA\n")
    assert Genome([first, second]).contigs == ("a:x", "y", "b.x:x", "z")


def test_a_name_in_two_files_of_one_stem_is_refused(tmp_path):
    first, second = write(tmp_path / "a.fa", ">x\nAC\n"), write(tmp_path / "a.fasta", ">x\nGT\n")
    with pytest.raises(GenomeError, match=r"'a:x' occurs in .*a\.fa and again in .*a\.fasta"):
        Genome([first, second])


def test_a_folder_stands_for_its_fasta_files(tmp_path):
    for name in ("b.fa", "a.fna", "c.fa.gz.nucel.fa", ".hidden.fa", "notes.txt", "b.fa.fai"):
        write(tmp_path / name, f">{name}\nACGT\n")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "d.fa.gz", gzip.compress(b">d\nAC\n"))
    genome = Genome([tmp_path / "more", tmp_path])
    assert genome.contigs == ("d", "a.fna", "b.fa")
    assert genome.source.tolist() == [0, 1, 1] and genome.file.tolist() == [0, 1, 2]
    assert [file.name for file in genome.files] == ["d.fa.gz", "a.fna", "b.fa"]


def test_no_index_is_written(tmp_path, capsys):
    Genome(write(tmp_path / "a.fa", FASTA))
    assert os.listdir(tmp_path) == ["a.fa"] and capsys.readouterr().err == ""


def test_what_opening_finds_is_what_samtools_writes(tmp_path, capsys):
    path = write(tmp_path / "a.fa", FASTA)
    pysam.faidx(str(path))
    fasta = Genome(path)._opened[0]
    lines = [[name, *map(str, entry)] for name, entry in zip(fasta.names, fasta.native.entries.tolist(), strict=True)]
    assert (tmp_path / "a.fa.fai").read_text() == "".join("\t".join(line) + "\n" for line in lines)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", "contig 'one' is different"),
        ("nonsense", "is damaged: line 1"),
        ("one\t500\t18\t60\n", "is damaged: line 1"),
        ("one\t500\tx\t60\t61\ntwo\t5\t532\t5\t6\n", "is damaged: line 1"),
        ("one\t99999999\t18\t60\t61\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
        ("one\t99999999999999999999999\t18\t60\t61\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
        ("one\t500\t18\t0\t0\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
        ("one\t500\t18\t60\t62\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
        ("one\t500\t19\t60\t61\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
        ("one\t500\t18\t60\t61\ntwo\t5\t532\t0\t0\n", "contig 'two'"),
        ("one\t500\t18\t60\t61\n", "contig 'two'"),
        ("one\t500\t18\t60\t61\none\t500\t18\t60\t61\ntwo\t5\t532\t5\t6\n", "is damaged: line 2"),
        ("one\t500\t18\t60\t61\ntwo\t5\t532\t5\t6\nthree\t5\t532\t5\t6\n", "does not have"),
        (b"\xff\t500\t18\t60\t61\ntwo\t5\t532\t5\t6\n", "contig 'one'"),
    ],
)
def test_a_wrong_index_is_noticed_and_harmless(tmp_path, capsys, index, message):
    path = write(tmp_path / "a.fa", FASTA)
    before = write(tmp_path / "a.fa.fai", index).read_bytes()
    genome = Genome(path)
    assert bases(genome, "one") == SEQUENCE and bases(genome, "two") == "ACGTN"
    announced = capsys.readouterr().err
    assert message in announced and "samtools faidx" in announced
    assert (tmp_path / "a.fa.fai").read_bytes() == before


@pytest.mark.parametrize("layout", ["empty records", "no newline", "CRLF", "blank lines"])
def test_a_right_index_of_odd_files_is_no_news(tmp_path, capsys, layout):
    text = {
        "empty records": ">e\n>a\nACGT\n>f\n\n>b\nAC\n",
        "no newline": ">a\nACGT",
        "CRLF": ">a\r\nACGT\r\nAC\r\n",
        "blank lines": "\n>a\nACGT\nAC\n\n\n>b\nA\n\n",
    }[layout]
    path = write(tmp_path / "a.fa", text)
    pysam.faidx(str(path))
    Genome(path)
    assert capsys.readouterr().err == ""


def test_an_index_beside_a_ragged_file_does_not_help(tmp_path):
    path = write(tmp_path / "a.fa", ">a\nACGT\nAC\nACGT\n")
    write(tmp_path / "a.fa.fai", "a\t10\t3\t4\t5\n")
    with pytest.raises(GenomeError, match="line 3"):
        Genome(path)


def test_the_reader_names_contig_and_line_of_a_wrong_byte_deep_in_a_large_file(tmp_path):
    lines = wrap(random_bases(60) * 200_000).encode()
    path = write(tmp_path / "a.fa", b">big\n" + lines[:-100] + b"\x00" + lines[-99:])
    with pytest.raises(GenomeError, match="line 200000: byte 0 stands among the bases; record 'big'"):
        Genome(path)


def test_a_plain_file_may_have_any_name(tmp_path):
    assert bases(Genome(write(tmp_path / "a.fa.gz", ">a\nACGT\n"))) == "ACGT"
