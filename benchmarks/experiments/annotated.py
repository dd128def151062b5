"""The three annotated bacterial genomes, which models are judged on that have not seen them."""

from __future__ import annotations

from pathlib import Path

from nucel.genome.fasta import Genome
from nucel.runs.description import RunDescription
from nucel.runs.directory import RunDirectory

ANNOTATED = {
    "haemophilus_influenzae_Rd_KW20": "NC_000907",
    "neisseria_meningitidis_MC58": "NC_003112",
    "streptococcus_pyogenes_M1_GAS": "NC_002737",
}
"""File name of the genome and of its genes, and the contig that is annotated."""


def open_genome(data: Path, name: str) -> Genome:
    """One of them, from the folder of real data; nothing is written beside it."""
    return Genome(data / "genomes" / "bacteria" / f"{name}.fa.gz", copy_beside=False)


def genes_file(data: Path, name: str) -> Path:
    """Its genes, BED6 with the class as name, gzipped."""
    return data / "annotations" / f"{name}.bed.gz"


def read_run(run: Path) -> RunDescription:
    """What a run was trained on; ends the program unless it held out all three genomes."""
    description = RunDirectory(run).read_description()
    held_out = description.recipe["hold_out"]
    if not all(any(name.startswith(glob.rstrip("*")) for glob in held_out) for name in ANNOTATED.values()):
        raise SystemExit(f"error: {run} did not hold out {', '.join(ANNOTATED.values())}, but {held_out}")
    return description


def in_words(run: Path, description: RunDescription) -> str:
    """What a run has been trained on so far, and what it was started from."""
    step = RunDirectory(run).newest_step()
    steps = f"{step:,} steps" if step == description.steps else f"{step:,} of {description.steps:,} steps"
    budget = f"{steps} of {description.batch_size} x {description.context} tokens"
    began = ", from an earlier run's weights" if description.initial_weights else ""
    return f"{description.objective}, {budget}{began}, on {description.genome.length_bp / 1e6:.0f} Mb"
