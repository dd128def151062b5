"""Values along a genome as files for genome browsers: bigWig, and BED of what stands out.

bigWig needs pyBigWig. Both files appear under their names only when they are complete.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..runtime import files
from ..runtime.errors import ConfigError, require


class Values(NamedTuple):
    """Values of neighbouring bases of a contig, float32 (n,), from a base on; nan where there is none."""

    contig: str
    start_bp: int
    values: np.ndarray


def require_bigwig(path: Path) -> None:
    """Refuse at once a name that says no bigWig, and a machine without pyBigWig.

    Raises:
        ConfigError: says what is missing.
    """
    if path.suffix not in (".bw", ".bigwig", ".bigWig"):
        raise ConfigError(f"--out must end with .bw, .bigwig or .bigWig, got {path}")
    if importlib.util.find_spec("pyBigWig") is None:
        raise ConfigError("bigWig needs pyBigWig, which is not installed: pip install 'nucel[tracks]'")


def write_bigwig(path: Path, contigs: Sequence[tuple[str, int]], pieces: Iterable[Values]) -> None:
    """Write values as bigWig; bases without one are left out.

    Args:
        contigs: names and lengths, in the order of the file.
        pieces: in the order of the contigs, and of bases within each.
    """
    import pyBigWig  # optional dependency

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        track = pyBigWig.open(str(temporary), "w")
        try:
            track.addHeader(list(contigs))
            for piece in pieces:
                for start, end in _runs(np.isfinite(piece.values)):
                    values = piece.values[start:end].astype(np.float64)
                    track.addEntries(piece.contig, piece.start_bp + start, values=values, span=1, step=1)
        finally:
            track.close()


def _runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Maximal ranges where a mask, bool (n,), is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


@dataclass(frozen=True, kw_only=True)
class AnomalyOptions:
    """Which runs of bases stand out."""

    bin_bp: int = 100
    """Bases whose mean is one number."""
    smooth_bp: int = 1000
    """Bases over whose bins a moving mean is taken; about the length of what is looked for."""
    threshold: float = 4.0
    """Robust standard deviations above the genome's median from which on a bin stands out."""

    def __post_init__(self) -> None:
        require(self.bin_bp >= 1, f"bin_bp must be at least 1, got {self.bin_bp}")
        require(self.smooth_bp >= self.bin_bp, f"smooth_bp must be at least bin_bp, got {self.smooth_bp}")


class Anomaly(NamedTuple):
    """A run of bins [start_bp, end_bp) above the threshold."""

    contig: str
    start_bp: int
    end_bp: int
    mean: float
    """Mean of the values."""
    z: float
    """Highest of the smoothed bins, in robust standard deviations above the median of all."""


class Bins:
    """Sums of values over bins of a genome's contigs, filled piece by piece.

    Args:
        contigs: names and lengths.
        bin_bp: bases of a bin.
    """

    def __init__(self, contigs: Sequence[tuple[str, int]], bin_bp: int):
        self.contigs = tuple(contigs)
        self.bin_bp = bin_bp
        self._sums = {name: np.zeros(-(-length // bin_bp), np.float64) for name, length in contigs}
        self._counts = {name: np.zeros(-(-length // bin_bp), np.int32) for name, length in contigs}

    def add(self, piece: Values) -> None:
        """Take in the values of some bases; nan counts as none."""
        known = np.flatnonzero(np.isfinite(piece.values))
        if known.size:
            bins = (piece.start_bp + known) // self.bin_bp
            first, size = bins[0], bins[-1] - bins[0] + 1
            span = slice(first, first + size)
            self._sums[piece.contig][span] += np.bincount(bins - first, piece.values[known], size)
            self._counts[piece.contig][span] += np.bincount(bins - first, minlength=size)

    def anomalies(self, options: AnomalyOptions) -> list[Anomaly]:
        """Runs of bins whose smoothed mean is far above the genome's median, in the order of the contigs.

        Deviations are measured by the median absolute deviation, which the anomalies themselves hardly change.
        """
        width = max(1, round(options.smooth_bp / self.bin_bp))
        smoothed = {name: self._smoothed(name, width) for name, _ in self.contigs}
        known = np.concatenate([values[np.isfinite(values)] for values in smoothed.values()] or [np.empty(0)])
        if not known.size:
            return []
        median = float(np.median(known))
        deviation = 1.4826 * float(np.median(np.abs(known - median)))
        if deviation == 0:
            return []
        found: list[Anomaly] = []
        for name, length in self.contigs:
            z = (smoothed[name] - median) / deviation
            for first, last in _runs(np.nan_to_num(z, nan=-np.inf) >= options.threshold):
                mean = self._sums[name][first:last].sum() / max(1, self._counts[name][first:last].sum())
                end = min(last * self.bin_bp, length)
                found.append(Anomaly(name, first * self.bin_bp, end, float(mean), float(np.max(z[first:last]))))
        return found

    def _smoothed(self, name: str, width: int) -> np.ndarray:
        """Moving mean over `width` bins, weighted by their known bases; nan where no base is known."""
        ends = np.arange(len(self._sums[name])) + (width - width // 2)
        starts = ends - width
        ends, starts = ends.clip(max=len(self._sums[name])), starts.clip(min=0)
        totals = [np.concatenate([[0], np.cumsum(x[name], dtype=np.float64)]) for x in (self._sums, self._counts)]
        sums, counts = (total[ends] - total[starts] for total in totals)
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def write_anomalies(path: Path, anomalies: Sequence[Anomaly]) -> None:
    """Write runs as BED: contig, start, end, name, score (100 z, at most 1000), strand, mean, z."""
    lines = []
    for number, run in enumerate(anomalies, start=1):
        score = min(1000, round(100 * run.z))
        region = f"{run.contig}\t{run.start_bp}\t{run.end_bp}\tanomaly_{number}\t{score}\t."
        lines.append(f"{region}\t{run.mean:.5f}\t{run.z:.2f}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(lines))
