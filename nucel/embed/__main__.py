"""Embeddings of the sequences in a file: ``python -m nucel.embed MODEL INPUT --out FILE``.

INPUT is a FASTA, a CSV or TSV with a column of sequences, or a BED file with --genome; FILE ends with .npz, .parquet or
.h5. The last line on stdout is one JSON object.

Examples:
    python -m nucel.embed runs/ecoli genes.fa --out genes.npz
    python -m nucel.embed runs/ecoli peaks.bed --genome hg38.fa --out peaks.parquet --average-reverse-complement
    python -m nucel.embed runs/ecoli genes.fa --out bases.h5 --pooling none --layer 2
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes

from ..genome.sequences import REGION_COLUMNS, SequenceOptions, read_sequences
from ..inference import export
from ..inference.attention import attention_weights
from ..inference.embedding import EmbedOptions, embeddings
from ..model.hub import load
from ..runtime import cli
from ..runtime.cli import console, note
from ..runtime.device import DeviceOptions, choose_precision
from ..runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embeddings of the sequences in a file."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or a ModernBERT model directory over this alphabet."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCES")]
    """FASTA, CSV or TSV (each also as .gz), or BED with --genome."""
    out: Path
    """File to write; .npz, .parquet or .h5. What it held before is replaced when all is computed."""
    attention_layers: tuple[int, ...] = ()
    """Blocks, counted from 0, whose attention weights are written too: 4 * heads * T^2 bytes for each and each
    sequence, computed one sequence at a time. Sequences longer than the context are refused; not with .parquet."""
    options: OmitArgPrefixes[Annotated[EmbedOptions, tyro.conf.arg(name="embedding")]] = field(
        default_factory=EmbedOptions
    )
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)


def embed_file(config: EmbedConfig) -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, OSError: bad input; nothing half-written is left.
    """
    export.require_format(config.out, bool(config.attention_layers))
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoder = load(config.model).to(precision.device)
    for layer in config.attention_layers:
        if not 0 <= layer < len(encoder.layers):
            raise ConfigError(f"attention layers must lie in [0, {len(encoder.layers)}), got {layer}")
    sequences = read_sequences(config.input, config.columns)
    options = config.options
    if config.attention_layers:  # of whole sequences
        options = dataclasses.replace(options, long="refuse")
    lengths = np.array([len(tokens) for tokens in sequences.tokens], np.int64)
    contents = export.Contents(
        names=sequences.names,
        columns={name: sequences.columns[name] for name in REGION_COLUMNS[:4]} if sequences.is_regions else {},
        width=encoder.config.width,
        lengths=lengths if options.pooling == "none" else None,
        about={"model": str(config.model), "input": str(config.input), **dataclasses.asdict(options)}
        | ({"attention_layers": list(config.attention_layers)} if config.attention_layers else {}),
    )
    console.print(
        f"{len(sequences)} sequences, {int(lengths.sum()):,} bases, on {precision.device}", soft_wrap=True, markup=False
    )
    started = time.perf_counter()
    room = (options.context or encoder.context or int(lengths.max())) - 1
    if options.long == "tile" and (longer := int((lengths > room).sum())):
        note(
            f"{longer} sequences are longer than the {room} bases of the context and are read in tiles (--long refuse)"
        )
    where = [f"{config.input}, {line}" for line in sequences.where]
    with export.writing(config.out, contents) as sink:
        for rows in embeddings(encoder, sequences.tokens, options, precision, where, progress="sequences"):
            sink.embedding(rows)
        seconds = time.perf_counter() - started
        if config.attention_layers:
            for number, tokens in enumerate(sequences.tokens):
                weights = attention_weights(encoder, tokens, config.attention_layers)
                sink.attention(number, np.stack([weights[layer] for layer in config.attention_layers]))
    summary = {
        "sequences": len(sequences),
        "bases": int(lengths.sum()),
        "width": encoder.config.width,
        "pooling": options.pooling,
        "seconds": round(seconds, 3),
        "sequences_per_s": round(len(sequences) / seconds, 1),
        "device": str(precision.device),
        "out": str(config.out),
    }
    return cli.Result(summary, _report(summary))


def _report(summary: dict[str, Any]) -> tuple[str, ...]:
    """Three lines for people; the last opens the file in Python."""
    out, name = summary["out"], "hidden" if summary["pooling"] == "none" else "embeddings"
    vector = "vector per base" if summary["pooling"] == "none" else "vector"
    reader = {
        ".npz": f"numpy.load({out!r})[{name!r}]",
        ".h5": f"h5py.File({out!r})[{name!r}][:]",
        ".parquet": f"pyarrow.parquet.read_table({out!r})",
    }[Path(out).suffix]
    return (
        f"Embedded {summary['sequences']:,} sequences, each as a {vector} of width {summary['width']}.",
        f"They are in {out}, in the order of the input.",
        f"Next, in Python: {reader}",
    )


def main(arguments: list[str] | None = None) -> int:
    """Embed as the command line says; returns the exit status."""
    return cli.run("embed", EmbedConfig, embed_file, arguments)


if __name__ == "__main__":
    sys.exit(main())
