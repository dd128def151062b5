"""Labels as they stand in a table become classes by number, or numbers to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ..genome.sequences import Sequences
from ..runtime.errors import InputError

Kind = Literal["auto", "classification", "regression"]
_MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "inf", "+inf", "-inf", "infinity", "-infinity"))
"""Labels, in lower case, that stand for a value which is not known."""
_NOT_MEASURED = frozenset(("", "na", "n/a", "nan"))
_SHOWN = 30
"""Characters of a label that a message shows."""
_LARGEST = 1e30
"""Numbers, and their spread, beyond this or below its inverse do not survive fp32 arithmetic."""


def class_names(table: Sequences, labels: Sequence[str], kind: Kind = "auto") -> tuple[str, ...] | None:
    """The classes of a training table, in the order of their numbers, or None where its labels are numbers to predict.

    Labels that are all finite numbers are numbers to predict where one of them is not whole. Classes that are whole
    numbers are in numerical order, others in alphabetical order.

    Args:
        labels: one for each sequence, as they stand in the table.
        kind: what was asked for. With "classification", every text is a class, "NA" and "1.0" too.

    Raises:
        InputError: a missing label, one number written in two ways, one class only, or too many; the line is named.
    """
    cells = [label.strip() for label in labels]
    numbers = [_number(cell) for cell in cells]
    if kind == "regression":
        return None
    if kind == "auto":
        _require_known(table, cells, numbers)
        if all(x is not None for x in numbers) and any(not x.is_integer() for x in numbers if x is not None):
            return None
        _require_one_spelling(table, cells, numbers)
    if "" in cells:
        raise InputError(f"{table.source}, {table.where[cells.index('')]}: the label is empty")
    classes = set(cells)
    if len(classes) < 2:
        raise InputError(
            f"{table.source}: every row has the label {cells[0][:_SHOWN]!r}; a task needs two classes or more"
        )
    if len(classes) > max(2, len(cells) // 2):
        raise InputError(
            f"{table.source}: {len(classes)} different labels in {len(cells)} rows are too many for classes; "
            f"are they numbers (--kind regression), or is this another column?"
        )
    whole = all(label.lstrip("-").isdecimal() for label in classes)
    return tuple(sorted(classes, key=int if whole else str))


def _require_known(table: Sequences, cells: list[str], numbers: list[float | None]) -> None:
    for cell, line in zip(cells, table.where, strict=True):
        if cell and cell.lower() in _MISSING:
            others = "numbers" if any(x is not None for x in numbers) else "classes"
            raise InputError(
                f"{table.source}, {line}: the label {cell!r} stands for a missing value, but others are {others}; "
                f"leave the row out, or say --kind classification if {cell!r} is a class of its own"
            )


def _require_one_spelling(table: Sequences, cells: list[str], numbers: list[float | None]) -> None:
    """Refuse "1" beside "1.0": read as text they would be two classes."""
    first: dict[float, str] = {}
    for cell, number, line in zip(cells, numbers, table.where, strict=True):
        if number is not None and first.setdefault(number, cell) != cell:
            raise InputError(
                f"{table.source}, {line}: the labels {first[number]!r} and {cell!r} are the same number written in two "
                f"ways; write them alike, or say --kind regression to predict numbers"
            )


def class_numbers(table: Sequences, labels: Sequence[str], classes: tuple[str, ...]) -> np.ndarray:
    """Each row's class by its number, int64 (n,).

    Raises:
        InputError: a label that is not one of the classes; the line is named.
    """
    number = {name: i for i, name in enumerate(classes)}
    for label, line in zip(labels, table.where, strict=True):
        if label.strip() not in number:
            raise InputError(
                f"{table.source}, {line}: label {label.strip()[:_SHOWN]!r} is not one of the trained classes: "
                f"{', '.join(classes)}"
            )
    return np.array([number[label.strip()] for label in labels], np.int64)


def numbers_to_predict(table: Sequences, labels: Sequence[str]) -> np.ndarray:
    """Each row's number, float64 (n,).

    Raises:
        InputError: a label that is not a finite number, or numbers too large for fp32; the line is named.
    """
    return np.array([_required(table, *row) for row in zip(labels, table.where, strict=True)], np.float64)


def measured_numbers(table: Sequences, columns: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The numbers of several columns, float64 (n, K); an empty cell, or NA, was not measured and becomes nan.

    Raises:
        InputError: a cell that is not a finite number; the line and the column are named.
    """
    values = np.full((len(table), len(columns)), np.nan)
    for number, (name, cells) in enumerate(columns.items()):
        for row, (cell, line) in enumerate(zip(cells, table.where, strict=True)):
            if cell.strip().lower() not in _NOT_MEASURED:
                values[row, number] = _required(table, cell, f"{line}, {name}")
    return values


def _required(table: Sequences, label: str, where: str) -> float:
    value = _number(label.strip())
    if value is None:
        raise InputError(f"{table.source}, {where}: {label.strip()[:_SHOWN]!r} is not a number")
    if abs(value) > _LARGEST:
        raise InputError(
            f"{table.source}, {where}: {value:g} is too large to train on: numbers must lie within ±{_LARGEST:g}; "
            f"divide the column by a constant, or take logarithms"
        )
    return value


def require_spread(table: Sequences, numbers: np.ndarray) -> None:
    """Refuse numbers that fp32 cannot tell apart once their mean and deviation are put back.

    Raises:
        InputError: says what their spread is, or that there are fewer than two.
    """
    if len(numbers) < 2:
        raise InputError(f"{table.source}: a column has fewer than two measured numbers to train on; leave it out")
    if np.ptp(numbers) == 0:
        raise InputError(f"{table.source}: all numbers to predict are {numbers[0]}")
    deviation, largest = float(numbers.std()), float(np.abs(numbers).max())
    if deviation < 1 / _LARGEST or deviation < 1e-6 * largest:
        raise InputError(
            f"{table.source}: the numbers to predict differ too little for fp32: their standard deviation is "
            f"{deviation:.3g}, the largest is {largest:.3g}; subtract a constant, multiply, or take logarithms"
        )


def _number(text: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
