"""Scoring beside embedding: tokens per second in the same run, and memory against the number of records.

    python -m benchmarks.bench_score --out benchmarks/results [--records 1000000] [--threads 1]

Speed: networks of the preset `small` with new weights, windows of 512 tokens, both strands, and `nucel.embed` with the
same encoder on as many tokens, in turn. Memory: the command `python -m nucel.score` on a generated VCF of single-base
variants, with a tiny network, in a process of its own whose peak is reported.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Row, Table, command_line, machine
from nucel.genome.fasta import Genome
from nucel.genome.loci import Reference
from nucel.genome.variants import Variant
from nucel.inference.embedding import embed
from nucel.interpretation.networks import Networks
from nucel.interpretation.variant_effect import Scorer
from nucel.interpretation.variant_options import ScoreOptions
from nucel.model import hub
from nucel.model.config import EncoderConfig
from nucel.model.networks import Generator, initialize
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS
from nucel.runtime.device import choose_precision
from nucel.tokenizers.nucleotide import decode

_VARIANTS, _ROUNDS = 48, 3
_SETS = {
    "score, cosine and rtd": ("cosine", "rtd"),
    "score, the default set": (),
}
FEW = 10_000
"""Records that the memory of many is compared with."""
_PEAK = (
    "import resource, sys; from nucel.score import main; assert main(sys.argv[1:]) == 0; "
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
    scorers = {
        name: Scorer(Networks.of(pair), Reference(genome), ScoreOptions(scores=scores), precision)
        for name, scores in _SETS.items()
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for name in ("embed", *scorers):
            for part in scorers.values():
                part.passes.tokens.update(encoder=0, generator=0)
            start = time.perf_counter()
            if name == "embed":
                embed(pair.discriminator.model, sequences)
            else:
                scorers[name].score(variants)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            if name != "embed":
                tokens = dict(scorers[name].passes.tokens)
                seconds[name, "tokens"] = tokens
    rate = len(sequences) * preset.context / statistics.median(seconds["embed"])
    yield {"what": "embed", "tokens": rate}
    for name in scorers:
        median = statistics.median(seconds[name])
        tokens = seconds[name, "tokens"]
        # The generator's passes are cheaper; only those of the encoder count, so the ratio is a lower bound.
        own = tokens["encoder"] / median
        yield {"what": name, "tokens": own, "ratio": own / rate, "variants": _VARIANTS / median}


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
        words = [
            folder / "tiny",
            folder / "many.vcf",
            "--genome",
            folder / "memory.fa",
            "--out",
            folder / "o.vcf",
            "--fast",
        ]
        command = [sys.executable, "-c", _PEAK, *map(str, words)]
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
        summary, peak = output.splitlines()[-2:]
        least = least or float(peak)
        yield {
            "what": f"memory, {records:,} records",
            "variants": json.loads(summary)["variants_per_s"],
            "peak": float(peak),
            "growth": float(peak) - least,
        }


def main() -> None:
    parser = command_line(__doc__, "score_cpu")
    parser.add_argument("--records", type=int, default=1_000_000)
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
        "Memory: a tiny network with `--fast`.",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        table.fill(speed_rows(Path(folder)))
        table.fill(memory_rows(Path(folder), (FEW, options.records)), options.seconds)
    print(table.markdown())


if __name__ == "__main__":
    main()
