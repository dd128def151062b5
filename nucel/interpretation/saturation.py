"""All single-base variants of a region: `saturation_mutagenesis`, and its heat map."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..genome.fasta import Genome
from ..genome.loci import Reference, Region
from ..genome.variant_files import VariantFile
from ..genome.variants import Record, Variant
from ..runtime import files
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide
from .variant_effect import CHUNK, Model, make_scorer, networks_of
from .variant_options import ScoreOptions
from .variant_scores import IS_DISTANCE

BASES = "ACGT"
_PREFERRED = ("rtd_corrected", "llr", "rtd", "cosine")
_BLOCK_BP = 4096


class RegionVariants:
    """The three substitutions of each known base of a region, in the form of a file of variants.

    Attributes:
        region: 0-based, half-open.
        path: its name, for messages.
        kind: "region".
        columns, alt_column: those of the table that it stands for.

    Raises:
        InputError: the genome does not hold the region.
    """

    kind = "region"
    columns = ("chrom", "pos", "ref", "alt")
    alt_column = 3

    def __init__(self, reference: Reference, region: Region):
        place = reference.locate(*region)
        self.path = f"{region.contig}:{region.start_bp + 1}-{region.end_bp}"
        if isinstance(place, str):
            raise InputError(
                f"region {self.path} is not in the genome ({place}); regions are contig:first-last, from 1"
            )
        self.region, self._reference, self._place = region, reference, place

    def records(self) -> Iterator[Record]:
        """One for each known base, with its three alternatives."""
        contig, offset = self._place
        length = self.region.end_bp - self.region.start_bp
        for block in range(0, length, _BLOCK_BP):
            end = min(length, block + _BLOCK_BP)
            text = nucleotide.decode(self._reference.genome.fetch(contig, offset + block, offset + end))
            for i, ref in enumerate(text):
                if ref in BASES:
                    position = self.region.start_bp + block + i
                    alts = tuple(base for base in BASES if base != ref)
                    yield Record(f"position {position + 1}", self.region.contig, position, ref, alts, None)

    def cells(self, record: Record) -> list[Any]:
        """A record's cells under `columns`."""
        return [record.contig, record.start_bp + 1, record.ref, ",".join(record.alts)]


Source = VariantFile | RegionVariants
"""Where records come from."""


def saturation_mutagenesis(
    model: Model,
    genome: Genome | str | os.PathLike[str],
    region: tuple[str, int, int],
    score: str | None = None,
    *,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    **options: Any,
) -> np.ndarray:
    """One score of every single-base variant of a region, as a matrix.

    Args:
        model: as for `score_variants`.
        genome: as for `score_variants`.
        region: (contig, start_bp, end_bp), 0-based and half-open, n bases.
        score: by default rtd_corrected of a pair, llr of a masked LM, rtd of a discriminator, cosine of an encoder.
        dtype: as for `score_variants`.
        options: those of `ScoreOptions`; share_window makes it several times as fast.

    Returns:
        float64 (n, 4) for A, C, G, T: 0 for the base that is there, nan in rows of unknown bases.

    Raises:
        InputError: the genome does not hold the region.
        ConfigError: an option that is not allowed, or a score that the model cannot give.
    """
    if "scores" in options or "fast" in options:
        raise ConfigError("saturation_mutagenesis computes one score: name it with score=")
    networks = networks_of(model)
    score = score or preferred_score(ScoreOptions().chosen(networks))
    scorer = make_scorer(networks, genome, ScoreOptions(scores=(score,), **options), "model", dtype)
    found = Region(*region)
    matrix = np.full((found.end_bp - found.start_bp, 4), np.nan)
    variants = [v for record in RegionVariants(scorer.reference, found).records() for v in record.variants()]
    for start in range(0, len(variants), CHUNK):
        some = variants[start : start + CHUNK]
        fill(matrix, found.start_bp, some, scorer.score(some)[score])
    return matrix


def fill(matrix: np.ndarray, start_bp: int, variants: Sequence[Variant], values: np.ndarray) -> None:
    """Put the scores (m,) of m variants into the matrix (n, 4) of a region that begins at start_bp."""
    for variant, value in zip(variants, values, strict=True):
        row = matrix[variant.start_bp - start_bp]
        row[BASES.index(variant.ref)] = 0
        row[BASES.index(variant.alt)] = value


def preferred_score(scores: Collection[str]) -> str:
    """The score that stands for all where one must be chosen."""
    return next((name for name in _PREFERRED if name in scores), next(iter(scores)))


def require_matplotlib() -> None:
    """Raises ConfigError, with what to install, unless matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("a heat map needs matplotlib, which is not installed: pip install 'nucel[plots]'") from None


def write_heat_map(path: Path, matrix: np.ndarray, region: Region, score: str) -> None:
    """A heat map of `saturation_mutagenesis`, (n, 4), as PNG, PDF or SVG; the base that is there is marked by a dot."""
    from matplotlib.figure import Figure

    distance = score in IS_DISTANCE
    largest = np.nanmax(np.abs(matrix), initial=1e-12)
    figure = Figure(figsize=(min(40, 2 + len(matrix) / 12), 2.2), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        matrix.T, aspect="auto", interpolation="none", cmap="viridis" if distance else "RdBu",
        vmin=0 if distance else -largest, vmax=largest, extent=(region.start_bp + 0.5, region.end_bp + 0.5, 3.5, -0.5),
    )  # fmt: skip
    there = np.nonzero(matrix == 0)
    axes.plot(there[0] + region.start_bp + 1, there[1], ".", color="0.4", markersize=2)
    axes.set_yticks(range(4), list(BASES))
    axes.set_xlabel(f"position on {region.contig}")
    figure.colorbar(image, ax=axes, label=score)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=150)
