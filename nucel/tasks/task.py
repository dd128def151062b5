"""A prediction task: tables of labelled sequences to train on, to select by, and to test on.

Labels are classes, two or more, or numbers to predict. Test sequences that training has seen are counted, since every
figure on them is worth less.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..genome.sequences import InputOptions, Sequences, read_sequences
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is read from its tables."""

    sequence_column: str = "sequence"
    """Column of the sequences."""
    label_column: str = "label"
    """Column of the classes or numbers."""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """auto is regression where all labels are numbers and one is not whole, else classification."""
    max_train: int | None = None
    """Train on so many rows of the training table, drawn once, the same for all seeds and models."""
    drop_leaked: bool = False
    """Leave out test sequences that occur in the training table, on either strand."""


class Split(NamedTuple):
    """One table of a task."""

    sequences: Sequences
    targets: np.ndarray
    """int64 (n,), each row's class by its number, or float64 (n,)."""

    def take(self, rows: np.ndarray) -> Split:
        return Split(self.sequences.take(rows), self.targets[rows])


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned.

    Attributes:
        labels: names of the classes, K of them, in the order of their numbers; None for regression.
        train, dev, test: the tables, as `TaskOptions` asks for them.
        leaked: test sequences, before any is left out, that occur in the whole training table.
        leaked_reverse: further ones whose reverse complement does.
    """

    labels: tuple[str, ...] | None
    train: Split
    dev: Split
    test: Split
    leaked: int
    leaked_reverse: int

    @property
    def outputs(self) -> int:
        """Numbers that a network gives for a sequence."""
        return 1 if self.labels is None else len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the tokens and the targets of all tables."""
        digest = hashlib.sha256(repr(self.labels).encode())
        for split in (self.train, self.dev, self.test):
            for tokens in split.sequences.tokens:
                digest.update(tokens.tobytes() + b"\0")
            digest.update(split.targets.tobytes())
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Rows of each table, and what leaks from one into the other."""
        rows = {name: len(getattr(self, name).targets) for name in ("train", "dev", "test")}
        return {**rows, "leaked": self.leaked, "leaked_reverse": self.leaked_reverse}


def read_task(train: Path, dev: Path, test: Path, options: TaskOptions | None = None) -> Task:
    """Read a task from its three tables.

    Raises:
        InputError: a table that is not right, a label that is missing, no number, or of no class of the training table,
            or a training table of one class; the line is named.
        OSError: a table cannot be read.
    """
    options = options or TaskOptions()
    columns = InputOptions(sequence_column=options.sequence_column)
    tables = [read_sequences(path, columns) for path in (train, dev, test)]
    kind = options.kind
    if kind == "auto":
        kind = "regression" if _are_measurements(tables[0].column(options.label_column)) else "classification"
    labels = _classes(tables[0], options.label_column) if kind == "classification" else None
    splits = [Split(table, targets_of(table, options.label_column, labels)) for table in tables]
    if labels is None and np.ptp(splits[0].targets) == 0:
        raise InputError(f"{train}: all numbers to predict are {splits[0].targets[0]}")

    same, reverse = _leaks(tables[0], tables[2])
    task = Task(labels, *splits, leaked=int(same.sum()), leaked_reverse=int((reverse & ~same).sum()))
    if options.drop_leaked:
        kept = np.flatnonzero(~(same | reverse))
        if not kept.size:
            raise InputError(f"{test}: every sequence occurs in {train}, so that --drop-leaked leaves none")
        task = replace(task, test=task.test.take(kept))
    if options.max_train is not None and options.max_train < len(tables[0]):
        rows = np.random.default_rng(0).permutation(len(tables[0]))[: options.max_train]
        task = replace(task, train=task.train.take(np.sort(rows)))
        if labels is not None and len(np.unique(task.train.targets)) < len(labels):
            raise InputError(f"{train}: {options.max_train} of its rows do not hold all classes; raise --max-train")
    return task


def targets_of(table: Sequences, column: str, labels: tuple[str, ...] | None) -> np.ndarray:
    """Each row's class by its number, int64 (n,), or its number to predict, float64 (n,), where labels is None.

    Raises:
        InputError: a label that is missing, none of the classes, or no finite number; the line is named.
    """
    number = {label: i for i, label in enumerate(labels)} if labels is not None else None
    targets = []
    for cell, line in zip(table.column(column), table.where, strict=True):
        text = cell.strip()
        if number is not None:
            if text not in number:
                classes = ", ".join(number)
                raise InputError(
                    f"{table.source}, {line}: label {text[:30]!r} is not one of the trained classes: {classes}"
                )
            targets.append(number[text])
        else:
            value = _number(text)
            if value is None:
                raise InputError(f"{table.source}, {line}: {text[:30]!r} is not a number")
            targets.append(value)
    return np.array(targets, np.float64 if number is None else np.int64)


def _number(text: str) -> float | None:
    """The finite number that a cell holds, if it does."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _are_measurements(cells: list[str]) -> bool:
    numbers = [_number(cell) for cell in cells]
    return all(x is not None for x in numbers) and any(not x.is_integer() for x in numbers)


def _classes(table: Sequences, column: str) -> tuple[str, ...]:
    """The distinct labels of a table, whole numbers in their order, else by the alphabet."""
    cells = [cell.strip() for cell in table.column(column)]
    if "" in cells:
        raise InputError(f"{table.source}, {table.where[cells.index('')]}: the label is empty")
    found = set(cells)
    if len(found) < 2:
        raise InputError(f"{table.source}: every row has the label {cells[0][:30]!r}; a task needs two classes or more")
    if len(found) > max(2, len(cells) // 2):
        raise InputError(
            f"{table.source}: {len(found)} different labels in {len(cells)} rows are too many for classes; "
            f"are they numbers (--kind regression), or is this another column?"
        )
    whole = all(label.lstrip("-").isdecimal() for label in found)
    return tuple(sorted(found, key=int if whole else str))


def _leaks(train: Sequences, test: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Which test sequences, and which of their reverse complements, occur in train, bool (n,) each."""
    known = {tokens.tobytes() for tokens in train.tokens}
    same = [tokens.tobytes() in known for tokens in test.tokens]
    reverse = [nucleotide.reverse_complement(tokens).tobytes() in known for tokens in test.tokens]
    return np.array(same), np.array(reverse)


def require_context(task: Task, context: int | None) -> None:
    """Refuse a task with sequences of more tokens than a context.

    Raises:
        InputError: names the first of them.
    """
    if context is not None:
        for split in (task.train, task.dev, task.test):
            split.sequences.require_within(context)


def describe_task(task: Task) -> str:
    """One line on what a task is."""
    sizes = task.sizes()
    kind = "regression" if task.labels is None else f"classes {', '.join(task.labels)}"
    rows = f"{sizes['train']:,} to train on, {sizes['dev']:,} dev, {sizes['test']:,} test"
    leaks = sizes["leaked"] + sizes["leaked_reverse"]
    warning = f"; {leaks} test sequences occur in train (--drop-leaked leaves them out)" if leaks else ""
    return f"{kind}; {rows}{warning}"


_PARTS = ("train", "dev", "test")
_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def find_tasks(folders: tuple[Path, ...]) -> dict[str, tuple[Path, Path, Path]]:
    """The tables train, dev and test of every task, by the task's name, in alphabetical order.

    Raises:
        ConfigError: no task, two of one name, or one that lacks a table.
    """
    tasks: dict[str, tuple[Path, Path, Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder of tasks")
        for task in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
            found = {part: [task / (part + s) for s in _SUFFIXES if (task / (part + s)).is_file()] for part in _PARTS}
            if not any(found.values()):
                continue
            name = task.relative_to(folder).as_posix() if task != folder else folder.resolve().name
            for part, paths in found.items():
                if len(paths) != 1:
                    raise ConfigError(f"{task} must hold one table {part} ({', '.join(_SUFFIXES)}), has {len(paths)}")
            if name in tasks:
                raise ConfigError(f"two tasks are named {name}: {tasks[name][0].parent} and {task}")
            tasks[name] = tuple(found[part][0] for part in _PARTS)
    if not tasks:
        raise ConfigError(f"no folder below {', '.join(map(str, folders))} holds tables train, dev and test")
    return dict(sorted(tasks.items()))
