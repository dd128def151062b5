"""FASTA files, opened, checked and mapped: `Genome`."""

from __future__ import annotations

import functools
import hashlib
import os
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _nucel
import numpy as np

from ..runtime.cli import note
from ..runtime.environment import available_cpus
from ..runtime.errors import GenomeError
from ..tokenizers import nucleotide
from .decompress import COPY_SUFFIX, default_cache, is_copy_of, plain_files, read_in_pieces, wrong_block_index

FORWARD = nucleotide.ENCODE
REVERSE = nucleotide.COMPLEMENT[nucleotide.ENCODE]
_AS_THEY_ARE = np.arange(256, dtype=np.uint8)
IS_UNKNOWN = (nucleotide.ENCODE == nucleotide.UNK).astype(np.uint8)
_LETTERS = np.frombuffer(string.ascii_letters.encode(), np.uint8)
# The letters that stand for a base, and N, which stands for any.
_NUCLEOTIDES = np.append(np.flatnonzero(nucleotide.ENCODE != nucleotide.UNK), [ord("N"), ord("n")])
_HEADER_BYTES = 1024
"""Longest header whose description is read."""
SUFFIXES = (".fa", ".fasta", ".fna", ".fas", ".ffn", ".fsa")
# What the reader counts for each contig: the classes of each byte, bits that csrc/fasta.hpp defines.
_GC, _MASKED, _UNKNOWN = _nucel.GC, _nucel.MASKED, _nucel.UNKNOWN
_CLASS = (_UNKNOWN * IS_UNKNOWN).astype(np.uint8)
_CLASS[np.frombuffer(string.ascii_lowercase.encode(), np.uint8)] |= _MASKED
_CLASS[np.isin(nucleotide.ENCODE, [nucleotide.ID["G"], nucleotide.ID["C"]])] |= _GC


class Genome:
    """The contigs of one or several FASTA files, readable at any place by any number of threads.

    A file is plain text, or gzip or bgzip, which the first bytes tell, not the name. Compressed files are decompressed
    once into ``<name>.<digest>.nucel.fa`` beside them, or in the cache folder where their folder cannot be written to.
    Opening reads every byte once: it finds the records, checks them and counts the letters. No index is needed, written
    or believed. What is read and what is refused is in docs/fasta.md.

    The files must not be changed while the object lives. If they are, whatever reads them raises OSError.

    ``len(genome)`` is the number of contigs, and iteration gives their names. A pickled genome is its paths, made
    absolute, and its fingerprint: unpickling opens the files, and raises GenomeError where their content is another.

    Args:
        paths: one path or several, of files or of folders, which stand for the FASTA files in them, in the order of
            their names. Contigs are numbered through.
        cache_dir: in place of ``$XDG_CACHE_HOME/nucel`` or ``~/.cache/nucel``.
        copy_beside: False puts new decompressed copies into the cache folder in any case.
        distinct_names: False lets a name occur more than once, as in files of sequences that are read by number.

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

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        cache_dir: Path | None = None,
        copy_beside: bool = True,
        distinct_names: bool = True,
    ):
        listed = [paths] if isinstance(paths, str | os.PathLike) else paths
        self.paths = tuple(Path(path) for path in listed)
        if not self.paths:
            raise ValueError("no FASTA file was given")
        cache = default_cache() if cache_dir is None else Path(cache_dir)
        self._options = (cache.absolute(), copy_beside, distinct_names)
        listed_files = [(i, file) for i, path in enumerate(self.paths) for file in _fasta_files(path)]
        for _, file in listed_files:
            if any(is_copy_of(file, path) for path in self.paths):
                raise GenomeError(f"{file} is the decompressed copy of another file that is given too; leave it out")
        self.files = tuple(file for _, file in listed_files)
        opened = list(map(_open_fasta, self.files, plain_files(self.files, cache, copy_beside)))
        self.contigs: tuple[str, ...] = (
            _distinct_names(opened) if distinct_names else tuple(name for file in opened for name in file.names)
        )
        self._number = {name: i for i, name in enumerate(self.contigs)}
        self._opened = opened
        self._native = _nucel.Genome([file.native for file in opened])
        self.lengths: np.ndarray = np.concatenate([file.native.entries[:, 0] for file in opened])
        self.byte_counts: np.ndarray = np.stack([file.native.byte_counts for file in opened])
        records = [len(file.names) for file in opened]
        self.source: np.ndarray = np.repeat(np.array([i for i, _ in listed_files], np.int32), records)
        self.file: np.ndarray = np.repeat(np.arange(len(listed_files), dtype=np.int32), records)
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

    def __len__(self) -> int:
        return len(self.contigs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.contigs)

    def __reduce__(self) -> tuple[Callable[..., Genome], tuple[object, ...]]:
        return _reopen, ([path.absolute() for path in self.paths], self._options, self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the uncompressed bytes of all files, in order. Read on first use."""
        digest = hashlib.sha256()
        for file in self._opened:
            for piece in read_in_pieces(file.fasta):
                digest.update(piece)
            file.native.require_unchanged()
        return digest.hexdigest()

    @functools.cached_property
    def descriptions(self) -> tuple[str, ...]:
        """What follows the name in each contig's header, n of them; empty where nothing does. Read on first use."""
        return tuple(text for file in self._opened for text in file.descriptions())

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
        return self._native.fetch(number, start_bp, end, REVERSE if reverse else FORWARD, reverse)

    def letters(self, contig: str | int) -> np.ndarray:
        """The bytes of a contig as they stand in the file, gaps and lower case too, uint8 (length,)."""
        number = self.contig_number(contig)
        return self._native.fetch(number, 0, int(self.lengths[number]), _AS_THEY_ARE, False)


def _reopen(paths: Sequence[Path], options: tuple[Path, bool, bool], fingerprint: str) -> Genome:
    """A pickled genome."""
    genome = Genome(paths, *options)
    if genome.fingerprint != fingerprint:
        raise GenomeError(f"{genome} is not what was pickled: the content of its files has changed since")
    return genome


def _distinct_names(files: Sequence[_OpenFasta]) -> tuple[str, ...]:
    """Names of all contigs, with the file's stem where several files have one of that name."""
    for file in files:
        file.require_distinct_names()
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


def _fasta_files(path: Path) -> list[Path]:
    """The FASTA files that a path stands for: itself, or all in the folder that it is."""
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.iterdir()
        if _stem(file) != file.name and not file.name.endswith(COPY_SUFFIX) and not file.name.startswith(".")
    )
    if not files:
        raise GenomeError(f"{path} is a folder without FASTA files, whose names end with {' '.join(SUFFIXES)} or .gz")
    return files


def _stem(file: Path) -> str:
    """A FASTA file's name without what marks it as such; that of any other file as it is."""
    name = file.name.removesuffix(".gz").removesuffix(".bgz")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), file.name)


@dataclass(frozen=True)
class _OpenFasta:
    source: Path
    fasta: Path
    names: list[str]
    native: _nucel.Fasta

    def require_distinct_names(self) -> None:
        first: dict[str, int] = {}
        for i, name in enumerate(self.names):
            if first.setdefault(name, i) != i:
                lines = (self.native.header_line(first[name]), self.native.header_line(i))
                raise GenomeError(
                    f"{self.source}: two records are named '{name[:60]}', at lines {lines[0]} and {lines[1]}; "
                    f"'seqkit rename' makes names differ"
                )

    def descriptions(self) -> Iterator[str]:
        """What follows the name in each header. A header ends right before the record's first base."""
        with open(self.fasta, "rb") as file:
            for name, (_, offset, _, _) in zip(self.names, self.native.entries.tolist(), strict=True):
                file.seek(max(0, offset - _HEADER_BYTES))
                before = file.read(min(offset, _HEADER_BYTES)).rstrip(b"\r\n")
                header = before[before.rfind(b"\n") + 1 :].decode(errors="replace")
                words = header.removeprefix(">").split(maxsplit=1)
                yield words[1].strip() if len(words) == 2 and words[0] == name else ""


def _open_fasta(source: Path, fasta: Path) -> _OpenFasta:
    # The reader looks at this path again whenever it has read, also after a change of directory.
    path = os.fsencode(os.path.abspath(fasta))
    try:
        native = _nucel.Fasta(path, _CLASS, available_cpus())
    except _nucel.FormatError as error:
        raise GenomeError(f"{source} is not a regular FASTA: {error}. {_REPAIR}") from None
    names: list[str] = []
    for i, raw in enumerate(native.names):
        try:
            names.append(raw.decode())
        except UnicodeDecodeError:
            raise GenomeError(f"{source}, line {native.header_line(i)}: the name {raw[:60]!r} is not UTF-8") from None
    in_file = native.byte_counts
    if not in_file.any():
        raise GenomeError(f"{source} has {len(names)} records but no bases")
    letters, nucleotides = int(in_file[_LETTERS].sum()), int(in_file[_NUCLEOTIDES].sum())
    if 2 * nucleotides < letters or not letters:
        raise GenomeError(
            f"{source} looks like protein: of {letters} letters only {nucleotides} are A, C, G, T, U or N; "
            f"give a nucleotide FASTA"
        )
    if wrong := _wrong_entry(source, names, native.entries) or wrong_block_index(source):
        note(f"{wrong} Nothing here reads it, but other tools do: 'samtools faidx {source}' makes it new")
    return _OpenFasta(source, fasta, names, native)


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
    for contig, (length, offset, line_bases, line_width) in zip(names, entries.tolist(), strict=True):
        entry = given.pop(contig.encode(), None)
        one_line = length <= line_bases
        expected = [length, offset] if one_line else [length, offset, line_bases, line_width]
        if length > 0 and (entry is None or entry[: len(expected)] != expected or entry[2] < 1):
            return f"{index} is of another file, or of an older one: contig '{contig[:60]}' is different in {fasta}."
    if any(length for length, *_ in given.values()):
        return f"{index} is of another file, or of an older one: it has contigs that {fasta} does not have."
    return None
