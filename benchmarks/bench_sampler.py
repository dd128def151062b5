"""Rows per second of the sampler, beside other ways of reading the same bases.

Each reader is handed the same places of a generated genome (10 Mb, lines of 60, 5 % N, forward strand, warm page cache)
and gives uint8 tokens; the sampler also chooses the places. Rows are compared with pyfaidx before anything is timed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyfaidx
import pytest

from nucel import vocab
from nucel.genome import Genome, WindowBatch, Windows, WindowSampler

GENOME_BP = 10_000_000
CONTEXT = 1024
ROWS = 4096
PYFAIDX_ROWS = 256


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, GENOME_BP)]
    bases[GENOME_BP // 2 :][: GENOME_BP // 20] = ord("N")
    lines = np.full((-(-GENOME_BP // 60), 61), ord("\n"), np.uint8)
    lines[:, :60] = np.resize(bases, (len(lines), 60))
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_bytes(b">chr1\n" + lines.tobytes())
    return path


@pytest.fixture(scope="module")
def genome(fasta) -> Genome:
    return Genome(fasta)


def sampler(genome: Genome, threads: int, rows: int = ROWS) -> WindowSampler:
    windows = Windows.tile(genome, max_unknown=1)
    return WindowSampler(windows, CONTEXT, batch_size=rows, reverse_complement=False, threads=threads)


def read_with_pyfaidx(fasta: pyfaidx.Fasta, places: WindowBatch) -> np.ndarray:
    rows = [str(fasta["chr1"][start : start + CONTEXT - 1]) for start in places.start_bp.tolist()]
    return np.stack([vocab.encode(row) for row in rows])


def assert_rows_are_right(fasta: Path, batch: WindowBatch) -> None:
    with pyfaidx.Fasta(str(fasta), as_raw=True) as reference:
        assert (batch.tokens[:, 1:] == read_with_pyfaidx(reference, batch)).all()


def report(benchmark, rows: int) -> None:
    benchmark.extra_info["Mbases/s"] = round(rows * (CONTEXT - 1) / benchmark.stats.stats.median / 1e6, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [192, ROWS])
def test_sampler(benchmark, fasta, genome, threads, rows):
    ours = sampler(genome, threads, rows)
    assert_rows_are_right(fasta, ours.batch(3))
    steps = iter(range(1 << 40))
    benchmark.pedantic(lambda: ours.batch(next(steps)), rounds=200, warmup_rounds=20)
    report(benchmark, rows)


def test_both_strands(benchmark, genome):
    ours = WindowSampler(Windows.tile(genome), CONTEXT, batch_size=ROWS, threads=1)
    batch = ours.batch(3)
    forward = np.stack([genome.fetch(0, start, start + CONTEXT - 1) for start in batch.start_bp.tolist()])
    expected = np.where(batch.strand[:, None] > 0, forward, vocab.reverse_complement(forward))
    assert (batch.tokens[:, 1:] == expected).all()
    steps = iter(range(1 << 40))
    benchmark.pedantic(lambda: ours.batch(next(steps)), rounds=200, warmup_rounds=20)
    report(benchmark, ROWS)


def test_numpy_gather_from_memory(benchmark, fasta, genome):
    """What an in-memory genome of one byte a base would give: the whole of it is loaded and encoded beforehand."""
    batch = sampler(genome, 1).batch(3)
    assert_rows_are_right(fasta, batch)
    windows = np.lib.stride_tricks.sliding_window_view(genome.fetch(0), CONTEXT - 1)
    assert (windows[batch.start_bp] == batch.tokens[:, 1:]).all()
    benchmark.pedantic(lambda: windows[batch.start_bp], rounds=100, warmup_rounds=10)
    report(benchmark, ROWS)


def test_pyfaidx(benchmark, fasta, genome):
    places = sampler(genome, 1, PYFAIDX_ROWS).batch(3)
    with pyfaidx.Fasta(str(fasta), as_raw=True) as reference:
        assert (read_with_pyfaidx(reference, places) == places.tokens[:, 1:]).all()
        benchmark.pedantic(lambda: read_with_pyfaidx(reference, places), rounds=30, warmup_rounds=3)
    report(benchmark, PYFAIDX_ROWS)


def test_opening_checks_and_counts_every_byte(benchmark, fasta, genome):
    assert int(genome.byte_counts.sum()) == int(genome.lengths.sum())
    benchmark.pedantic(lambda: Genome(fasta), rounds=30, warmup_rounds=3)
    benchmark.extra_info["Mbases/s"] = round(int(genome.lengths.sum()) / benchmark.stats.stats.median / 1e6, 1)
