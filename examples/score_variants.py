"""Pre-train a tiny pair on a generated genome, then score variants of it: a file, and all variants of a motif.

    python examples/score_variants.py [FOLDER]

Takes about a minute on two idle CPU cores, and needs no data. With a real genome, train `small` or `base`, and give
`python -m nucel.score` your VCF.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nucel
from nucel.genome.demo import demo_motifs, write_demo_genome


def run_verb(verb: str, words: str, folder: Path) -> None:
    """A verb, as it would be typed in a shell."""
    subprocess.run([sys.executable, "-m", f"nucel.{verb}", *words.split()], check=True, cwd=folder)


def motif_places(genome: Path) -> list[tuple[str, int, str]]:
    """(contig, start_bp, motif) of the planted motifs that no repeat covers; repeats are in lower case."""
    places = []
    for record in genome.read_text().split(">")[1:]:
        header, *lines = record.splitlines()
        text = "".join(lines)
        for motif in demo_motifs():
            places += [(header.split()[0], match.start(), motif) for match in re.finditer(motif, text)]
    return places


def write_vcf(path: Path, places: list[tuple[str, int, str]]) -> None:
    """One change in the middle of each motif."""
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for contig, start_bp, motif in places:
        ref = motif[len(motif) // 2]
        alt = "ACGT"[("ACGT".index(ref) + 1) % 4]
        lines.append(f"{contig}\t{start_bp + len(motif) // 2 + 1}\t.\t{ref}\t{alt}\t.\t.\t.")
    path.write_text("\n".join(lines) + "\n")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_demo_genome(folder / "demo.fa")
    places = motif_places(folder / "demo.fa")[:60]
    write_vcf(folder / "variants.vcf", places)
    settings = "--context 128 --window-bp 160 --overlap-bp 16 --steps 40 --batch-size 8 --validation-windows 16"
    run_verb("train", f"debug --genome demo.fa --out run --device cpu {settings}", folder)
    run_verb("score", "run variants.vcf --genome demo.fa --out scored.tsv --device cpu", folder)

    with (folder / "scored.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for name in ("llr", "rtd", "rtd_corrected"):
        scores = np.array([float(row[name]) for row in rows])
        print(f"{name}: {len(scores)} variants, median {np.median(scores):.3f}, {np.mean(scores < 0):.0%} below 0")

    contig, start_bp, motif = places[0]
    matrix = nucel.saturation_mutagenesis(
        folder / "run", folder / "demo.fa", (contig, start_bp, start_bp + len(motif)), score="llr"
    )
    print(f"all variants of {motif}: {matrix.shape}, mean llr {np.nansum(matrix) / (3 * len(motif)):.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
