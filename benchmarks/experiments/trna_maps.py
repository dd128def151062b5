"""Does the discriminator see cloverleaves? Dependency maps of tRNA genes, beside the base pairs of their stems.

    python -m benchmarks.experiments.trna_maps RUN $NUCEL_DATA --out benchmarks/results/trna.md [--picture trna.png]

A dependency map says how much the logit at j changes when base i does. Bases that pair in a tRNA vary together, so a
model that has learned tRNAs should connect them more strongly than other bases at the same distance. The genes are
those of the three annotated genomes, which the run must have held out. No structure is annotated there: a gene's stems
are placed by the rules that hold for all tRNAs. The acceptor stem pairs the first 7 bases with the last 7 before the
unpaired base and CCA, where the gene encodes it. The T arm's 17 bases come just before. The anticodon's stem, 5 pairs
around a loop of 7, is where most of its pairs are Watson-Crick or G-U. Genes with a stem of less than four fifths of
such pairs are left out and counted.

Figures are medians over genes of (mean over paired bases) / (mean over unpaired bases at the same distances), and AUROC
of a map's entries for being paired, each with a 95 % interval by bootstrap over genes. The control is the same network
untrained. A last column shows the period of codons, which a model of genomes learns from genes: how much stronger bases
depend on each other at distances of 9, 12, ... 30 than at other distances. The picture is the mean map of the genes of
the most frequent length.
"""

from __future__ import annotations

import argparse
import collections
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import nucel
from benchmarks import table
from benchmarks.experiments.annotated import ANNOTATED, genes_file, in_words, open_genome, read_run
from nucel.interpretation.networks import load_pair
from nucel.model.networks import Discriminator, initialize
from nucel.suites.judging import Figure
from nucel.tokenizers import nucleotide

_PAIRS = {"AT", "TA", "GC", "CG", "GT", "TG"}
_ENOUGH = 0.8
_DRAWS = 1000
Pairs = list[tuple[int, int]]


def genes(data: Path, name: str) -> Iterator[str]:
    """The tRNA genes of a genome, in sense direction."""
    genome = open_genome(data, name)
    with gzip.open(genes_file(data, name), "rt") as file:
        for line in file:
            _, start, end, kind, _, strand, *_ = line.rstrip("\n").split("\t")
            if kind == "tRNA" and 70 <= int(end) - int(start) <= 95:
                yield nucleotide.decode(genome.fetch(0, int(start), int(end), strand=strand))


def stem(first: int, last: int, length: int) -> Pairs:
    """Pairs of a stem between a base and its partner, inwards."""
    return [(first + k, last - k) for k in range(length)]


def share_paired(text: str, pairs: Pairs) -> float:
    return sum(text[i] + text[j] in _PAIRS for i, j in pairs) / len(pairs)


def cloverleaf(text: str) -> Pairs | None:
    """The pairs of a gene's acceptor stem, T stem and anticodon stem; None where too few of them could pair."""
    tails = (len(text) - 5, len(text) - 2) if text.endswith("CCA") else (len(text) - 2,)
    last = max(tails, key=lambda end: share_paired(text, stem(0, end, 7)))
    acceptor, t_arm = stem(0, last, 7), stem(last - 23, last - 7, 5)
    anticodon = max(
        (stem(first, first + 16, 5) for first in range(22, 33)), key=lambda pairs: share_paired(text, pairs)
    )
    pairs = acceptor + t_arm + anticodon
    return pairs if min(share_paired(text, p) for p in (acceptor, t_arm, anticodon)) >= _ENOUGH else None


def connected(dependency: np.ndarray, pairs: Pairs) -> tuple[float, float]:
    """How much stronger paired bases depend on each other than others at the same distances; and the AUROC."""
    strength = (dependency + dependency.T) / 2
    i, j = np.triu_indices(len(strength), 1)
    paired = np.zeros(strength.shape, bool)
    paired[tuple(np.transpose(pairs))] = True
    distances = {b - a for a, b in pairs}
    chosen = np.isin(j - i, list(distances))
    i, j = i[chosen], j[chosen]
    marks, values = paired[i, j], strength[i, j]
    means = {d: values[(j - i == d) & ~marks].mean() for d in distances}
    relative = values / np.array([means[d] for d in (j - i).tolist()])
    return float(relative[marks].mean()), float(roc_auc_score(marks, relative))


def in_step(dependency: np.ndarray) -> float:
    """How much stronger bases depend on each other at distances of 9, 12, ... 30 than at others between 8 and 31."""
    i, j = np.triu_indices(len(dependency), 1)
    values, distance = dependency[i, j] + dependency[j, i], j - i
    near = (distance >= 8) & (distance <= 31)
    return float(values[near & (distance % 3 == 0)].mean() / values[near & (distance % 3 != 0)].mean())


def interval(values: np.ndarray) -> str:
    draws = np.random.default_rng(0).integers(len(values), size=(_DRAWS, len(values)))
    figure = Figure.of(float(np.median(values)), np.median(values[draws], axis=1))
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def untrained(discriminator: Discriminator) -> Discriminator:
    network = Discriminator(discriminator.model.config, discriminator.model.context)
    initialize(network, torch.Generator().manual_seed(0))
    return network.eval()


def draw(path: Path, maps: dict[str, np.ndarray], pairs: Pairs) -> None:
    """Mean maps side by side; paired bases are circled."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5 * len(maps), 5), layout="constrained")
    for axes, (name, mean) in zip(canvas.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        shown = mean.copy()
        np.fill_diagonal(shown, np.nan)
        axes.imshow(shown, cmap="magma", vmax=np.nanpercentile(shown, 99))
        for i, j in pairs:
            axes.plot([j, i], [i, j], "o", mfc="none", mec="tab:cyan", ms=5, ls="none")
        axes.set(title=name, xlabel="base j", ylabel="base i")
    canvas.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--most", type=int, help="genes of each genome at most, for a trial")
    options = parser.parse_args()
    description = read_run(options.run)
    texts = [text for name in ANNOTATED for text in list(genes(options.data, name))[: options.most]]
    found = [(text, cloverleaf(text)) for text in texts]
    known = [(text, pairs) for text, pairs in found if pairs is not None]
    trained = load_pair(options.run).discriminator
    length = collections.Counter(len(text) for text, _ in known).most_common(1)[0][0]
    rows, means = [], {}
    for name, network in (("trained", trained), ("untrained", untrained(trained))):
        maps = nucel.attribute(network, [text for text, _ in known], "dependency")
        results = np.array(
            [
                (*connected(one.dependency, pairs), in_step(one.dependency))
                for one, (_, pairs) in zip(maps, known, strict=True)
            ]
        )
        rows.append([name, *(interval(column) for column in results.T)])
        means[name] = np.mean([one.dependency for one in maps if len(one.dependency) == length], axis=0)
    if options.picture is not None:
        draw(options.picture, means, next(pairs for text, pairs in known if len(text) == length))
    machine = table.machine_line(table.machine(torch.device("cpu")))
    most = f" --most {options.most}" if options.most else ""
    command = f"python -m benchmarks.experiments.trna_maps RUN $NUCEL_DATA --out benchmarks/results/trna.md{most}"
    titles = ["network", "paired bases, relative to others as far apart", "AUROC"]
    titles += ["distances of 9, 12, ... 30, relative to others"]
    lines = [
        "# Dependency maps of tRNA genes", "",
        f"{machine}. Run: {in_words(options.run, description)}, without the three genomes. {len(known)} genes; "
        f"{len(found) - len(known)} left out, whose stems were not found. Medians over genes with 95 % intervals.", "",
        "```sh", command, "```", "", table.markdown_table(titles, rows),
    ]  # fmt: skip
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
