"""Pre-train a tiny pair on a generated genome, then compare sequences by their embeddings.

    python examples/pretrain_and_embed.py [FOLDER]

Takes less than a minute on two idle CPU cores, and needs no data. For a real genome, replace the generated FASTA with
yours and the preset `debug` with `small` (CPU) or `base` (GPU), without the flags that make this run short.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nucel

ISLAND_COMPOSITION = [0.1, 0.4, 0.4, 0.1]
BACKGROUND_COMPOSITION = [0.4, 0.1, 0.1, 0.4]
"""Probabilities of A, C, G, T inside and outside the GC-rich islands of the genome."""


def random_bases(rng: np.random.Generator, length: int, composition: list[float]) -> str:
    return "".join(rng.choice(list("ACGT"), length, p=composition))


def write_genome(path: Path, rng: np.random.Generator) -> None:
    """One contig of 40 kb, in which AT-rich background and GC-rich islands of 200 bases alternate."""
    stretches = [BACKGROUND_COMPOSITION, ISLAND_COMPOSITION] * 100
    path.write_text(">contig\n" + "".join(random_bases(rng, 200, stretch) for stretch in stretches) + "\n")


def pretrain(genome: Path, run: Path) -> None:
    """The verb, as it would be typed in a shell; the run directory holds the model afterwards."""
    settings = (
        "--context 128 --window-bp 160 --overlap-bp 16 --steps 30 --batch-size 8 --validation-windows 16 --device cpu"
    )
    words = ["debug", "--genome", str(genome), "--out", str(run), *settings.split()]
    subprocess.run([sys.executable, "-m", "nucel.train", *words], check=True)


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Of all pairs of rows, after the mean of all rows is subtracted: (n, C) to (n, n)."""
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    genome, run = folder / "genome.fa", folder / "run"
    write_genome(genome, rng)
    pretrain(genome, run)

    encoder = nucel.load(run)
    islands = [random_bases(rng, 100, ISLAND_COMPOSITION) for _ in range(4)]
    background = [random_bases(rng, 100, BACKGROUND_COMPOSITION) for _ in range(4)]
    vectors = nucel.embed(encoder, islands + background, average_reverse_complement=True)  # (8, width)

    similarity = cosine_similarity(vectors)
    print(f"embeddings {vectors.shape}")
    print(f"mean cosine similarity, island and island: {similarity[:4, :4].mean():.2f}")
    print(f"mean cosine similarity, island and background: {similarity[:4, 4:].mean():.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
