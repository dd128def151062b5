"""Rows and labels of Genomic Benchmarks and of the Nucleotide Transformer's tasks, from their own files."""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..genome.fasta import Genome
from ..genome.loci import Reference
from ..genome.sequences import SequenceOptions, Sequences, parse_bases
from ..runtime.errors import ConfigError, InputError
from ..tasks.task import Labelled

# ---- Genomic Benchmarks ----------------------------------------------------------------------------------------------


def classes_of(part: Path) -> dict[str, Path]:
    """Folders of text files and tables of regions, by class."""
    if not part.is_dir():
        return {}
    found = {path.name: path for path in sorted(part.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    for path in sorted(part.iterdir()):
        if path.is_file() and path.name.removesuffix(".gz").endswith(".csv"):
            found[path.name.removesuffix(".gz").removesuffix(".csv")] = path
    return found


def class_parts(train: Path, test: Path, columns: SequenceOptions) -> list[Labelled]:
    """Both tables of a task of Genomic Benchmarks.

    Raises:
        InputError: a class that one part lacks, an empty class or file, or a region that cannot be read; all are named.
    """
    classes = {part: classes_of(part) for part in (train, test)}
    for part, other in ((train, test), (test, train)):
        for name in sorted(classes[other].keys() - classes[part].keys()):
            raise InputError(f"{part} has no class {name}, which {classes[other][name]} has")
    return [_read_classes(part, found, columns) for part, found in classes.items()]


def _read_classes(part: Path, classes: dict[str, Path], columns: SequenceOptions) -> Labelled:
    names, tokens, where, labels = [], [], [], []
    for name, source in sorted(classes.items()):
        rows = list(_text_files(source) if source.is_dir() else _regions(source, columns))
        if not rows:
            raise InputError(f"{source}: class {name} has no sequence")
        for row, sequence, place in rows:
            names.append(row)
            tokens.append(sequence)
            where.append(place)
            labels.append(name)
    return Labelled(Sequences(part, names, tokens, where, {}), labels)


def _text_files(folder: Path) -> Iterator[tuple[str, np.ndarray, str]]:
    """Name, tokens and place of the sequence in each .txt file, in the order of their numbers."""
    paths = (path for path in folder.iterdir() if path.suffix == ".txt")
    for path in sorted(paths, key=lambda path: (int(path.stem) if path.stem.isdecimal() else -1, path.name)):
        place = f"{folder.name}/{path.name}"
        yield f"{folder.name}/{path.stem}", parse_bases(path.read_text(encoding="utf-8"), str(path)), place


_REGION_FIELDS = ("region", "start", "end")


def _regions(path: Path, columns: SequenceOptions) -> Iterator[tuple[str, np.ndarray, str]]:
    """Name, tokens and place of each row: id, region, start, end (0-based, half-open), strand, + where it is missing.

    Raises:
        InputError: no genome is given, a column is missing, or a region is not on the genome.
    """
    if columns.genome is None:
        raise InputError(f"{path} has regions but no sequences; give the FASTA they are of with --genome")
    reference = _reference(columns.genome, columns.cache_dir)
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _REGION_FIELDS if name not in (reader.fieldnames or ())]:
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {reader.fieldnames}")
        for row in reader:
            place = f"{path.name}, line {reader.line_num}"
            yield row.get("id") or str(reader.line_num), _fetched(reference, row, path, reader.line_num), place


def _fetched(reference: Reference, row: dict[str, Any], path: Path, line: int) -> np.ndarray:
    strand = (row.get("strand") or "+").strip() or "+"
    try:
        start, end = int(row["start"]), int(row["end"])
    except (TypeError, ValueError):
        raise InputError(f"{path}, line {line}: start and end must be whole numbers") from None
    place = reference.locate(row["region"], start, end) if 0 <= start < end else "empty"
    if isinstance(place, str) or strand not in ("+", "-"):
        region = f"{row['region']}:{start}-{end}({strand})"
        raise InputError(f"{path}, line {line}: {region} cannot be read from {reference.genome} ({place})")
    number, first = place
    return reference.genome.fetch(number, first, first + end - start, strand)


@functools.lru_cache(maxsize=1)
def _reference(genome: Path, cache: Path | None) -> Reference:
    return Reference(Genome(genome, cache, copy_beside=cache is None))


# ---- NT --------------------------------------------------------------------------------------------------------------


def fasta_parts(paths: tuple[Path, Path], columns: SequenceOptions) -> list[Labelled]:
    """Both tables of a task of NT, from train.fna and test.fna.

    Raises:
        InputError: a header without a label, an empty sequence, or a label out of range; the record is named.
    """
    return _numbered([_read_fna(path, columns) for path in paths])


def _read_fna(path: Path, columns: SequenceOptions) -> Labelled:
    genome = Genome(path, columns.cache_dir, copy_beside=columns.cache_dir is None, distinct_names=False)
    headers = [f"{a} {b}".rstrip() for a, b in zip(genome.contigs, genome.descriptions, strict=True)]
    labels = []
    for i, header in enumerate(headers):
        name, bar, label = header.rpartition("|")
        if not bar or not name:
            raise InputError(f"{path}, record '{header}': the header must be name|label")
        if not genome.lengths[i]:
            raise InputError(f"{path}, record '{header}': the sequence is empty")
        labels.append(label.strip())
    tokens = [genome.fetch(i) for i in range(len(headers))]
    where = [f"record '{header}'" for header in headers]
    return Labelled(Sequences(path, [header.rpartition("|")[0] for header in headers], tokens, where, {}), labels)


def _numbered(parts: list[Labelled]) -> list[Labelled]:
    """Labels of NT are 0 ... K - 1, K the classes of the training table.

    Raises:
        InputError: another label; the file and the record are named.
    """
    classes = len(set(parts[0].labels))
    for sequences, labels in ((part.sequences, part.labels) for part in parts):
        for label, place in zip(labels, sequences.where, strict=True):
            if not label.isdecimal() or int(label) >= classes:
                raise InputError(
                    f"{sequences.source}, {place}: label {label!r} is not a whole number below {classes}, the number "
                    f"of classes in {parts[0].sequences.source}"
                )
    return parts


def parquet_tasks(paths: list[Path]) -> list[str | None]:
    """The tasks in the column task of Parquet files; None, for all rows, where there is no such column."""
    if "task" not in _pyarrow().read_schema(paths[0]).names:
        return [None]
    return sorted(set(_parquet(paths, ["task"])["task"]))


def parquet_parts(train: list[Path], test: list[Path], task: str | None, columns: SequenceOptions) -> list[Labelled]:
    """Both tables of a task of NT, from Parquet files; errors as of `fasta_parts`."""
    return _numbered([_read_parquet(paths, task) for paths in (train, test)])


def _read_parquet(paths: list[Path], task: str | None) -> Labelled:
    table = _parquet(paths, ["sequence", "label"], ["name"])
    tasks = _parquet(paths, ["task"])["task"] if task is not None else []
    rows = [i for i in range(len(table["sequence"])) if task is None or tasks[i] == task]
    source = paths[0] if len(paths) == 1 else paths[0].parent
    if not rows:
        raise InputError(f"{source} has no row of task {task}")
    where = [f"row {i}" for i in rows]
    tokens = [parse_bases(table["sequence"][i] or "", f"{source}, row {i}") for i in rows]
    names = [str(table["name"][i]) if "name" in table else str(i) for i in rows]
    return Labelled(Sequences(source, names, tokens, where, {}), [str(table["label"][i]) for i in rows])


def _parquet(paths: list[Path], columns: list[str], optional: list[str] | None = None) -> dict[str, list]:
    parquet = _pyarrow()
    found: dict[str, list] = {}
    for path in paths:
        names = parquet.read_schema(path).names
        if missing := [name for name in columns if name not in names]:
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
        wanted = columns + [name for name in optional or [] if name in names]
        for name, cells in parquet.read_table(path, columns=wanted).to_pydict().items():
            found.setdefault(name, []).extend(cells)
    return found


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet  # optional dependency
    except ModuleNotFoundError:
        raise ConfigError("Parquet needs pyarrow, which is not installed: pip install 'nucel[embed]'") from None
    return parquet
