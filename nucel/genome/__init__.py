"""From FASTA files to batches of token windows.

``Genome`` opens FASTA files and checks them, ``Windows`` says which stretches of it are trained on, ``WindowSampler``
draws from them. Nothing is loaded: bases are read from the mapped file whenever they are asked for, so a genome costs
address space, not memory, and processes on one machine share what the system has cached.

Coordinates are 0-based and half-open everywhere.
"""

from __future__ import annotations

import fnmatch
import functools
import gzip
import hashlib
import os
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import _nucel
import numpy as np

from .. import vocab
from ..config import WindowOptions
from .unpack import (
    COPY_SUFFIX,
    GenomeError,
    announce,
    default_cache,
    is_gzip,
    plain_copy,
    read_in_pieces,
    wrong_block_index,
)

_FORWARD = vocab.ENCODE
_REVERSE = vocab.COMPLEMENT[vocab.ENCODE]
_IS_UNKNOWN = (vocab.ENCODE == vocab.UNK).astype(np.uint8)
_LETTERS = np.frombuffer(string.ascii_letters.encode(), np.uint8)
_NUCLEOTIDES = np.frombuffer(b"ACGTUNacgtun", np.uint8)
_SUFFIXES = (".fa", ".fasta", ".fna", ".fas", ".ffn", ".fsa")
# What the reader counts for each contig: the classes of each byte, bits that csrc/fasta.hpp defines.
_GC, _MASKED, _UNKNOWN = _nucel.GC, _nucel.MASKED, _nucel.UNKNOWN
_CLASS = (_UNKNOWN * _IS_UNKNOWN).astype(np.uint8)
_CLASS[np.frombuffer(string.ascii_lowercase.encode(), np.uint8)] |= _MASKED
_CLASS[np.frombuffer(b"GCgc", np.uint8)] |= _GC


class Genome:
    """The contigs of one or several FASTA files, readable at any place by any number of threads.

    A file is plain text, or gzip or bgzip, which the first bytes tell, not the name. Compressed files are decompressed
    once into ``<name>.nucel.fa`` beside them, or in the cache folder where their folder cannot be written to. Opening
    reads every byte once: it finds the records, checks them and counts the letters. No index is needed, written or
    believed. What is read and what is refused is in docs/fasta.md.

    The files must not be changed while the object lives. If they are, whatever reads them raises OSError.

    Args:
        paths: one path or several, of files or of folders, which stand for the FASTA files in them, in the order of
            their names. Contigs are numbered through.
        cache_dir: in place of ``$XDG_CACHE_HOME/nucel`` or ``~/.cache/nucel``.

    Attributes:
        paths: as given.
        files: the FASTA files that they stand for.
        contigs: names (the first word of each header), n of them. A name that several files have is written
            ``stem:name`` in each of them, where the stem is the file's name without ``.fa.gz`` and the like.
        lengths: bases of each contig, int64 (n,).
        source: position in ``paths`` of what each contig came from, int32 (n,).
        file: position in ``files`` of the file that each contig is in, int32 (n,).
        gc_bp, masked_bp, unknown_bp: G and C, lower-case letters, and [UNK] of each contig, int64 (n,).
        byte_counts: how often each byte occurs among the bases of each file, int64 (files, 256).

    Raises:
        GenomeError: a file that is not a well-formed nucleotide FASTA, or a contig name that occurs twice.
        FileNotFoundError: no such file.
        OSError: it cannot be read, or its decompressed copy cannot be written.
    """

    def __init__(self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], cache_dir: Path | None = None):
        listed = [paths] if isinstance(paths, str | os.PathLike) else paths
        self.paths = tuple(Path(path) for path in listed)
        if not self.paths:
            raise ValueError("no FASTA file was given")
        cache = default_cache() if cache_dir is None else Path(cache_dir)
        found = [(i, file) for i, path in enumerate(self.paths) for file in _fasta_files(path)]
        for _, file in found:
            if file.name.endswith(COPY_SUFFIX) and file.with_name(file.name.removesuffix(COPY_SUFFIX)) in self.paths:
                raise GenomeError(f"{file} is the decompressed copy of another file that is given too; leave it out")
        opened = [_open_fasta(file, cache) for _, file in found]
        self.files = tuple(file for _, file in found)
        self.contigs: tuple[str, ...] = _distinct_names(opened)
        self._number = {name: i for i, name in enumerate(self.contigs)}
        self._opened = opened
        self._native = _nucel.Genome([file.native for file in opened])
        self.lengths: np.ndarray = np.concatenate([file.native.entries[:, 0] for file in opened])
        self.byte_counts: np.ndarray = np.stack([file.native.byte_counts for file in opened])
        records = [len(file.names) for file in opened]
        self.source: np.ndarray = np.repeat(np.array([i for i, _ in found], np.int32), records)
        self.file: np.ndarray = np.repeat(np.arange(len(found), dtype=np.int32), records)
        self.gc_bp: np.ndarray = np.concatenate([file.native.gc_bp for file in opened])
        self.masked_bp: np.ndarray = np.concatenate([file.native.masked_bp for file in opened])
        self.unknown_bp: np.ndarray = np.concatenate([file.native.unknown_bp for file in opened])
        for array in (
            self.lengths, self.byte_counts, self.source, self.file, self.gc_bp, self.masked_bp, self.unknown_bp,
        ):  # fmt: skip
            array.flags.writeable = False

    def __repr__(self) -> str:
        files = ", ".join(path.name for path in self.paths)
        return f"Genome({files}: {len(self.contigs)} contigs, {int(self.lengths.sum()):,} bp)"

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the uncompressed bytes of all files, in order. Read on first use."""
        digest = hashlib.sha256()
        for file in self._opened:
            for piece in read_in_pieces(file.fasta):
                digest.update(piece)
            file.native.require_unchanged()
        return digest.hexdigest()

    def contig_number(self, contig: str | int) -> int:
        """Position of a contig in ``contigs``, given its name or that position itself.

        Raises:
            GenomeError: there is no contig of that name.
            ValueError: no contig has that number.
        """
        if isinstance(contig, str):
            if contig not in self._number:
                some = ", ".join(self.contigs[:5]) + (", ..." if len(self.contigs) > 5 else "")
                raise GenomeError(f"there is no contig '{contig}'; the genome has {some}")
            return self._number[contig]
        if not 0 <= contig < len(self.contigs):
            raise ValueError(f"contig must lie in [0, {len(self.contigs)}), got {contig}")
        return int(contig)

    def fetch(self, contig: str | int, start_bp: int = 0, end_bp: int | None = None, strand: str = "+") -> np.ndarray:
        """Tokens of the bases [start_bp, end_bp) of a contig, uint8 (end_bp - start_bp,), without [CLS].

        ``end_bp`` None is the contig's end. The coordinates are those of the forward strand on strand "-" too, whose
        bases come complemented and in their own reading direction.

        Raises:
            ValueError: no such contig or strand, or a range that is not inside the contig.
        """
        number = self.contig_number(contig)
        length = int(self.lengths[number])
        end = length if end_bp is None else end_bp
        if not 0 <= start_bp <= end <= length:
            raise ValueError(
                f"[{start_bp}, {end}) is not inside contig '{self.contigs[number]}', which has {length} bases"
            )
        if strand not in ("+", "-"):
            raise ValueError(f"strand must be '+' or '-', got {strand!r}")
        reverse = strand == "-"
        return self._native.fetch(number, start_bp, end, _REVERSE if reverse else _FORWARD, reverse)


def _distinct_names(files: Sequence[_OpenFasta]) -> tuple[str, ...]:
    """Names of all contigs, with the file's stem where several files have one of that name."""
    origin: dict[str, _OpenFasta] = {}
    shared = {name for file in files for name in file.names if origin.setdefault(name, file) is not file}
    origin.clear()
    for file in files:
        for name in file.names:
            full = f"{_stem(file.source)}:{name}" if name in shared else name
            if full in origin:
                raise GenomeError(
                    f"contig '{full[:80]}' occurs in {origin[full].source} and again in {file.source}; names must "
                    f"differ across all files, with the files' names before them: rename one, or leave out one file"
                )
            origin[full] = file
    return tuple(origin)


# From a path to a checked, mapped FASTA.


def _fasta_files(path: Path) -> list[Path]:
    """The FASTA files that a path stands for: itself, or all in the folder that it is."""
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.iterdir()
        if _stem(file) != file.name and not file.name.endswith(COPY_SUFFIX) and not file.name.startswith(".")
    )
    if not found:
        raise GenomeError(f"{path} is a folder without FASTA files, whose names end with {' '.join(_SUFFIXES)} or .gz")
    return found


def _stem(file: Path) -> str:
    """A FASTA file's name without what marks it as such; that of any other file as it is."""
    name = file.name.removesuffix(".gz").removesuffix(".bgz")
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), file.name)


@dataclass(frozen=True)
class _OpenFasta:
    source: Path
    fasta: Path
    names: list[str]
    native: _nucel.Fasta


def _open_fasta(source: Path, cache: Path) -> _OpenFasta:
    fasta = plain_copy(source, cache) if is_gzip(source) else source
    # The reader looks at this path again whenever it has read, also after a change of directory.
    path = os.fsencode(os.path.abspath(fasta))
    try:
        native = _nucel.Fasta(path, _CLASS, _available_cpus())
    except _nucel.FormatError as error:
        raise GenomeError(f"{source} is not a regular FASTA: {error}. {_REPAIR}") from None
    names: dict[str, int] = {}
    for i, raw in enumerate(native.names):
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise GenomeError(f"{source}, line {native.header_line(i)}: the name {raw[:60]!r} is not UTF-8") from None
        if name in names:
            raise GenomeError(
                f"{source}: two records are named '{name[:60]}', at lines {native.header_line(names[name])} and "
                f"{native.header_line(i)}; 'seqkit rename' makes names differ"
            )
        names[name] = i
    in_file = native.byte_counts
    if not in_file.any():
        raise GenomeError(f"{source} has {len(names)} records but no bases")
    letters, nucleotides = int(in_file[_LETTERS].sum()), int(in_file[_NUCLEOTIDES].sum())
    if 2 * nucleotides < letters or not letters:
        raise GenomeError(
            f"{source} looks like protein: of {letters} letters only {nucleotides} are A, C, G, T, U or N; "
            f"give a nucleotide FASTA"
        )
    if wrong := _wrong_entry(source, list(names), native.entries) or wrong_block_index(source):
        announce(f"{wrong} Nothing here reads it, but other tools do: 'samtools faidx {source}' makes it new")
    return _OpenFasta(source, fasta, list(names), native)


_REPAIR = (
    "Within a record all lines but the last must be equally long and hold nothing but bases; 'seqkit seq -w 60' "
    "repairs such files"
)


def _wrong_entry(fasta: Path, names: list[str], entries: np.ndarray) -> str | None:
    """What is wrong with the .fai index beside a FASTA, if there is one and something is.

    Empty records are no matter (samtools leaves some out), nor is the line length of a record that has but one line.
    """
    index = fasta.with_name(fasta.name + ".fai")
    try:
        lines = index.read_bytes().splitlines()
    except OSError:
        return None
    given: dict[bytes, list[int]] = {}
    for i, line in enumerate(lines, start=1):
        name, *columns = line.split(b"\t")
        try:
            values = [int(column) for column in columns]
        except ValueError:
            values = []
        if len(values) != 4 or name in given:
            return f"{index} is damaged: line {i} is {line[:60]!r}."
        given[name] = values
    for name, (length, offset, line_bases, line_width) in zip(names, entries.tolist(), strict=True):
        found = given.pop(name.encode(), None)
        one_line = length <= line_bases
        expected = [length, offset] if one_line else [length, offset, line_bases, line_width]
        if length > 0 and (found is None or found[: len(expected)] != expected or found[2] < 1):
            return f"{index} is of another file, or of an older one: contig '{name[:60]}' is different in {fasta}."
    if any(length for length, *_ in given.values()):
        return f"{index} is of another file, or of an older one: it has contigs that {fasta} does not have."
    return None


# Windows.


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of one length on the contigs of a genome.

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

    @classmethod
    def tile(
        cls,
        genome: Genome,
        window_bp: int = 1224,
        overlap_bp: int = 100,
        max_unknown: float = 0.1,
        contigs: Sequence[str] | None = None,
        keep_bed: str | os.PathLike[str] | None = None,
        drop_bed: str | os.PathLike[str] | None = None,
        max_masked: float = 1.0,
        masked_weight: float = 0.0,
    ) -> Windows:
        """Windows that cover each contig from its start, each sharing ``overlap_bp`` bases with the next.

        A last window that ends with the contig is added where bases would be left over. A contig shorter than a window
        has none. Windows of which more than the share ``max_unknown`` is [UNK] are dropped. With regions to keep or to
        leave out, each stretch of a contig that is left is covered like a contig, so no window reaches beyond it.

        Args:
            contigs: names or globs of the contigs to cover; one that begins with ``!`` leaves out what it matches.
                None is all.
            keep_bed: BED file of the regions to cover; None is all.
            drop_bed: BED file of regions to leave out.
            max_masked: a window of which a larger share is soft-masked (lower case) counts as a repeat.
            masked_weight: how often a repeat is drawn beside another window; 0 drops repeats.

        Raises:
            ValueError: a bad argument.
            GenomeError: no window is left, or a BED file is not right.
        """
        if window_bp < 1:
            raise ValueError(f"window_bp must be at least 1, got {window_bp}")
        if not 0 <= overlap_bp < window_bp:
            raise ValueError(f"overlap_bp must lie in [0, window_bp) = [0, {window_bp}), got {overlap_bp}")
        for name, share in (("max_unknown", max_unknown), ("max_masked", max_masked), ("masked_weight", masked_weight)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {share}")
        numbers = np.arange(len(genome.contigs)) if contigs is None else _contig_numbers(genome, contigs)
        stretches = _stretches(genome, numbers, keep_bed, drop_bed)
        lengths = stretches.end_bp - stretches.start_bp
        stride_bp = window_bp - overlap_bp
        full = np.where(lengths >= window_bp, (lengths - window_bp) // stride_bp + 1, 0)
        left_over = (full > 0) & ((full - 1) * stride_bp + window_bp < lengths)
        count = full + left_over
        if not count.any():
            raise GenomeError(
                f"no contig{' or region' if keep_bed or drop_bed else ''} is long enough for a window of {window_bp} "
                f"bp: the longest has {lengths.max(initial=0)} bp; lower window_bp (and context with it)"
            )
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        contig = np.repeat(stretches.contig, count).astype(np.int32)
        start_bp = np.repeat(stretches.start_bp, count) + np.minimum(
            rank * stride_bp, np.repeat(lengths, count) - window_bp
        )
        known = (
            np.ones(len(contig), bool)
            if max_unknown == 1
            else _counts(genome, contig, start_bp, window_bp, _UNKNOWN) / window_bp <= max_unknown
        )
        if not known.any():
            raise GenomeError(
                f"each of the {len(contig)} windows of {window_bp} bp has a share of unknown bases above "
                f"max_unknown = {max_unknown} (the longest stretch has {lengths.max()} bp): raise max_unknown, or "
                f"lower window_bp"
            )
        contig, start_bp = contig[known], start_bp[known]
        if max_masked == 1:
            return cls(genome, window_bp, contig, start_bp)
        repeat = _counts(genome, contig, start_bp, window_bp, _MASKED) / window_bp > max_masked
        if masked_weight > 0:
            weight = np.where(repeat, masked_weight, 1.0) if repeat.any() else None
            return cls(genome, window_bp, contig, start_bp, weight)
        if repeat.all():
            raise GenomeError(
                f"each of the {len(contig)} windows of {window_bp} bp is soft-masked by more than max_masked = "
                f"{max_masked}: raise it, or give masked_weight a value above 0"
            )
        return cls(genome, window_bp, contig[~repeat], start_bp[~repeat])

    @classmethod
    def choose(cls, genome: Genome, options: WindowOptions) -> Windows:
        """The windows that a run's options ask for, by `tile`; how genomes share the rows is left to `weighted`."""
        return cls.tile(
            genome,
            options.window_bp,
            options.overlap_bp,
            options.max_unknown,
            options.contigs or None,
            options.keep_bed,
            options.drop_bed,
            options.max_masked,
            options.masked_weight,
        )

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
        _require_seed(seed)
        named = np.isin(self.contig, _contig_numbers(self.genome, contigs))
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
        place = self.start_bp + (np.cumsum(gaps) - gaps)[self.contig]
        taken = np.sort(place[held])
        right = np.searchsorted(taken, place)
        to_right = taken[np.minimum(right, len(taken) - 1)] - place
        to_left = place - taken[np.maximum(right - 1, 0)]
        return (np.abs(to_right) < self.window_bp) | (np.abs(to_left) < self.window_bp)


def _contig_numbers(genome: Genome, patterns: Sequence[str | int]) -> np.ndarray:
    """Numbers of the contigs that names, numbers and globs stand for, sorted; ``!`` before one takes them away."""
    if isinstance(patterns, str):
        raise ValueError(f"contigs must be a sequence of names, got the string {patterns!r}")
    chosen, left_out = set(), set()
    for pattern in patterns:
        if isinstance(pattern, int) or pattern in genome._number:
            chosen.add(genome.contig_number(pattern))
            continue
        glob = pattern.removeprefix("!")
        found = {i for i, name in enumerate(genome.contigs) if name == glob or fnmatch.fnmatchcase(name, glob)}
        if not found:
            genome.contig_number(glob)  # explains what there is
        (left_out if pattern.startswith("!") else chosen).update(found)
    if left_out and not chosen:
        chosen = set(range(len(genome.contigs)))
    return np.array(sorted(chosen - left_out), np.int64)


def _counts(genome: Genome, contig: np.ndarray, start_bp: np.ndarray, window_bp: int, what: int) -> np.ndarray:
    """Bases of each window whose class has the bit ``what``, int64 (N,). Only contigs that have any are read."""
    counts = np.zeros(len(contig), np.int64)
    doubtful = ({_UNKNOWN: genome.unknown_bp, _MASKED: genome.masked_bp}[what] > 0)[contig]
    table = (_CLASS & what > 0).astype(np.uint8)
    counts[doubtful] = genome._native.sum(contig[doubtful], start_bp[doubtful], window_bp, table, _available_cpus())
    return counts


# Regions.


class _Stretches(NamedTuple):
    """Ranges on contigs: contig int64 (n,), start_bp and end_bp int64 (n,)."""

    contig: np.ndarray
    start_bp: np.ndarray
    end_bp: np.ndarray


def _stretches(
    genome: Genome,
    numbers: np.ndarray,
    keep_bed: str | os.PathLike[str] | None,
    drop_bed: str | os.PathLike[str] | None,
) -> _Stretches:
    """What is left of these contigs, or of the regions kept on them, without the regions left out. Sorted, disjoint."""
    kept = _Stretches(numbers, np.zeros(len(numbers), np.int64), genome.lengths[numbers])
    if keep_bed is None and drop_bed is None:
        return kept
    # All contigs on one line, a base apart, so that ranges of two contigs neither overlap nor touch.
    first = np.cumsum(genome.lengths + 1) - (genome.lengths + 1)
    if keep_bed is not None:
        regions = _read_bed(genome, Path(keep_bed))
        chosen = np.isin(regions.contig, numbers)
        kept = _Stretches(*(column[chosen] for column in regions))
    starts, ends = _united(first[kept.contig] + kept.start_bp, first[kept.contig] + kept.end_bp)
    if drop_bed is not None:
        dropped = _read_bed(genome, Path(drop_bed))
        holes = _united(first[dropped.contig] + dropped.start_bp, first[dropped.contig] + dropped.end_bp)
        # Between two neighbouring ends of ranges, all bases are kept or all are dropped.
        points = np.unique(np.concatenate([starts, ends, *holes]))
        left = _inside(points[:-1], starts, ends) & ~_inside(points[:-1], *holes)
        starts, ends = _united(points[:-1][left], points[1:][left])
    contig = np.searchsorted(first, starts, side="right") - 1
    return _Stretches(contig, starts - first[contig], ends - first[contig])


def _united(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint ranges, sorted, that cover what the given ones cover."""
    order = np.argsort(starts[ends > starts], kind="stable")
    starts, ends = starts[ends > starts][order], np.maximum.accumulate(ends[ends > starts][order])
    new = np.ones(len(starts), bool)
    new[1:] = starts[1:] > ends[:-1]
    last = np.ones(len(starts), bool)
    last[:-1] = new[1:]
    return starts[new], ends[last]


def _inside(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which points lie in one of these sorted, disjoint ranges, bool."""
    before = np.searchsorted(starts, points, side="right")
    return (before > 0) & (points < np.concatenate([[0], ends])[before])


class Region(NamedTuple):
    """A line of a BED file; name and strand are "." where it has none."""

    line: int
    contig: str
    start_bp: int
    end_bp: int
    name: str
    strand: str

    def require_inside(self, genome: Genome, bed: Path) -> None:
        """Raises GenomeError unless the genome has the contig, and it these bases."""
        length = genome.lengths[genome.contig_number(self.contig)]
        if not 0 <= self.start_bp <= self.end_bp <= length:
            raise GenomeError(
                f"{bed}, line {self.line}: [{self.start_bp}, {self.end_bp}) is not inside contig '{self.contig}', "
                f"which has {length} bases; is it of another assembly?"
            )


def read_regions(bed: Path) -> Iterator[Region]:
    """The regions of a BED file, plain or gzip, in its order; comments and track lines are passed over.

    Raises:
        GenomeError: a line without contig, start and end.
    """
    with gzip.open(bed, "rt") if is_gzip(bed) else open(bed) as file:
        for i, line in enumerate(file, start=1):
            columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if not line.strip() or line.startswith("#") or columns[0].strip() in ("track", "browser"):
                continue
            name, strand = (columns[k] if len(columns) > k else "." for k in (3, 5))
            try:
                yield Region(i, columns[0], int(columns[1]), int(columns[2]), name, strand)
            except (IndexError, ValueError):
                raise GenomeError(f"{bed}, line {i}: no contig, start and end: {line[:60]!r}") from None


def _read_bed(genome: Genome, bed: Path) -> _Stretches:
    """The regions of a BED file, plain or gzip. Lines on contigs that the genome lacks are skipped, and announced."""
    rows: list[tuple[int, int, int]] = []
    unknown: dict[str, int] = {}
    for region in read_regions(bed):
        number = genome._number.get(region.contig)
        if number is None:
            unknown[region.contig] = region.line
        else:
            region.require_inside(genome, bed)
            rows.append((number, region.start_bp, region.end_bp))
    if not rows:
        some = f"; its contigs are {', '.join(list(unknown)[:5])}" if unknown else ""
        raise GenomeError(f"{bed} has no region on the genome's contigs, {', '.join(genome.contigs[:5])}{some}")
    if unknown:
        announce(
            f"{bed}: skipping regions on {len(unknown)} contigs that are not there: {', '.join(list(unknown)[:5])}"
        )
    return _Stretches(*np.array(rows, np.int64).T)


def _choose_blocks(n: int, fraction: float, seed: int) -> np.ndarray:
    """Positions of about fraction * n of n windows: some whole blocks of neighbours and the beginning of one more."""
    wanted = max(1, round(fraction * n))
    size = min(max(1, wanted // 4), 64)
    blocks = _nucel.permutation(-(-n // size), seed, 0)
    positions = (blocks[:, None] * size + np.arange(size)).ravel()
    return positions[positions < n][:wanted]


# Batches.


class WindowBatch(NamedTuple):
    """Rows of one batch: [CLS] and ``context - 1`` bases each.

    Attributes:
        tokens: uint8 (rows, context).
        contig: position of each row's contig in ``genome.contigs``, int32 (rows,).
        start_bp: first of the row's bases in forward coordinates, on either strand, int64 (rows,).
        strand: 1 forward, -1 reverse complement, int8 (rows,).
    """

    tokens: np.ndarray
    contig: np.ndarray
    start_bp: np.ndarray
    strand: np.ndarray


class WindowSampler:
    """Batches of rows cut from windows, each batch a pure function of (seed, step, rank, world_size).

    There is no state, so any step can be computed at any time and from any thread, and resuming needs the step alone.
    All rows ever drawn are numbered through: row r of step s is number s * batch_size + r. Number g shows a window of
    epoch g // n, in an order of the n windows that differs from epoch to epoch; each epoch shows every window once.
    Where in its window a row begins, and on which strand it is read, is drawn per epoch and window.

    If the windows have weights, those of one weight form a group. Of the rows of an epoch, about as many as there are
    windows, each group has a fixed number, in proportion to the sum of its weights and at least one, scattered over the
    epoch; through them it shows its windows in passes of its own, each window once a pass.

    Args:
        windows: what to draw from, n of them.
        context: tokens of a row: [CLS] and context - 1 bases, which must fit into a window.
        batch_size: rows of a batch over all ranks.
        seed: in [0, 2**64).
        rank, world_size: this process draws the rows [rank * B // W, (rank + 1) * B // W) of each batch.
        reverse_complement: read a row from the reverse strand with probability one half.
        threads: None is as many as the CPUs this process may use. They change nothing but the speed.

    Attributes:
        rows: rows of a batch on this rank.
        steps_per_epoch: rows of an epoch / batch_size, not rounded: a batch may begin in one epoch and end in the next.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(
        self,
        windows: Windows,
        context: int = 1024,
        batch_size: int = 192,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reverse_complement: bool = True,
        threads: int | None = None,
    ):
        if not len(windows):
            raise ValueError("there are no windows to draw from")
        if not 1 <= context - 1 <= windows.window_bp:
            raise ValueError(
                f"context is [CLS] and 1 to window_bp bases: it must lie in [2, {windows.window_bp + 1}], got {context}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size) = [0, {world_size}), got {rank}")
        if batch_size < world_size:
            raise ValueError(
                f"batch_size is over all ranks, so it must be at least world_size = {world_size}, got {batch_size}"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, or None for all CPUs, got {threads}")
        _require_seed(seed)
        self.windows = windows
        self.context = context
        self.batch_size = batch_size
        order, groups = _groups(windows)
        self.steps_per_epoch = int(groups[:, 1].sum()) / batch_size
        self._first_row = rank * batch_size // world_size
        self.rows = (rank + 1) * batch_size // world_size - self._first_row
        self._threads = _available_cpus() if threads is None else threads
        self._native = _nucel.Sampler(
            windows.genome._native, windows.contig[order], windows.start_bp[order], groups, windows.window_bp, context,
            seed, reverse_complement, _FORWARD, _REVERSE, vocab.CLS,
        )  # fmt: skip

    def batch(self, step: int) -> WindowBatch:
        """This rank's rows of a step, in new arrays.

        Raises:
            ValueError: a negative step, or one whose rows can no longer be counted with 63 bits.
            OSError: a file of the genome was changed, cut short, replaced or removed.
        """
        if not 0 <= step < (1 << 63) // self.batch_size - 1:
            raise ValueError(f"step must lie in [0, 2**63 / batch_size), got {step}")
        return WindowBatch(*self._native.rows(step * self.batch_size + self._first_row, self.rows, self._threads))


def _groups(windows: Windows) -> tuple[slice | np.ndarray, np.ndarray]:
    """An order in which windows of one weight stand together, and int64 (groups, 2): windows and rows of an epoch."""
    n = len(windows)
    weights, group = (None, None) if windows.weight is None else np.unique(windows.weight, return_inverse=True)
    if weights is None or len(weights) == 1:
        return slice(None), np.array([[n, n]], np.int64)
    size = np.bincount(group)
    share = size * weights / (size * weights).sum()
    rows = np.maximum(1, np.round(n * share)).astype(np.int64)
    return np.argsort(group, kind="stable"), np.stack([size, rows], axis=1)


def _require_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}")


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
