"""Scored variants as files: VCF and BCF with new INFO keys, and tables (.tsv, .tsv.gz, .parquet), written as they come.

A VCF's lines keep their text: only INFO grows, by NUCEL_<SCORE> (Number=A, Float) and NUCEL_STATUS. The header gains
those keys, what they were made with, and contigs that it lacked. A table has a row for each alternative allele:
the input's columns, then window_start, window_end (0-based, half-open), unknown_near, status and the scores. What a
table was made with is in Parquet's metadata under "nucel", and beside a TSV in FILE.json.

Every file is written under a temporary name and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..genome.variant_files import BCF, PARQUET, VCF, require_pyarrow, require_pysam
from ..genome.variants import Record
from ..runtime import files
from ..runtime.errors import ConfigError, InputError
from .saturation import Source
from .variant_effect import Scored
from .variant_scores import IS_DISTANCE

Write = Callable[[Sequence[Record], Scored], None]
"""Takes records in their order, and the scores of all their alternative alleles, one after the other."""
_VCF_ENDINGS = (".vcf", ".vcf.gz", ".bcf")
ADDED_COLUMNS = ("window_start", "window_end", "unknown_near", "status")


class Contents(NamedTuple):
    """What a file will hold, known before anything is computed."""

    source: Source
    scores: tuple[str, ...]
    contigs: tuple[str, ...]
    """Names that the records use, for the header of a VCF that lacks some."""
    about: dict[str, Any]
    """What the scores are made with."""


def require_format(path: Path, source: Source) -> str:
    """The ending of a file name that can be written from a source.

    Raises:
        ConfigError: no such format, or not from this source, or a library is missing.
    """
    ending = next((e for e in _WRITERS if path.name.endswith(e)), None)
    if ending is None:
        raise ConfigError(f"--out must end with {', '.join(_WRITERS)}, got {path}")
    if ending in _VCF_ENDINGS and source.kind not in (VCF, BCF):
        raise ConfigError(f"{ending} is written from a VCF or BCF only; give --out a name that ends with .tsv")
    if ending in (".vcf.gz", ".bcf"):
        require_pysam()
    if ending == ".parquet":
        require_pyarrow()
    return ending


@contextlib.contextmanager
def writing(path: Path, contents: Contents) -> Iterator[Write]:
    """A function that takes scored records, in order; they become the file `path` when all went well.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """
    ending = require_format(path, contents.source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _WRITERS[ending]
    for leftover in files.leftovers(path):  # of a killed process; no two may write one file anyway
        files.remove(leftover)
    with files.replacing(path) as temporary, write(temporary, contents) as sink:
        yield sink
    if ending.startswith(".tsv"):
        files.write_text(path.with_name(path.name + ".json"), json.dumps(contents.about, indent=2) + "\n")


# ---- VCF and BCF -----------------------------------------------------------------------------------------------------


def info_key(score: str) -> str:
    return f"NUCEL_{score.upper()}"


def _header(contents: Contents) -> list[str]:
    """The source's header with our lines before the one that names the columns."""
    source: Any = contents.source
    *lines, columns = source.header()
    ours = {"NUCEL_STATUS", *map(info_key, contents.scores)}
    lines = [line for line in lines if not any(line.startswith(f"##INFO=<ID={key},") for key in ours)]
    there = {line.split("ID=", 1)[1].split(",")[0].rstrip(">") for line in lines if line.startswith("##contig=<")}
    lines += [f"##contig=<ID={name}>" for name in contents.contigs if name not in there]
    lines += [f"##nucel_{key}={value}" for key, value in contents.about.items()]
    for score in contents.scores:
        kind = "distance of both alleles" if score in IS_DISTANCE else "alt against ref, below 0: alt fits less"
        lines.append(f'##INFO=<ID={info_key(score)},Number=A,Type=Float,Description="NucEL {score}: {kind}">')
    lines.append(
        '##INFO=<ID=NUCEL_STATUS,Number=A,Type=String,Description="ok, or why NucEL scores are missing or partial">'
    )
    return [*lines, columns]


def _annotated(record: Record, scored: Scored, ours: set[str]) -> str:
    """A VCF's line with the scores of its alternative alleles."""
    if not record.alts:
        return record.source
    before, info, *after = _split_info(record.source)
    kept = [item for item in info.split(";") if item not in ("", ".") and item.partition("=")[0] not in ours]
    kept += [f"{info_key(name)}={','.join(map(_number, values))}" for name, values in scored.scores.items()]
    kept.append(f"NUCEL_STATUS={','.join(scored.status)}")
    return "\t".join([before, ";".join(kept), *after])


def _split_info(line: str) -> list[str]:
    """The first seven columns, INFO, and what follows."""
    columns = line.split("\t", 8)
    return ["\t".join(columns[:7]), *columns[7:]]


def _number(value: float) -> str:
    return "." if math.isnan(value) else format(value, ".8g")


def _vcf_to(file: Any, contents: Contents) -> Write:
    ours = {"NUCEL_STATUS", *map(info_key, contents.scores)}
    file.write("\n".join(_header(contents)) + "\n")

    def write(records: Sequence[Record], scored: Scored) -> None:
        done, lines = 0, []
        for record in records:
            lines.append(_annotated(record, scored.part(done, done + len(record.alts)), ours))
            done += len(record.alts)
        file.write("\n".join(lines) + "\n" if lines else "")

    return write


@contextlib.contextmanager
def _vcf(path: Path, contents: Contents) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        yield _vcf_to(file, contents)


class _Bgzip:
    """pysam's bgzip writer, as a text file."""

    def __init__(self, path: Path):
        import pysam  # optional dependency

        self._file = pysam.BGZFile(str(path), "w")

    def write(self, text: str) -> None:
        self._file.write(text.encode())

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _vcf_gz(path: Path, contents: Contents) -> Iterator[Write]:
    with contextlib.closing(_Bgzip(path)) as file:
        yield _vcf_to(file, contents)


@contextlib.contextmanager
def _bcf(path: Path, contents: Contents) -> Iterator[Write]:
    """The VCF as text first, which bcftools turns into BCF: it leaves END and all else as it is."""
    text = path.with_name(path.name + ".tmp")
    try:
        with _vcf(text, contents) as write:
            yield write
        _define_all(text)
        import pysam.bcftools  # optional dependency

        try:
            pysam.bcftools.view("-Ob", "--no-version", "-o", str(path), str(text), catch_stdout=False)
        except pysam.SamtoolsError as error:
            raise InputError(f"{contents.source.path} cannot be written as BCF, .vcf.gz may do: {error}") from None
    finally:
        files.remove(text)


def _define_all(path: Path) -> None:
    """Add header lines for keys that a VCF uses without defining them: in text that passes, in BCF it does not."""
    import pysam  # optional dependency

    verbosity = pysam.set_verbosity(0)
    try:
        with pysam.VariantFile(str(path)) as file:
            before = str(file.header)
            for _ in file:  # htslib defines what it meets
                pass
            after = str(file.header)
    finally:
        pysam.set_verbosity(verbosity)
    if after != before:
        with files.replacing(path) as whole, open(path, encoding="utf-8") as old, open(whole, "w", newline="\n") as new:
            new.write(after)
            new.writelines(line for line in old if not line.startswith("#"))


# ---- tables ----------------------------------------------------------------------------------------------------------


def _rows(source: Source, records: Sequence[Record], scored: Scored) -> Iterator[tuple[list[Any], int | None]]:
    """The input's cells for each allele with the allele's number; a record without any has one row, and None."""
    done = 0
    for record in records:
        cells = list(source.cells(record))
        for alt in record.alts:
            cells[source.alt_column] = alt or "-"
            yield list(cells), done
            done += 1
        if not record.alts:
            yield cells, None


@contextlib.contextmanager
def _tsv(path: Path, contents: Contents, opener: Callable[..., Any] = open) -> Iterator[Write]:
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow([*contents.source.columns, *ADDED_COLUMNS, *contents.scores])

        def write(records: Sequence[Record], scored: Scored) -> None:
            for cells, i in _rows(contents.source, records, scored):
                table.writerow([*cells, *_added(scored, i, contents.scores)])

        yield write


def _added(scored: Scored, i: int | None, scores: tuple[str, ...]) -> list[str]:
    """Our cells of a TSV's row."""
    if i is None or scored.window_start_bp[i] < 0:
        status = "unsupported" if i is None else scored.status[i]
        return ["", "", "nan", status, *["nan"] * len(scores)]
    window = scored.window_start_bp[i], scored.window_end_bp[i]
    numbers = [format(scored[name][i], ".8g") for name in scores]
    return [*map(str, window), format(scored.unknown_near[i], ".4g"), scored.status[i], *numbers]


@contextlib.contextmanager
def _parquet(path: Path, contents: Contents) -> Iterator[Write]:
    import pyarrow as pa  # optional dependency
    from pyarrow import parquet

    source: Any = contents.source
    scores = contents.scores
    kinds = [pa.string()] * len(source.columns)
    if source.kind == PARQUET:
        kinds = [*source.types()]
    kinds[source.alt_column] = pa.string()
    fields = [*zip(source.columns, kinds, strict=True), ("window_start", pa.int64()), ("window_end", pa.int64())]
    fields += [("unknown_near", pa.float64()), ("status", pa.string()), *((name, pa.float64()) for name in scores)]
    schema = pa.schema(fields, metadata={"nucel": json.dumps(contents.about)})

    def write(records: Sequence[Record], scored: Scored) -> None:
        rows = [[*cells, *_values(scored, i, scores)] for cells, i in _rows(source, records, scored)]
        columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    with parquet.ParquetWriter(path, schema) as writer:
        yield write


def _values(scored: Scored, i: int | None, scores: tuple[str, ...]) -> list[Any]:
    """Our values of a Parquet file's row."""
    if i is None or scored.window_start_bp[i] < 0:
        return [None, None, math.nan, "unsupported" if i is None else scored.status[i], *[math.nan] * len(scores)]
    window = int(scored.window_start_bp[i]), int(scored.window_end_bp[i])
    return [*window, float(scored.unknown_near[i]), scored.status[i], *(float(scored[name][i]) for name in scores)]


_WRITERS: dict[str, Any] = {
    ".vcf": _vcf, ".vcf.gz": _vcf_gz, ".bcf": _bcf, ".tsv": _tsv, ".tsv.gz": functools.partial(_tsv, opener=gzip.open),
    ".parquet": _parquet,
}  # fmt: skip
