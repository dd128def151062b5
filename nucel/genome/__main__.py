"""What the sampler sees in FASTA files, as a table: ``python -m nucel.genome FILE... [--window-bp 1224] ...``.

GC is a share of the known bases, unknown what becomes [UNK] (N and the other IUPAC codes), masked the lower-case bases,
and rows the share of the rows of an epoch.

Examples:
    python -m nucel.genome ecoli.fa.gz
    python -m nucel.genome hg38.fa --contigs 'chr[0-9]*' --max-masked 0.5
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import OmitArgPrefixes

from ..runtime import cli
from ..runtime.errors import GenomeError
from .fasta import Genome
from .sampler import WindowSampler
from .windows import WindowOptions, Windows


@dataclass(frozen=True, kw_only=True)
class GenomeConfig:
    """What the sampler sees in FASTA files: contigs, bases, windows, and how long an epoch takes."""

    genome: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """FASTA files, plain or gzip / bgzip, or folders of them."""
    batch_size: int = 192
    """Windows per optimizer step."""
    tokens_per_second: float = 300_000.0
    """Speed of training, for the time of an epoch. The default is what public trainers reach on an A100 or H100."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""
    by_contig: bool = False
    """A row for each contig instead of each file."""
    windows: OmitArgPrefixes[WindowOptions] = field(default_factory=WindowOptions)


def survey(config: GenomeConfig) -> Table:
    """The table; its last row is the sum of the others."""
    started = time.perf_counter()
    genome = Genome(config.genome, config.cache_dir, copy_beside=False)
    seconds = time.perf_counter() - started
    if genome.masked_bp.sum() >= (genome.lengths - genome.unknown_bp).sum():
        cli.note(
            "masked is 100 %: every base is lower-case, so that case tells nothing about repeats, and --max-masked "
            "would count every window as one"
        )
    windows = Windows.tile(genome, config.windows)
    if config.windows.genome_weights:
        windows = windows.weighted(config.windows.genome_weights)
    sampler = WindowSampler(windows, config.windows.context, config.batch_size)
    of = np.arange(len(genome.contigs)) if config.by_contig else genome.file
    names = list(genome.contigs) if config.by_contig else [file.name for file in genome.files]
    n = len(names)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(of, values, n)

    weight = np.ones(len(windows)) if windows.weight is None else windows.weight
    columns = [
        np.bincount(of, minlength=n),
        total(genome.lengths),
        total(genome.gc_bp),
        total(genome.unknown_bp),
        total(genome.masked_bp),
        np.bincount(of[windows.contig], minlength=n),
        np.bincount(of[windows.contig], weight, n) / weight.sum(),
    ]
    rows = round(sampler.steps_per_epoch * config.batch_size)
    tokens = rows * config.windows.context
    table = Table(
        caption=f"An epoch is {rows:,} rows of {config.windows.context} tokens, {tokens / 1e6:,.1f} M: "
        f"{sampler.steps_per_epoch:,.1f} steps of {config.batch_size}, "
        f"{_duration(tokens / config.tokens_per_second)} at {config.tokens_per_second:,.0f} tokens/s. "
        f"Opened in {seconds:.2f} s.",
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("contig" if config.by_contig else "file", overflow="fold")
    for heading in ("contigs", "bases", "GC %", "unknown %", "masked %", "windows", "rows %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for i, name in enumerate([*names, "all"]):
        row = [column.sum() if i == n else column[i] for column in columns]
        if i == n:
            if n == 1:
                break
            table.add_section()
        contigs, bases, gc, unknown, masked, count, share = row
        table.add_row(
            Text(name), f"{int(contigs):,}", f"{int(bases):,}", _share(gc, bases - unknown), _share(unknown, bases),
            _share(masked, bases), f"{int(count):,}", _share(share, 1),
        )  # fmt: skip
    return table


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def show(config: GenomeConfig) -> cli.Result:
    """Print the table of the files; returns what a program wants to know of them, and the report."""
    if not config.genome:
        raise GenomeError("give at least one FASTA file")
    Console(width=None if sys.stdout.isatty() else 120).print(survey(config))
    out = "runs/" + config.genome[0].resolve().name.split(".")[0]
    lines = (
        f"Read {len(config.genome)} path(s); every base and every window is counted above.",
        "Nothing was written.",
        f"Next: {cli.command_line('train', ['small', '--genome', *config.genome, '--out', out])}",
    )
    return cli.Result({"genome": [str(path) for path in config.genome]}, lines)


def main(arguments: list[str] | None = None) -> int:
    """Show what the command line asks for; returns the exit status."""
    return cli.run("genome", GenomeConfig, show, arguments)


if __name__ == "__main__":
    sys.exit(main())
