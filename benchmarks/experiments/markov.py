"""Markov models of a run's own data: the generator's loss is compared with theirs.

    python -m benchmarks.experiments.markov RUN [--genome FILE...]

Fits chains of several orders to the run's training windows (all alike, both strands where the run reads both, add-one
counts) and prints their cross-entropy per base, in nats, on its held-out windows.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np

from nucel.genome.fasta import Genome
from nucel.genome.windows import WindowOptions, Windows
from nucel.runs.directory import RunDirectory
from nucel.runs.log import read_metrics
from nucel.tokenizers.nucleotide import BASES, reverse_complement


def windows_of(run: RunDirectory, files: list[str]) -> tuple[Windows, Windows, bool]:
    """A run's training and held-out windows, and whether it reads both strands."""
    description = run.read_description()
    recipe = description.recipe
    genome = Genome(files or description.genome.files)
    if genome.fingerprint != description.genome.fingerprint:
        raise SystemExit(f"error: {genome} is not the genome that {run.path} was trained on")
    if recipe["keep_bed"] or recipe["drop_bed"]:
        raise SystemExit(f"error: {run.path} chose its windows by BED files, whose regions run.json does not hold")
    options = WindowOptions(**{field.name: recipe[field.name] for field in fields(WindowOptions)})
    return *Windows.tile(genome, options).hold_out(recipe["hold_out"], recipe["hold_out_fraction"]), recipe[
        "reverse_complement"
    ]


def bases_of(windows: Windows) -> np.ndarray:
    """Tokens uint8 (N, window_bp)."""
    starts = zip(windows.contig.tolist(), windows.start_bp.tolist(), strict=True)
    return np.stack([windows.genome.fetch(contig, start, start + windows.window_bp) for contig, start in starts])


def counts_of(tokens: np.ndarray, order: int) -> np.ndarray:
    """How often each base follows each context of `order` bases, int64 (4^order, 4); unknown bases are skipped."""
    words = np.lib.stride_tricks.sliding_window_view(tokens, order + 1, axis=1).astype(np.int64) - BASES[0]
    words = words[((words >= 0) & (words < 4)).all(-1)]
    index = words @ 4 ** np.arange(order, -1, -1)
    return np.bincount(index, minlength=4 ** (order + 1)).reshape(-1, 4)


def cross_entropy(train: np.ndarray, held_out: np.ndarray, order: int) -> float:
    """Nats per base on held-out windows of the chain fitted to training windows."""
    fitted = counts_of(train, order) + 1
    log_probability = np.log(fitted / fitted.sum(1, keepdims=True))
    seen = counts_of(held_out, order)
    return float(-(seen * log_probability).sum() / seen.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--genome", nargs="*", default=[], help="where the genome is now, if it was moved")
    parser.add_argument("--orders", nargs="*", type=int, default=[0, 2, 5, 8])
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run)
    train, held_out, both_strands = windows_of(run, arguments.genome)
    train, held_out = bases_of(train), bases_of(held_out)
    if both_strands:
        train = np.concatenate([train, reverse_complement(train)])
    print("| model | held-out cross-entropy (nats per base) |\n|---|---|")
    for order in arguments.orders:
        print(f"| Markov, order {order} | {cross_entropy(train, held_out, order):.4f} |")
    last = [line for line in read_metrics(run) if line["split"] == "validation"][-1]
    print(f"| generator, step {last['step']} | {last['generator_loss']:.4f} |")


if __name__ == "__main__":
    main()
