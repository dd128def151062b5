"""Surprise along a whole genome: ``python -m nucel.scan MODEL --genome G.fa --out surprise.bw [--bed anomalies.bed]``.

MODEL is a run of the pair, or its discriminator/. The bigWig holds -ln P(original) of every known base, the mean of
both strands, for IGV, UCSC's browser and others; the BED the runs of bases that look least original: misassemblies,
contamination, foreign inserts.

While it works, results are kept in the folder OUT.parts. If it is stopped, the same command goes on from there. Several
GPUs share the work under torchrun. The last line on stdout is one JSON object.

Examples:
    python -m nucel.scan runs/ecoli --genome ecoli.fa.gz --out surprise.bw --bed anomalies.bed
    python -m nucel.scan runs/human --genome hg38.fa --contigs chr21 --out chr21.bw
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes

from .genome.fasta import Genome
from .genome.windows import contig_numbers
from .interpretation.networks import Networks, load_networks
from .interpretation.surprise import Part, SurpriseOptions, parts_of, surprise
from .interpretation.tracks import AnomalyOptions, Bins, Values, require_bigwig, write_anomalies, write_bigwig
from .model.networks import Discriminator
from .runtime import cli, distributed
from .runtime.cli import console
from .runtime.device import DeviceOptions, choose_precision
from .runtime.errors import HubError
from .runtime.parts import Parts


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Surprise along a whole genome."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run of a pair, or the directory of a discriminator."""
    genome: tuple[Path, ...]
    """FASTA files, plain or compressed, or folders of them."""
    out: Path
    """bigWig to write."""
    bed: Path | None = None
    """BED to write: runs of bases that stand out, with their mean surprise and how far they stand out."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""
    contigs: tuple[str, ...] = ()
    """Contigs to read, by name or glob; ! before one leaves it out. By default all."""
    options: OmitArgPrefixes[Annotated[SurpriseOptions, tyro.conf.arg(name="surprise")]] = field(
        default_factory=SurpriseOptions
    )
    anomalies: OmitArgPrefixes[AnomalyOptions] = field(default_factory=AnomalyOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)


def scan_genome(config: ScanConfig) -> cli.Result | None:
    """Carry out the command; returns its summary and report, on the first rank.

    Raises:
        ConfigError, GenomeError, HubError, CheckpointError, OSError: bad input, or parts of another scan.
    """
    require_bigwig(config.out)
    with distributed.world(distributed.PATIENT) as ranks:
        precision = choose_precision(config.compute.device, config.compute.dtype)
        networks = load_networks(config.model).to(precision.device)
        discriminator = _discriminator(networks)
        with ranks.first_alone():
            genome = Genome(config.genome, config.cache_dir, copy_beside=config.cache_dir is None)
        listed = contig_numbers(genome, config.contigs).tolist() if config.contigs else range(len(genome))
        chosen = [i for i in listed if genome.lengths[i]]
        longest = 1 + max(int(genome.lengths[i]) for i in chosen)
        context = config.options.context or discriminator.model.context or longest
        parts = list(parts_of(genome, chosen, config.options, context))
        identity = {
            "model": networks.fingerprint,
            "genome": genome.fingerprint,
            "contigs": [genome.contigs[i] for i in chosen],
            "context": context,
            "dtype": precision.dtype_name,
            **dataclasses.asdict(config.options),
        }
        with ranks.first_alone():
            finished = Parts(config.out, "scan", identity)
        started = time.perf_counter()
        missing = [i for i in range(len(parts)) if i not in finished]
        total = sum(parts[i].end_bp - parts[i].start_bp for i in missing)
        if ranks.is_main:
            console.print(f"{total:,} bases to read, on {precision.device}", soft_wrap=True, markup=False)
        with cli.counting(total, "bases" if ranks.is_main else None) as count:
            for i in missing[ranks.rank :: ranks.size]:
                values = surprise(discriminator, genome, parts[i], config.options, context, precision)
                finished.save(i, surprise=values)
                count(len(values) * ranks.size)
        ranks.wait()
        if not ranks.is_main:
            return None
        seconds = time.perf_counter() - started
        summary = _merge(config, genome, parts, finished, chosen)
        strands = 1 + config.options.average_reverse_complement
        summary |= {
            "seconds": round(seconds, 3),
            "bases_per_s": round(total / seconds, 1),
            "tokens_per_s": round(strands * _tokens(config, genome, [parts[i] for i in missing], context) / seconds, 1),
            "device": str(precision.device),
            "out": str(config.out),
            **({} if config.bed is None else {"bed": str(config.bed)}),
        }
        return cli.Result(summary, _report(summary))


def _report(summary: dict[str, Any]) -> tuple[str, ...]:
    """Three lines for people."""
    mean = "" if summary["mean_surprise"] is None else f": a surprise of {summary['mean_surprise']:.4f} nats on average"
    bed = f"; {summary['anomalies']:,} runs that stand out are in {summary['bed']}" if "bed" in summary else ""
    return (
        f"Read {summary['bases']:,} known bases{mean}.",
        f"The track is {summary['out']}{bed}.",
        "Next: open the track in a genome browser, beside the same genome",
    )


def _discriminator(networks: Networks) -> Discriminator:
    if networks.discriminator is None:
        raise HubError(f"{networks.name} is {networks.kind}; surprise needs a discriminator: give a run of a pair")
    return networks.discriminator


def _merge(
    config: ScanConfig, genome: Genome, parts: Sequence[Part], finished: Parts, chosen: Sequence[int]
) -> dict[str, Any]:
    """Write the files from the parts, and remove these."""
    contigs = [(genome.contigs[i], int(genome.lengths[i])) for i in chosen]
    bins = Bins(contigs, config.anomalies.bin_bp)
    total, known = 0.0, 0

    def pieces() -> Iterator[Values]:
        nonlocal total, known
        for i, part in enumerate(parts):
            values = finished.load(i)["surprise"]
            total, known = total + float(np.nansum(values, dtype=np.float64)), known + int(np.isfinite(values).sum())
            piece = Values(genome.contigs[part.contig], part.start_bp, values)
            bins.add(piece)
            yield piece

    write_bigwig(config.out, contigs, pieces())
    summary: dict[str, Any] = {"bases": known, "mean_surprise": total / known if known else None}
    if config.bed is not None:
        anomalies = bins.anomalies(config.anomalies)
        write_anomalies(config.bed, anomalies)
        summary["anomalies"] = len(anomalies)
    finished.remove()
    return summary


def _tokens(config: ScanConfig, genome: Genome, parts: Sequence[Part], context: int) -> int:
    """Tokens that pass through the network on one strand, overlaps and [CLS] included."""
    return sum((part.last - part.first) * min(context, 1 + int(genome.lengths[part.contig])) for part in parts)


def main(arguments: list[str] | None = None) -> int:
    """Scan as the command line says; returns the exit status."""
    return cli.run("scan", ScanConfig, scan_genome, arguments)


if __name__ == "__main__":
    sys.exit(main())
