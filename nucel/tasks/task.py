"""A prediction task: labelled sequences to train on, to select by, and to test on.

Labels are classes, two or more, or numbers to predict. Sequences of dev and test that occur in the training table are
counted, since every metric on them is worth less.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..genome.sequences import SequenceOptions, Sequences
from ..runtime.errors import ConfigError, InputError, require
from ..tokenizers import nucleotide
from .labels import Kind, class_names, class_numbers, measured_numbers, numbers_to_predict, require_spread
from .splitting import SplitBy, parse_shares, split_rows
from .tables import Labelled, Source, read_labelled

Inputs = tuple[list[np.ndarray], ...]
"""Token ids of each row's one sequence, or of its two: lists of n arrays uint8 (length,)."""
PARTS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is read from its tables."""

    label_column: str = "label"
    """Column of the classes or numbers; of a BED file, name or score."""
    kind: Kind = "auto"
    """auto is regression where all labels are numbers and one is not whole, else classification."""
    split: str | None = None
    """Shares of train, dev and test, such as 80,10,10: split the training table, and give no --dev and --test."""
    split_by: SplitBy = "rows"
    """What is kept together by --split: rows alone, all rows of a contig (columns contig, chrom, ..., or names such as
    chr1:100-200), or a cluster of sequences that share many 12-mers."""
    max_train: int | None = None
    """Train on so many rows of the training table, drawn once, the same for all seeds and models."""
    drop_leaked: bool = False
    """Leave out test sequences that occur in the training table, on either strand."""

    def __post_init__(self) -> None:
        require(self.max_train is None or self.max_train >= 2, f"max_train must be at least 2, got {self.max_train}")
        if self.split is not None:
            parse_shares(self.split)


class Split(NamedTuple):
    """One table of a task."""

    sequences: Sequences
    targets: np.ndarray
    """int64 (n,), each row's class by its number, or float64 (n,), or (n, K) with nan where nothing was measured."""
    labels: Sequence[str] = ()
    """Each row's label as it stands in the table."""
    second: Sequences | None = None
    """The other sequence of each row, where a row has two."""

    @property
    def inputs(self) -> tuple[list[np.ndarray], ...]:
        """Token ids of each row's one sequence, or of its two: lists of n arrays uint8 (length,)."""
        return tuple(part.tokens for part in (self.sequences, self.second) if part is not None)

    def take(self, rows: np.ndarray) -> Split:
        labels = [self.labels[i] for i in rows.tolist()] if self.labels else ()
        second = None if self.second is None else self.second.take(rows)
        return Split(self.sequences.take(rows), self.targets[rows], labels, second)


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned.

    Attributes:
        labels: names of the classes, K of them, in the order of their numbers; None for regression.
        train, dev, test: the tables, as `TaskOptions` asks for them.
        leaked: test sequences, before any is left out, that occur in the whole training table.
        leaked_reverse: further ones whose reverse complement does.
        leaked_dev: dev sequences that occur in the whole training table, on either strand.
        target_names: columns of the numbers to predict, where there are several.
    """

    labels: tuple[str, ...] | None
    train: Split
    dev: Split
    test: Split
    leaked: int
    leaked_reverse: int
    leaked_dev: int = 0
    target_names: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that a network gives for a sequence."""
        return len(self.target_names) or 1 if self.labels is None else len(self.labels)

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.dev, self.test

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the tokens and the targets of all tables."""
        digest = hashlib.sha256(repr(self.labels).encode())
        for split in self.splits:
            for tokens in itertools.chain(*split.inputs):
                digest.update(tokens.tobytes() + b"\0")
            digest.update(split.targets.tobytes())
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Rows of each table, and what leaks from one into the other."""
        rows = {name: len(split.targets) for name, split in zip(PARTS, self.splits, strict=True)}
        leaks = {"leaked": self.leaked, "leaked_reverse": self.leaked_reverse, "leaked_dev": self.leaked_dev}
        return {**rows, **leaks}

    def require_context(self, context: int | None) -> None:
        """Refuse sequences of more tokens than a context.

        Raises:
            InputError: names the first of them.
        """
        if context is not None:
            for split in self.splits:
                split.sequences.require_within(context)

    def require_one_input(self) -> None:
        """Refuse rows of two sequences and several numbers a row, for what trains on one of each.

        Raises:
            ConfigError: says who takes them.
        """
        if self.target_names or self.train.second is not None:
            raise ConfigError(
                f"{self.train.sequences.source} has {'two sequences' if self.train.second else 'several numbers'} in "
                f"a row; python -m nucel.probe takes such tables, fine-tuning takes one sequence and one label"
            )

    def describe(self) -> str:
        """One line on what a task is."""
        sizes = self.sizes()
        kind = "regression" if self.labels is None else f"classes {', '.join(self.labels)}"
        kind += f" of {len(self.target_names)} numbers" if self.target_names else ""
        kind += ", two sequences a row" if self.train.second is not None else ""
        rows = f"{sizes['train']:,} to train on, {sizes['dev']:,} dev, {sizes['test']:,} test"
        text = f"{kind}; {rows}"
        if test := self.leaked + self.leaked_reverse:
            text += f"; {test} test sequences occur in train (--drop-leaked leaves them out)"
        if self.leaked_dev:
            text += f"; {self.leaked_dev} dev sequences occur in train, so that the dev loss flatters"
        return text


def read_task(
    train: Source,
    dev: Source | None = None,
    test: Source | None = None,
    options: TaskOptions | None = None,
    columns: SequenceOptions | None = None,
) -> Task:
    """Read a task from its three tables, or from one that is split.

    Args:
        train: a table (CSV or TSV, also .gz), a BED file, or a list of CLASS=FASTA, one for each class.
        dev: the same, by whose loss the best weights are chosen.
        test: the same, for the metrics.
        options: without dev and test, its `split` must be given.
        columns: which columns hold sequences and names, and the genome of BED files.

    Raises:
        InputError: a table that is not right, a label that is missing, not a number, or of no class of the training
            table, or a training table of one class; the line is named.
        ConfigError: neither dev and test nor `split`, or both.
        OSError: a table cannot be read.
    """
    options, columns = options or TaskOptions(), columns or SequenceOptions()
    require(
        (dev is None) == (test is None) == (options.split is not None),
        "give --dev and --test, or --split 80,10,10 to split the training table, and not both",
    )
    sources = [source for source in (train, dev, test) if source is not None]
    tables = [read_labelled(source, options.label_column, columns) for source in sources]
    first = tables[0]
    for table in tables:
        table.require_like(first)
    names = None if first.numbers else class_names(first.sequences, first.labels, options.kind)
    splits = [_with_targets(table, names) for table in tables]
    if options.split is not None:
        parts = split_rows(splits[0].sequences, parse_shares(options.split), options.split_by)
        splits = [splits[0].take(rows) for rows in parts]
    if names is None:
        for column in np.atleast_2d(splits[0].targets.T):
            require_spread(splits[0].sequences, column[~np.isnan(column)])
    whole, dev_split, test_split = splits
    _require_all_classes(whole, names, "--split leaves it")

    same, reverse = _row_leaks(whole.inputs, test_split.inputs)
    task = Task(
        names,
        whole,
        dev_split,
        test_split,
        leaked=int(same.sum()),
        leaked_reverse=int((reverse & ~same).sum()),
        leaked_dev=int(np.logical_or(*_row_leaks(whole.inputs, dev_split.inputs)).sum()),
        target_names=tuple(first.numbers),
    )
    if options.drop_leaked:
        kept = np.flatnonzero(~(same | reverse))
        if not kept.size:
            raise InputError(
                f"{test_split.sequences.source}: every sequence occurs in {whole.sequences.source}, so that "
                f"--drop-leaked leaves none"
            )
        task = replace(task, test=test_split.take(kept))
    if options.max_train is not None and options.max_train < len(whole.targets):
        rows = np.random.default_rng(0).permutation(len(whole.targets))[: options.max_train]
        task = replace(task, train=whole.take(np.sort(rows)))
        _require_all_classes(task.train, names, f"--max-train {options.max_train} leaves it")
    return task


def _require_all_classes(train: Split, names: tuple[str, ...] | None, why: str) -> None:
    if names is None:
        return
    missing = set(range(len(names))) - set(train.targets.tolist())
    if missing:
        lost = ", ".join(names[i] for i in sorted(missing))
        raise InputError(f"{train.sequences.source}: {why} no training row of class {lost}; take more rows")


def _with_targets(table: Labelled, names: tuple[str, ...] | None) -> Split:
    sequences, labels = table.sequences, table.labels
    if table.numbers:
        return Split(sequences, measured_numbers(sequences, table.numbers), (), table.second)
    targets = numbers_to_predict(sequences, labels) if names is None else class_numbers(sequences, labels, names)
    return Split(sequences, targets, labels, table.second)


def leaks(train: Sequences, other: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Which sequences, and which of their reverse complements, occur in train, bool (n,) each."""
    return _row_leaks((train.tokens,), (other.tokens,))


def _row_leaks(train: Inputs, other: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The same for rows of one sequence or of two.

    The reverse complement of a row of two sequences is that of the second, then that of the first.
    """
    known = {b" ".join(tokens.tobytes() for tokens in row) for row in zip(*train, strict=True)}
    rows = list(zip(*other, strict=True))
    same = [b" ".join(tokens.tobytes() for tokens in row) in known for row in rows]
    reverse = [b" ".join(nucleotide.reverse_complement(t).tobytes() for t in row[::-1]) in known for row in rows]
    return np.array(same, bool), np.array(reverse, bool)
