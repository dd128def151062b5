"""Small FASTA files for tests, and what is read of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from nucel.genome import decompress
from nucel.genome.fasta import Genome
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
