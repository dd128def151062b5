"""Sequences to use a model on, from FASTA, from a table, or from a BED file and its genome.

FASTA is read as `Genome` reads it (docs/fasta.md). A table is CSV or TSV with a header line, plain or gzip; a byte
order mark, CRLF line ends and blank lines are passed over. A BED line with strand "-" gives the reverse complement.

In a table, letters are IUPAC's nucleotide codes in either case and the gaps ``- . * ?``; what is not A, C, G, T or U
becomes [UNK]. Any other character is an error that names its line, since it means that something else was given.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from ..tokenizers import nucleotide
from .fasta import Genome
from .regions import read_regions

_LETTERS = nucleotide.decode(np.array(nucleotide.BASES)) + "U" + nucleotide.AMBIGUITY_CODES
_ALLOWED = frozenset(_LETTERS + _LETTERS.lower() + "-.*?")
_NAME_COLUMNS = ("name", "id")
REGION_COLUMNS = ("contig", "start_bp", "end_bp", "strand", "name", "score")
"""What is kept of a BED file's rows, so that a result can be traced to its place in the genome."""


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """How the sequences of a file are found."""

    genome: Path | None = None
    """FASTA of the genome that a BED file's regions are read from."""
    sequence_column: str = "sequence"
    """Column of a table that holds the sequences."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""
    name_column: str | None = None
    """Column of a table that holds their names; by default "name" or "id", else rows are numbered from 1."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Named sequences, n of them, in their file's order.

    Attributes:
        source: the file.
        names: n names, not necessarily distinct.
        tokens: n arrays uint8 (length,) of token ids, without [CLS]; none is empty.
        where: where each stands in the file, for messages: "line 7", "record 'x'".
        columns: n cells each, by name: a table's columns; contig, start_bp, end_bp, strand, name and score of BED
            regions; none of FASTA.
    """

    source: Path
    names: list[str]
    tokens: list[np.ndarray]
    where: list[str]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_regions(self) -> bool:
        """Whether each has a place in a genome, in the columns contig, start_bp, end_bp and strand."""
        return tuple(self.columns) == REGION_COLUMNS

    def column(self, name: str) -> list[str]:
        """Cells of a table's column.

        Raises:
            InputError: there is no such column.
        """
        if not self.columns:
            raise InputError(f"{self.source} is not a CSV, TSV or BED, so it has no columns; '{name}' was asked for")
        if name not in self.columns:
            raise InputError(f"{self.source} has no column '{name}'; {_columns_there(self.columns)}")
        return self.columns[name]

    def require_within(self, context: int) -> None:
        """Refuse sequences that do not fit into a context of so many tokens, [CLS] and bases.

        Raises:
            InputError: names the first of them.
        """
        for tokens, line in zip(self.tokens, self.where, strict=True):
            if len(tokens) > context - 1:
                raise InputError(
                    f"{self.source}, {line}: {len(tokens)} bases are more than the context of {context} tokens holds, "
                    f"[CLS] and {context - 1} bases; --context raises the limit"
                )

    @classmethod
    def joined(cls, parts: Iterable[Sequences]) -> Sequences:
        """The sequences of several files, one after the other; their columns are left out."""
        parts = list(parts)
        source = Path(", ".join(str(part.source) for part in parts))
        where = [f"{part.source}, {line}" for part in parts for line in part.where]
        names = [name for part in parts for name in part.names]
        return cls(source, names, [tokens for part in parts for tokens in part.tokens], where, {})

    def take(self, rows: np.ndarray) -> Sequences:
        """The sequences of these rows, in this order."""
        chosen = rows.tolist()
        columns = {name: [cells[i] for i in chosen] for name, cells in self.columns.items()}
        names, tokens, where = ([values[i] for i in chosen] for values in (self.names, self.tokens, self.where))
        return Sequences(self.source, names, tokens, where, columns)


def parse_bases(text: str, where: str) -> np.ndarray:
    """Token ids of a sequence, uint8 (length,), without [CLS].

    Raises:
        InputError: no letter at all, or a character that is not a nucleotide code.
    """
    text = text.strip()
    if not text:
        raise InputError(f"{where}: the sequence is empty")
    if not _ALLOWED.issuperset(text):
        i, character = next((i, c) for i, c in enumerate(text) if c not in _ALLOWED)
        raise InputError(
            f"{where}: {character!r} at position {i + 1} is not a nucleotide code; allowed are {' '.join(_LETTERS)} "
            f"in either case and - . * ? (all but A, C, G, T, U are read as unknown)"
        )
    return nucleotide.encode(text)


def read_sequences(path: str | Path, options: SequenceOptions | None = None) -> Sequences:
    """The sequences of a file: BED where its name says so, FASTA where its text begins with ">", else a table.

    Raises:
        InputError: no sequences, or one that cannot be used; the line is named.
        GenomeError: a FASTA or a BED file that is not right.
        OSError: it cannot be read.
    """
    path, options = Path(path), options or SequenceOptions()
    if path.name.removesuffix(".gz").endswith(".bed"):
        return _read_bed(path, options.genome, options.cache_dir)
    if options.genome is not None:
        raise InputError(f"--genome is for BED files, whose names end with .bed or .bed.gz; got {path}")
    if _begins_with(path, b">"):
        return _read_fasta(path, options.cache_dir)
    return _read_table(path, options)


def header_of(path: Path) -> tuple[str, ...]:
    """The columns that a table's first line names; none of FASTA and BED, and of an empty file.

    Raises:
        InputError: it is not text.
        OSError: it cannot be read.
    """
    if path.name.removesuffix(".gz").endswith(".bed") or _begins_with(path, b">"):
        return ()
    return tuple(cell.strip() for cell in next(_rows(path), (0, []))[1])


def _open(path: Path):
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, "rb")


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with _open(path) as file:
            return file.read(1 << 16).lstrip().startswith(start)
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged or incomplete gzip file ({error})") from None


def _read_fasta(path: Path, cache: Path | None) -> Sequences:
    genome = Genome(path, cache, copy_beside=cache is None, distinct_names=False)
    for name, length in zip(genome.contigs, genome.lengths.tolist(), strict=True):
        if not length:
            raise InputError(f"{path}, record '{name}': the sequence is empty")
    tokens = [genome.fetch(i) for i in range(len(genome.contigs))]
    return Sequences(path, list(genome.contigs), tokens, [f"record '{name}'" for name in genome.contigs], {})


def _read_bed(path: Path, fasta: Path | None, cache: Path | None) -> Sequences:
    if fasta is None:
        raise InputError(f"{path} has regions but no sequences; give the FASTA they are of with --genome")
    genome = Genome(fasta, cache, copy_beside=cache is None)
    names, tokens, where = [], [], []
    columns: dict[str, list[str]] = {name: [] for name in REGION_COLUMNS}
    for region in read_regions(path):
        region.require_inside(genome, path)
        line = f"line {region.line}"
        if region.start_bp == region.end_bp:
            raise InputError(f"{path}, {line}: the region is empty")
        if region.strand not in "+-.":
            raise InputError(
                f"{path}, {line}: the strand must be + or - or . (which reads as +), got {region.strand!r}"
            )
        strand = region.strand.replace(".", "+")
        at = f"{region.contig}:{region.start_bp}-{region.end_bp}({strand})"
        names.append(at if region.name in ("", ".") else region.name)
        tokens.append(genome.fetch(region.contig, region.start_bp, region.end_bp, strand))
        where.append(line)
        cells = (region.contig, region.start_bp, region.end_bp, strand, region.name, region.score)
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(str(cell))
    if not names:
        raise InputError(f"{path} has no regions")
    return Sequences(path, names, tokens, where, columns)


def _columns_there(columns: Iterable[str]) -> str:
    return f"its first line has: {', '.join(repr(column[:30]) for column in list(columns)[:10])}"


def _read_table(path: Path, options: SequenceOptions) -> Sequences:
    rows = _rows(path)
    try:
        header = [cell.strip() for cell in next(rows)[1]]
    except StopIteration:
        raise InputError(f"{path} is empty") from None
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column name occurs twice; {_columns_there(header)}")
    if options.sequence_column not in header:
        raise InputError(
            f"{path} has no column '{options.sequence_column}'; {_columns_there(header)}. "
            f"Name the column with --sequence-column"
        )
    if options.name_column is not None and options.name_column not in header:
        raise InputError(f"{path} has no column '{options.name_column}'; {_columns_there(header)}")
    cells: list[list[str]] = []
    lines: list[int] = []
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} cells in a table of {len(header)} columns")
        cells.append(row)
        lines.append(line)
    if not cells:
        raise InputError(f"{path} has a header but no rows")
    columns = {name: list(column) for name, column in zip(header, zip(*cells, strict=True), strict=True)}
    where = [f"line {line}" for line in lines]
    sequences = columns[options.sequence_column]
    tokens = [parse_bases(text, f"{path}, {line}") for text, line in zip(sequences, where, strict=True)]
    name_column = options.name_column or next((name for name in _NAME_COLUMNS if name in columns), None)
    names = columns[name_column] if name_column else [str(i) for i in range(1, len(cells) + 1)]
    return Sequences(path, names, tokens, where, columns)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table with their line numbers: tabs separate where the header has one, else commas."""
    csv.field_size_limit(2**31 - 1)  # Python's own limit, 131,072 characters, is short for a sequence
    try:
        with _open(path) as raw:
            text = raw.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text table: it is not UTF-8 ({error.reason})") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged or incomplete gzip file ({error})") from None
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None
