"""Compressed FASTA files: decompressed once, whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pysam
import pytest
from support.genomes import FASTA, SEQUENCE, as_if_read_only, bases, copy_of, random_bases, wrap, write

from nucel.genome import GenomeError, decompress
from nucel.genome.fasta import Genome
from nucel.tokenizers import nucleotide


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
