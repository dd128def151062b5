"""Labelled tables as files: which columns hold the sequences of a row, and which its labels.

| columns | what a row is |
|---|---|
| sequence, label | a sequence with a class or a number |
| sequence, target_A, target_B, ... | a sequence with several numbers; an empty cell was not measured |
| sequence_left, sequence_right | in place of sequence: two sequences |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..genome.sequences import SequenceOptions, Sequences, header_of, parse_bases, read_sequences
from ..runtime.errors import InputError

_LEFT, _RIGHT = "sequence_left", "sequence_right"
_TARGET = "target_"


class Labelled(NamedTuple):
    """The rows of a table, as they are written."""

    sequences: Sequences
    labels: list[str]
    """n cells; none where `numbers` has them."""
    second: Sequences | None = None
    """The other sequence of each row, where a row has two."""
    numbers: dict[str, list[str]] = {}  # noqa: RUF012 - never changed
    """n cells of each column of numbers, by its name, where there are several."""

    def require_like(self, first: Labelled) -> None:
        """Refuse a table of another kind than the first.

        Raises:
            InputError: names both.
        """
        if list(self.numbers) != list(first.numbers):
            raise InputError(
                f"{self.sequences.source} has the numbers {', '.join(self.numbers) or 'of one column'}, but "
                f"{first.sequences.source} has {', '.join(first.numbers) or 'those of one column'}"
            )
        if (self.second is None) != (first.second is None):
            raise InputError(f"{self.sequences.source} and {first.sequences.source}: only one has {_LEFT} and {_RIGHT}")


Source = str | Path | Sequence[str | Path] | Labelled
"""A table, a BED file with its genome, CLASS=FASTA for each class, or what is read already."""


def read_labelled(source: Source, label_column: str, columns: SequenceOptions) -> Labelled:
    """The sequences of a table and their labels as written, or those of the FASTA files of several classes.

    Raises:
        InputError: a file that is not right, or one without labels.
        OSError: it cannot be read.
    """
    if isinstance(source, Labelled):
        return source
    listed = [source] if isinstance(source, str | Path) else list(source)
    named = [str(item).partition("=") for item in listed]
    if len(listed) == 1 and (Path(listed[0]).exists() or not named[0][1]):
        return _read_table(Path(listed[0]), label_column, columns)
    if not all(name and equals and path for name, equals, path in named):
        given = " ".join(map(str, listed))
        raise InputError(f"give one table, or CLASS=FASTA for each class, as in promoter=p.fa other=o.fa; got {given}")
    parts = [read_sequences(path, columns) for _, _, path in named]
    labels = [name for (name, _, _), part in zip(named, parts, strict=True) for _ in range(len(part))]
    return Labelled(Sequences.joined(parts), labels)


def _read_table(path: Path, label_column: str, columns: SequenceOptions) -> Labelled:
    header = header_of(path)
    two = columns.sequence_column not in header and {_LEFT, _RIGHT} <= set(header)
    table = read_sequences(path, replace(columns, sequence_column=_LEFT) if two else columns)
    second = None
    if two:
        cells = zip(table.column(_RIGHT), table.where, strict=True)
        second = replace(table, tokens=[parse_bases(text, f"{path}, {line}") for text, line in cells])
    targets = [name for name in header if name.startswith(_TARGET)]
    if targets and label_column not in header:
        return Labelled(table, [], second, {name: table.column(name) for name in targets})
    return Labelled(table, table.column(label_column), second)
