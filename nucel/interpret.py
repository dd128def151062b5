"""What a model has learned, base by base: ``python -m nucel.interpret SUBCOMMAND ...``.

    attribution   how much each base contributes to what a model says, as numbers, tracks and logos
    agreement     how well two such maps agree
    importance    what a pattern or a motif does to a model's output, planted in shuffled sequences
    motif-order   attention that two motifs receive from a model that was fine-tuned on their order

The last line on stdout is one JSON object.

Examples:
    python -m nucel.interpret attribution runs/ecoli genes.fa --method gradient surprise --out maps.npz
    python -m nucel.interpret agreement one.npz other.npz --out agreement.tsv
    python -m nucel.interpret importance runs/ecoli genes.fa --pattern TATAAA --out effects.tsv
    python -m nucel.interpret motif-order runs/ecoli --out order
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

from .genome.sequences import SequenceOptions, Sequences, read_sequences
from .interpretation import attribution_files as maps_files
from .interpretation.agreement import correlations, draw_histogram
from .interpretation.attribution import Attribution, AttributionOptions, Method, attributions
from .interpretation.importance import ImportanceOptions, Model, backgrounds
from .interpretation.importance_table import PatternOptions, draw_rows, marked_sites, measure, words, write_rows
from .interpretation.logo import draw_logos, picture_name
from .interpretation.targets import Subject
from .runtime import cli, environment
from .runtime.device import DeviceOptions, Precision, choose_precision
from .runtime.errors import ConfigError, HubError, InputError, require
from .runtime.files import finite, write_text
from .suites.motif_order import MotifOrderConfig, motif_order


@dataclass(frozen=True, kw_only=True)
class AttributionConfig:
    """How much each base of the sequences in a file contributes to what a model says."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or what python -m nucel.finetune has written."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCES")]
    """FASTA, CSV or TSV (each also as .gz), or BED with --genome."""
    out: Path
    """File to write: .npz, .h5, .tsv, .bw (of a BED file), or a picture of logos: .png, .svg, .pdf."""
    method: tuple[Method, ...] = ("gradient",)
    """How bases are attributed; several in a picture."""
    modisco: bool = False
    """Also write one-hot bases and hypothetical contributions, (n, 4, L), as TF-MoDISco reads them."""
    generator: Path | None = None
    """Run whose generator gives the entropies of entropy_gradient, where MODEL is a fine-tuned model."""
    options: OmitArgPrefixes[Annotated[AttributionOptions, tyro.conf.arg(name="attribution")]] = field(
        default_factory=AttributionOptions
    )
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require(bool(self.method), "give at least one --method")
        require(len(set(self.method)) == len(self.method), f"a method is given twice: {', '.join(self.method)}")


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """How well two maps of the same sequences agree."""

    one: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ONE")]
    """A .npz or .h5 of python -m nucel.interpret attribution."""
    other: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")]
    """Another, of the same sequences."""
    out: Path
    """TSV to write: name, Pearson's and Spearman's correlation of each sequence."""
    plot: Path | None = None
    """Picture of their histogram to write, .png, .svg or .pdf."""


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig:
    """What patterns do to a model's output when they are planted in shuffled sequences."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or what python -m nucel.finetune has written."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCES")]
    """FASTA, CSV or TSV (each also as .gz), or BED with --genome: what the backgrounds are shuffles of."""
    out: Path
    """TSV to write: a row for each pattern and place, with the mean effect, its 95 % interval and two tests."""
    plot: Path | None = None
    """Box plot of the effects to write, .png, .svg or .pdf."""
    patterns: OmitArgPrefixes[PatternOptions]
    options: OmitArgPrefixes[Annotated[ImportanceOptions, tyro.conf.arg(name="background")]] = field(
        default_factory=ImportanceOptions
    )
    columns: OmitArgPrefixes[SequenceOptions] = field(default_factory=SequenceOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)


@dataclass(frozen=True, kw_only=True)
class InterpretConfig:
    """What a model has learned, base by base."""

    command: Annotated[
        OmitSubcommandPrefixes[
            Annotated[AttributionConfig, tyro.conf.subcommand("attribution")]
            | Annotated[AgreementConfig, tyro.conf.subcommand("agreement")]
            | Annotated[ImportanceConfig, tyro.conf.subcommand("importance")]
            | Annotated[MotifOrderConfig, tyro.conf.subcommand("motif-order")]
        ],
        tyro.conf.arg(name=""),
    ]


def interpret(config: InterpretConfig) -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, CheckpointError, OSError: bad input; no file is left.
    """
    if isinstance(config.command, AttributionConfig):
        return attribute_file(config.command)
    if isinstance(config.command, ImportanceConfig):
        return importance(config.command)
    if isinstance(config.command, MotifOrderConfig):
        return motif_order(config.command)
    return agreement(config.command)


# ---- attribution -----------------------------------------------------------------------------------------------------


def attribute_file(config: AttributionConfig) -> cli.Result:
    """`interpret attribution`; errors as of `interpret`."""
    maps_files.require_format(config.out, config.method, config.input)
    precision = _precision(config.compute)
    subject = _subject(config).to(precision.device)
    sequences = read_sequences(config.input, config.columns)
    if config.modisco:
        maps_files.require_modisco(sequences, config.method)
    started = time.perf_counter()
    maps: dict[str, list[Attribution]] = {
        method: list(attributions(subject, sequences.tokens, method, config.options, precision, f"bases, {method}"))
        for method in config.method
    }
    seconds = time.perf_counter() - started
    about = {
        "model": str(config.model),
        "fingerprint": subject.networks.fingerprint,
        "input": str(config.input),
        "method": list(config.method),
        **dataclasses.asdict(config.options),
        "dtype": precision.dtype_name,
        "versions": environment.versions(precision.device),
    }
    written = _write(config, sequences, maps, about)
    bases = sum(map(len, sequences.tokens))
    summary: dict[str, Any] = {
        "sequences": len(sequences),
        "bases": bases,
        "method": list(config.method),
        "seconds": round(seconds, 3),
        "bases_per_s": round(bases * len(config.method) / seconds, 1),
        "device": str(precision.device),
        "out": str(config.out),
        "files": [str(path) for path in written],
    }
    again = {
        ".npz": f"in Python: numpy.load({str(config.out)!r})['values']",
        ".h5": f"in Python: h5py.File({str(config.out)!r})['values'][:]",
        ".tsv": "open the table, a row for each base",
    }
    default = "open the track in a genome browser" if config.out.suffix in maps_files.TRACKS else "look at the picture"
    lines = (
        f"Attributed {bases:,} bases of {len(sequences):,} sequences by {', '.join(config.method)}.",
        f"They are in {written[0]}" + (f" and {len(written) - 1} more files." if len(written) > 1 else "."),
        f"Next: {again.get(config.out.suffix, default)}",
    )
    return cli.Result(summary, lines)


def _precision(compute: DeviceOptions) -> Precision:
    """fp32 unless another is asked for, since maps are made of small differences."""
    return choose_precision(compute.device, "fp32" if compute.dtype == "auto" else compute.dtype)


def _subject(config: AttributionConfig) -> Subject:
    subject = Subject.of(config.model)
    if config.generator is None:
        return subject
    other = Subject.of(config.generator)
    if other.networks.generator is None:
        raise HubError(f"--generator {config.generator} is {other.kind}; give a run with a generator")
    if subject.networks.generator is not None:
        raise ConfigError(f"{config.model} has a generator of its own; leave out --generator")
    return Subject(dataclasses.replace(subject.networks, generator=other.networks.generator), subject.classifier)


def _write(
    config: AttributionConfig, sequences: Sequences, maps: dict[str, list[Attribution]], about: dict[str, Any]
) -> list[Path]:
    """Write what --out asks for; returns the files, the main one first."""
    out, first = config.out, maps[config.method[0]]
    written = [out]
    if out.suffix in maps_files.PICTURES:
        written = []
        for i, (name, tokens) in enumerate(zip(sequences.names, sequences.tokens, strict=True)):
            written.append(picture_name(out, i, len(sequences)))
            draw_logos(name, tokens, {method: maps[method][i] for method in config.method}, written[-1])
    elif out.suffix in maps_files.TRACKS:
        assert config.columns.genome is not None  # a BED file was read with it
        maps_files.write_regions(out, config.columns.genome, sequences, first)
    elif out.suffix == ".tsv":
        maps_files.write_table(out, sequences, first)
    else:
        maps_files.write_arrays(out, maps_files.arrays(sequences, first), about)
    if out.suffix not in (".npz", ".h5"):
        written.append(out.with_name(out.name + ".about.json"))
        write_text(written[-1], json.dumps(about, indent=2) + "\n")
    if config.modisco:
        written.extend(maps_files.write_modisco(out, sequences, first))
    return written


# ---- agreement -------------------------------------------------------------------------------------------------------


def agreement(config: AgreementConfig) -> cli.Result:
    """`interpret agreement`; errors as of `interpret`."""
    one, other = (maps_files.read_maps(path) for path in (config.one, config.other))
    same = len(one.tokens) == len(other.tokens) and all(map(np.array_equal, one.tokens, other.tokens))
    if not same:
        raise InputError(f"{config.one} and {config.other} are not of the same sequences")
    table = correlations(one.values, other.values)
    rows = [
        f"{name}\t{pearson:.6f}\t{spearman:.6f}" for name, (pearson, spearman) in zip(one.names, table, strict=True)
    ]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, "\n".join(["name\tpearson\tspearman", *rows]) + "\n")
    if config.plot is not None:
        draw_histogram(table, config.plot)
    defined = table[np.isfinite(table).all(1)]
    pearson, spearman = defined.mean(0).tolist() if len(defined) else (float("nan"), float("nan"))
    summary = finite({"sequences": len(table), "defined": len(defined), "pearson": pearson, "spearman": spearman})
    lines = (
        f"Mean correlation of the two maps over {len(defined):,} sequences: Pearson {pearson:.3f}, "
        f"Spearman {spearman:.3f}.",
        f"Each sequence's are in {config.out}.",
        "Next: compare with maps of an untrained model, which agree by the sequence alone",
    )
    return cli.Result(summary | {"out": str(config.out)}, lines)


# ---- importance ------------------------------------------------------------------------------------------------------


def importance(config: ImportanceConfig) -> cli.Result:
    """`interpret importance`; errors as of `interpret`."""
    for library, extra in (("scipy", "eval"), *((("matplotlib", "plots"),) if config.plot is not None else ())):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"this needs {library}, which is not installed: pip install 'nucel[{extra}]'")
    words(config.patterns)  # refuses what cannot be planted
    precision = _precision(config.compute)
    subject = Subject.of(config.model).to(precision.device)
    model = Model.of(subject, config.options, precision)
    sequences = read_sequences(config.input, config.columns)
    if subject.networks.context is not None:
        sequences.require_within(subject.networks.context)
    sites = marked_sites(config.patterns, sequences.tokens)
    started = time.perf_counter()
    found = backgrounds(sequences.tokens, config.options)
    rows = measure(model, found, config.patterns, sites)
    wild_type = None
    if model.target is not None:
        nothing = [np.zeros(len(tokens), bool) for tokens in (*sequences.tokens, *found.tokens)]
        all_scores = model.scores([*sequences.tokens, *found.tokens], nothing)
        wild_type = float(all_scores[: len(sequences)].mean() - all_scores[len(sequences) :].mean())
    write_rows(config.out, rows)
    about = {
        "model": str(config.model),
        "fingerprint": subject.networks.fingerprint,
        "input": str(config.input),
        **dataclasses.asdict(config.options),
        **dataclasses.asdict(config.patterns),
        "dtype": precision.dtype_name,
        "versions": environment.versions(precision.device),
    }
    write_text(config.out.with_name(config.out.name + ".about.json"), json.dumps(about, indent=2, default=str) + "\n")
    if config.plot is not None:
        draw_rows(config.plot, rows, wild_type)
    strongest = max(rows, key=lambda row: abs(row.effect.mean))
    summary = {
        "rows": len(rows),
        "backgrounds": len(found.tokens),
        "wild_type": wild_type,
        "strongest": strongest.pattern,
        **finite({"mean": strongest.effect.mean, "low": strongest.effect.low, "high": strongest.effect.high}),
        "seconds": round(time.perf_counter() - started, 3),
        "device": str(precision.device),
        "out": str(config.out),
    }
    one = strongest.effect
    lines = (
        f"The strongest of {len(rows):,} effects on {len(found.tokens):,} backgrounds is that of {strongest.pattern}: "
        f"{one.mean:.4g} (95 % interval {one.low:.4g} to {one.high:.4g}).",
        f"All are in {config.out}.",
        "Next: plant a shuffled pattern as a control; its interval should hold 0",
    )
    return cli.Result(summary, lines)


def main(arguments: list[str] | None = None) -> int:
    """Interpret as the command line says; returns the exit status."""
    return cli.run("interpret", InterpretConfig, interpret, arguments)


if __name__ == "__main__":
    sys.exit(main())
