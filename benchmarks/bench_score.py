"""Scoring and scanning beside embedding: tokens per second in the same run, and memory against the size of the input.

    python -m benchmarks.bench_score --out benchmarks/results [--records 1000000] [--bases 20000000] [--threads 1]

Speed: networks of the preset `small` with new weights, windows of 512 tokens, both strands, and `nucel.embed` with the
same encoder on as many tokens, in turn. Memory: the commands `python -m nucel.score` on a generated VCF of single-base
variants and `python -m nucel.scan` on a random genome, with a tiny network, in a process of its own whose peak is
reported.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Row, Table, command_line, machine
from nucel.genome.fasta import Genome
from nucel.genome.loci import Reference
from nucel.genome.variants import Variant
from nucel.inference.embedding import embed
from nucel.interpretation.networks import Networks
from nucel.interpretation.surprise import SurpriseOptions, parts_of, surprise
from nucel.interpretation.variant_effect import Scorer
from nucel.interpretation.variant_options import ScoreOptions
from nucel.model import hub
from nucel.model.config import EncoderConfig
from nucel.model.networks import Discriminator, Generator, initialize
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS
from nucel.runtime.device import choose_precision
from nucel.tokenizers.nucleotide import decode

_VARIANTS, _ROUNDS = 48, 3
_SETS = {
    "score, cosine and rtd": ("cosine", "rtd"),
    "score, the default set": (),
}
FEW, SHORT = 10_000, 1_000_000
"""Records and bases that the memory of many is compared with."""
_PEAK = (
    "import resource, sys; from nucel.{verb} import main; assert main(sys.argv[1:]) == 0; "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
)


def write_random_genome(path: Path, length: int) -> Genome:
    bases = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), length)
    path.write_text(f">c\n{bases.tobytes().decode()}\n")
    return Genome(path)


def speed_rows(folder: Path) -> Iterator[Row]:
    """Tokens per second, medians of rounds in which every way has its turn."""
    genome = write_random_genome(folder / "speed.fa", 100_000)
    preset = PRESETS["small"]()
    pair = Electra(preset.model, context=preset.context).initialize(0).eval()
    precision = choose_precision("cpu", "fp32")
    text = decode(genome.fetch(0))
    places = np.random.default_rng(1).integers(1000, 99_000, _VARIANTS).tolist()
    variants = [Variant("c", i, text[i], "ACGT"["CGTA".index(text[i])]) for i in places]
    sequences = [text[i : i + preset.context - 1] for i in places] * 4

    def embedding() -> int:
        embed(pair.discriminator.model, sequences)
        return len(sequences) * preset.context

    def scanning() -> int:
        options = SurpriseOptions()
        (part,) = parts_of(genome, [0], options, preset.context)
        surprise(pair.discriminator, genome, part, options, preset.context, precision)
        return 2 * (part.last - part.first) * preset.context

    def scoring(scores: tuple[str, ...]) -> Callable[[], int]:
        scorer = Scorer(Networks.of(pair), Reference(genome), ScoreOptions(scores=scores), precision)

        def score() -> int:
            before = scorer.passes.tokens["encoder"]
            scorer.score(variants)
            # The generator's passes are cheaper; only those of the encoder count, so the ratio is a lower bound.
            return scorer.passes.tokens["encoder"] - before

        return score

    ways = {"embed": embedding, "scan": scanning} | {name: scoring(scores) for name, scores in _SETS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            tokens[name] = way()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: tokens[name] / statistics.median(seconds[name]) for name in ways}
    for name, rate in rates.items():
        row = {"what": name, "tokens": rate, "ratio": rate / rates["embed"]}
        yield row | ({"variants": _VARIANTS / statistics.median(seconds[name])} if name in _SETS else {})


def write_vcf(path: Path, text: str, records: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for i in range(records):
            ref = text[i % len(text)]
            file.write(f"c\t{i % len(text) + 1}\t.\t{ref}\t{'ACGT'['CGTA'.index(ref)]}\t.\t.\t.\n")


def memory_rows(folder: Path, counts: tuple[int, ...]) -> Iterator[Row]:
    """Peak memory of the command for files of several lengths."""
    genome = write_random_genome(folder / "memory.fa", 300_000)
    tiny = Generator(EncoderConfig(layers=1, width=16, heads=1, intermediate=16, radius=8), context=64)
    initialize(tiny, torch.Generator().manual_seed(0))
    hub.save(tiny.eval(), folder / "tiny")
    text, least = decode(genome.fetch(0)), None
    for records in counts:
        write_vcf(folder / "many.vcf", text, records)
        out = ("--genome", folder / "memory.fa", "--out", folder / "o.vcf", "--fast")
        summary, peak = peak_of("score", folder / "tiny", folder / "many.vcf", *out)
        least = least or peak
        rate = summary["variants_per_s"]
        yield {"what": f"score, {records:,} records", "variants": rate, "peak": peak, "growth": peak - least}


def scan_memory_rows(folder: Path, lengths: tuple[int, ...]) -> Iterator[Row]:
    """Peak memory of `python -m nucel.scan` for genomes of several lengths."""
    tiny = Discriminator(EncoderConfig(layers=1, width=16, heads=1, intermediate=16, radius=8), context=64)
    initialize(tiny, torch.Generator().manual_seed(0))
    hub.save(tiny.eval(), folder / "discriminator")
    least = None
    for length in lengths:
        write_random_genome(folder / "long.fa", length)
        words = (folder / "discriminator", "--genome", folder / "long.fa", "--out", folder / "o.bw")
        summary, peak = peak_of("scan", *words, "--no-average-reverse-complement", "--overlap-bp", 8)
        least = least or peak
        yield {
            "what": f"scan, {length:,} bases",
            "tokens": summary["tokens_per_s"],
            "peak": peak,
            "growth": peak - least,
        }


def peak_of(verb: str, *words: object) -> tuple[dict, float]:
    """The summary of a verb that runs in a process of its own, and the process's peak memory in MiB."""
    command = [sys.executable, "-c", _PEAK.format(verb=verb), *map(str, words)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    summary, peak = output.splitlines()[-2:]
    return json.loads(summary), float(peak)


def main() -> None:
    parser = command_line(__doc__, "score_cpu")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--bases", type=int, default=20_000_000)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    table = Table(
        machine(torch.device("cpu")),
        ("what",),
        {
            "tokens": ("encoder tokens/s", ",.0f"), "ratio": ("of embed's", ".0%"), "variants": ("variants/s", ",.1f"),
            "peak": ("peak MiB", ",.0f"), "growth": ("growth MiB", ",.0f"),
        },
        options.out / "score_cpu",
        "Speed: preset `small`, windows of 512 tokens, fp32; tokens of the generator's passes are not counted. "
        "Memory: a tiny network, scores with `--fast`.",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        table.fill(speed_rows(Path(folder)))
        table.fill(memory_rows(Path(folder), (FEW, options.records)), options.seconds)
        table.fill(scan_memory_rows(Path(folder), (SHORT, options.bases)), options.seconds)
    print(table.markdown())


if __name__ == "__main__":
    main()
