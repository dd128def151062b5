"""Do embeddings tell biotypes apart? XGBoost on frozen vectors, beside length, k-mers and untrained encoders.

genes with their classes --embed--> vectors --XGBoost--> classes of genomes, contigs or clusters that are held out
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

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
from ..runtime.files import finite, replacing, write_text
from ..runtime.parts import Parts
from ..tasks.features import untrained
from ..tasks.fit import require_seeds
from .biotype_classifier import Fold, classify, confusion, f1_scores, fold, intervals, nearly_identical
from .biotype_pictures import draw_map, pca, tsne, umap
from .biotype_sources import Gene, read_genes
from .biotype_table import Line, markdown, methods, tsv
from .methods import fingerprint, identity_of, load_encoder, parse_models, require_new

LENGTH, KMERS, UNTRAINED, CONSTANT = "length", "1- to 4-mers", "untrained", "most frequent class"
CONTROLS = (LENGTH, KMERS, UNTRAINED, CONSTANT)
_TSNE, _UMAP = "tsne.png", "umap.png"
_NO_FIGURE = ("inputs", "out", "models", "genome", "pictures", "cache_dir", "compute")
"""Settings that decide no figure."""


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
    """Directory for the results; it must be new or empty. Until it is complete, what is done is in OUT.parts."""
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


def biotypes(config: BiotypesConfig, command: str | None = None) -> cli.Result:
    """Carry out `suite biotypes`; returns its summary and report.

    Args:
        command: what result.json says; by default the process's own.

    Raises:
        ConfigError, InputError, GenomeError, HubError, CheckpointError, OSError: bad input, or parts of another
            command; no directory is left.
    """
    for library, package in (("xgboost", "xgboost"), ("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"biotypes need {package}, which is not installed: pip install 'nucel[biotypes]'")
    require_new(config.out)
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
    parts = Parts(
        config.out, "suite biotypes", identity_of(config, _NO_FIGURE, encoders, precision, _fingerprint(genes))
    )  # fmt: skip
    number = itertools.count()
    lines: list[Line] = []
    first: np.ndarray | None = None
    try:
        for method, seed, embed in _methods(genes, encoders, config, precision):
            vectors = parts.once(next(number), embed)["vectors"]
            first = vectors if first is None and method in encoders else first
            for one in config.seeds if seed is None else (seed,):
                make = functools.partial(_line, method, one, vectors, labels, folds[one], near[one], config)
                lines.append(Line(*parts.once_json(next(number), make)))
                console.print(f"{method}, seed {one}: macro F1 {lines[-1].f1[0]:.4f}", markup=False)
    finally:
        parts.remove_if_empty()
    pictures = _pictures() if config.pictures and first is not None else []
    macro = {name: float(np.mean([x.f1[0] for x in lines if x.method == name])) for name in methods(lines)}
    summary: dict[str, Any] = {
        "sequences": len(genes),
        "cut": longer,
        "classes": counts,
        "left_out": left_out,
        "nearly_identical": {str(seed): round(share, 4) for seed, share in near.items()},
        "macro_f1": macro,
        "pictures": [str(config.out / name) for name in pictures],
        "seconds": round(parts.seconds, 3),
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
    with replacing(config.out) as folder:
        folder.mkdir()
        if pictures and first is not None:
            _draw(folder, pictures, config, first, labels)
        write_text(folder / "table.tsv", tsv(lines))
        write_text(folder / "table.md", markdown(lines, about))
        write_text(folder / "result.json", json.dumps(about, indent=2) + "\n")
    parts.remove()
    best = max(macro, key=lambda name: macro[name])
    report = (
        f"The largest macro F1, {macro[best]:.3f}, is that of {best}; by length alone it is {macro[LENGTH]:.3f}.",
        f"The table is {config.out / 'table.md'}"
        + (f", pictures are beside it: {', '.join(pictures)}." if pictures else "."),
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


def _fingerprint(genes: Sequence[Gene]) -> str:
    """SHA-256 in hexadecimal over the sequences, their classes and places."""
    digest = hashlib.sha256()
    for gene in genes:
        place = (gene.name, gene.biotype, gene.contig, Path(gene.genome).name, gene.whole_bp)
        digest.update(gene.tokens.tobytes() + repr(place).encode())
    return digest.hexdigest()


def _methods(
    genes: Sequence[Gene], encoders: dict[str, Encoder], config: BiotypesConfig, precision: Precision
) -> Iterator[tuple[str, int | None, Callable[[], dict[str, np.ndarray]]]]:
    """Each method, the seed that it is for (None for all), and what makes its `vectors`, float32 (n, C)."""
    tokens = [gene.tokens for gene in genes]

    def embedded(encoder: Encoder) -> dict[str, np.ndarray]:
        network = encoder.to(precision.device)
        found = embeddings(network, tokens, config.options, precision, progress="sequences")
        return {"vectors": np.stack(list(found))}

    for name, encoder in encoders.items():
        yield name, None, functools.partial(embedded, encoder)
    yield LENGTH, None, lambda: {"vectors": np.array([[gene.whole_bp] for gene in genes], np.float32)}
    yield KMERS, None, lambda: {"vectors": kmer_frequencies(tokens, (1, 2, 3, 4))}
    yield CONSTANT, None, lambda: {"vectors": np.empty((len(genes), 0), np.float32)}
    if encoders:
        shape = next(iter(encoders.values()))
        for seed in config.seeds:
            yield UNTRAINED, seed, functools.partial(embedded, untrained(shape, seed))


def _line(
    method: str, seed: int, vectors: np.ndarray, labels: np.ndarray, rows: Fold, near: float, config: BiotypesConfig
) -> Line:
    if method == CONSTANT:
        names, counts = np.unique(labels[rows.train], return_counts=True)
        predicted = np.full(len(rows.test), names[counts.argmax()])
    else:
        predicted = classify(vectors, labels, rows, seed, config.evaluation.trees, environment.available_cpus())
    matrix = confusion(labels[rows.test], predicted)
    ends = intervals(matrix, config.evaluation.draws, seed)
    return Line(method, seed, rows.held_out, len(rows.test), near, f1_scores(matrix).tolist(), ends.tolist())


def _pictures() -> list[str]:
    """Names of the pictures that can be drawn."""
    if importlib.util.find_spec("umap") is not None:
        return [_TSNE, _UMAP]
    note("no umap.png: umap-learn is not installed (pip install 'nucel[biotypes]')")
    return [_TSNE]


def _draw(folder: Path, pictures: list[str], config: BiotypesConfig, vectors: np.ndarray, labels: np.ndarray) -> None:
    reduced, seed = pca(vectors), config.seeds[0]
    name = next(iter(parse_models(config.models, CONTROLS)))
    draw_map(folder / _TSNE, tsne(reduced, seed), labels, f"t-SNE of {name}")
    if _UMAP in pictures:
        draw_map(folder / _UMAP, umap(reduced, seed), labels, f"UMAP of {name}")
