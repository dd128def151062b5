"""How well does each score know what the source of a genome makes unlikely?

    python -m benchmarks.experiments.variant_scores --out benchmarks/results [--run RUN] [--steps 1500] [--seed 0]

The demo genome is drawn from known chains, with known motifs, so that the truth about a change is known. A pair is
pre-trained on it (preset `debug`; one contig is held out) and asked two questions about single-base variants of the
held-out contig, far from repeats and unknown bases:

- r with the truth: changes of the background, far from motifs. The truth is the log-ratio of the source's conditional
  probabilities of alt and ref, given the bases on both sides: three transitions of the chain that fits the 200 bp
  around best. It is cut at -8 and 8, since some transitions hardly ever occur.
- AUROC of broken motifs: changes inside intact motifs against neutral ones, changes of the background whose true
  log-ratio lies within 1 of 0.

OUT/variant_scores.md has both for every score, with 95 % intervals by bootstrap over stretches of 250 bp, and the
differences that the question is about. RUN is scored as it is where it is there already.
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
from nucel.genome.demo import demo_background, demo_motifs, write_demo_genome
from nucel.genome.variants import Variant
from nucel.interpretation.networks import Networks, load_networks
from nucel.interpretation.variant_effect import Scored, score_variants
from nucel.interpretation.variant_scores import IS_DISTANCE
from nucel.runs.directory import RunDirectory
from nucel.runs.log import read_metrics
from nucel.suites.judging import Figure, correlations, ranking

HELD_OUT = "demo3"
_FAR_BP, _BLOCK_BP, _FIT_BP = 10, 250, 201
_SURE = 20.0
"""By how many nats one chain must fit the bases around better than the others."""
_CUT = 8.0
DIFFERENCES = (("rtd_corrected", "llr"), ("rtd_corrected", "rtd"), ("rtd", "llr"))


class Question(NamedTuple):
    """Variants, and what is known of each."""

    name: str
    variants: list[Variant]
    truth: np.ndarray
    """bool (n,), whether a motif is broken; or float (n,), the true log-ratio."""


def train(run: Path, genome: Path, steps: int, seed: int) -> None:
    """The verb, as it would be typed in a shell."""
    words = f"debug --genome {genome} --hold-out {HELD_OUT} --hold-out-fraction 0 --steps {steps} --validate-every 500"
    command = [*words.split(), "--save-every", "500", "--seed", str(seed), "--out", str(run), "--resume", "auto"]
    subprocess.run([sys.executable, "-m", "nucel.train", *command], check=True)


def contig_text(genome: Path, name: str) -> str:
    """A contig as it is written: repeats in lower case."""
    records = genome.read_text(encoding="ascii").split(">")
    return next("".join(record.splitlines()[1:]) for record in records if record.startswith(f"{name} "))


class Source:
    """What the demo genome's contig was drawn from."""

    def __init__(self, text: str):
        self.text = text
        self._bases = np.array(["ACGT".find(letter) for letter in text.upper()])
        with np.errstate(divide="ignore"):
            self._log_p = np.maximum(np.log(demo_background()), -25)  # (3, 16, 4)
        fits = np.stack([np.convolve(self._each(log_p), np.ones(_FIT_BP), "same") for log_p in self._log_p])
        self._chain = fits.argmax(0)
        first, second = np.sort(fits, axis=0)[::-1][:2]
        self.in_motif = np.zeros(len(text), bool)
        for motif in demo_motifs():
            for match in re.finditer(f"(?={motif})", text):  # upper case: not in a repeat
                self.in_motif[match.start() : match.start() + len(motif)] = True
        taken = self.in_motif | np.array([letter not in "ACGT" for letter in text])
        self.is_background = (np.convolve(taken, np.ones(2 * _FAR_BP + 1), "same") == 0) & (first - second > _SURE)
        self.is_background[:_FAR_BP] = self.is_background[-_FAR_BP:] = False

    def _each(self, log_p: np.ndarray) -> np.ndarray:
        """The log-probability of each base after the two before it, at least -10; 0 where one of them is unknown."""
        bases, found = self._bases, np.zeros(len(self._bases))
        known = (bases[2:] >= 0) & (bases[1:-1] >= 0) & (bases[:-2] >= 0)
        found[2:][known] = log_p[4 * bases[:-2][known] + bases[1:-1][known], bases[2:][known]]
        return np.maximum(found, -10)

    def log_ratio(self, variant: Variant) -> float:
        """ln p(alt) - ln p(ref) at a place of the background, given all other bases."""
        log_p, around = self._log_p[self._chain[variant.start_bp]], self._bases[variant.start_bp - 2 :][:5].copy()
        totals = []
        for base in (variant.ref, variant.alt):
            around[2] = "ACGT".index(base)
            totals.append(sum(log_p[4 * around[k] + around[k + 1], around[k + 2]] for k in range(3)))
        return float(totals[1] - totals[0])

    def changes(self, where: np.ndarray, rng: np.random.Generator) -> list[Variant]:
        """All single-base changes of the bases that are marked, in random order."""
        places = [(i, alt) for i in np.flatnonzero(where).tolist() for alt in "ACGT" if alt != self.text[i]]
        return [Variant(HELD_OUT, i, self.text[i], alt) for i, alt in (places[k] for k in rng.permutation(len(places)))]


def questions(text: str, most: int = 1000, seed: int = 0) -> list[Question]:
    """Both questions, with at most so many variants of each kind."""
    rng = np.random.default_rng(seed)
    source = Source(text)
    background = source.changes(source.is_background, rng)
    truths = np.array([source.log_ratio(variant) for variant in background])
    neutral = [background[i] for i in np.flatnonzero(np.abs(truths) < 1)[:most]]
    breaking = source.changes(source.in_motif, rng)[: len(neutral)]
    broken = np.arange(len(breaking) + len(neutral)) < len(breaking)
    return [
        Question("r with the truth", background[:most], np.clip(truths[:most], -_CUT, _CUT)),
        Question("AUROC of broken motifs", [*breaking, *neutral], broken),
    ]


def figures(scored: Scored, question: Question) -> dict[str, Figure]:
    """The question's figure for every score; larger distances and lower ratios count as less likely."""
    blocks = np.array([variant.start_bp // _BLOCK_BP for variant in question.variants])
    unlikely = {name: values if name in IS_DISTANCE else -values for name, values in scored.scores.items()}
    if question.truth.dtype == bool:
        return {name: ranking(values, question.truth, blocks).auroc for name, values in unlikely.items()}
    none = np.zeros(len(blocks))
    return {name: correlations(values, -question.truth, none, blocks)[0] for name, values in unlikely.items()}


def rows_of(networks: Networks, genome: Path, model: str) -> Iterator[Row]:
    """A row for each question and score, then those of the differences."""
    for question in questions(contig_text(genome, HELD_OUT)):
        about = {"question": question.name, "model": model}
        found = figures(score_variants(networks, question.variants, genome, progress=True), question)
        for one, other in DIFFERENCES:
            draws = found[one].draws - found[other].draws
            found[f"{one} minus {other}"] = Figure.of(found[one].value - found[other].value, draws)
        for score, figure in found.items():
            values = {"figure": figure.value, "low": figure.low, "high": figure.high}
            yield {**about, "score": score, "variants": len(question.variants), **values}


def note_of(run: Path) -> str:
    last = [line for line in read_metrics(RunDirectory(run)) if line["split"] == "validation"][-1]
    return (
        f"`python -m nucel.train debug` on the demo genome, {last['step']} steps; on the held-out contig the "
        f"generator's loss is {last['generator_loss']:.4f} nats (a coin: 1.3863), the discriminator's AUROC "
        f"{last['rtd_auroc']:.3f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for variant_scores.json and variant_scores.md")
    parser.add_argument("--run", type=Path, help="run directory; trained there where there is none")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        genome, run = Path(folder) / "demo.fa", options.run or Path(folder) / "run"
        write_demo_genome(genome)
        if not RunDirectory(run).has_checkpoint():
            train(run, genome, options.steps, options.seed)
        trained = load_networks(run)
        table = Table(
            machine(torch.device("cpu")),
            ("question", "model", "score"),
            {
                "variants": ("variants", ",d"),
                "figure": ("figure", ".3f"),
                "low": ("low", ".3f"),
                "high": ("high", ".3f"),
            },
            options.out / "variant_scores",
            note_of(run),
        )
        for networks, name in ((trained, "trained"), (trained.untrained(), "untrained")):
            table.fill(rows_of(networks, genome, name))
    print(table.markdown())


if __name__ == "__main__":
    main()
