"""Ways of reading windows of a genome as uint8 tokens or, where the name says so, letters; and a genome to read.

Each way opens a file, once, and gives a function from a step to rows, forward and without [CLS]. All but the sampler
are handed the windows' starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import Windows
from nucel.tokenizers import nucleotide

CONTEXT = 1024
ROWS = 4096
SLOW_ROWS = 256
WIDTH = 60

Read = Callable[[int], np.ndarray]

chosen_starts: list[np.ndarray] = []
"""Starts of the windows of some steps, for the ways that cannot choose."""


def write_genome(path: Path, mega_bases: int) -> None:
    """One contig, each half megabase in ten N; written in pieces, so that 3.1 Gb need no memory."""
    rng = np.random.default_rng(0)
    piece = np.full((-(-1_000_000 // WIDTH), WIDTH + 1), ord("\n"), np.uint8)
    with open(path, "wb") as file:
        file.write(b">chr1\n")
        for i in range(mega_bases):
            bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, piece.shape[0] * WIDTH, dtype=np.uint8)]
            if i % 10 == 4:
                bases[: bases.size // 2] = ord("N")
            piece[:, :WIDTH] = bases.reshape(-1, WIDTH)
            file.write(piece.tobytes())


def letters_of(fasta: Path) -> np.ndarray:
    """All bases of the file, read without any of the code under test."""
    lines = np.memmap(fasta, np.uint8, "r", offset=len(b">chr1\n")).reshape(-1, WIDTH + 1)
    return lines[:, :WIDTH].ravel()


# ---- ways of reading -------------------------------------------------------------------------------------------------


def sampler(fasta: Path, rows: int, threads: int = 1, reverse: bool = False) -> Read:
    windows = Windows.tile(Genome(fasta))
    ours = WindowSampler(windows, CONTEXT, rows, reverse_complement=reverse, threads=threads)
    return lambda step: ours.batch(step).tokens[:, 1:]


def sampled_starts(fasta: Path, rows: int) -> Read:
    windows = Windows.tile(Genome(fasta))
    ours = WindowSampler(windows, CONTEXT, rows, reverse_complement=False)
    return lambda step: ours.batch(step).start_bp


def numpy_in_memory(fasta: Path, rows: int) -> Read:
    tokens = nucleotide.encode(letters_of(fasta).tobytes())
    windows = np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT - 1)
    return lambda step: windows[chosen_starts[step % len(chosen_starts)][:rows]]


def numpy_memmap(fasta: Path, rows: int) -> Read:
    text = np.memmap(fasta, np.uint8, "r", offset=len(b">chr1\n"))

    def read(step: int) -> np.ndarray:
        start = chosen_starts[step % len(chosen_starts)][:rows, None] + np.arange(CONTEXT - 1)
        return nucleotide.ENCODE[text[start // WIDTH * (WIDTH + 1) + start % WIDTH]]

    return read


def one_by_one(fetch: Callable[[int, int], str], rows: int) -> Read:
    def read(step: int) -> np.ndarray:
        at = chosen_starts[step % len(chosen_starts)][:rows].tolist()
        return np.stack([nucleotide.encode(fetch(start, start + CONTEXT - 1)) for start in at])

    return read


def with_pyfaidx(fasta: Path, rows: int) -> Read:
    import pyfaidx

    contig = pyfaidx.Fasta(str(fasta), as_raw=True)["chr1"]
    return one_by_one(lambda start, end: str(contig[start:end]), rows)


def with_pysam(fasta: Path, rows: int) -> Read:
    import pysam

    file = pysam.FastaFile(str(fasta))
    return one_by_one(lambda start, end: file.fetch("chr1", start, end), rows)


def with_py2bit(fasta: Path, rows: int) -> Read:
    import py2bit

    file = py2bit.open(str(write_2bit(fasta)))
    return one_by_one(lambda start, end: file.sequence("chr1", start, end), rows)


def write_2bit(fasta: Path) -> Path:
    """The genome as 2bit, written once: T, C, A, G are 0 to 3, and runs of N stand in a list."""
    target = fasta.with_suffix(".2bit")
    if target.exists():
        return target
    letters = letters_of(fasta)
    unknown = np.flatnonzero(np.diff(np.concatenate([[False], letters == ord("N"), [False]]))).reshape(-1, 2)
    codes = np.zeros(256, np.uint8)
    codes[np.frombuffer(b"TCAG", np.uint8)] = np.arange(4)
    four = np.zeros(-(-letters.size // 4) * 4, np.uint8)
    four[: letters.size] = codes[letters]
    packed = four.reshape(-1, 4) @ np.array([64, 16, 4, 1], np.uint8)
    head = np.array([0x1A412743, 0, 1, 0], "<u4").tobytes() + b"\x04chr1" + np.array([25], "<u4").tobytes()
    counts = [[letters.size], [len(unknown)], unknown[:, 0], unknown[:, 1] - unknown[:, 0], [0], [0]]
    target.write_bytes(head + b"".join(np.asarray(part, "<u4").tobytes() for part in counts) + packed.tobytes())
    return target


def bgzipped(fasta: Path) -> Path:
    import pysam

    target = fasta.with_suffix(".fa.gz")
    if not target.exists():
        pysam.tabix_compress(str(fasta), str(target))
    return target


READERS: dict[str, tuple[Callable[[Path, int], Read], int]] = {
    "NucEL, 1 thread": (sampler, ROWS),
    "NucEL, 2 threads": (lambda fasta, rows: sampler(fasta, rows, 2), ROWS),
    "NucEL, 1 thread, both strands": (lambda fasta, rows: sampler(fasta, rows, 1, True), ROWS),
    "NucEL, 1 thread, from .fa.gz": (lambda fasta, rows: sampler(bgzipped(fasta), rows), ROWS),
    "NumPy gather, all in memory": (numpy_in_memory, ROWS),
    "NumPy gather, memmap": (numpy_memmap, SLOW_ROWS),
    "py2bit": (with_py2bit, SLOW_ROWS),
    "pyfaidx": (with_pyfaidx, SLOW_ROWS),
    "pysam": (with_pysam, SLOW_ROWS),
    "pysam, .fa.gz": (lambda fasta, rows: with_pysam(bgzipped(fasta), rows), 16),
}
"""Name -> how to open a file, and the rows of a batch."""


def choose_starts(fasta: Path) -> None:
    """Take the sampler's own starts for 16 steps."""
    at = sampled_starts(fasta, ROWS)
    chosen_starts[:] = [at(step) for step in range(16)]
