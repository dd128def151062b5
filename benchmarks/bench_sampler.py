"""The sampler beside other ways of reading the same bases.

    pytest benchmarks/bench_sampler.py --benchmark-only                                    quick, on 10 Mb
    python -m benchmarks.bench_sampler --mega-bases 100 3100 --folder SCRATCH              the table of docs/sampler.md

Each way is handed the starts of the same windows of a generated genome (lines of 60, 5 % N, forward strand, warm page
cache); the sampler also chooses them. Rows are compared with those of NumPy, which shares no code, before anything is
timed. In the table each measurement has a process of its own, so that its memory can be told, and readers take turns,
so that all suffer alike from what else the machine does. The best speed is that of the fastest single batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.genome_readers import (
    CONTEXT,
    READERS,
    ROWS,
    WIDTH,
    Read,
    bgzipped,
    choose_starts,
    chosen_starts,
    sampled_starts,
    write_2bit,
    write_genome,
)
from benchmarks.table import Row, Table, machine, measured
from nucel.genome.fasta import Genome
from nucel.tokenizers import nucleotide


def prepared(name: str, fasta: Path) -> tuple[Read, int]:
    """A reader that was opened, and whose rows were compared with the file's, and the rows of its batches.

    Raises:
        AssertionError: the rows are wrong.
        ImportError: the reader's package is not installed.
    """
    open_reader, rows = READERS[name]
    read = open_reader(fasta, rows)
    if "both strands" not in name:
        text = np.memmap(fasta, np.uint8, "r", offset=len(b">chr1\n"))
        starts = sampled_starts(fasta, rows)(3) if name.startswith("NucEL") else chosen_starts[3][:rows]
        at = starts[:, None] + np.arange(CONTEXT - 1)
        assert (read(3) == nucleotide.ENCODE[text[at // WIDTH * (WIDTH + 1) + at % WIDTH]]).all(), f"{name} is wrong"
    return read, rows


# ---- the quick form --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    write_genome(path, 10)
    choose_starts(path)
    return path


@pytest.mark.parametrize("name", READERS)
def test_reader(timed, fasta, name):
    try:
        read, rows = prepared(name, fasta)
    except ImportError as missing:
        pytest.skip(f"{missing.name} is not installed")
    steps = iter(range(1 << 40))
    timed(
        f"reading windows of {CONTEXT - 1:,} bases, 10 Mb",
        name,
        lambda: read(next(steps)),
        rounds=100 if rows == ROWS else 10,
        amounts={"Mbases": rows * (CONTEXT - 1) / 1e6},
    )


def test_opening_checks_and_counts_every_byte(timed, fasta):
    bases = int(Genome(fasta).lengths.sum())
    timed("opening a genome, 10 Mb", "NucEL", lambda: Genome(fasta), rounds=30, amounts={"Mbases": bases / 1e6})


# ---- the long form: a process for each measurement -------------------------------------------------------------------


def memory_mib() -> float:
    """Of this process; what is mapped from files belongs to the page cache and is not in RssAnon."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@contextlib.contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """What the block needs beyond what there was before, at its peak, looked at every 2 ms."""
    before = memory_mib()
    peak = {"rss_mib": 0.0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            peak["rss_mib"] = max(peak["rss_mib"], memory_mib() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def speeds(bases: int, seconds: list[float]) -> dict[str, float]:
    """Median and best, for so many bases in each of these times."""
    return {"mbases_per_s": bases / statistics.median(seconds) / 1e6, "best": bases / min(seconds) / 1e6}


def measure(name: str, fasta: Path, seconds: float) -> dict[str, float]:
    """Opening, speed and memory of one reader, in this process."""
    if "gz" in name:
        bgzipped(fasta)
    if "2bit" in name:
        write_2bit(fasta)
    chosen_starts[:] = list(np.load(fasta.with_suffix(".npy")))
    open_reader, rows = READERS[name]
    with watched_memory() as memory:
        started = time.perf_counter()
        read = open_reader(fasta, rows)
        first = read(0)
        opened = time.perf_counter() - started
        read(1)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        started = time.perf_counter()
        read(2 + len(times))
        times.append(time.perf_counter() - started)
    return {"open_ms": 1000 * opened, **speeds(first.size, times), **memory}


def measure_opening(fasta: Path, threads: int) -> dict[str, float]:
    import _nucel

    times = []
    with watched_memory() as memory:
        for _ in range(7):
            started = time.perf_counter()
            opened = _nucel.Fasta(str(fasta).encode(), np.zeros(256, np.uint8), threads)
            times.append(time.perf_counter() - started)
    bases = int(opened.entries[:, 0].sum())
    return {"open_ms": 1000 * statistics.median(times), **speeds(bases, times), **memory}


def measure_unpacking(packed: Path) -> dict[str, float]:
    from nucel.genome.decompress import plain_files

    with tempfile.TemporaryDirectory(dir=packed.parent) as scratch, watched_memory() as memory:
        link = Path(scratch) / packed.name
        link.symlink_to(packed.resolve())
        started = time.perf_counter()
        copy = plain_files([link], Path(scratch))[0]
        seconds = time.perf_counter() - started
        bases = copy.stat().st_size * WIDTH // (WIDTH + 1)
    return {"open_ms": 1000 * seconds, **speeds(bases, [seconds]), **memory}


def in_a_process(*words: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_sampler", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def summary(rounds: list[dict[str, float]]) -> Row:
    """Medians of the rounds, and the best speed of all."""
    medians = {key: statistics.median(one[key] for one in rounds) for key in ("mbases_per_s", "open_ms", "rss_mib")}
    return medians | {"best": max(one["best"] for one in rounds)}


def rows(fasta: Path, mega_bases: int, rounds: int, seconds: float) -> Iterator[Row]:
    """A row for each reader, then for opening and decompressing alone; ratios are to NucEL with one thread."""
    fits = mega_bases < 500
    results: dict[str, list[dict[str, float]]] = {}
    for name in READERS if fits else ("NucEL, 1 thread", "NucEL, 2 threads"):
        row = measured({"reader": name}, lambda name=name: {"right": prepared(name, fasta)})
        if "reason" in row:
            yield row
        else:
            results[name] = []
    for _ in range(rounds):
        for name, measurements in results.items():
            measurements.append(in_a_process("--measure", name, "--folder", fasta, "--seconds", seconds))

    def repeated(*words: object) -> list[dict[str, float]]:
        return [in_a_process(*words) for _ in range(rounds)]

    for threads in ("1 thread", "2 threads"):
        name = f"(opening alone: find, check and count, {threads})"
        results[name] = repeated("--measure-opening", threads[0], "--folder", fasta)
    if fits:
        packed = ("--measure-unpacking", "--folder", bgzipped(fasta))
        results["(decompressing bgzip to the disk alone)"] = repeated(*packed)
    unit = summary(results["NucEL, 1 thread"])["mbases_per_s"]
    for name, measurements in results.items():
        row = {"reader": name} | summary(measurements)
        yield row | {"ratio": row["mbases_per_s"] / unit}


def print_table(mega_bases: int, folder: Path, rounds: int, seconds: float) -> None:
    fasta = folder / f"genome{mega_bases}.fa"
    write_genome(fasta, mega_bases)
    choose_starts(fasta)
    np.save(fasta.with_suffix(".npy"), np.stack(chosen_starts))
    table = Table(
        facts=machine(torch.device("cpu")),
        labels=("reader",),
        values={
            "mbases_per_s": ("Mbases/s", ",.0f"),
            "ratio": ("ratio", ".2f"),
            "best": ("best Mbases/s", ",.0f"),
            "open_ms": ("open + first batch, ms", ",.0f"),
            "rss_mib": ("memory, MiB", ",.0f"),
        },
        note=f"{mega_bases:,} Mb.",
    )
    table.fill(rows(fasta, mega_bases, rounds, seconds))
    print(table.markdown(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the table of docs/sampler.md.")
    parser.add_argument("--mega-bases", type=int, nargs="+", default=[100])
    parser.add_argument("--folder", type=Path, default=None, help="where the genome is written, and removed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each reader and round")
    for name in ("--measure", "--measure-opening"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--measure-unpacking", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.seconds)))
    elif options.measure_opening:
        print(json.dumps(measure_opening(options.folder, int(options.measure_opening))))
    elif options.measure_unpacking:
        print(json.dumps(measure_unpacking(options.folder)))
    else:
        for mega_bases in options.mega_bases:
            scratch = Path(tempfile.mkdtemp(dir=options.folder, prefix="bench-sampler-")).resolve()
            try:
                print_table(mega_bases, scratch, options.rounds, options.seconds)
            finally:
                shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
