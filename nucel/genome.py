"""From FASTA files to batches of token windows.

``Genome`` opens FASTA files and checks them, ``Windows`` says which stretches of it are trained on, ``WindowSampler``
draws from them. Nothing is loaded: bases are read from the mapped file whenever they are asked for, so a genome costs
address space, not memory, and processes on one machine share what the system has cached.

Coordinates are 0-based and half-open everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import os
import shutil
import string
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

import _nucel
import numpy as np
from pyfaidx import Faidx, FastaIndexingError

from nucel import vocab

_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_FORWARD = vocab.ENCODE
_REVERSE = vocab.COMPLEMENT[vocab.ENCODE]
_IS_UNKNOWN = (vocab.ENCODE == vocab.UNK).astype(np.uint8)
_LETTERS = np.frombuffer(string.ascii_letters.encode(), np.uint8)
_NUCLEOTIDES = np.frombuffer(b"ACGTUNacgtun", np.uint8)


class GenomeError(ValueError):
    """The content of an input file, or what is left of it, cannot be used. The message says what to do."""


class Genome:
    """The contigs of one or several FASTA files, readable at any place by any number of threads.

    A file is plain text, or gzip or bgzip, which the first bytes tell, not the name. Compressed files are decompressed
    once into ``<name>.nucel.fa`` beside them; the index ``.fai`` is built beside the FASTA. Where a folder cannot be
    written to, both go to the cache folder. Opening reads every byte once: it checks that the index fits the file and
    counts the letters. The files must not be changed while the object lives.

    Args:
        paths: one path or several. Contigs are numbered through in this order.
        cache_dir: in place of ``$XDG_CACHE_HOME/nucel`` or ``~/.cache/nucel``.

    Attributes:
        paths: the files as given.
        contigs: names (the first word of each header), n of them.
        lengths: bases of each contig, int64 (n,).
        byte_counts: how often each byte occurs in each contig, int64 (n, 256).

    Raises:
        GenomeError: a file that is not a well-formed nucleotide FASTA, or a contig name that occurs twice.
        FileNotFoundError, IsADirectoryError: no such file.
        OSError: it cannot be read, or its index or decompressed copy cannot be written.
    """

    def __init__(self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], cache_dir: Path | None = None):
        listed = [paths] if isinstance(paths, str | os.PathLike) else paths
        self.paths = tuple(Path(path) for path in listed)
        if not self.paths:
            raise ValueError("no FASTA file was given")
        cache = _default_cache() if cache_dir is None else Path(cache_dir)
        opened = [_open_fasta(path, cache) for path in self.paths]
        origin: dict[str, Path] = {}
        for file in opened:
            for name in file.names:
                if name in origin:
                    raise GenomeError(
                        f"contig '{name}' occurs in {origin[name]} and again in {file.source}; "
                        f"names must differ across all files: rename one, or leave out one file"
                    )
                origin[name] = file.source
        self._fasta_paths = tuple(file.fasta for file in opened)
        self._native = _nucel.Genome([file.native for file in opened])
        self._number = {name: i for i, name in enumerate(origin)}
        self.contigs: tuple[str, ...] = tuple(origin)
        self.lengths: np.ndarray = np.concatenate([file.lengths for file in opened])
        self.byte_counts: np.ndarray = np.concatenate([file.byte_counts for file in opened])
        self.lengths.flags.writeable = self.byte_counts.flags.writeable = False

    def __repr__(self) -> str:
        files = ", ".join(path.name for path in self.paths)
        return f"Genome({files}: {len(self.contigs)} contigs, {int(self.lengths.sum()):,} bp)"

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the uncompressed bytes of all files, in order. Read on first use."""
        digest = hashlib.sha256()
        for path in self._fasta_paths:
            for chunk in _plain(path):
                digest.update(chunk)
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


# From a path to a checked, mapped FASTA.


@dataclass(frozen=True)
class _OpenFasta:
    source: Path
    fasta: Path
    names: list[str]
    lengths: np.ndarray
    byte_counts: np.ndarray
    native: _nucel.Fasta


def _open_fasta(source: Path, cache: Path) -> _OpenFasta:
    _require_file(source)
    if _is_gzip(source):
        fasta = _decompressed(source, cache)
    else:
        fasta = source
        _require_header(source, _plain(source))
    index, text = _read_or_build_index(fasta, cache)
    try:
        return _open_indexed(source, fasta, text)
    except _nucel.IndexMismatch as mismatch:
        rebuilt = _index_text(fasta)
        if rebuilt == text:
            raise GenomeError(f"{source} is not a regular FASTA: {mismatch}. {_REPAIR}") from None
        _announce(f"{index} does not fit its FASTA ({mismatch}); building it again")
    index = _beside_or_in_cache(fasta, ".fai", cache)
    _write_index(index, rebuilt, fasta)
    try:
        return _open_indexed(source, fasta, rebuilt)
    except _nucel.IndexMismatch as mismatch:
        raise GenomeError(f"{source} is not a regular FASTA: {mismatch}. {_REPAIR}") from None


_REPAIR = (
    "Names must differ, and within a record all lines but the last must be equally long, without blanks; "
    "'seqkit rename' and 'seqkit seq -w 60' repair such files"
)


def _open_indexed(source: Path, fasta: Path, index: bytes) -> _OpenFasta:
    names, entries = _parse_index(index)
    native = _nucel.Fasta(os.fsencode(fasta), names, entries)
    byte_counts = native.scan(_available_cpus())
    in_file = byte_counts.sum(axis=0)
    if not in_file.any():
        raise GenomeError(f"{source} has {len(names)} records but no bases")
    letters, nucleotides = int(in_file[_LETTERS].sum()), int(in_file[_NUCLEOTIDES].sum())
    if 2 * nucleotides < letters or not letters:
        raise GenomeError(
            f"{source} looks like protein: of {letters} letters only {nucleotides} are A, C, G, T, U or N; "
            f"give a nucleotide FASTA"
        )
    return _OpenFasta(source, fasta, names, np.ascontiguousarray(entries[:, 0]), byte_counts, native)


def _require_file(source: Path) -> None:
    if source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a directory; give the FASTA files inside it", str(source))
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such FASTA file", str(source))
    if not source.is_file():
        raise GenomeError(f"{source} is not a regular file, and only such can be read at any place; save it first")


def _is_gzip(source: Path) -> bool:
    with open(source, "rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _require_header(source: Path, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        if text := chunk.lstrip():
            if not text.startswith(b">"):
                raise GenomeError(f"{source} is not FASTA: its text begins with {text[:20]!r}, and should with '>'")
            return
    raise GenomeError(f"{source} is empty")


def _announce(message: str) -> None:
    print(f"nucel: {message}", file=sys.stderr, flush=True)


# Files written beside the input, or in the cache.


def _default_cache() -> Path:
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "nucel"
    try:
        return Path.home() / ".cache" / "nucel"
    except RuntimeError:
        # A user without a home, as containers have them.
        return Path(tempfile.gettempdir()) / "nucel"


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _in_cache(source: Path, suffix: str, cache: Path) -> Path:
    """A name in the cache folder that no file of the same name in another folder shares."""
    where = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:12]
    return cache / f"{where}-{source.name}{suffix}"


def _beside_or_in_cache(source: Path, suffix: str, cache: Path) -> Path:
    """Where to write the file that belongs to ``source``."""
    beside = source.with_name(source.name + suffix)
    return beside if _is_writable(source.parent) else _in_cache(source, suffix, cache)


def _because_of_folder(source: Path, target: Path) -> str:
    """Why a file stands in the cache, for announcements."""
    return "" if target.parent == source.parent else f" ({source.parent} cannot be written to)"


@contextlib.contextmanager
def _replacing(target: Path, like: Path) -> Iterator[IO[bytes]]:
    """A file to write, as readable to others as ``like``, that becomes ``target`` when complete or leaves no trace."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".nucel-", suffix=".tmp")
    temporary = Path(name)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(like, temporary)
        os.replace(temporary, target)
    except OSError as error:
        reason = f"could not be written ({error.strerror or error}); nothing is left of it"
        raise OSError(error.errno, reason, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _decompressed(source: Path, cache: Path) -> Path:
    """The decompressed copy of a gzip or bgzip file. It is current while it has its source's time of change."""
    changed_ns = source.stat().st_mtime_ns
    suffix = ".nucel.fa"
    for copy in (source.with_name(source.name + suffix), _in_cache(source, suffix, cache)):
        if copy.exists() and copy.stat().st_mtime_ns == changed_ns:
            return copy
    _require_header(source, _gunzip(source))
    target = _beside_or_in_cache(source, suffix, cache)
    _announce(f"decompressing {source} to {target} once{_because_of_folder(source, target)}")
    with _replacing(target, like=source) as file:
        for chunk in _gunzip(source):
            file.write(chunk)
        file.flush()
        os.utime(file.fileno(), ns=(changed_ns, changed_ns))
        # An index of the old copy would look current, for it is younger than the source.
        target.with_name(target.name + ".fai").unlink(missing_ok=True)
    return target


def _plain(source: Path) -> Iterator[bytes]:
    with open(source, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _gunzip(source: Path) -> Iterator[bytes]:
    try:
        with gzip.open(source, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise GenomeError(f"{source} is a damaged or incomplete gzip file ({error}); fetch it again") from error


# The index.


def _read_or_build_index(fasta: Path, cache: Path) -> tuple[Path, bytes]:
    """Path and content of an index that is not older than its FASTA."""
    for index in (fasta.with_name(fasta.name + ".fai"), _in_cache(fasta, ".fai", cache)):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if index.stat().st_mtime_ns >= fasta.stat().st_mtime_ns:
                return index, index.read_bytes()
    index = _beside_or_in_cache(fasta, ".fai", cache)
    _announce(f"indexing {fasta} in {index}{_because_of_folder(fasta, index)}")
    text = _index_text(fasta)
    _write_index(index, text, fasta)
    return index, text


def _write_index(index: Path, text: bytes, fasta: Path) -> None:
    with _replacing(index, like=fasta) as file:
        file.write(text)


def _index_text(fasta: Path) -> bytes:
    """The content of a new index. pyfaidx sees a link, since it goes by the suffix and knows no other name for .gz."""
    with tempfile.TemporaryDirectory(prefix="nucel-") as scratch:
        link = Path(scratch) / "genome.fa"
        link.symlink_to(fasta.resolve())
        index = Path(scratch) / "genome.fa.fai"
        try:
            Faidx(link, indexname=index, duplicate_action="first").close()
        except RuntimeError as error:
            # pyfaidx gives up on records that two odd lines follow, and calls it a defect of its own.
            raise GenomeError(f"{fasta} has blank lines inside or behind a record. {_REPAIR}") from error
        except (FastaIndexingError, UnicodeDecodeError) as error:
            raise GenomeError(f"{fasta} is not a regular FASTA: {error} {_REPAIR}") from error
        return index.read_bytes()


def _parse_index(index: bytes) -> tuple[list[str], np.ndarray]:
    """Names, and int64 (n, 4): length, offset, line_bases, line_width."""
    numbers: dict[str, list[int]] = {}
    for i, line in enumerate(index.splitlines(), start=1):
        name, *columns = line.split(b"\t")
        try:
            contig, values = name.decode(), [int(column) for column in columns]
        except ValueError:
            values = []
        if len(values) != 4 or not all(0 <= value < 1 << 62 for value in values):
            raise _nucel.IndexMismatch(f"line {i} of the index is no name and four numbers: {line[:80]!r}")
        if contig in numbers:
            raise _nucel.IndexMismatch(f"two records are named '{contig}'")
        numbers[contig] = values
    return list(numbers), np.array(list(numbers.values()), np.int64).reshape(-1, 4)


# Windows.


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of one length on the contigs of a genome.

    Attributes:
        genome: what they are windows of.
        window_bp: bases of each window.
        contig: position of each window's contig in ``genome.contigs``, int32 (N,).
        start_bp: first base of each window, int64 (N,).
    """

    genome: Genome
    window_bp: int
    contig: np.ndarray
    start_bp: np.ndarray

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
    ) -> Windows:
        """Windows that cover each contig from its start, each sharing ``overlap_bp`` bases with the next.

        A last window that ends with the contig is added where bases would be left over. A contig shorter than a window
        has none. Windows of which more than the share ``max_unknown`` is [UNK] are dropped.

        Args:
            contigs: names of the contigs to cover; None is all.

        Raises:
            ValueError: a bad argument.
            GenomeError: no window is left.
        """
        if window_bp < 1:
            raise ValueError(f"window_bp must be at least 1, got {window_bp}")
        if not 0 <= overlap_bp < window_bp:
            raise ValueError(f"overlap_bp must lie in [0, window_bp) = [0, {window_bp}), got {overlap_bp}")
        if not 0 <= max_unknown <= 1:
            raise ValueError(f"max_unknown is a share in [0, 1], got {max_unknown}")
        numbers = np.arange(len(genome.contigs)) if contigs is None else _contig_numbers(genome, contigs)
        lengths = genome.lengths[numbers]
        stride_bp = window_bp - overlap_bp
        full = np.where(lengths >= window_bp, (lengths - window_bp) // stride_bp + 1, 0)
        left_over = (full > 0) & ((full - 1) * stride_bp + window_bp < lengths)
        count = full + left_over
        if not count.any():
            raise GenomeError(
                f"no contig is long enough for a window of {window_bp} bp: the longest has "
                f"{lengths.max(initial=0)} bp; lower window_bp (and context with it)"
            )
        contig = np.repeat(numbers, count).astype(np.int32)
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        start_bp = np.minimum(rank * stride_bp, genome.lengths[contig] - window_bp)
        known = _unknown_counts(genome, contig, start_bp, window_bp) / window_bp <= max_unknown
        if not known.any():
            raise GenomeError(
                f"each of the {len(contig)} windows of {window_bp} bp has a share of unknown bases above "
                f"max_unknown = {max_unknown} (the longest contig has {lengths.max()} bp): raise max_unknown, or lower "
                f"window_bp"
            )
        return cls(genome, window_bp, contig[known], start_bp[known])

    def hold_out(self, contigs: Sequence[str] = (), fraction: float = 0.0, seed: int = 0) -> tuple[Windows, Windows]:
        """Splits into (train, held_out), which share no base.

        Held out are all windows of the contigs named, and of the other windows a ``fraction``, at least one window, in
        blocks of up to 64 neighbours that ``seed`` chooses. What overlaps a held-out window is in neither part. With
        nothing to hold out, the second part is empty.

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
        return replace(self, contig=self.contig[chosen], start_bp=self.start_bp[chosen])

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


def _contig_numbers(genome: Genome, names: Sequence[str]) -> np.ndarray:
    if isinstance(names, str):
        raise ValueError(f"contigs must be a sequence of names, got the string {names!r}")
    return np.array(sorted({genome.contig_number(name) for name in names}), np.int64)


def _unknown_counts(genome: Genome, contig: np.ndarray, start_bp: np.ndarray, window_bp: int) -> np.ndarray:
    """[UNK] bases of each window, int64 (N,). Only contigs that have any are read."""
    counts = np.zeros(len(contig), np.int64)
    doubtful = (genome.byte_counts @ _IS_UNKNOWN.astype(np.int64) > 0)[contig]
    counts[doubtful] = genome._native.sum(
        contig[doubtful], start_bp[doubtful], window_bp, _IS_UNKNOWN, _available_cpus()
    )
    return counts


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
        steps_per_epoch: n / batch_size, not rounded: a batch may begin in one epoch and end in the next.

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
        self.steps_per_epoch = len(windows) / batch_size
        self._first_row = rank * batch_size // world_size
        self.rows = (rank + 1) * batch_size // world_size - self._first_row
        self._threads = _available_cpus() if threads is None else threads
        self._native = _nucel.Sampler(
            windows.genome._native, windows.contig, windows.start_bp, windows.window_bp, context, seed,
            reverse_complement, _FORWARD, _REVERSE, vocab.CLS,
        )  # fmt: skip

    def batch(self, step: int) -> WindowBatch:
        """This rank's rows of a step, in new arrays.

        Raises:
            ValueError: a negative step, or one whose rows can no longer be counted with 63 bits.
        """
        if not 0 <= step < (1 << 63) // self.batch_size - 1:
            raise ValueError(f"step must lie in [0, 2**63 / batch_size), got {step}")
        return WindowBatch(*self._native.rows(step * self.batch_size + self._first_row, self.rows, self._threads))


def _require_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}")


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
