"""Genome, Windows and WindowSampler: what they accept, what they refuse and what they leave on the disk."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pysam
import pytest
from torch.utils.data import DataLoader

from nucel.genome import GenomeError, decompress
from nucel.genome.__main__ import main as survey_main
from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import WindowOptions, Windows
from nucel.tokenizers import nucleotide


def tile(genome, window_bp=1224, overlap_bp=100, **options):
    """Windows.tile with some of its options."""
    return Windows.tile(genome, WindowOptions(window_bp=window_bp, overlap_bp=overlap_bp, **options))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def wrap(sequence: str, width: int = 60, newline: str = "\n") -> str:
    return newline.join(sequence[i : i + width] for i in range(0, len(sequence), width)) + newline


def random_bases(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def bases(genome: Genome, contig: str | int = 0) -> str:
    return nucleotide.decode(genome.fetch(contig))


def copy_of(path: Path) -> Path:
    """The decompressed copy beside a compressed file."""
    return path.with_name(f"{path.name}.{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.nucel.fa")


def as_if_read_only(monkeypatch, folder: Path) -> None:
    writable = decompress._is_writable
    monkeypatch.setattr(decompress, "_is_writable", lambda asked: asked != folder and writable(asked))


SEQUENCE = random_bases(500)
FASTA = f">one first record\n{wrap(SEQUENCE)}>two\nACGTN\n"


# Reading.


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


# Refusals.


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


# The index that other tools keep beside a file.


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


# Compressed files, and folders that cannot be written to.


@pytest.mark.parametrize("name", ["a.fa.gz", "a.fa", "a"])
@pytest.mark.parametrize("blocks", [False, True], ids=["gzip", "bgzip"])
def test_compressed_files_are_decompressed_once(tmp_path, capsys, name, blocks):
    path = tmp_path / name
    if blocks:
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(FASTA.encode())
    else:
        write(path, gzip.compress(FASTA.encode()))
    genome = Genome(path)
    assert bases(genome, "one") == SEQUENCE
    assert genome.fingerprint == hashlib.sha256(FASTA.encode()).hexdigest()
    copy = copy_of(path)
    assert copy.read_text() == FASTA
    announced = capsys.readouterr().err.splitlines()
    assert sum("decompressing" in line for line in announced) == 1 and str(copy) in announced[0]
    Genome(path)
    assert capsys.readouterr().err == ""
    assert sorted(os.listdir(tmp_path)) == sorted([name, copy.name])


def test_a_plain_file_may_have_any_name(tmp_path):
    assert bases(Genome(write(tmp_path / "a.fa.gz", ">a\nACGT\n"))) == "ACGT"


@pytest.mark.parametrize("shift_ns", [1_000, -1_000, 0])
@pytest.mark.parametrize("blocks", [False, True], ids=["gzip", "bgzip"])
def test_a_copy_of_another_source_of_the_same_name_is_rebuilt(tmp_path, shift_ns, blocks):
    """Also where the new source has the old one's time, as rsync, tar and cp --preserve make it, and its size."""

    def pack(sequence: str) -> None:
        if not blocks:
            write(path, gzip.compress(f">a\n{sequence}\n".encode(), 0))
        else:
            with pysam.BGZFile(str(path), "wb0") as file:
                file.write(f">a\n{sequence}\n".encode())

    path = tmp_path / "a.fa.gz"
    pack("ACGT")
    size, changed = path.stat().st_size, path.stat().st_mtime_ns
    assert bases(Genome(path)) == "ACGT"
    pack("GGGG")
    os.utime(path, ns=(changed + shift_ns, changed + shift_ns))
    assert path.stat().st_size == size
    assert bases(Genome(path)) == "GGGG"
    assert sorted(tmp_path.iterdir()) == sorted([path, copy_of(path)])


def damaged(whole: bytes, kind: str) -> bytes:
    return {
        "truncated": whole[: len(whole) // 2],
        "header only": whole[:4],
        "wrong checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "garbage inside": whole[:100] + bytes(40) + whole[140:],
        "garbage behind": whole + b"garbage",
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "header only", "wrong checksum", "garbage inside", "garbage behind"])
def test_damaged_gzip_is_refused_and_leaves_nothing(tmp_path, kind):
    text = f">a\n{wrap(random_bases(3_000_000))}".encode()
    path = write(tmp_path / "a.fa.gz", damaged(gzip.compress(text, 1), kind))
    with pytest.raises(GenomeError, match=r"a\.fa\.gz is a damaged or incomplete gzip file"):
        Genome(path)
    assert os.listdir(tmp_path) == ["a.fa.gz"]


@pytest.mark.parametrize("content", [b"", b"no sequence"])
def test_compressed_files_of_something_else_leave_nothing(tmp_path, content):
    path = write(tmp_path / "a.gz", gzip.compress(content))
    with pytest.raises(GenomeError, match=r"a\.gz is (empty|not FASTA)"):
        Genome(path)
    assert os.listdir(tmp_path) == ["a.gz"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device.*nothing is left.*a\.fa\.gz\..*\.nucel\.fa") as full:
        Genome(path)
    assert full.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a.fa.gz"]


def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path, monkeypatch, capsys):
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    plain = write(folder / "plain.fa", ">p\nAC\n")
    packed = write(folder / "packed.fa.gz", gzip.compress(FASTA.encode()))
    as_if_read_only(monkeypatch, folder)
    for _ in range(2):
        genome = Genome([plain, packed], cache_dir=cache)
        assert bases(genome, "one") == SEQUENCE
    announced = capsys.readouterr().err
    assert announced.count("decompressing") == 1 and announced.count("cannot be written to") == 1
    assert sorted(os.listdir(folder)) == ["packed.fa.gz", "plain.fa"]
    assert len(os.listdir(cache)) == 1 and os.listdir(cache)[0].endswith(f"-{copy_of(packed).name}")


def test_the_default_cache_follows_the_environment(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    as_if_read_only(monkeypatch, folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = write(folder / "a.fa", gzip.compress(b">a\nAC\n"))
    Genome(path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Genome(path)
    assert os.listdir(tmp_path / "xdg" / "nucel") == os.listdir(tmp_path / "home" / ".cache" / "nucel")


def test_a_user_without_a_home_can_read(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert bases(Genome(write(tmp_path / "a.fa", ">a\nACGT\n"))) == "ACGT"


def test_files_of_one_name_in_two_folders_do_not_share_a_cache_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "_is_writable", lambda folder: False)
    for folder, sequence in (("x", "ACGT"), ("y", "GGGG")):
        (tmp_path / folder).mkdir()
        path = write(tmp_path / folder / "a.fa.gz", gzip.compress(f">a\n{sequence}\n".encode()))
        os.utime(path, ns=(1, 1))
        assert bases(Genome(path, cache_dir=tmp_path / "cache")) == sequence


def test_several_may_open_a_new_file_at_once(tmp_path):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    found = []
    threads = [threading.Thread(target=lambda: found.append(bases(Genome(path), "one"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SEQUENCE] * 6


# Windows.


def test_tile_starts_at_zero_and_ends_flush(tmp_path):
    text = f">a\n{wrap(random_bases(250))}>short\n{wrap(random_bases(99))}>exact\n{wrap(random_bases(190))}"
    windows = tile(Genome(write(tmp_path / "a.fa", text)), window_bp=100, overlap_bp=10)
    assert windows.contig.tolist() == [0, 0, 0, 2, 2]
    assert windows.start_bp.tolist() == [0, 90, 150, 0, 90]
    assert (windows.contig.dtype, windows.start_bp.dtype, len(windows)) == (np.int32, np.int64, 5)
    assert tile(windows.genome, 100, 10, contigs=["exact"]).contig.tolist() == [2, 2]


def test_tile_drops_windows_with_too_many_unknown_bases(tmp_path):
    sequence = "A" * 10 + "R" + "A" * 9 + "NN" + "A" * 8 + "n" * 10
    genome = Genome(write(tmp_path / "a.fa", f">a\n{wrap(sequence, 7)}>b\n{'C' * 10}\n"))
    starts = {share: tile(genome, 10, 0, max_unknown=share).start_bp.tolist() for share in (0, 0.1, 0.2, 0.99, 1)}
    assert starts == {0: [0, 0], 0.1: [0, 10, 0], 0.2: [0, 10, 20, 0], 0.99: [0, 10, 20, 0], 1: [0, 10, 20, 30, 0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_bp": 0}, "window_bp must be at least 1, got 0"),
        ({"window_bp": 10, "overlap_bp": 10}, r"overlap_bp must lie in \[0, window_bp\) = \[0, 10\), got 10"),
        ({"overlap_bp": -1}, "overlap_bp must lie"),
        ({"window_bp": 10.5}, "window_bp must be an integer, got 10.5"),
        ({"overlap_bp": 0.0}, "overlap_bp must be an integer, got 0.0"),
        ({"max_unknown": 1.5}, "max_unknown is a share"),
        ({"max_unknown": float("nan")}, "max_unknown is a share"),
        ({"contigs": ["three"]}, "no contig 'three'"),
        ({"contigs": "one"}, "must be a sequence of names"),
    ],
)
def test_tile_refuses_bad_arguments(tmp_path, arguments, message):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    with pytest.raises(ValueError, match=message):
        tile(genome, **arguments)


def test_tile_refuses_to_give_no_windows(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    with pytest.raises(GenomeError, match="the longest has 500 bp; lower window_bp"):
        tile(genome, window_bp=501)
    genome = Genome(write(tmp_path / "b.fa", f">a\n{'N' * 300}\n"))
    with pytest.raises(GenomeError, match="raise max_unknown"):
        tile(genome, window_bp=100, overlap_bp=0)


def test_windows_must_lie_inside_their_contig(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    for contig, start in ((2, 0), (-1, 0), (0, -1), (0, 401), (1, 0)):
        with pytest.raises(ValueError, match="contig"):
            Windows(genome, 100, np.array([contig]), np.array([start]))
    with pytest.raises(ValueError, match="vectors of one length"):
        Windows(genome, 100, np.array([0, 0]), np.array([0]))


@pytest.fixture
def three_contigs(tmp_path) -> Windows:
    text = "".join(f">c{i}\n{wrap(random_bases(length, i))}" for i, length in enumerate((9_000, 4_000, 1_000)))
    return tile(Genome(write(tmp_path / "a.fa", text)), window_bp=100, overlap_bp=20)


def test_hold_out_of_whole_contigs(three_contigs):
    train, held_out = three_contigs.hold_out(contigs=["c1"])
    assert set(held_out.contig.tolist()) == {1} and set(train.contig.tolist()) == {0, 2}
    assert len(train) + len(held_out) == len(three_contigs)


def test_hold_out_of_a_fraction_is_exact_seeded_and_in_blocks(three_contigs):
    train, held_out = three_contigs.hold_out(fraction=0.2, seed=3)
    assert len(held_out) == round(0.2 * len(three_contigs))
    again = three_contigs.hold_out(fraction=0.2, seed=3)[1]
    assert (held_out.contig == again.contig).all() and (held_out.start_bp == again.start_bp).all()
    other = three_contigs.hold_out(fraction=0.2, seed=4)[1]
    assert held_out.start_bp.tolist() != other.start_bp.tolist()
    # Each block costs the two windows at its ends, so a few blocks cost far fewer than single windows would.
    assert len(three_contigs) - len(train) - len(held_out) <= 12


def test_hold_out_of_a_tiny_fraction_is_one_window(three_contigs):
    assert len(three_contigs.hold_out(fraction=1e-9)[1]) == 1


def test_hold_out_of_nothing_changes_nothing(three_contigs):
    train, held_out = three_contigs.hold_out()
    assert len(train) == len(three_contigs) and len(held_out) == 0


def test_hold_out_refusals(three_contigs):
    with pytest.raises(GenomeError, match="leaves none to train on"):
        three_contigs.hold_out(contigs=["c0", "c1", "c2"])
    with pytest.raises(GenomeError, match="leaves none to train on"):
        three_contigs.hold_out(fraction=0.999)
    only_first = tile(three_contigs.genome, 100, 20, contigs=["c0"])
    with pytest.raises(GenomeError, match="none of 113 windows lies on these contigs: c2"):
        only_first.hold_out(contigs=["c2"])
    for arguments, message in (
        ({"fraction": 1.0}, "fraction must lie"),
        ({"fraction": -0.1}, "fraction must lie"),
        ({"contigs": ["c9"]}, "no contig 'c9'"),
        ({"fraction": 0.1, "seed": -1}, "seed must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            three_contigs.hold_out(**arguments)


# The sampler.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 102}, r"must lie in \[2, 101\], got 102"),
        ({"context": 1}, "context is"),
        ({"rank": 1}, r"rank must lie in \[0, world_size\) = \[0, 1\), got 1"),
        ({"rank": -1}, "rank must lie"),
        ({"batch_size": 3, "world_size": 4}, "at least world_size = 4, got 3"),
        ({"batch_size": 0}, "at least world_size"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"seed": 1 << 64}, "seed must lie"),
        ({"context": 64.0}, "context must be an integer, got 64.0"),
        ({"batch_size": 8.0}, "batch_size must be an integer, got 8.0"),
        ({"rank": 0.0}, "rank must be an integer, got 0.0"),
        ({"world_size": "1"}, "world_size must be an integer, got '1'"),
        ({"threads": 1.5}, "threads must be an integer, got 1.5"),
        ({"seed": 1.0}, "seed must be an integer, got 1.0"),
    ],
)
def test_sampler_refuses_bad_arguments(three_contigs, arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowSampler(three_contigs, **{"context": 64, **arguments})


def test_sampler_refuses_empty_windows_and_impossible_steps(three_contigs):
    with pytest.raises(ValueError, match="no windows"):
        WindowSampler(three_contigs.hold_out()[1], context=64)
    sampler = WindowSampler(three_contigs, context=64)
    for step in (-1, 1 << 60):
        with pytest.raises(ValueError, match="step must lie"):
            sampler.batch(step)
    with pytest.raises(ValueError, match=r"step must be an integer, got 1\.0"):
        sampler.batch(1.0)
    assert (sampler.batch(np.int64(1)).tokens == sampler.batch(1).tokens).all()


def test_batch_shapes_and_types(three_contigs):
    batch = WindowSampler(three_contigs, context=64, batch_size=7, rank=1, world_size=2).batch(0)
    assert [(array.shape, array.dtype) for array in batch] == [
        ((4, 64), np.uint8), ((4,), np.int64), ((4,), np.int32), ((4,), np.int64), ((4,), np.int8),
    ]  # fmt: skip
    assert (batch.tokens[:, 0] == nucleotide.CLS).all() and not (batch.tokens[:, 1:] == nucleotide.CLS).any()


def test_steps_far_away_are_as_good_as_the_first(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=192)
    batch = sampler.batch(1 << 40)
    row = three_contigs.genome.fetch(int(batch.contig[5]), int(batch.start_bp[5]), int(batch.start_bp[5]) + 63)
    expected = row if batch.strand[5] == 1 else nucleotide.reverse_complement(row)
    assert (batch.tokens[5, 1:] == expected).all()


def test_batches_are_fresh_arrays(three_contigs):
    sampler = WindowSampler(three_contigs, context=64)
    first = sampler.batch(0)
    kept = first.tokens.copy()
    first.tokens[:] = 0
    assert (sampler.batch(0).tokens == kept).all()


def test_steps_per_epoch_and_rows(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=10, rank=2, world_size=3)
    assert sampler.steps_per_epoch == len(three_contigs) / 10 and sampler.rows == 4


def test_without_reverse_complement_all_rows_are_forward(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, reverse_complement=False)
    assert (sampler.batch(0).strand == 1).all()


def test_four_threads_at_once_get_what_one_gets(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=32, threads=2)
    alone = [sampler.batch(step).tokens for step in range(40)]
    together: dict[tuple[int, int], np.ndarray] = {}

    def work(worker: int) -> None:
        for step in np.random.default_rng(worker).permutation(40).tolist():
            together[worker, step] = sampler.batch(step).tokens

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 160
    assert all((tokens == alone[step]).all() for (_, step), tokens in together.items())


# As Python objects.


def test_genome_and_windows_are_collections(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    assert len(genome) == 2 and list(genome) == ["one", "two"]
    windows = tile(genome, 200, 50)
    assert list(windows) == [("one", 0, 200), ("one", 150, 350), ("one", 300, 500)] and len(windows) == 3


def test_a_sampler_gives_its_batches_in_turn(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=8, seed=3)
    for step, batch in zip(range(5), sampler, strict=False):
        assert (batch.tokens == sampler.batch(step).tokens).all()


@pytest.mark.parametrize("packed", [False, True])
def test_pickles_read_the_same_bases(tmp_path, monkeypatch, packed):
    content = FASTA.encode()
    write(tmp_path / "a.fa", gzip.compress(content) if packed else content)
    monkeypatch.chdir(tmp_path)
    windows = tile(Genome("a.fa"), 100, 20).weighted([2.0])
    sampler = WindowSampler(windows, 64, 8, seed=5, rank=1, world_size=2, reverse_complement=False, threads=1)
    pickled = pickle.dumps(sampler)
    assert len(pickled) < 2000
    monkeypatch.chdir("/")
    copy = pickle.loads(pickled)
    assert all((a == b).all() for a, b in zip(copy.batch(7), sampler.batch(7), strict=True))
    assert copy.rows == 4 and copy.steps_per_epoch == sampler.steps_per_epoch
    assert copy.windows.genome.contigs == ("one", "two") and not copy.windows.start_bp.flags.writeable
    assert (copy.windows.weight == windows.weight).all()


def test_a_pickle_of_other_bases_is_refused(tmp_path):
    path = write(tmp_path / "a.fa", ">a\nACGT\n")
    pickled = pickle.dumps(Genome(path))
    write(path, ">a\nACGA\n")
    with pytest.raises(GenomeError, match="content of its files has changed"):
        pickle.loads(pickled)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_share_the_steps(three_contigs, start):
    sampler = WindowSampler(three_contigs, context=64, batch_size=8, threads=1)
    loader = DataLoader(
        range(3, 9), batch_size=None, collate_fn=sampler.batch, num_workers=2, multiprocessing_context=start
    )
    rows = [batch.tokens for batch in loader]
    assert len(rows) == 6
    assert all((tokens == sampler.batch(step).tokens).all() for step, tokens in enumerate(rows, start=3))


# Which windows, and how often.


@pytest.fixture
def masked(tmp_path) -> Genome:
    """Contig a: 400 bases, of which [100, 200) and [300, 330) are soft-masked; b: 300 bases; chr1_alt: 300 bases."""
    sequence = SEQUENCE[:400]
    sequence = (
        sequence[:100] + sequence[100:200].lower() + sequence[200:300] + sequence[300:330].lower() + sequence[330:]
    )
    text = f">a\n{wrap(sequence)}>b\n{wrap(SEQUENCE[:300], 7)}>chr1_alt\n{wrap(SEQUENCE[100:400])}"
    return Genome(write(tmp_path / "m.fa", text))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a"], {0}), (["?"], {0, 1}), (["*"], {0, 1, 2}), (["!*_alt"], {0, 1}), (["*", "!b"], {0, 2}),
        (["chr[0-9]*", "b"], {1, 2}), ([1], {1}),
    ],
)  # fmt: skip
def test_contigs_by_name_and_glob(masked, patterns, expected):
    assert set(tile(masked, 50, 0, contigs=patterns).contig.tolist()) == expected
    train, held_out = tile(masked, 50, 0).hold_out(patterns) if expected != {0, 1, 2} else (None, None)
    if held_out is not None:
        assert set(held_out.contig.tolist()) == expected and not expected & set(train.contig.tolist())


def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", f">x[1]\n{wrap(SEQUENCE)}>x1\n{wrap(SEQUENCE)}>!y\n{wrap(SEQUENCE)}"))
    assert set(tile(genome, 50, 0, contigs=["x[1]"]).contig.tolist()) == {0}
    assert set(tile(genome, 50, 0, contigs=["!y"]).contig.tolist()) == {2}
    assert set(tile(genome, 50, 0, contigs=["!!y"]).contig.tolist()) == {0, 1}


@pytest.mark.parametrize("patterns", [["x*"], ["!x*"], ["a", "x"]])
def test_a_glob_without_a_contig_is_refused(masked, patterns):
    with pytest.raises(GenomeError, match=r"no contig 'x\*?'; the genome has a, b, chr1_alt"):
        tile(masked, 50, 0, contigs=patterns)


def test_windows_lie_in_the_regions_that_are_kept(masked, tmp_path, capsys):
    keep = write(
        tmp_path / "keep.bed",
        "# a comment\ntrack name=x\na\t10\t70\tname\na 60 130\nb\t0\t49\nb\t250\t300\nc\t0\t9\n\n",
    )
    windows = tile(masked, 50, 0, keep_bed=keep)
    assert windows.contig.tolist() == [0, 0, 0, 1] and windows.start_bp.tolist() == [10, 60, 80, 250]
    assert "skipping regions on 1 contigs that are not there: c" in capsys.readouterr().err
    assert tile(masked, 50, 0, keep_bed=keep, contigs=["b"]).start_bp.tolist() == [250]


def test_windows_avoid_the_regions_that_are_left_out(masked, tmp_path):
    drop = write(
        tmp_path / "drop.bed.gz", gzip.compress(b"a\t60\t120\na\t110\t130\na\t200\t200\nb\t0\t300\nchr1_alt\t50\t251\n")
    )
    windows = tile(masked, 50, 0, drop_bed=drop)
    assert windows.contig.tolist() == [0] * 8 + [2]
    assert windows.start_bp.tolist() == [0, 10, 130, 180, 230, 280, 330, 350, 0]
    keep = write(tmp_path / "keep.bed", "a\t100\t190\nb\t0\t90\n")
    assert tile(masked, 50, 0, keep_bed=keep, drop_bed=drop).start_bp.tolist() == [130, 140]


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("a\t0\t401\n", r"line 1: \[0, 401\) is not inside contig 'a', which has 400 bases"),
        ("a\t5\t4\n", "not inside contig"),
        ("a\t-1\t4\n", "not inside contig"),
        ("a\t0\t10\na\tx\t4\n", "line 2: no contig, start and end"),
        ("a 5\n", "line 1: no contig, start and end"),
        ("", "no region on the genome's contigs, a, b, chr1_alt"),
        ("1\t0\t10\n2\t0\t10\n", "its contigs are 1, 2"),
        ("a\t0\t49\n", "no contig or region is long enough for a window of 50 bp: the longest has 49 bp"),
    ],
)
def test_bed_files_that_are_refused(masked, tmp_path, bed, message):
    with pytest.raises(GenomeError, match=message):
        tile(masked, 50, 0, keep_bed=write(tmp_path / "r.bed", bed))


def test_repeats_are_kept_dropped_or_drawn_less_often(masked):
    everything = tile(masked, 50, 0)
    assert everything.weight is None and len(everything) == 8 + 6 + 6
    dropped = tile(masked, 50, 0, max_masked=0.6)
    assert dropped.start_bp[dropped.contig == 0].tolist() == [0, 50, 200, 250, 300, 350]
    assert tile(masked, 50, 0, max_masked=0).start_bp[:5].tolist() == [0, 50, 200, 250, 350]
    rarer = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    assert rarer.weight.tolist() == [1, 1, 0.25, 0.25] + [1] * 16
    assert tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25, contigs=["b"]).weight is None
    lower = write(masked.paths[0].with_name("l.fa"), ">l\n" + "acgt" * 20)
    with pytest.raises(GenomeError, match=r"is soft-masked by more than max_masked = 0\.5"):
        tile(Genome(lower), 50, 0, max_masked=0.5)


def drawn(windows: Windows, epochs: int) -> np.ndarray:
    """How often each window is drawn in some epochs, each known by its start."""
    sampler = WindowSampler(windows, windows.window_bp + 1, batch_size=1, seed=3)
    rows = round(sampler.steps_per_epoch * epochs)
    batch = WindowSampler(windows, windows.window_bp + 1, batch_size=rows, seed=3).batch(0)
    place = np.searchsorted(windows.contig * 1_000_000 + windows.start_bp, batch.contig * 1_000_000 + batch.start_bp)
    return np.bincount(place, minlength=len(windows))


def test_weights_set_how_often_a_window_is_drawn(masked):
    windows = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    counts = drawn(windows, 90)
    repeat = windows.weight == 0.25
    # 20 windows: 18 of weight 1 and 2 of 0.25 share 20 rows an epoch as 19 to 1.
    assert set(counts[repeat].tolist()) == {45} and set(counts[~repeat].tolist()) == {95}


def test_genome_weights_share_the_rows_and_show_each_genome_evenly(tmp_path):
    paths = [
        write(tmp_path / f"{i}.fa", f">c\n{wrap(random_bases(length, i))}") for i, length in enumerate((4000, 1000))
    ]
    genome = Genome(paths)
    windows = tile(genome, 50, 0)
    for weights, shares in (((1, 1), (50, 50)), ((3, 1), (75, 25)), ((4, 1), (80, 20))):
        weighted = windows.weighted(weights)
        counts = drawn(weighted, 6)
        for source, (n, rows) in enumerate(zip((80, 20), shares, strict=True)):
            of = counts[genome.source[windows.contig] == source]
            assert of.sum() == 6 * rows
            assert set(of.tolist()) <= {6 * rows // n, -(-6 * rows // n)}
    for bad in ((1,), (1, 0), (1, float("inf")), (1, 1, 1)):
        with pytest.raises(ValueError, match="one number above 0 for each of the 2 files"):
            windows.weighted(bad)
    with pytest.raises(ValueError, match="weight must be a number above 0 for each window"):
        Windows(genome, 50, np.array([0]), np.array([0]), np.array([0.0]))


def test_weighted_rows_are_functions_of_seed_and_step(masked):
    windows = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    whole = WindowSampler(windows, 40, batch_size=12, seed=1, threads=1)
    halves = [WindowSampler(windows, 40, batch_size=12, seed=1, rank=rank, world_size=2, threads=2) for rank in (0, 1)]
    for step in (7, 0, 1 << 40):
        expected = whole.batch(step)
        for i, column in enumerate(expected):
            assert (np.concatenate([half.batch(step)[i] for half in halves]) == column).all()
        for half in halves:
            assert all((x == y).all() for x, y in zip(half.batch_of_all_ranks(step), expected, strict=True))
        assert expected.rows.tolist() == list(range(step * whole.batch_size, (step + 1) * whole.batch_size))
        row = masked.fetch(int(expected.contig[0]), int(expected.start_bp[0]), int(expected.start_bp[0]) + 39)
        assert (expected.tokens[0, 1:] == (row if expected.strand[0] > 0 else nucleotide.reverse_complement(row))).all()


# Compressed files, once more: what only their ends and their indices tell.


def test_bgzip_cut_between_blocks_is_refused(tmp_path):
    path = tmp_path / "a.fa.gz"
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(FASTA.encode())
    whole = path.read_bytes()
    path.write_bytes(whole[:-28])
    with pytest.raises(GenomeError, match="incomplete bgzip file"):
        Genome(path)
    path.write_bytes(whole)
    assert bases(Genome(path), "one") == SEQUENCE


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (bytes(8), ""),
        (b"", "is damaged"),
        (b"\x01" + bytes(7), "is damaged: it should have 8 bytes, and 16 for each of 1 blocks, but has 8"),
        (b"\x01" + bytes(7) + b"\x05" + bytes(15), "no block begins at byte 5"),
        (b"\x01" + bytes(7) + b"\xff" * 16, "no block begins at byte"),
    ],
)
def test_a_wrong_block_index_is_noticed(tmp_path, capsys, index, message):
    path = tmp_path / "a.fa.gz"
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(FASTA.encode())
    write(tmp_path / "a.fa.gz.gzi", index)
    assert bases(Genome(path), "one") == SEQUENCE
    announced = "".join(capsys.readouterr().err.splitlines(keepends=True)[1:])
    assert message in announced and bool(message) == bool(announced)


def test_python_reads_gzip_where_isal_is_missing(tmp_path):
    """isal has no wheels for some platforms: there, importing the package must work too."""
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    program = (
        "import sys; sys.modules['isal'] = None\n"
        f"from nucel import Genome, decode\ngenome = Genome({str(path)!r})\n"
        f"print(decode(genome.fetch(0)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == SEQUENCE.upper()
    assert "pip install isal" in done.stderr


def test_a_source_that_grows_while_it_is_decompressed_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    gunzip = decompress._gunzip

    def slow(source, *show):
        yield from gunzip(source, *show)
        with open(source, "ab") as file:
            file.write(gzip.compress(b">more\nACGT\n"))

    monkeypatch.setattr(decompress, "_gunzip", slow)
    monkeypatch.setattr(decompress, "_require_beginning", lambda source, pieces: None)
    with pytest.raises(GenomeError, match="changed while it was decompressed"):
        Genome(path)
    assert os.listdir(tmp_path) == ["a.fa.gz"]


def test_progress_of_long_files_is_one_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "_LONG_BYTES", 0)
    bars, shown = [], []

    @contextlib.contextmanager
    def progress_bar():
        bars.append(1)
        yield lambda completed, total, text: shown.append((completed, total, text))

    monkeypatch.setattr(decompress.cli, "progress_bar", progress_bar)
    for name in "abc":
        write(tmp_path / f"{name}.fa.gz", gzip.compress(f">{name}\n{'ACGT' * (1 << 18)}\n".encode(), 0))
    Genome(tmp_path)
    assert len(bars) == 1
    assert [text for _, _, text in shown] == [f"MiB, decompressing {name}.fa.gz" for name in "abc"]
    completed, totals, _ = zip(*shown, strict=True)
    assert set(totals) == {3} and list(completed) == sorted(completed) and 1 <= completed[-1] <= 3
    Genome(tmp_path)
    assert len(bars) == 1


STUCK = """
import sys, time
from nucel.genome import Genome, decompress

def stuck(source, *show):
    yield b">a\\n"
    time.sleep(100)

decompress._gunzip = stuck
Genome(sys.argv[1])
"""


@contextlib.contextmanager
def decompressing(path: Path) -> Iterator[subprocess.Popen]:
    """A process that has begun to decompress a file, and goes no further."""
    with subprocess.Popen([sys.executable, "-c", STUCK, path], cwd=Path(__file__).parents[2]) as child:
        try:
            while not list(path.parent.glob(".nucel-*.tmp")):
                assert child.poll() is None
                time.sleep(0.05)
            time.sleep(0.2)
            yield child
        finally:
            child.kill()


def test_what_a_killed_process_left_goes_at_the_next_opening(tmp_path):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    with decompressing(path) as child:
        # It is alive: what it writes stays.
        assert bases(Genome(path), "one") == SEQUENCE
        assert len(list(tmp_path.glob(".nucel-*.tmp"))) == 1
        child.kill()
        child.wait()
    assert len(list(tmp_path.glob(".nucel-*.tmp"))) == 1
    assert bases(Genome(path), "one") == SEQUENCE
    assert sorted(tmp_path.iterdir()) == sorted([path, copy_of(path)])


def test_a_terminated_process_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    with decompressing(path) as child:
        child.terminate()
        assert child.wait() == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == ["a.fa.gz"]


def test_the_survey_writes_nothing_beside_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a.fa.gz", gzip.compress(FASTA.encode()))
    for notes in (1, 0):
        assert survey_main([str(path), "--context", "41", "--window-bp", "50", "--overlap-bp", "0"]) == 0
        assert os.listdir(tmp_path / "data") == ["a.fa.gz"]
        assert capsys.readouterr().err.count("decompressing") == notes


def test_a_copy_beside_its_source_is_not_read_twice(tmp_path):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    Genome(path)
    with pytest.raises(GenomeError, match=r"is the decompressed copy of another file"):
        Genome(sorted(tmp_path.iterdir()))
    assert len(Genome(tmp_path).contigs) == 2


def test_a_process_that_makes_the_copy_again_does_not_disturb_one_that_uses_it(tmp_path):
    path = write(tmp_path / "a.fa.gz", gzip.compress(FASTA.encode()))
    genome = Genome(path)
    copy = copy_of(path)
    kept = tmp_path / "kept"
    copy.rename(kept)
    Genome(path)
    assert copy.stat().st_ino != kept.stat().st_ino
    kept.unlink()
    assert bases(genome, "one") == SEQUENCE


def test_processes_that_start_at_once_all_read_right(tmp_path):
    """Each makes the copy, and puts it in the place of the others' while those read on."""
    sequence = random_bases(2_000_000)
    path = write(tmp_path / "a.fa.gz", gzip.compress(f">one\n{wrap(sequence)}".encode(), 1))
    expected = nucleotide.encode(sequence)
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            # Whatever goes wrong in the child must not run the rest of the tests a second time.
            right = False
            try:
                genome = Genome(path)
                right = all((genome.fetch(0) == expected).all() for _ in range(20))
            finally:
                os._exit(0 if right else 1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert sorted(os.listdir(tmp_path)) == ["a.fa.gz", copy_of(path).name]


# The table on the command line.


def test_the_survey_shows_what_the_sampler_sees(masked, tmp_path, capsys):
    write(tmp_path / "n.fa", f">n\n{'N' * 100}\n>o\n{wrap(SEQUENCE)}")
    paths = [str(tmp_path / "m.fa"), str(tmp_path / "n.fa")]
    options = [
        "--window-bp",
        "50",
        "--overlap-bp",
        "0",
        "--context",
        "41",
        "--batch-size",
        "4",
        "--tokens-per-second",
        "60",
    ]
    assert survey_main([*paths, *options]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " m.fa 3 1,000 " in text and " n.fa 2 600 " in text
    assert " all 5 1,600 " in text and " 16.67 0.00 10 33.33" in text
    assert "An epoch is 30 rows of 41 tokens" in text and "20.5 s at 60 tokens/s" in text and "7.5 steps of 4" in text
    assert survey_main([*paths, *options, "--by-contig", "--genome-weights", "1", "3", "--contigs", "!a"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " chr1_alt 1 300 " in text and " 6 12.50" in text and " 10 75.00" in text


def test_the_survey_refuses_with_a_reason(tmp_path, capsys):
    assert survey_main([str(tmp_path / "none.fa")]) == 2
    assert survey_main([]) == 2
    assert survey_main([str(write(tmp_path / "a.fa", FASTA)), "--overlap-bp", "-1"]) == 2
    errors = capsys.readouterr().err
    assert "no such FASTA file" in errors and "at least one FASTA file" in errors and "overlap_bp must lie" in errors


@pytest.mark.parametrize("by_contig", [[], ["--by-contig"]])
def test_the_survey_prints_names_as_they_are(tmp_path, capsys, by_contig):
    """Names that rich would read as a style or as the end of one."""
    path = write(tmp_path / "[red]x[bold].fa", f">[green]c[bold]\n{SEQUENCE}\n>e[/bold]\n{SEQUENCE}\n")
    assert survey_main([str(path), "--context", "41", "--window-bp", "50", "--overlap-bp", "0", *by_contig]) == 0
    text = capsys.readouterr().out
    for name in ["[green]c[bold]", "e[/bold]"] if by_contig else ["[red]x[bold].fa"]:
        assert f" {name} " in text
