"""The sampler beside other ways of reading the same bases.

Each reader is handed the same places of a generated genome (lines of 60, 5 % N, forward strand, warm page cache) and
gives uint8 tokens, or, where its name says so, letters; the sampler also chooses the places. Rows are compared with
those of NumPy, which shares no code, before anything is timed. The best speed is of the fastest single batch.

``python -m pytest benchmarks/bench_sampler.py`` is quick, on 10 Mb. The table in docs/sampler.md is of 100 Mb and more:
``python benchmarks/bench_sampler.py --mega-bases 100 3100 --folder SCRATCH``. There each figure is of a process of its
own, so that its memory can be told, and readers take turns, so that all suffer alike from what else the machine does.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nucel import vocab
from nucel.genome import Genome, Windows, WindowSampler

CONTEXT = 1024
ROWS = 4096
SLOW_ROWS = 256
WIDTH = 60


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


# Readers: each opens a file, once, and gives a function from a step to rows, forward and without [CLS].


def sampler(fasta: Path, rows: int, threads: int = 1, reverse: bool = False) -> Callable[[int], np.ndarray]:
    windows = Windows.tile(Genome(fasta))
    ours = WindowSampler(windows, CONTEXT, rows, reverse_complement=reverse, threads=threads)
    return lambda step: ours.batch(step).tokens[:, 1:]


def starts(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
    windows = Windows.tile(Genome(fasta))
    ours = WindowSampler(windows, CONTEXT, rows, reverse_complement=False)
    return lambda step: ours.batch(step).start_bp


def numpy_in_memory(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
    tokens = vocab.encode(letters_of(fasta).tobytes())
    windows = np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT - 1)
    return lambda step: windows[places[step % len(places)][:rows]]


def numpy_memmap(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
    text = np.memmap(fasta, np.uint8, "r", offset=len(b">chr1\n"))

    def read(step: int) -> np.ndarray:
        start = places[step % len(places)][:rows, None] + np.arange(CONTEXT - 1)
        return vocab.ENCODE[text[start // WIDTH * (WIDTH + 1) + start % WIDTH]]

    return read


def one_by_one(fetch: Callable[[int, int], str], rows: int) -> Callable[[int], np.ndarray]:
    def read(step: int) -> np.ndarray:
        at = places[step % len(places)][:rows].tolist()
        return np.stack([vocab.encode(fetch(start, start + CONTEXT - 1)) for start in at])

    return read


def with_pyfaidx(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
    import pyfaidx

    contig = pyfaidx.Fasta(str(fasta), as_raw=True)["chr1"]
    return one_by_one(lambda start, end: str(contig[start:end]), rows)


def with_pysam(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
    import pysam

    file = pysam.FastaFile(str(fasta))
    return one_by_one(lambda start, end: file.fetch("chr1", start, end), rows)


def with_py2bit(fasta: Path, rows: int) -> Callable[[int], np.ndarray]:
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


READERS: dict[str, tuple[Callable[[Path, int], Callable[[int], np.ndarray]], int]] = {
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
places: list[np.ndarray] = []


def choose_places(fasta: Path) -> None:
    """The places of some steps, as the sampler has them, for those who cannot choose."""
    at = starts(fasta, ROWS)
    places[:] = [at(step) for step in range(16)]


def prepared(name: str, fasta: Path) -> tuple[Callable[[int], np.ndarray], int]:
    """A reader that was opened, and whose rows were compared with the file's."""
    try:
        open_reader, rows = READERS[name]
        read = open_reader(fasta, rows)
    except ImportError as missing:
        pytest.skip(f"{missing.name} is not installed")
    if "both strands" not in name:
        text = np.memmap(fasta, np.uint8, "r", offset=len(b">chr1\n"))
        at = (starts(fasta, rows)(3) if name.startswith("NucEL") else places[3][:rows])[:, None] + np.arange(
            CONTEXT - 1
        )
        assert (read(3) == vocab.ENCODE[text[at // WIDTH * (WIDTH + 1) + at % WIDTH]]).all(), name
    return read, rows


# The quick form.


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    write_genome(path, 10)
    choose_places(path)
    return path


@pytest.mark.parametrize("name", READERS)
def test_reader(benchmark, fasta, name):
    read, rows = prepared(name, fasta)
    steps = iter(range(1 << 40))
    rounds = 100 if rows == ROWS else 10
    benchmark.pedantic(lambda: read(next(steps)), rounds=rounds, warmup_rounds=2)
    benchmark.extra_info["Mbases/s"] = round(rows * (CONTEXT - 1) / benchmark.stats.stats.median / 1e6, 1)


def test_opening_checks_and_counts_every_byte(benchmark, fasta):
    bases = int(Genome(fasta).lengths.sum())
    benchmark.pedantic(lambda: Genome(fasta), rounds=30, warmup_rounds=3)
    benchmark.extra_info["Mbases/s"] = round(bases / benchmark.stats.stats.median / 1e6, 1)


# The long form: a process for each figure.


def memory_mib() -> float:
    """Of this process; what is mapped from files belongs to the page cache and is not in RssAnon."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@contextlib.contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """What the block needs beyond what there was before, at its peak, looked at every 2 ms."""
    before = memory_mib()
    found = {"rss_mib": 0.0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            found["rss_mib"] = max(found["rss_mib"], memory_mib() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def measure(name: str, fasta: Path, seconds: float) -> dict[str, float]:
    """Opening, speed and memory of one reader, in this process; run in turns by the table."""
    bgzipped(fasta) if "gz" in name else None
    write_2bit(fasta) if "2bit" in name else None
    places[:] = list(np.load(fasta.with_suffix(".npy")))
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
    speed, best = (first.size / of(times) / 1e6 for of in (statistics.median, min))
    return {"open_ms": 1000 * opened, "mbases_per_s": speed, "best": best, **memory}


def measure_opening(fasta: Path, threads: int) -> dict[str, float]:
    import _nucel

    times = []
    with watched_memory() as memory:
        for _ in range(7):
            started = time.perf_counter()
            opened = _nucel.Fasta(str(fasta).encode(), np.zeros(256, np.uint8), threads)
            times.append(time.perf_counter() - started)
    bases = int(opened.entries[:, 0].sum())
    speed, best = (bases / of(times) / 1e6 for of in (statistics.median, min))
    return {"open_ms": 1000 * statistics.median(times), "mbases_per_s": speed, "best": best, **memory}


def measure_unpacking(packed: Path) -> dict[str, float]:
    from nucel.genome.unpack import plain_copy

    with tempfile.TemporaryDirectory(dir=packed.parent) as scratch, watched_memory() as memory:
        link = Path(scratch) / packed.name
        link.symlink_to(packed.resolve())
        started = time.perf_counter()
        copy = plain_copy(link, Path(scratch))
        seconds = time.perf_counter() - started
        speed = copy.stat().st_size * WIDTH / (WIDTH + 1) / seconds / 1e6
    return {"open_ms": 1000 * seconds, "mbases_per_s": speed, "best": speed, **memory}


def in_a_process(*words: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(mega_bases: int, folder: Path, rounds: int, names: list[str]) -> Iterator[str]:
    """Lines of a Markdown table; each figure is the median of the rounds, ratios are to NucEL with one thread."""
    fasta = folder / f"genome{mega_bases}.fa"
    write_genome(fasta, mega_bases)
    fasta.read_bytes() if mega_bases < 500 else None
    choose_places(fasta)
    np.save(fasta.with_suffix(".npy"), np.stack(places))
    results: dict[str, list[dict[str, float]]] = {}
    for name in names:
        try:
            prepared(name, fasta)
        except pytest.skip.Exception as missing:
            yield f"| {name} | {missing} | | | |"
            continue
        results[name] = []
    for _ in range(rounds):
        for name in results:
            results[name].append(in_a_process("--measure", name, "--folder", fasta))
    for threads in ("1 thread", "2 threads"):
        words = ("--measure-opening", threads[0], "--folder", fasta)
        results[f"(opening alone: find, check and count, {threads})"] = [in_a_process(*words) for _ in range(rounds)]
    if mega_bases < 500:
        packed = bgzipped(fasta)
        results["(decompressing bgzip to the disk alone)"] = [
            in_a_process("--measure-unpacking", "--folder", packed) for _ in range(rounds)
        ]
    unit = statistics.median(found["mbases_per_s"] for found in results["NucEL, 1 thread"])
    yield f"| {mega_bases:,} Mb | Mbases/s | ratio | best Mbases/s | open + first batch, ms | memory, MiB |"
    yield "|---|---|---|---|---|---|"
    for name, found in results.items():
        speed, opened, memory = (
            statistics.median(one[key] for one in found) for key in ("mbases_per_s", "open_ms", "rss_mib")
        )
        best = max(one["best"] for one in found)
        yield f"| {name} | {speed:,.0f} | {speed / unit:.2f} | {best:,.0f} | {opened:,.0f} | {memory:,.0f} |"


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
            scratch = Path(tempfile.mkdtemp(dir=options.folder, prefix="bench-sampler-"))
            names = list(READERS) if mega_bases < 500 else ["NucEL, 1 thread", "NucEL, 2 threads"]
            try:
                for line in table(mega_bases, scratch, options.rounds, names):
                    print(line, flush=True)
            finally:
                shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
