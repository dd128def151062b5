"""Which score tells changes that break a planted motif from changes that break nothing?

    python -m benchmarks.experiments.variant_scores --out benchmarks/results [--runs DIR] [--steps 800] [--seed 0]

For two generated genomes whose motifs are known, pre-trains a pair (preset `debug`; one contig is held out) and scores
two groups of single-base variants of the held-out contig: changes inside intact motifs, and as many changes of the same
kinds (the same base for the same other) far from motifs, repeats and unknown bases.

- `planted`: motifs in independent, equally frequent bases. A change of the background changes no probability.
- `demo`: the demo genome of `python -m nucel.train`. Its background is a Markov chain with transitions near 0 and 1, so
  that a change of the background is unlikely as well, and often less likely than one of a motif.

The AUROC of each score for the first group against the second is written to OUT/variant_scores.md, with 95 % intervals
by bootstrap over stretches of 250 bp, and the differences that the question is about. A run that DIR holds already,
DIR/planted or DIR/demo, is scored as it is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.table import Row, Table, machine
from nucel.genome.demo import demo_motifs, write_demo_genome
from nucel.genome.variants import Variant
from nucel.interpretation.networks import Networks, load_networks
from nucel.interpretation.variant_effect import Scored, score_variants
from nucel.interpretation.variant_scores import IS_DISTANCE
from nucel.runs.directory import RunDirectory
from nucel.runs.log import read_metrics
from nucel.suites.judging import Figure, ranking

HELD_OUT = "demo3"
PLANTED_BP = {"demo1": 300_000, HELD_OUT: 40_000}
_MOTIFS, _MOTIF_BP, _EVERY_BP = 6, 12, 40
_FAR_BP = 10
_BLOCK_BP = 250
_MOST = 1000
"""Changes inside motifs that are scored, drawn at random where there are more."""
DIFFERENCES = (("rtd_corrected", "llr"), ("rtd_corrected", "rtd"), ("rtd", "llr"))


class Group(NamedTuple):
    """Variants of a contig, those that break a motif first."""

    variants: list[Variant]
    breaks: np.ndarray
    """bool (n,)."""


def write_planted_genome(path: Path, seed: int = 0) -> list[str]:
    """Write a FASTA of random bases with motifs, one per 40 bp on the forward strand; returns the motifs."""
    rng = np.random.default_rng(seed)
    motifs = ["".join(rng.choice(list("ACGT"), _MOTIF_BP)) for _ in range(_MOTIFS)]
    with open(path, "w", encoding="ascii") as fasta:
        for name, length in PLANTED_BP.items():
            bases = rng.choice(list("ACGT"), length)
            for start in range(0, length - _EVERY_BP, _EVERY_BP):  # each in its own stretch, so that none is cut
                place = start + int(rng.integers(_EVERY_BP - _MOTIF_BP))
                bases[place : place + _MOTIF_BP] = list(motifs[rng.integers(_MOTIFS)])
            fasta.write(f">{name} planted, seed {seed}\n{''.join(bases)}\n")
    return motifs


def write_genome(name: str, path: Path) -> list[str]:
    """Write one of the genomes; returns its motifs."""
    if name == "planted":
        return write_planted_genome(path)
    write_demo_genome(path)
    return demo_motifs()


def train(run: Path, genome: Path, steps: int, seed: int, context: int = 128) -> None:
    """The verb, as it would be typed in a shell; 4,096 tokens a step."""
    words = (
        f"debug --genome {genome} --hold-out {HELD_OUT} --hold-out-fraction 0 --steps {steps} --validate-every 200 "
        f"--context {context} --window-bp {context + 32} --overlap-bp 16 --batch-size {4096 // context} --seed {seed}"
    )
    command = [*words.split(), "--save-every", "200", "--out", str(run), "--resume", "auto"]
    subprocess.run([sys.executable, "-m", "nucel.train", *command], check=True)


def contig_text(genome: Path, name: str) -> str:
    """A contig as it is written: repeats in lower case."""
    records = genome.read_text(encoding="ascii").split(">")
    return next("".join(record.splitlines()[1:]) for record in records if record.startswith(f"{name} "))


def group(text: str, contig: str, motifs: list[str], most: int = _MOST, seed: int = 0) -> Group:
    """Changes inside intact motifs, and as many neutral ones of the same kinds."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(len(text), bool)
    for motif in motifs:
        for match in re.finditer(f"(?={motif})", text):  # upper case: not in a repeat
            inside[match.start() : match.start() + len(motif)] = True
    taken = inside | np.array([letter not in "ACGT" for letter in text])
    near = np.convolve(taken, np.ones(2 * _FAR_BP + 1), "same") > 0
    neutral = {base: rng.permutation([i for i, x in enumerate(text) if x == base and not near[i]]) for base in "ACGT"}
    breaking = [Variant(contig, i, text[i], alt) for i in np.flatnonzero(inside).tolist() for alt in "ACGT"]
    breaking = [variant for variant in breaking if variant.alt != variant.ref]
    breaking = [breaking[i] for i in np.sort(rng.permutation(len(breaking))[:most])]
    used = dict.fromkeys("ACGT", 0)
    others = []
    for variant in breaking:
        places = neutral[variant.ref]
        others.append(variant._replace(start_bp=int(places[used[variant.ref] % len(places)])))
        used[variant.ref] += 1
    return Group([*breaking, *others], np.arange(2 * len(breaking)) < len(breaking))


def figures(scored: Scored, chosen: Group) -> dict[str, Figure]:
    """AUROC of every score; ratios count as -score, as their definition has it: a change that fits less."""
    blocks = np.array([variant.start_bp // _BLOCK_BP for variant in chosen.variants])
    oriented = {name: values if name in IS_DISTANCE else -values for name, values in scored.scores.items()}
    return {name: ranking(values, chosen.breaks, blocks).auroc for name, values in oriented.items()}


def rows_of(networks: Networks, genome: Path, motifs: list[str], about: Row) -> Iterator[Row]:
    """A row for each score, then those of the differences."""
    chosen = group(contig_text(genome, HELD_OUT), HELD_OUT, motifs)
    found = figures(score_variants(networks, chosen.variants, genome, progress=True), chosen)
    for score, figure in found.items():
        yield {**about, "score": score, "variants": len(chosen.variants), **_values(figure)}
    for one, other in DIFFERENCES:
        difference = Figure.of(found[one].value - found[other].value, found[one].draws - found[other].draws)
        yield {**about, "score": f"{one} minus {other}", "variants": len(chosen.variants), **_values(difference)}


def _values(figure: Figure) -> Row:
    return {"auroc": figure.value, "low": figure.low, "high": figure.high}


def note_of(name: str, run: Path) -> str:
    last = [line for line in read_metrics(RunDirectory(run)) if line["split"] == "validation"][-1]
    return (
        f"{name}: {last['step']} steps, held-out generator loss {last['generator_loss']:.4f} nats (a coin: 1.3863), "
        f"discriminator's AUROC {last['rtd_auroc']:.3f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for variant_scores.json and variant_scores.md")
    parser.add_argument("--runs", type=Path, help="folder of the runs; trained there where there is none")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table(
        machine(torch.device("cpu")),
        ("genome", "model", "score"),
        {"variants": ("variants", ",d"), "auroc": ("AUROC", ".3f"), "low": ("low", ".3f"), "high": ("high", ".3f")},
        options.out / "variant_scores",
        "AUROC of changes in intact motifs, half of the variants, against changes of the same kinds elsewhere, on a "
        "held-out contig.",
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in ("planted", "demo"):
            genome, run = Path(folder) / f"{name}.fa", (options.runs or Path(folder)) / name
            motifs = write_genome(name, genome)
            if not RunDirectory(run).has_checkpoint():
                train(run, genome, options.steps, options.seed)
            table.note += f" {note_of(name, run)}"
            trained = load_networks(run)
            for networks, model in ((trained, "trained"), (trained.untrained(), "untrained")):
                table.fill(rows_of(networks, genome, motifs, {"genome": name, "model": model}))
    print(table.markdown())


if __name__ == "__main__":
    main()
