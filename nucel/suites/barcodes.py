"""Models and their controls on sets of DNA barcodes, by the evaluations of BarcodeMAE.

    FASTA with species --embed--> one vector a row --nearest, linear probe, clusters--> table

Controls are frequencies of 4- and 6-mers, edit distance, and encoders of the first model's shape with new weights.
`barcode_protocols.evaluate` does the same from a function that embeds, for scripts of one's own.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes

from ..genome.edits import nearest_by_edits
from ..genome.kmers import kmer_frequencies
from ..inference.embedding import EmbedOptions, embeddings
from ..model.encoder import Encoder
from ..runtime import cli, environment
from ..runtime.cli import console, note
from ..runtime.device import DeviceOptions, Precision, choose_precision
from ..runtime.errors import ConfigError, require
from ..runtime.files import finite, write_text
from ..tasks.features import untrained
from ..tasks.fit import require_seeds
from ..tasks.metrics import require_libraries
from .barcode_protocols import Embedding, Nearest, ProtocolOptions, Row, by_neighbours, evaluate
from .barcode_sets import HEADER, BarcodeSet, find_sets, held_out_species, pretraining_fasta, read_set
from .barcode_table import markdown, tsv
from .methods import fingerprint, load_encoder, parse_models

UNTRAINED, EDITS = "untrained", "edit distance"
KMERS = {"4-mers": 4, "6-mers": 6}
CONTROLS = (*KMERS, EDITS, UNTRAINED)


@dataclass(frozen=True, kw_only=True)
class BarcodesConfig:
    """Models and their controls on sets of DNA barcodes: nearest neighbours, a linear probe, clusters."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folders with NAME_train.fasta and NAME_test.fasta (also .fa, .fas, .fna, and .gz)."""
    out: Path
    """Directory for the results; it must be new or empty."""
    models: tuple[str, ...] = ()
    """NAME=MODEL, each a run or a ModernBERT directory: mae=runs/a mlm=runs/b."""
    sets: tuple[str, ...] = ("*",)
    """Which sets, by name or glob."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each: of the linear probes, and of the weights of the untrained encoders."""
    header: str = HEADER
    """Regular expression with the groups genus and species, searched in each header."""
    drop_gaps: bool = True
    """Remove the gaps (-) of aligned sequences."""
    edit_distance: bool = True
    """Compute the control by edit distance too: minutes for 2,000 sequences."""
    unseen_in_pretraining: Literal["yes", "no", "unknown"] = "unknown"
    """Whether the models have read the held-out species in pre-training; it is written into the table."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files; by default $XDG_CACHE_HOME/nucel or ~/.cache/nucel."""
    protocol: OmitArgPrefixes[ProtocolOptions] = field(default_factory=ProtocolOptions)
    options: OmitArgPrefixes[Annotated[EmbedOptions, tyro.conf.arg(name="embedding")]] = field(
        default_factory=EmbedOptions
    )
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require(self.options.pooling != "none", "a barcode needs one vector: --pooling mean or cls")


def barcodes(config: BarcodesConfig, command: str | None = None) -> cli.Result:
    """Carry out `suite barcodes`; returns its summary and report.

    Args:
        command: what result.json says; by default the process's own.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; no directory is left.
    """
    require_libraries()
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    files = {
        name: paths
        for name, paths in find_sets(config.folders).items()
        if any(fnmatch.fnmatchcase(name, one) for one in config.sets)
    }
    require(bool(files), f"no set is named {', '.join(config.sets)}")
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoders = {name: load_encoder(path, None) for name, path in parse_models(config.models, CONTROLS).items()}
    sets = [read_set(name, *paths, config.header, config.drop_gaps, config.cache_dir) for name, paths in files.items()]
    if config.protocol.chosen_reduction == "pca" and config.protocol.reduction == "auto":
        note("clusters are found after PCA, not UMAP: umap-learn is not installed (pip install 'nucel[barcodes]')")
    started = time.perf_counter()
    rows: list[Row] = []
    for one in sets:
        sizes = ", ".join(f"{name} {value:,}" for name, value in one.sizes().items())
        console.print(f"{one.name}: {sizes}", soft_wrap=True, markup=False)
        rows += _rows(one, encoders, config, precision)
    about = _about(config, sets, encoders, precision, time.perf_counter() - started, command)
    config.out.mkdir(parents=True, exist_ok=True)
    for one in sets:
        held = held_out_species(one, config.protocol.split_seed, config.protocol.unseen_share)
        write_text(config.out / f"{one.name}.held_out.txt", "".join(f"{name}\n" for name in held))
        write_text(config.out / f"{one.name}.pretrain.fa", pretraining_fasta(one, held))
    write_text(config.out / "table.tsv", tsv(rows))
    write_text(config.out / "table.md", markdown(rows, {one.name: one.sizes() for one in sets}, about))
    write_text(config.out / "result.json", json.dumps(about, indent=2) + "\n")
    summary = {
        "sets": len(sets),
        "rows": len(rows),
        "reduction": config.protocol.chosen_reduction,
        "seconds": about["seconds"],
        "device": about["device"],
        "table": str(config.out / "table.md"),
        "out": str(config.out),
    }
    report = (
        f"{len(sets)} sets of barcodes, {len(rows)} lines, {', '.join(dict.fromkeys(row.method for row in rows))}.",
        f"The table is {config.out / 'table.md'}, what pre-training may read is SET.pretrain.fa beside it.",
        "Next: compare each model with the k-mers and the edit distance, on the rows that are not identical",
    )
    return cli.Result(summary, report)


def _rows(one: BarcodeSet, encoders: dict[str, Encoder], config: BarcodesConfig, precision: Precision) -> Iterator[Row]:
    """All lines of the table for a set: models, then controls. What does not depend on a seed comes once."""

    def embedding(encoder: Encoder) -> Embedding:
        network = encoder.to(precision.device)
        return lambda tokens: np.stack(list(embeddings(network, tokens, config.options, precision)))

    methods = {name: embedding(encoder) for name, encoder in encoders.items()}
    methods |= {name: functools.partial(kmer_frequencies, sizes=(k,)) for name, k in KMERS.items()}
    for method, embed in methods.items():
        yield from evaluate(one, method, embed, config.protocol, config.seeds)
    if config.edit_distance:
        yield from by_neighbours(one, EDITS, edit_neighbours(one), config.protocol, config.seeds[0])
    if encoders:
        shape = next(iter(encoders.values()))
        for seed in config.seeds:
            yield from evaluate(one, UNTRAINED, embedding(untrained(shape, seed)), config.protocol, (seed,))


def edit_neighbours(barcodes: BarcodeSet) -> Nearest:
    """Nearest rows of a set by edit distance."""

    def nearest(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
        sides = ([barcodes.tokens[i] for i in rows.tolist()] for rows in (reference, queries))
        return reference[nearest_by_edits(*sides)]

    return nearest


def _about(
    config: BarcodesConfig, sets: Sequence[BarcodeSet], encoders: dict[str, Encoder], precision: Precision,
    seconds: float, command: str | None,
) -> dict[str, Any]:  # fmt: skip
    settings = json.loads(json.dumps(finite(dataclasses.asdict(config)), default=str))
    return {
        "command": command or cli.command_line("suite"),
        "settings": settings,
        "sets": {one.name: one.sizes() for one in sets},
        "weights": {name: fingerprint(encoder.cpu()) for name, encoder in encoders.items()},
        "reduction": config.protocol.chosen_reduction,
        "seconds": round(seconds, 3),
        "device": str(precision.device),
        "dtype": precision.dtype_name,
        "versions": environment.versions(precision.device),
    }
