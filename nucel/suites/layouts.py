"""Tasks on disk as the published suites lay them out; each becomes labelled tables.

| suite | on disk |
|---|---|
| tables (GUE and others) | TASK/{train,dev,test}.csv or .tsv, with columns of sequences and labels |
| Genomic Benchmarks | TASK/{train,test}/CLASS/*.txt, a sequence a file; or TASK/{train,test}/CLASS.csv of regions |
| Nucleotide Transformer (NT) | TASK/{train,test}.fna, headers name|label; or Parquet with sequence, name, label, task |

Classes are numbered by their names in sorted order. The last two have no dev table: a share of the training table is
drawn for each seed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..genome.sequences import SequenceOptions
from ..runtime.errors import ConfigError, InputError
from ..tasks.folders import find_tasks
from ..tasks.task import Labelled, Split, Task, TaskOptions, leaks, read_task
from .layout_readers import class_parts, classes_of, fasta_parts, parquet_parts, parquet_tasks

TABLES, GENOMIC_BENCHMARKS = "tables", "Genomic Benchmarks"
NT_REVISED, NT_FIRST, NT = "NT, revised", "NT, first version", "NT"
_ONLY_REVISED = {"H2AFZ", "H3K27ac", "H3K27me3", "H3K9me3", "H4K20me1"}
_ONLY_FIRST = {"H3", "H3K14ac", "H3K79me3", "H4", "H4ac"}
"""Histone marks that one version of the NT tasks has and the other has not."""
DEV_SHARE = 0.1


class Layout(NamedTuple):
    """A task that was found."""

    suite: str
    has_dev: bool
    read: Callable[[TaskOptions, SequenceOptions], Task]
    """Without a dev table of its own, the task's `dev` is empty until `with_dev`."""

    def metric(self, task: Task, name: str) -> str:
        """What the suite's papers report: MCC, but accuracy for Genomic Benchmarks and F1 for GUE's covid variants."""
        if task.labels is None:
            return "pearson"
        if self.suite == TABLES:
            return "f1" if "covid" in name else "mcc"
        return "accuracy" if self.suite == GENOMIC_BENCHMARKS else "mcc"


def find_layouts(folders: tuple[Path, ...]) -> dict[str, Layout]:
    """Every task below these folders, by its path below them, in alphabetical order.

    Raises:
        ConfigError: no task in one of the folders, two of one name, or one that lacks a table.
    """
    found: dict[str, Layout] = {}
    for folder in folders:
        own = dict(_folders(folder)) if folder.is_dir() else {}
        if not own:
            own = {name: _tables(paths) for name, paths in find_tasks((folder,)).items()}
        for name, layout in own.items():
            if name in found:
                raise ConfigError(f"two tasks are named {name}, one of them below {folder}")
            found[name] = layout
    return dict(sorted(found.items()))


def _folders(root: Path) -> Iterator[tuple[str, Layout]]:
    """Tasks of Genomic Benchmarks and of NT; a folder inside a task is none."""
    fna: dict[str, tuple[Path, Path]] = {}
    for folder in sorted({root, *(path for path in root.rglob("*") if path.is_dir())}):
        name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
        parts = [folder / part for part in ("train", "test")]
        if any(classes_of(part) for part in parts):
            yield name, _drawn(GENOMIC_BENCHMARKS, functools.partial(class_parts, folder / "train", folder / "test"))
        fastas = [_one(folder, part, (".fna", ".fna.gz")) for part in ("train", "test")]
        if any(fastas):
            fna[name] = _both(folder, fastas, ".fna")
        train, test = (sorted(folder.glob(f"{part}*.parquet")) for part in ("train", "test"))
        if train or test:
            if not (train and test):
                raise ConfigError(f"{folder} must hold train*.parquet and test*.parquet, has one of the two")
            tasks = parquet_tasks(train)
            suite = nt_version({one or name.split("/")[-1] for one in tasks})
            for one in tasks:
                yield one or name, _drawn(suite, functools.partial(parquet_parts, train, test, one))
    for name, paths in fna.items():
        suite = nt_version({other.split("/")[-1] for other in fna})
        yield name, _drawn(suite, functools.partial(fasta_parts, paths))


def nt_version(tasks: set[str]) -> str:
    """Which version of the NT tasks these are of: both have marks of one name, but on other genomes."""
    revised, first = tasks & _ONLY_REVISED, tasks & _ONLY_FIRST
    return NT if bool(revised) == bool(first) else NT_REVISED if revised else NT_FIRST


def _one(folder: Path, part: str, endings: tuple[str, ...]) -> Path | None:
    return next((path for end in endings if (path := folder / f"{part}{end}").is_file()), None)


def _both(folder: Path, paths: list[Path | None], kind: str) -> tuple[Path, Path]:
    train, test = paths
    if train is None or test is None:
        raise ConfigError(f"{folder} must hold train{kind} and test{kind}, has one of the two")
    return train, test


def _tables(paths: tuple[Path, Path, Path]) -> Layout:
    def read(options: TaskOptions, columns: SequenceOptions) -> Task:
        return read_task(*paths, options, columns)

    return Layout(TABLES, True, read)


# ---- tables without a dev table --------------------------------------------------------------------------------------


def _drawn(suite: str, parts: Callable[[SequenceOptions], list[Labelled]]) -> Layout:
    """A task of a training and a test table."""

    def read(options: TaskOptions, columns: SequenceOptions) -> Task:
        train, test = parts(columns)
        none = Labelled(train.sequences.take(np.empty(0, np.int64)), [])
        return read_task(train, none, test, dataclasses.replace(options, kind="classification"), columns)

    return Layout(suite, False, read)


def with_dev(task: Task, seed: int, share: float = DEV_SHARE) -> Task:
    """The task with a share of its training rows as its dev table, drawn by a seed.

    Raises:
        InputError: a class has no training row left.
    """
    order = np.random.default_rng(seed).permutation(len(task.train.targets))
    number = max(1, round(share * len(order)))
    dev, train = (task.train.take(np.sort(rows)) for rows in (order[:number], order[number:]))
    if missing := set(range(task.outputs)) - set(train.targets.tolist()):
        lost = ", ".join((task.labels or ())[i] for i in sorted(missing))
        raise InputError(f"{train.sequences.source}: without the dev rows of seed {seed}, no row is of class {lost}")
    leaked = int(np.logical_or(*leaks(train.sequences, dev.sequences)).sum())
    return dataclasses.replace(task, train=train, dev=dev, leaked_dev=leaked)


def cut(task: Task, room: int) -> tuple[Task, int]:
    """The task with sequences cut to their first `room` bases, and how many were longer."""
    longer = 0

    def shortened(split: Split) -> Split:
        nonlocal longer
        longer += sum(len(tokens) > room for tokens in split.sequences.tokens)
        tokens = [tokens[:room] for tokens in split.sequences.tokens]
        return split._replace(sequences=dataclasses.replace(split.sequences, tokens=tokens))

    train, dev, test = map(shortened, task.splits)
    return dataclasses.replace(task, train=train, dev=dev, test=test), longer
