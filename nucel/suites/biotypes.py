"""Do embeddings tell biotypes apart? XGBoost on frozen vectors, beside length, k-mers and untrained encoders.

genes with their classes --embed--> vectors --XGBoost--> classes of genomes, contigs or clusters that are held out
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes

from ..genome.kmers import kmer_frequencies
from ..inference.embedding import EmbedOptions, embeddings
from ..model.encoder import Encoder
from ..runtime import cli, environment
from ..runtime.cli import console, note
from ..runtime.device import DeviceOptions, Precision, choose_precision
from ..runtime.errors import ConfigError, InputError, require
from ..runtime.files import finite, write_text
from ..tasks.features import untrained
from ..tasks.fit import require_seeds
from .biotype_classifier import MEANS, Fold, classify, confusion, f1_scores, fold, intervals, nearly_identical
from .biotype_pictures import draw_map, pca, tsne, umap
from .biotype_sources import Gene, read_genes
from .methods import fingerprint, load_encoder, parse_models

LENGTH, KMERS, UNTRAINED, CONSTANT = "length", "1- to 4-mers", "untrained", "most frequent class"
CONTROLS = (LENGTH, KMERS, UNTRAINED, CONSTANT)


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """What is held out, and how the prediction is judged."""

    split_by: Literal["genome", "contig", "cluster", "rows"] = "contig"
    """What is held out: a genome in turn, or a share of contigs, of clusters of similar sequences, or of rows."""
    test_share: float = 0.2
    """Share of the sequences to test on, unless genomes are held out."""
    trees: int = 300
    """Of XGBoost, for each class."""
    draws: int = 1000
    """Of the bootstrap over sequences that gives the 95 % intervals."""

    def __post_init__(self) -> None:
        for name in ("trees", "draws"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 < self.test_share < 1, f"test_share must lie between 0 and 1, got {self.test_share}")


@dataclass(frozen=True, kw_only=True)
class BiotypesConfig:
    """Biotypes by XGBoost on embeddings, beside their controls, with pictures."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """FASTA of Ensembl or GENCODE, or GTF, GFF3 or BED with --genome (each also .gz)."""
    out: Path
    """Directory for the results; it must be new or empty."""
    models: tuple[str, ...] = ()
    """NAME=MODEL, each a run or a ModernBERT directory: rtd=runs/a mlm=runs/b."""
    genome: tuple[Path, ...] = ()
    """FASTA of the genomes that annotations or regions are of."""
    feature: tuple[str, ...] = ("*gene",)
    """Types of features, by name or glob, that are read of GTF and GFF3 files."""
    min_genes: int = 100
    """Leave out classes of fewer sequences."""
    room_bp: int = 1024
    """First bases of each sequence that are read, in sense direction."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One training for each, with a split of its own, and weights of its own for the untrained encoder."""
    pictures: bool = True
    """Draw t-SNE and UMAP of the first model's vectors."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""
    evaluation: OmitArgPrefixes[SplitOptions] = field(default_factory=SplitOptions)
    options: OmitArgPrefixes[Annotated[EmbedOptions, tyro.conf.arg(name="embedding")]] = field(
        default_factory=EmbedOptions
    )
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require(self.options.pooling != "none", "a gene needs one vector: --pooling mean or cls")
        for name in ("min_genes", "room_bp"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")


class Line(NamedTuple):
    """A row of the table."""

    method: str
    seed: int
    held_out: str
    test: int
    nearly_identical: float
    f1: np.ndarray
    """float64 (3,): macro, micro, weighted."""
    intervals: np.ndarray
    """float64 (3, 2)."""


def biotypes(config: BiotypesConfig, command: str | None = None) -> cli.Result:
    """Carry out `suite biotypes`; returns its summary and report.

    Args:
        command: what result.json says; by default the process's own.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no directory is left.
    """
    for library, package in (("xgboost", "xgboost"), ("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"biotypes need {package}, which is not installed: pip install 'nucel[biotypes]'")
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoders = {name: load_encoder(path, None) for name, path in parse_models(config.models, CONTROLS).items()}
    genes, left_out = _frequent(
        read_genes(config.inputs, config.genome, config.feature, config.room_bp, config.cache_dir), config.min_genes
    )
    labels = np.array([gene.biotype for gene in genes])
    longer = sum(gene.whole_bp > config.room_bp for gene in genes)
    counts = dict(collections.Counter(labels.tolist()).most_common())
    console.print(
        f"{len(genes):,} sequences, {longer:,} of them cut to {config.room_bp} bp; "
        + ", ".join(f"{name} {count:,}" for name, count in counts.items())
        + (f"; left out, as rarer: {', '.join(left_out)}" if left_out else ""), soft_wrap=True, markup=False,
    )  # fmt: skip
    folds = {seed: fold(genes, config.evaluation.split_by, seed, config.evaluation.test_share) for seed in config.seeds}
    near = {seed: nearly_identical(genes, one) for seed, one in folds.items()}
    started = time.perf_counter()
    lines: list[Line] = []
    first: np.ndarray | None = None
    for method, seed, vectors in _vectors(genes, encoders, config, precision):
        first = vectors if first is None and method in encoders else first
        for one in config.seeds if seed is None else (seed,):
            line = _line(method, one, vectors, labels, folds[one], near[one], config)
            console.print(f"{method}, seed {one}: macro F1 {line.f1[0]:.4f}", markup=False)
            lines.append(line)
    config.out.mkdir(parents=True, exist_ok=True)
    pictures = _draw(config, first, labels) if config.pictures and first is not None else []
    macro = {name: float(np.mean([x.f1[0] for x in lines if x.method == name])) for name in _methods(lines)}
    summary: dict[str, Any] = {
        "sequences": len(genes),
        "cut": longer,
        "classes": counts,
        "left_out": left_out,
        "nearly_identical": {str(seed): round(share, 4) for seed, share in near.items()},
        "macro_f1": macro,
        "pictures": pictures,
        "seconds": round(time.perf_counter() - started, 3),
        "device": str(precision.device),
        "out": str(config.out),
    }
    about = {
        "command": command or cli.command_line("suite"),
        "settings": json.loads(json.dumps(finite(dataclasses.asdict(config)), default=str)),
        "weights": {name: fingerprint(encoder.cpu()) for name, encoder in encoders.items()},
        "versions": environment.versions(precision.device),
        **summary,
    }
    write_text(config.out / "table.tsv", _tsv(lines))
    write_text(config.out / "table.md", _markdown(lines, about))
    write_text(config.out / "result.json", json.dumps(about, indent=2) + "\n")
    best = max(macro, key=lambda name: macro[name])
    report = (
        f"The largest macro F1, {macro[best]:.3f}, is that of {best}; by length alone it is {macro[LENGTH]:.3f}.",
        f"The table is {config.out / 'table.md'}" + (f", pictures are {', '.join(pictures)}." if pictures else "."),
        "Next: compare each model with the k-mers, and look at the share of nearly identical test sequences",
    )
    return cli.Result(summary, report)


def _frequent(genes: Sequence[Gene], least: int) -> tuple[list[Gene], list[str]]:
    """The genes of classes that have enough of them, and the names of the other classes."""
    counts = collections.Counter(gene.biotype for gene in genes)
    kept = {name for name, count in counts.items() if count >= least}
    if len(kept) < 2:
        found = ", ".join(f"{name} {count}" for name, count in counts.most_common(10))
        raise InputError(f"fewer than two classes have {least} sequences (--min-genes): {found}")
    return [gene for gene in genes if gene.biotype in kept], sorted(counts.keys() - kept)


def _vectors(
    genes: Sequence[Gene], encoders: dict[str, Encoder], config: BiotypesConfig, precision: Precision
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Each method's vectors, float32 (n, C), and the seed that they are for; None for all."""
    tokens = [gene.tokens for gene in genes]

    def embedded(encoder: Encoder) -> np.ndarray:
        network = encoder.to(precision.device)
        return np.stack(list(embeddings(network, tokens, config.options, precision, progress="sequences")))

    for name, encoder in encoders.items():
        yield name, None, embedded(encoder)
    yield LENGTH, None, np.array([[gene.whole_bp] for gene in genes], np.float32)
    yield KMERS, None, kmer_frequencies(tokens, (1, 2, 3, 4))
    yield CONSTANT, None, np.empty((len(genes), 0), np.float32)
    if encoders:
        shape = next(iter(encoders.values()))
        for seed in config.seeds:
            yield UNTRAINED, seed, embedded(untrained(shape, seed))


def _line(
    method: str, seed: int, vectors: np.ndarray, labels: np.ndarray, rows: Fold, near: float, config: BiotypesConfig
) -> Line:
    if method == CONSTANT:
        names, counts = np.unique(labels[rows.train], return_counts=True)
        predicted = np.full(len(rows.test), names[counts.argmax()])
    else:
        predicted = classify(vectors, labels, rows, seed, config.evaluation.trees, environment.available_cpus())
    matrix = confusion(labels[rows.test], predicted)
    return Line(
        method, seed, rows.held_out, len(rows.test), near, f1_scores(matrix),
        intervals(matrix, config.evaluation.draws, seed),
    )  # fmt: skip


def _draw(config: BiotypesConfig, vectors: np.ndarray, labels: np.ndarray) -> list[str]:
    reduced, seed = pca(vectors), config.seeds[0]
    name = next(iter(parse_models(config.models, CONTROLS)))
    found = [str(config.out / "tsne.png")]
    draw_map(Path(found[0]), tsne(reduced, seed), labels, f"t-SNE of {name}")
    if importlib.util.find_spec("umap") is None:
        note("no umap.png: umap-learn is not installed (pip install 'nucel[biotypes]')")
        return found
    found.append(str(config.out / "umap.png"))
    draw_map(Path(found[1]), umap(reduced, seed), labels, f"UMAP of {name}")
    return found


def _methods(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.method for line in lines))


def _tsv(lines: Sequence[Line]) -> str:
    header = ["method", "seed", "held_out", "test", "nearly_identical"]
    header += [f"{mean}_f1{part}" for mean in MEANS for part in ("", "_low", "_high")]
    rows = ["\t".join(header)]
    for line in lines:
        numbers = [f"{x:.6g}" for f1, (low, high) in zip(line.f1, line.intervals, strict=True) for x in (f1, low, high)]
        head = [line.method, str(line.seed), line.held_out, str(line.test), f"{line.nearly_identical:.4f}"]
        rows.append("\t".join([*head, *numbers]))
    return "\n".join(rows) + "\n"


def _markdown(lines: Sequence[Line], about: dict[str, Any]) -> str:
    rows = [f"| method | {' | '.join(f'{mean} F1' for mean in MEANS)} |", "| --- | --- | --- | --- |"]
    for method in _methods(lines):
        own = [line for line in lines if line.method == method]
        cells = []
        for i in range(len(MEANS)):
            values = np.array([line.f1[i] for line in own])
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            low, high = np.mean([line.intervals[i] for line in own], axis=0)
            cells.append(f"{values.mean():.3f}{spread} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    settings, evaluation = about["settings"], about["settings"]["evaluation"]
    shares = ", ".join(f"{seed}: {share:.1%}" for seed, share in about["nearly_identical"].items())
    classes = ", ".join(f"{name} {count:,}" for name, count in about["classes"].items())
    notes = (
        f"Mean over seeds ± standard deviation, which are splits by {evaluation['split_by']}; in brackets the mean "
        f"of the seeds' 95 % intervals ({evaluation['draws']:,} draws over sequences). Classes: {classes}; "
        f"{about['cut']:,} sequences were cut to {settings['room_bp']} bp. Test sequences 95 % of whose 12-mers "
        f"are in one training sequence, by seed: {shares}."
    )
    return "\n".join(rows) + f"\n\n{notes}\n"
