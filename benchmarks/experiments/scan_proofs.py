"""What a genome's surprise shows, on bacteria that the model never saw, beside simpler measures.

    python -m benchmarks.experiments.scan_proofs RUN $NUCEL_DATA --out benchmarks/results/scan.md [--mega-bases 0.5]

Three questions, each on the beginning of the annotated genomes, which the run must have held out:

1. Is surprise another in genes than between them, and does it have the period of codons?
2. Does it find planted errors: single bases, one in a thousand, replaced by another?
3. Does it find pieces of 1,000 bases that were swapped in from another bacterium?

The controls are a Markov chain of order 8 fitted to the run's training genomes, on both strands, and for swapped pieces
the distance between a window's 4-mer frequencies and the genome's. Intervals are of 200 bootstrap draws over blocks of
10 kb, or over pieces.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from nucel.genome.fasta import Genome
from nucel.genome.markov import counts_of
from nucel.interpretation.networks import load_pair
from nucel.interpretation.surprise import SurpriseOptions, parts_of, surprise
from nucel.model.networks import Discriminator
from nucel.runtime.device import Precision, choose_precision
from nucel.suites.judging import ranking
from nucel.tokenizers import nucleotide

from .. import table
from .annotated import ANNOTATED, genes_file, in_words, open_genome, read_run

ORDER, PIECE, BLOCK, DRAWS = 8, 1000, 10_000, 200
KINDS = ("CDS", "tRNA", "rRNA", "repeat_region", "intergenic")


class Scanner:
    """Surprise of a sequence by a run's discriminator."""

    def __init__(self, discriminator: Discriminator, precision: Precision):
        self.discriminator, self.precision = discriminator, precision

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """-ln P(original), float32 (length,)."""
        options, context = SurpriseOptions(), self.discriminator.model.context
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "g.fa"
            path.write_text(f">g\n{nucleotide.decode(tokens)}\n")
            genome = Genome(path)
            parts = parts_of(genome, [0], options, context)
            scanned = [surprise(self.discriminator, genome, p, options, context, self.precision) for p in parts]
        return np.concatenate(scanned)


class Markov:
    """-ln P of each base after the `ORDER` bases before it, the mean of both strands; add-one counts."""

    def __init__(self, genomes: list[np.ndarray]):
        counts = sum(
            counts_of(strand[None], ORDER) for g in genomes for strand in (g, nucleotide.reverse_complement(g))
        )
        fitted = np.asarray(counts) + 1
        self.cost = -np.log(fitted / fitted.sum(1, keepdims=True)).ravel()

    def _strand(self, tokens: np.ndarray) -> np.ndarray:
        words = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64) - nucleotide.BASES[0], ORDER + 1)
        known = ((words >= 0) & (words < 4)).all(-1)
        costs = np.full(len(tokens), np.nan)
        costs[ORDER:][known] = self.cost[words[known] @ 4 ** np.arange(ORDER, -1, -1)]
        return costs

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        other = self._strand(nucleotide.reverse_complement(tokens))[::-1]
        both = np.stack([self._strand(tokens), other])
        return np.where(np.isfinite(both).all(0), both.mean(0), np.where(np.isfinite(both[0]), both[0], both[1]))


def annotation(path: Path, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Each base's kind, by its number in KINDS, and in CDS its place in the codon (0, 1, 2), else -1."""
    kind = np.full(length, KINDS.index("intergenic"))
    codon = np.full(length, -1)
    with gzip.open(path, "rt") as file:
        for line in file:
            _, start, end, name, _, strand, *_ = line.rstrip("\n").split("\t")
            a, b = int(start), min(int(end), length)
            if a >= b or name not in KINDS:
                continue
            kind[a:b] = KINDS.index(name)
            if name == "CDS":
                at = np.arange(a, b)
                codon[a:b] = (at - a) % 3 if strand == "+" else (int(end) - 1 - at) % 3
    return kind, codon


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], float], units: int) -> tuple[float, float, float]:
    """A statistic of units 0 ... units - 1, and its 95 % interval over draws of units."""
    draws = np.random.default_rng(0)
    drawn = [statistic(values[draws.integers(0, units, units)]) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return statistic(values), float(low), float(high)


def mean_interval(values: np.ndarray, chosen: np.ndarray) -> str:
    """Mean over chosen bases, and its interval over blocks."""
    blocks = np.arange(len(values)) // BLOCK
    known = chosen & np.isfinite(values)
    sums = np.bincount(blocks[known], values[known], blocks[-1] + 1)
    counts = np.bincount(blocks[known], minlength=blocks[-1] + 1)
    both = np.stack([sums, counts], 1)
    mean, low, high = interval(
        both, lambda x: float(x[:, 0].sum() / x[:, 1].sum()) if x[:, 1].any() else float("nan"), len(both)
    )
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


def period_3(values: np.ndarray) -> float:
    """Power of the spectrum at one third, in units of its mean between 0.3 and 0.37 elsewhere."""
    known = np.nan_to_num(values - np.nanmean(values))
    size = len(known) // BLOCK * BLOCK
    power = (np.abs(np.fft.rfft(known[:size].reshape(-1, BLOCK), axis=1)) ** 2).mean(0)
    frequency = np.fft.rfftfreq(BLOCK)
    peak = int(np.argmin(np.abs(frequency - 1 / 3)))
    around = (frequency > 0.3) & (frequency < 0.37)
    around[peak - 1 : peak + 2] = False
    return float(power[peak - 1 : peak + 2].max() / power[around].mean())


def recall(scores: np.ndarray, errors: np.ndarray) -> str:
    """Share of errors above the score that 1 % of the other bases exceed, and the AUROC."""
    known = np.isfinite(scores)
    scores, errors = scores[known], errors[known]
    threshold = np.quantile(scores[~errors], 0.99)
    found = (scores[errors] > threshold).astype(np.float64)
    mean, low, high = interval(found, lambda x: float(x.mean()), len(found))
    return f"{mean:.3f} ({low:.3f} to {high:.3f}); AUROC {roc_auc_score(errors, scores):.3f}"


def auroc(scores: np.ndarray, swapped: np.ndarray) -> str:
    """AUROC of pieces' scores, and its interval over pieces."""
    area = ranking(scores, swapped, np.arange(len(scores)), DRAWS).auroc
    return f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})"


def four_mer_distance(tokens: np.ndarray) -> np.ndarray:
    """Distance of each piece's 4-mer frequencies, both strands together, from the genome's; (pieces,)."""
    pieces = tokens[: len(tokens) // PIECE * PIECE].reshape(-1, PIECE)
    both = [pieces, nucleotide.reverse_complement(pieces)]
    counts = np.stack([sum(counts_of(s[i : i + 1], 3).ravel() for s in both) for i in range(len(pieces))])
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    return np.abs(share - share.mean(0)).sum(1)


def per_piece(values: np.ndarray) -> np.ndarray:
    return np.nanmean(values[: len(values) // PIECE * PIECE].reshape(-1, PIECE), axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mega-bases", type=float, default=0.5, help="of each genome, from its beginning")
    options = parser.parse_args()
    precision = choose_precision("auto", "auto")
    description = read_run(options.run)
    scan = Scanner(load_pair(options.run).discriminator.to(precision.device), precision)
    trained = Genome(description.genome.files)
    markov = Markov([trained.fetch(n) for n in trained.contigs if not n.startswith(tuple(ANNOTATED.values()))])
    length = round(options.mega_bases * 1e6)
    genomes = {}
    for name in ANNOTATED:
        opened = open_genome(options.data, name)
        genomes[name] = opened.fetch(0, 0, min(length, int(opened.lengths[0])))

    kinds, errors, swaps = [], [], []
    for number, (name, tokens) in enumerate(genomes.items()):
        title = " ".join(name.split("_")[:2]).capitalize()
        kind, codon = annotation(genes_file(options.data, name), len(tokens))
        measures = {"surprise": scan(tokens), f"Markov, order {ORDER}": markov(tokens)}
        for measure, values in measures.items():
            means = [mean_interval(values, kind == k) if (kind == k).any() else "" for k in range(len(KINDS))]
            places = ", ".join(f"{np.nanmean(values[codon == place]):.4f}" for place in range(3))
            kinds.append([title, measure, *means, places, f"{period_3(values):.1f}"])

        draws = np.random.default_rng(number)
        wrong = np.zeros(len(tokens), bool)
        wrong[draws.choice(len(tokens), len(tokens) // 1000, replace=False)] = True
        wrong &= np.isin(tokens, nucleotide.BASES)
        changed = tokens.copy()
        shift = draws.integers(1, 4, wrong.sum())
        first = nucleotide.BASES[0]
        changed[wrong] = (tokens[wrong] - first + shift) % 4 + first
        errors.append([title, f"{wrong.sum():,}", recall(scan(changed), wrong), recall(markov(changed), wrong)])

        other = list(genomes.values())[(number + 1) % len(genomes)]
        pieces = len(tokens) // PIECE
        swapped = np.zeros(pieces, bool)
        swapped[draws.choice(pieces, pieces // 20, replace=False)] = True
        changed = tokens.copy()
        for piece in np.flatnonzero(swapped):
            start = int(draws.integers(0, len(other) - PIECE))
            changed[piece * PIECE : (piece + 1) * PIECE] = other[start : start + PIECE]
        scores = (per_piece(scan(changed)), per_piece(markov(changed)), four_mer_distance(changed))
        swaps.append([title, f"{swapped.sum()} of {pieces}", *(auroc(score, swapped) for score in scores)])

    lines = [
        "# What a genome's surprise shows", "",
        f"{table.machine_line(table.machine(precision.device))}. Run: {in_words(options.run, description)}, "
        f"without the three genomes below, of which the first {options.mega_bases:g} Mb are "
        "read. Means and shares with 95 % intervals.", "",
        "```sh", "python -m benchmarks.experiments.scan_proofs RUN $NUCEL_DATA --out benchmarks/results/scan.md", "```",
        "", "## Mean by kind of sequence (nats per base)", "",
        table.markdown_table(["genome", "measure", *KINDS, "codon position 1, 2, 3", "power at period 3"], kinds), "",
        "## Planted single-base errors: recall at 1 % false positives", "",
        table.markdown_table(["genome", "errors", "surprise", f"Markov, order {ORDER}"], errors), "",
        "## Swapped pieces of 1,000 bases: AUROC", "",
        table.markdown_table(["genome", "pieces", "surprise", f"Markov, order {ORDER}", "4-mer distance"], swaps),
    ]  # fmt: skip
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
