"""Which windows of a genome there are, and which of them are held out: `Windows`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import _nucel
import numpy as np

from ..runtime.environment import available_cpus
from ..runtime.errors import GenomeError
from .fasta import _CLASS, _MASKED, _UNKNOWN, Genome
from .regions import usable_stretches


@dataclass(frozen=True)
class WindowOptions:
    """Which windows of a genome there are, and how often each is drawn."""

    context: int = 1024
    """Tokens of a training window: [CLS] and context - 1 bases."""
    window_bp: int = 1224
    """Length of the windows that tile the genome; the context is cropped from one at random in each epoch."""
    overlap_bp: int = 100
    """Overlap of neighbouring windows."""
    max_unknown: float = 0.1
    """Windows with a larger share of bases other than A, C, G, T are dropped; not stated in the paper."""
    contigs: tuple[str, ...] = ()
    """Contigs to use, by name or glob ('chr[0-9]*'); '!*_alt' leaves out. By default all."""
    keep_bed: str | None = None
    """BED file of the regions to use; windows lie inside them. By default everything."""
    drop_bed: str | None = None
    """BED file of regions that no window may touch."""
    max_masked: float = 1.0
    """Windows with a larger share of soft-masked (lower-case) bases count as repeats; 1 keeps all alike."""
    masked_weight: float = 0.0
    """How often a repeat is drawn beside any other window: 0.5 is half as often, 0 drops repeats."""
    genome_weights: tuple[float, ...] = ()
    """One weight for each --genome: its share of the rows. By default they share them by length."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of one length on the contigs of a genome.

    ``len(windows)`` is N, and iteration gives (name of the contig, start_bp, end_bp) of each. They can be pickled, as
    their genome can.

    Attributes:
        genome: what they are windows of.
        window_bp: bases of each window.
        contig: position of each window's contig in ``genome.contigs``, int32 (N,).
        start_bp: first base of each window, int64 (N,).
        weight: how often each window is drawn beside the others, float64 (N,), above 0; None is all alike.
    """

    genome: Genome
    window_bp: int
    contig: np.ndarray
    start_bp: np.ndarray
    weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        require_integers(window_bp=self.window_bp)
        if self.window_bp < 1:
            raise ValueError(f"window_bp must be at least 1, got {self.window_bp}")
        contig = np.array(self.contig, np.int32)
        start_bp = np.array(self.start_bp, np.int64)
        if contig.ndim != 1 or contig.shape != start_bp.shape:
            raise ValueError(f"contig and start_bp must be vectors of one length, got {contig.shape}, {start_bp.shape}")
        if contig.size:
            if not 0 <= contig.min() <= contig.max() < len(self.genome.contigs):
                raise ValueError(f"contig must lie in [0, {len(self.genome.contigs)})")
            if start_bp.min() < 0 or (start_bp > self.genome.lengths[contig] - self.window_bp).any():
                raise ValueError("a window is not inside its contig")
        if self.weight is not None:
            weight = np.array(self.weight, np.float64)
            if weight.shape != contig.shape or not (np.isfinite(weight) & (weight > 0)).all():
                raise ValueError("weight must be a number above 0 for each window")
            weight.flags.writeable = False
            object.__setattr__(self, "weight", weight)
        contig.flags.writeable = start_bp.flags.writeable = False
        object.__setattr__(self, "contig", contig)
        object.__setattr__(self, "start_bp", start_bp)

    def __len__(self) -> int:
        return len(self.contig)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        for contig, start_bp in zip(self.contig.tolist(), self.start_bp.tolist(), strict=True):
            yield self.genome.contigs[contig], start_bp, start_bp + self.window_bp

    def __reduce__(self) -> tuple[type[Windows], tuple[object, ...]]:
        # By way of the constructor, which makes the arrays read-only again.
        return Windows, (self.genome, self.window_bp, self.contig, self.start_bp, self.weight)

    @classmethod
    def tile(cls, genome: Genome, options: WindowOptions = WindowOptions()) -> Windows:
        """Windows that cover each contig from its start, each sharing ``overlap_bp`` bases with the next.

        A last window that ends with the contig is added where bases would be left over. A contig shorter than a window
        has none. Windows of which more than the share ``max_unknown`` is [UNK] are dropped. With regions to keep or to
        leave out, each stretch of a contig that is left is covered like a contig, so no window reaches beyond it.

        How genomes share the rows (``genome_weights``) is left to `weighted`, for `hold_out` comes before.

        Raises:
            ValueError: a bad argument.
            GenomeError: no window is left, or a BED file is not right.
        """
        window_bp, overlap_bp, max_masked = options.window_bp, options.overlap_bp, options.max_masked
        require_integers(window_bp=window_bp, overlap_bp=overlap_bp)
        if window_bp < 1:
            raise ValueError(f"window_bp must be at least 1, got {window_bp}")
        if not 0 <= overlap_bp < window_bp:
            raise ValueError(f"overlap_bp must lie in [0, window_bp) = [0, {window_bp}), got {overlap_bp}")
        for name in ("max_unknown", "max_masked", "masked_weight"):
            if not 0 <= (share := getattr(options, name)) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {share}")
        numbers = contig_numbers(genome, options.contigs) if options.contigs else np.arange(len(genome.contigs))
        stretches = usable_stretches(genome, numbers, options.keep_bed, options.drop_bed)
        lengths = stretches.end_bp - stretches.start_bp
        stride_bp = window_bp - overlap_bp
        full = np.where(lengths >= window_bp, (lengths - window_bp) // stride_bp + 1, 0)
        left_over = (full > 0) & ((full - 1) * stride_bp + window_bp < lengths)
        count = full + left_over
        if not count.any():
            what = "contig or region" if options.keep_bed or options.drop_bed else "contig"
            raise GenomeError(
                f"no {what} is long enough for a window of {window_bp} bp: the longest has {lengths.max(initial=0)} "
                "bp; lower window_bp (and context with it)"
            )
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        contig = np.repeat(stretches.contig, count).astype(np.int32)
        start_bp = np.repeat(stretches.start_bp, count) + np.minimum(
            rank * stride_bp, np.repeat(lengths, count) - window_bp
        )
        known = (
            np.ones(len(contig), bool)
            if options.max_unknown == 1
            else contig_counts(genome, contig, start_bp, window_bp, _UNKNOWN) / window_bp <= options.max_unknown
        )
        if not known.any():
            raise GenomeError(
                f"each of the {len(contig)} windows of {window_bp} bp has a share of unknown bases above "
                f"max_unknown = {options.max_unknown} (the longest stretch has {lengths.max()} bp): raise "
                f"max_unknown, or lower window_bp"
            )
        contig, start_bp = contig[known], start_bp[known]
        if max_masked == 1:
            return cls(genome, window_bp, contig, start_bp)
        repeat = contig_counts(genome, contig, start_bp, window_bp, _MASKED) / window_bp > max_masked
        if options.masked_weight > 0:
            weight = np.where(repeat, options.masked_weight, 1.0) if repeat.any() else None
            return cls(genome, window_bp, contig, start_bp, weight)
        if repeat.all():
            raise GenomeError(
                f"each of the {len(contig)} windows of {window_bp} bp is soft-masked by more than max_masked = "
                f"{max_masked}: raise it, or give masked_weight a value above 0"
            )
        return cls(genome, window_bp, contig[~repeat], start_bp[~repeat])

    def weighted(self, genome_weights: Sequence[float]) -> Windows:
        """The same windows, drawn so that rows fall on the genomes, one for each of ``genome.paths``, by these weights.

        Within a genome the windows' own weights stay. A genome that has no window takes no part.

        Raises:
            ValueError: not one weight above 0 for each of the paths.
        """
        given = np.array(genome_weights, np.float64)
        if given.shape != (len(self.genome.paths),) or not (np.isfinite(given) & (given > 0)).all():
            raise ValueError(
                f"genome_weights must be one number above 0 for each of the {len(self.genome.paths)} files or folders "
                f"given, got {tuple(genome_weights)}"
            )
        own = np.ones(len(self)) if self.weight is None else self.weight
        source = self.genome.source[self.contig]
        total = np.bincount(source, own, len(given))
        return replace(self, weight=own * (given / np.where(total > 0, total, 1))[source])

    def hold_out(self, contigs: Sequence[str] = (), fraction: float = 0.0, seed: int = 0) -> tuple[Windows, Windows]:
        """Splits into (train, held_out), which share no base.

        Held out are all windows of the contigs given by name or glob, and of the other windows a ``fraction``, at least
        one window, in blocks of up to 64 neighbours that ``seed`` chooses. What overlaps a held-out window is in
        neither part. With nothing to hold out, the second part is empty.

        Raises:
            ValueError: a bad argument.
            GenomeError: a part that was asked for would be empty.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must lie in [0, 1), got {fraction}")
        require_seed(seed)
        named = np.isin(self.contig, contig_numbers(self.genome, contigs))
        held = named.copy()
        others = np.flatnonzero(~named)
        if fraction > 0 and others.size:
            held[others[_choose_blocks(others.size, fraction, seed)]] = True
        if not held.any():
            if len(contigs) or fraction > 0:
                raise GenomeError(
                    f"nothing to hold out: none of {len(self)} windows lies on these contigs: {', '.join(contigs)}"
                )
            return self, self._part(held)
        train = ~held & ~self._overlaps(held)
        if not train.any():
            raise GenomeError(
                f"holding out {int(held.sum())} of {len(self)} windows leaves none to train on that shares no base "
                f"with them: hold out fewer contigs or a smaller fraction, or lower window_bp or overlap_bp"
            )
        return self._part(train), self._part(held)

    def _part(self, chosen: np.ndarray) -> Windows:
        weight = None if self.weight is None else self.weight[chosen]
        return replace(self, contig=self.contig[chosen], start_bp=self.start_bp[chosen], weight=weight)

    def _overlaps(self, held: np.ndarray) -> np.ndarray:
        """Which windows share a base with one of those held, bool (N,)."""
        # All contigs on one line, a window apart, so that a distance below window_bp means an overlap on one contig.
        gaps = self.genome.lengths + self.window_bp
        offset = self.start_bp + (np.cumsum(gaps) - gaps)[self.contig]
        taken = np.sort(offset[held])
        right = np.searchsorted(taken, offset)
        to_right = taken[np.minimum(right, len(taken) - 1)] - offset
        to_left = offset - taken[np.maximum(right - 1, 0)]
        return (np.abs(to_right) < self.window_bp) | (np.abs(to_left) < self.window_bp)


def contig_numbers(genome: Genome, patterns: Sequence[str | int]) -> np.ndarray:
    """Numbers of the contigs that names, numbers and globs stand for, sorted; ``!`` before one takes them away."""
    if isinstance(patterns, str):
        raise ValueError(f"contigs must be a sequence of names, got the string {patterns!r}")
    chosen: set[int] = set()
    left_out: set[int] = set()
    for pattern in patterns:
        if isinstance(pattern, int) or pattern in genome._number:
            chosen.add(genome.contig_number(pattern))
            continue
        glob = pattern.removeprefix("!")
        matching = {i for i, name in enumerate(genome.contigs) if name == glob or fnmatch.fnmatchcase(name, glob)}
        if not matching:
            genome.contig_number(glob)  # explains what there is
        (left_out if pattern.startswith("!") else chosen).update(matching)
    if left_out and not chosen:
        chosen = set(range(len(genome.contigs)))
    return np.array(sorted(chosen - left_out), np.int64)


def contig_counts(genome: Genome, contig: np.ndarray, start_bp: np.ndarray, window_bp: int, what: int) -> np.ndarray:
    """Bases of each window whose class has the bit ``what``, int64 (N,). Only contigs that have any are read."""
    counts = np.zeros(len(contig), np.int64)
    doubtful = ({_UNKNOWN: genome.unknown_bp, _MASKED: genome.masked_bp}[what] > 0)[contig]
    table = (_CLASS & what > 0).astype(np.uint8)
    counts[doubtful] = genome._native.sum(contig[doubtful], start_bp[doubtful], window_bp, table, available_cpus())
    return counts


def _choose_blocks(n: int, fraction: float, seed: int) -> np.ndarray:
    """Positions of about fraction * n of n windows: some whole blocks of neighbours and the beginning of one more."""
    wanted = max(1, round(fraction * n))
    size = min(max(1, wanted // 4), 64)
    blocks = _nucel.permutation(-(-n // size), seed, 0)
    positions = (blocks[:, None] * size + np.arange(size)).ravel()
    return positions[positions < n][:wanted]


def require_integers(**values: int | None) -> None:
    """Refuse what Python or NumPy would cut to an integer, or fail on later; None is let through.

    Raises:
        ValueError: the first of the values that is not an integer.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, int | np.integer):
            raise ValueError(f"{name} must be an integer, got {value!r}")


def require_seed(seed: int) -> None:
    require_integers(seed=seed)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}")
