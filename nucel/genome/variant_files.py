"""Files of variants, read as a stream: VCF, BCF, and tables (TSV, CSV, Parquet).

    path --open_variants--> VariantFile --records()--> Record, Record, ...

A VCF's lines are kept as their text, so that what is not ours passes through byte for byte. BCF needs pysam, Parquet
pyarrow. A table has the columns chrom, pos (from 1), ref and alt, in any case and order; `A,C` in alt is two alleles,
`-` in alt deletes ref, and `-` in ref inserts alt before pos.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..runtime.errors import ConfigError, InputError
from .decompress import is_gzip
from .variants import Record, start_of

_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends a bgzip file."""
_COLUMNS = ("chrom", "pos", "ref", "alt")
VCF_COLUMNS = ("chrom", "pos", "id", "ref", "alt")
"""What of a VCF goes into a table of scores."""
VCF, BCF, TABLE, PARQUET = "vcf", "bcf", "table", "parquet"
_KINDS = {
    ".vcf": VCF, ".vcf.gz": VCF, ".vcf.bgz": VCF, ".bcf": BCF, ".tsv": TABLE, ".tsv.gz": TABLE, ".csv": TABLE,
    ".csv.gz": TABLE, ".parquet": PARQUET,
}  # fmt: skip


def require_pysam() -> None:
    """Raises ConfigError, with what to install, unless pysam is there."""
    if importlib.util.find_spec("pysam") is None:
        raise ConfigError("BCF and bgzip need pysam, which is not installed: pip install 'nucel[variants]'")


def require_pyarrow() -> None:
    """Raises ConfigError, with what to install, unless pyarrow is there."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(".parquet needs pyarrow, which is not installed: pip install 'nucel[embed]'")


def kind_of(path: Path) -> str:
    """What a file of variants is, by its name: "vcf", "bcf", "table" or "parquet".

    Raises:
        InputError: the name ends with nothing that is read.
    """
    for ending, kind in _KINDS.items():
        if path.name.lower().endswith(ending):
            return kind
    raise InputError(f"files of variants end with {', '.join(_KINDS)}; got {path}")


class VariantFile:
    """A file of variants that can be read several times.

    Attributes:
        path: the file.
        kind: "vcf", "bcf", "table" or "parquet".
        columns: a table's columns, as they are written; those of a VCF that go into a table.
    """

    def __init__(self, path: Path):
        self.path, self.kind = path, kind_of(path)
        self.columns: list[str] = list(VCF_COLUMNS)
        if self.kind == BCF:
            require_pysam()
        if self.kind == PARQUET:
            require_pyarrow()
        if self.kind in (VCF, TABLE) and not path.stat().st_size:
            raise InputError(f"{path} is empty")
        _require_whole_bgzip(path)
        if self.kind == TABLE:
            with self._rows() as (header, _):
                self._name_columns(header)
        elif self.kind == PARQUET:
            self._name_columns(self._parquet().schema_arrow.names)

    def _name_columns(self, names: list[str]) -> None:
        self.columns = names
        lower = [name.strip().lstrip("#").lower() for name in names]
        if missing := [name for name in _COLUMNS if lower.count(name) != 1]:
            raise InputError(
                f"{self.path} must have one column {' and one '.join(missing)}; its columns are "
                f"{', '.join(repr(name[:30]) for name in names[:12])}"
            )
        self._at = [lower.index(name) for name in _COLUMNS]

    @property
    def alt_column(self) -> int:
        """Which of the columns holds the alternative alleles."""
        return self.columns.index("alt") if self.kind in (VCF, BCF) else self._at[3]

    def column(self, name: str) -> int:
        """Number of a table's column, its case ignored.

        Raises:
            InputError: there is no such column.
        """
        lower = [column.strip().lower() for column in self.columns]
        if self.kind in (VCF, BCF) or name.lower() not in lower:
            raise InputError(f"{self.path} has no column '{name}'; it has {', '.join(self.columns[:20])}")
        return lower.index(name.lower())

    def header(self) -> list[str]:
        """Lines of a VCF's header, the one that names the columns last.

        Raises:
            InputError: it has none.
        """
        if self.kind == BCF:
            with _bcf(self.path) as file:
                return str(file.header).splitlines()
        lines: list[str] = []
        with _text(self.path) as file:
            for line in file:
                lines.append(line.rstrip("\r\n"))
                if line.startswith("#CHROM"):
                    return lines
                if not line.startswith("##"):
                    break
        raise InputError(f"{self.path} has no line that begins with #CHROM after its header; is it a VCF?")

    def records(self) -> Iterator[Record]:
        """All records, in the file's order.

        Raises:
            InputError: a line that is not a variant, or a damaged file.
        """
        read = {VCF: self._vcf_records, BCF: self._bcf_records, TABLE: self._table_records}
        with _damage_named(self.path):
            yield from read.get(self.kind, self._parquet_records)()

    def _vcf_records(self) -> Iterator[Record]:
        columns = len(self.header()[-1].split("\t"))
        with _text(self.path) as file:
            for number, line in enumerate(file, start=1):
                if line.startswith("#") or not line.strip():
                    continue
                text = line.rstrip("\r\n")
                if text.count("\t") + 1 != columns:
                    raise InputError(
                        f"{self.path}, line {number}: {text.count(chr(9)) + 1} columns where the header has {columns}"
                    )
                yield self._vcf_record(text, f"line {number}")

    def _bcf_records(self) -> Iterator[Record]:
        with _bcf(self.path) as file:
            for number, record in enumerate(file, start=1):
                yield self._vcf_record(str(record).rstrip("\n"), f"record {number}")

    def _vcf_record(self, text: str, where: str) -> Record:
        contig, position, _, ref, alt, *_ = text.split("\t", 5)
        if not position.isdecimal() or not ref or not contig:
            raise InputError(f"{self.path}, {where}: not a contig, a position and alleles: {text[:60]!r}")
        return Record(where, contig, start_of(int(position)), ref, () if alt == "." else tuple(alt.split(",")), text)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        """A table's header, and its rows with their line numbers."""
        delimiter = "," if ".csv" in self.path.name.lower()[-7:] else "\t"
        with _damage_named(self.path), _text(self.path) as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
            header = next(rows, None)
            if header is None:
                raise InputError(f"{self.path} is empty")
            yield [cell.strip() for cell in header[1]], rows

    def _table_records(self) -> Iterator[Record]:
        with self._rows() as (header, rows):
            for number, row in rows:
                if len(row) != len(header):
                    raise InputError(
                        f"{self.path}, line {number}: {len(row)} cells in a table of {len(header)} columns"
                    )
                yield self._table_record(row, f"line {number}")

    def _parquet_records(self) -> Iterator[Record]:
        number = 0
        for batch in self._parquet().iter_batches(batch_size=1024):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield self._table_record(list(row), f"row {number}")

    def _table_record(self, row: list[Any], where: str) -> Record:
        contig, position, ref, alt = ("" if row[i] is None else str(row[i]).strip() for i in self._at)
        if not position.isdecimal() or not contig or not ref:
            raise InputError(f"{self.path}, {where}: not a contig, a position and alleles: {row!r:.80}")
        alts = () if alt in ("", ".") else tuple("" if allele == "-" else allele for allele in alt.split(","))
        return Record(where, contig, start_of(int(position)), "" if ref == "-" else ref, alts, row)

    def _parquet(self) -> Any:
        from pyarrow import ArrowException, parquet  # optional dependency

        try:
            return parquet.ParquetFile(self.path)
        except ArrowException as error:
            raise InputError(f"{self.path} is not a Parquet file, or damaged: {error}") from None

    def types(self) -> list[Any]:
        """Arrow types of a Parquet file's columns."""
        return list(self._parquet().schema_arrow.types)

    def cells(self, record: Record) -> list[Any]:
        """A record's cells under `columns`; that of alt is to be replaced by one allele."""
        if self.kind in (VCF, BCF):
            return record.source.split("\t", 5)[:5]
        return record.source


def open_variants(path: str | Path) -> VariantFile:
    """Open a file of variants, and check what its first bytes and its header can tell.

    Raises:
        InputError: no variants, an unknown ending, missing columns, a damaged file.
        ConfigError: a library that its format needs is not installed.
        OSError: it cannot be read.
    """
    return VariantFile(Path(path))


def _require_whole_bgzip(path: Path) -> None:
    """bgzip ends with an empty block; without it, the file is not whole, though gzip would not notice."""
    with open(path, "rb") as file:
        start = file.read(18)
        if start[:4] == _BGZF_END[:4] and start[12:14] == b"BC":
            file.seek(-min(len(_BGZF_END), path.stat().st_size), 2)
            if file.read() != _BGZF_END:
                raise InputError(f"{path} is truncated: the block that ends a bgzip file is missing; copy it again")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what readers raise for a damaged file into one error that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is a damaged or incomplete gzip file ({error})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file: it is not UTF-8 ({error.reason})") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a regular table: {error}") from None


def _text(path: Path) -> IO[str]:
    opener = gzip.open if is_gzip(path) else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


@contextlib.contextmanager
def _bcf(path: Path) -> Iterator[Any]:
    import pysam  # optional dependency

    verbosity = pysam.set_verbosity(0)  # what is wrong is said by our own errors
    try:
        with pysam.VariantFile(str(path)) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a BCF file, or damaged: {error}") from None
    finally:
        pysam.set_verbosity(verbosity)
