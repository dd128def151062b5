"""A FASTA file that changes while it is in use gives an error: no crash, and no wrong bases."""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import Windows

LINES = 20_000


@pytest.fixture
def fasta(tmp_path) -> Path:
    bases = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), (LINES, 61))
    bases[:, 60] = ord("\n")
    path = tmp_path / "a.fa"
    path.write_bytes(b">a\n" + bases.tobytes())
    return path


def opened(fasta: Path) -> WindowSampler:
    return WindowSampler(Windows.tile(Genome(fasta)), batch_size=64)


def cut(path: Path) -> None:
    os.truncate(path, 4096 * 3)


def cut_within_the_last_page(path: Path) -> None:
    # The mapping shows zeros there, without any signal.
    os.truncate(path, path.stat().st_size - 7)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    changed = path.stat().st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"NNNN")
    os.utime(path, ns=(changed + 1, changed + 1))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes() + b">b\nACGT\n")
    os.replace(other, path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [cut, cut_within_the_last_page, empty, overwrite, replace, remove])
def test_every_read_after_a_change_is_refused(fasta, change):
    sampler = opened(fasta)
    genome = sampler.windows.genome
    expected = sampler.batch(3).tokens
    assert (sampler.batch(3).tokens == expected).all()
    change(fasta)
    for _ in range(2):
        for read in (
            lambda: sampler.batch(3),
            lambda: genome.fetch("a"),
            lambda: genome.fetch("a", 60 * LINES - 50),
            lambda: genome.fingerprint,
            lambda: Windows.tile(genome).hold_out(fraction=0.5)[0].genome.fetch(0),
        ):
            with pytest.raises(OSError, match=r"a\.fa"):
                read()


def test_another_genome_stays_readable(fasta, tmp_path):
    other = tmp_path / "b.fa"
    other.write_bytes(fasta.read_bytes())
    whole = Genome(other).fetch(0)
    both = Genome([fasta, other])
    cut(fasta)
    with pytest.raises(OSError, match="while it was in use"):
        both.fetch(0)
    assert (both.fetch(1) == whole).all()


def test_an_equal_file_in_its_place_is_no_change(fasta):
    sampler = opened(fasta)
    before, expected = fasta.stat(), sampler.batch(5).tokens
    other = fasta.with_name("other")
    other.write_bytes(fasta.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, fasta)
    assert (sampler.batch(5).tokens == expected).all()


def test_a_relative_path_survives_a_change_of_directory(fasta, monkeypatch):
    monkeypatch.chdir(fasta.parent)
    sampler = opened(Path("a.fa"))
    monkeypatch.chdir("/")
    assert sampler.batch(0).tokens.shape == (64, 1024)


def in_a_child(work: Callable[[], None]) -> int:
    """Does the work in a forked process, which a signal may end; its exit code, or minus the signal's number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_soon(path: Path, size: int, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.truncate, (path, size))
    timer.start()
    return timer


def test_a_file_cut_in_the_middle_of_a_read_ends_in_an_error(fasta):
    """Again and again: the file is cut at a random moment while threads read it."""
    whole = fasta.read_bytes()

    def work() -> None:
        rng = np.random.default_rng(0)
        for _ in range(150):
            fasta.write_bytes(whole)
            sampler = WindowSampler(Windows.tile(Genome(fasta)), batch_size=4096, threads=2)
            right = sampler.batch(0).tokens
            timer = cut_soon(fasta, int(rng.integers(0, len(whole))), rng.uniform(0, 2e-3))
            with pytest.raises(OSError, match="while it was in use"):
                while True:
                    assert (sampler.batch(0).tokens == right).all()
            timer.join()

    assert in_a_child(work) == 0


def test_a_file_cut_while_it_is_opened_is_refused_or_read_as_it_is(fasta):
    whole = fasta.read_bytes()

    def length(size: int) -> int:
        return (size - 3) // 61 * 60 + (size - 3) % 61

    def work() -> None:
        rng = np.random.default_rng(0)
        for _ in range(150):
            fasta.write_bytes(whole)
            size = int(rng.integers(3, len(whole)))
            timer = cut_soon(fasta, size, rng.uniform(0, 5e-4))
            with contextlib.suppress(OSError, GenomeError):
                assert Genome(fasta).lengths[0] in (length(len(whole)), length(size))
            timer.join()

    assert in_a_child(work) == 0


def test_a_bus_error_of_others_still_ends_the_process(fasta):
    def work() -> None:
        faulthandler.disable()
        genome = Genome(fasta)
        other = fasta.with_name("other")
        other.write_bytes(bytes(8192))
        with open(other, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        os.truncate(other, 0)
        other.with_name("reached").touch()
        print(genome, mapped[5000])
        other.with_name("survived").touch()

    # A sanitizer's handler, where there is one, reports the signal and exits with 1.
    assert in_a_child(work) in (-signal.SIGBUS, 1)
    assert fasta.with_name("reached").exists() and not fasta.with_name("survived").exists()
