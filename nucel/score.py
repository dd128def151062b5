"""Zero-shot effects of variants: ``python -m nucel.score MODEL VARIANTS --genome G.fa --out FILE``.

VARIANTS is a VCF, BCF, TSV, CSV or Parquet, or a region contig:first-last, all of whose single-base variants are
scored; FILE ends with .vcf, .vcf.gz, .bcf (from a VCF or BCF), .tsv, .tsv.gz or .parquet.

While it works, scores are kept in the folder FILE.parts. If it is stopped, the same command goes on from there. Several
GPUs share the work under torchrun. The last line on stdout is one JSON object.

Examples:
    python -m nucel.score runs/human variants.vcf.gz --genome hg38.fa --out scored.vcf.gz
    python -m nucel.score runs/human chr1:101-160 --genome hg38.fa --out region.tsv --heat-map region.png
    python -m nucel.score runs/human labels.tsv --genome hg38.fa --out ranked.tsv --evaluate labels
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from tyro.conf import OmitArgPrefixes

from .genome.fasta import Genome
from .genome.loci import Reference, parse_region
from .genome.variant_files import VariantFile, open_variants
from .genome.variants import INDEL, OK, Record
from .interpretation.networks import load_networks
from .interpretation.saturation import (
    RegionVariants,
    Source,
    fill,
    preferred_score,
    require_matplotlib,
    write_heat_map,
)
from .interpretation.variant_effect import CHUNK, Scored, Scorer
from .interpretation.variant_options import ScoreOptions
from .interpretation.variant_survey import Survey, survey
from .interpretation.variant_tables import Contents, require_format, writing
from .runtime import cli, distributed, environment
from .runtime.cli import console, counting, note
from .runtime.device import DeviceOptions, choose_precision
from .runtime.distributed import World
from .runtime.errors import ConfigError
from .runtime.files import exiting_on_sigterm, finite, sha256
from .runtime.parts import Parts
from .suites.variant_effects import Judge
from .suites.variant_report import EvaluationOptions


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Zero-shot effects of the variants in a file, or of all single-base variants of a region."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, its discriminator/ or generator/, or a ModernBERT model directory over this alphabet."""
    variants: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VARIANTS")]
    """VCF, BCF, TSV, CSV (each also compressed) or Parquet; or a region, contig:first-last."""
    genome: Path
    """FASTA that the variants are against. A record named contig:first-last is that piece of the contig."""
    out: Path
    """File to write: .vcf, .vcf.gz or .bcf from a VCF or BCF; .tsv, .tsv.gz or .parquet from all."""
    heat_map: Path | None = None
    """Also draw a region's variants (.png, .pdf, .svg)."""
    max_mismatches: float = 0.05
    """Largest share of variants whose reference allele is not the genome's; more mean another assembly."""
    evaluate: Literal["mutagenesis", "labels"] | None = None
    """Compare the scores with measured effects, or with labels 0 and 1; see --evaluation.* and docs/variants.md."""
    score: OmitArgPrefixes[ScoreOptions] = field(default_factory=ScoreOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=lambda: DeviceOptions(dtype="fp32"))
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.max_mismatches <= 1:
            raise ConfigError(f"max_mismatches must lie between 0 and 1, got {self.max_mismatches}")
        if self.heat_map is not None and self.heat_map.suffix not in (".png", ".pdf", ".svg"):
            raise ConfigError(f"--heat-map must end with .png, .pdf or .svg, got {self.heat_map}")


def score_file(config: ScoreConfig) -> cli.Result | None:
    """Carry out the command; returns its summary and report, on the first rank.

    Raises:
        ConfigError, InputError, GenomeError, HubError, CheckpointError, OSError: bad input; no file is left.
    """
    with exiting_on_sigterm(), distributed.world(distributed.PATIENT) as ranks:
        console.quiet |= not ranks.is_main
        precision = choose_precision(config.compute.device, config.compute.dtype)
        networks = load_networks(config.model).to(precision.device)
        with ranks.first_alone():
            reference = Reference(Genome(config.genome))
        scorer = Scorer(networks, reference, config.score, precision)
        source = _source(config, reference)
        require_format(config.out, source)
        judge = None
        if config.evaluate is not None:
            judge = Judge(config.evaluate, source, config.evaluation)
            judge.check()
        counts = survey(source, reference, config.max_mismatches)
        if ranks.is_main:
            console.print(
                f"{counts.variants:,} variants in {counts.records:,} records, {', '.join(scorer.scores)}, "
                f"{networks.kind} on {precision.device}", soft_wrap=True, markup=False,
            )  # fmt: skip
            if precision.dtype != torch.float32:
                _note_noise(scorer, counts)
        with ranks.first_alone():
            parts = Parts(config.out, "score", _identity(config, scorer, source))
        try:
            speed = _compute(scorer, source, parts, ranks, counts.variants)
            ranks.wait()
            if not ranks.is_main:
                return None
            statuses = _write(config, scorer, source, counts, parts, judge)
        finally:
            parts.remove_if_empty()
        parts.remove()
    figures = {} if judge is None else judge.report(config.out, scorer)
    summary = {
        "records": counts.records,
        "variants": counts.variants,
        "scored": statuses[OK] + statuses[INDEL],
        "statuses": dict(sorted(statuses.items())),
        "scores": list(scorer.scores),
        **speed,
        "device": str(precision.device),
        **finite(figures),
        "out": str(config.out),
    }
    return cli.Result(summary, _report(config, summary))


def _compute(scorer: Scorer, source: Source, parts: Parts, ranks: World, variants: int) -> dict[str, float]:
    """Score the chunks that no part holds yet, each on one of the ranks; returns how fast that was, all ranks together.

    Args:
        variants: how many the source has, for the progress bar.
    """
    started, done = time.perf_counter(), 0
    with counting(variants, "variants" if ranks.is_main else None) as count:
        for number, records in enumerate(_chunks(source)):
            chunk = [variant for record in records for variant in record.variants()]
            if number % ranks.size == ranks.rank and number not in parts:
                parts.save(number, **scorer.score(chunk).arrays())
                done += len(chunk)
            count(len(chunk))
    seconds = time.perf_counter() - started
    totals = torch.tensor([done, sum(scorer.passes.tokens.values())])
    ranks.add(totals)
    scored, tokens = totals.tolist()
    return {
        "seconds": round(seconds, 3),
        "variants_per_s": round(scored / seconds, 1),
        "tokens_per_s": round(tokens / seconds),
    }


def _write(
    config: ScoreConfig, scorer: Scorer, source: Source, counts: Survey, parts: Parts, judge: Judge | None
) -> collections.Counter[str]:
    """Put the parts together, in the order of the source; returns how many variants have each status."""
    contents = Contents(source, scorer.scores, tuple(counts.contigs), _about(config, scorer))
    matrix = _Matrix(config, source, scorer) if config.heat_map is not None else None
    statuses: collections.Counter[str] = collections.Counter()
    with writing(config.out, contents) as write:
        for number, records in enumerate(_chunks(source)):
            scored = Scored.from_arrays(parts.load(number))
            write(records, scored)
            statuses.update(scored.status)
            if matrix is not None:
                matrix.add([variant for record in records for variant in record.variants()], scored)
            if judge is not None:
                judge.add(records, scored)
    if matrix is not None:
        matrix.draw()
    return statuses


def _identity(config: ScoreConfig, scorer: Scorer, source: Source) -> dict[str, Any]:
    """All that the scores depend on."""
    return {
        "model": scorer.networks.fingerprint,
        "genome": scorer.reference.genome.fingerprint,
        "variants": sha256(source.path) if isinstance(source, VariantFile) else source.path,
        "window_bp": scorer.room_bp,
        "dtype": scorer.passes.precision.dtype_name,
        "chunk": CHUNK,
        **asdict(config.score),
        "scores": scorer.scores,
    }


def _report(config: ScoreConfig, summary: dict[str, Any]) -> tuple[str, ...]:
    """Three lines for people."""
    missing = {name: count for name, count in summary["statuses"].items() if name not in (OK, INDEL)}
    left = f"; without scores: {', '.join(f'{count:,} {name}' for name, count in missing.items())}" if missing else ""
    judge = "" if config.evaluate else "; to judge them: --evaluate, see docs/variants.md"
    return (
        f"Scored {summary['scored']:,} of {summary['variants']:,} variants{left}.",
        f"The scores are in {config.out}, in the order of the input.",
        f"Next: sort by {preferred_score(tuple(summary['scores']))}{judge}",
    )


def _source(config: ScoreConfig, reference: Reference) -> Source:
    """The file of variants, or all variants of a region if no file has that name and the name is a region."""
    region = None if Path(config.variants).exists() else parse_region(config.variants)
    if region is None:
        if config.heat_map is not None:
            raise ConfigError("--heat-map draws a region, contig:first-last; VARIANTS is a file")
        return open_variants(config.variants)
    if config.heat_map is not None:
        require_matplotlib()
    return RegionVariants(reference, region)


def _chunks(source: Source) -> Iterator[list[Record]]:
    """Records in order, with about as many variants together as are scored at once."""
    held: list[Record] = []
    variants = 0
    for record in source.records():
        held.append(record)
        variants += max(1, len(record.alts))
        if variants >= CHUNK:
            yield held
            held, variants = [], 0
    if held:
        yield held


def _about(config: ScoreConfig, scorer: Scorer) -> dict[str, Any]:
    """What the file is made with; each value is one line of text, as a VCF's header needs it."""
    networks, options = scorer.networks, asdict(config.score) | {"scores": " ".join(scorer.scores)}
    versions = " ".join(
        f"{name}={version}" for name, version in environment.versions(scorer.passes.precision.device).items() if version
    )
    return {
        "command": cli.command_line("score"),
        "model": networks.name,
        "model_kind": networks.kind,
        "model_sha256": networks.fingerprint,
        "window_bp": scorer.room_bp,
        **{name: value for name, value in options.items() if value is not None},
        "dtype": config.compute.dtype,
        "versions": versions,
    }


def _note_noise(scorer: Scorer, counts: Survey) -> None:
    """In low precision: how far the same window is from itself in another batch."""
    floor = None if counts.first is None else scorer.noise(counts.first)
    if floor is not None:
        note(f"in this precision the cosine distance of a window and itself, in another batch, is up to {floor:.1e}")


class _Matrix:
    """Collects one score of a region's variants for the heat map."""

    def __init__(self, config: ScoreConfig, source: Any, scorer: Scorer):
        self._path: Any = config.heat_map
        self._region = source.region
        self._score = preferred_score(scorer.scores)
        self._values = np.full((source.region.end_bp - source.region.start_bp, 4), np.nan)

    def add(self, variants: list, scored: Scored) -> None:
        fill(self._values, self._region.start_bp, variants, scored[self._score])

    def draw(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_heat_map(self._path, self._values, self._region, self._score)


def main(arguments: list[str] | None = None) -> int:
    """Score as the command line says; returns the exit status."""
    return cli.run("score", ScoreConfig, score_file, arguments)


if __name__ == "__main__":
    sys.exit(main())
