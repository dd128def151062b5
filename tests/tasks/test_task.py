"""Tasks: labels, their refusals with lines, and test sequences that training has seen."""

from __future__ import annotations

import numpy as np
import pytest
from support.tiny import write_table

from nucel.runtime.errors import InputError
from nucel.tasks.task import TaskOptions, read_task
from nucel.tokenizers import nucleotide

TRAIN = [("ACGTA", 1), ("CCCCA", 0), ("GGGTA", 1), ("TTGCA", 0)]
OTHER = [("ACACA", 0), ("GTGTG", 1)]


@pytest.fixture
def read(tmp_path):
    """Reads a task of three tables of (sequence, label)."""

    def call(train=TRAIN, dev=OTHER, test=OTHER, **options):
        tables = {"train": train, "dev": dev, "test": test}
        paths = [write_table(tmp_path / f"{part}.csv", rows) for part, rows in tables.items()]
        return read_task(*paths, TaskOptions(**options))

    return call


def test_classes_are_numbered_in_their_order(read):
    task = read()
    assert task.labels == ("0", "1") and task.outputs == 2
    assert task.train.targets.tolist() == [1, 0, 1, 0] and task.train.targets.dtype == np.int64
    assert task.sizes() == {"train": 4, "dev": 2, "test": 2, "leaked": 0, "leaked_reverse": 0}
    named = [(s, {0: "IE", 1: "EI"}[y]) for s, y in TRAIN]
    task = read(named, named, named)
    assert task.labels == ("EI", "IE") and task.train.targets.tolist() == [0, 1, 0, 1]
    many = [("ACGT", label) for label in (10, 9, -1, 10, 9, -1)]
    assert read(many, many, many).labels == ("-1", "9", "10")


@pytest.mark.parametrize("kind", ["auto", "regression"])
def test_numbers_are_regressed(read, kind):
    rows = [("ACGT", "0.5"), ("ACGG", "2"), ("ACGA", "-1e-3")]
    task = read(rows, rows, rows, kind=kind)
    assert task.labels is None and task.outputs == 1
    assert task.dev.targets.tolist() == [0.5, 2, -0.001] and task.dev.targets.dtype == np.float64


def test_whole_numbers_are_regressed_where_it_is_said(read):
    assert read().labels is not None
    assert read(kind="regression").train.targets.tolist() == [1, 0, 1, 0]


def test_the_fingerprint_tells_tasks_apart(read):
    first = read()
    assert first.fingerprint == read().fingerprint
    assert len({t.fingerprint for t in (first, read(TRAIN[::-1]), read(max_train=3), read(kind="regression"))}) == 4


# ---- leaks -----------------------------------------------------------------------------------------------------------


def test_leaks_are_counted_on_both_strands_and_left_out_on_request(read):
    reverse = nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode("CCCCA")))
    test = [("ACGTA", 1), (reverse, 0), ("acgta", 0), ("AAAAA", 1), ("CGCGC", 0)]
    task = read(test=test)
    assert (task.leaked, task.leaked_reverse, len(task.test.targets)) == (2, 1, 5)
    dropped = read(test=test, drop_leaked=True)
    assert (dropped.leaked, dropped.leaked_reverse) == (2, 1)
    assert dropped.test.sequences.names == ["4", "5"] and dropped.test.targets.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"every sequence occurs in .*train\.csv, so that --drop-leaked leaves none"):
        read(test=test[:3], drop_leaked=True)


def test_a_sequence_that_is_its_own_reverse_complement_leaks_once(read):
    task = read([*TRAIN, ("ACGT", 1)], test=[("ACGT", 1), ("CCCCC", 0)])
    assert (task.leaked, task.leaked_reverse) == (1, 0)


def test_a_part_of_the_training_table_is_the_same_each_time(read):
    rows = [("ACGT" + "ACGT"[i % 4] * (i // 4 + 1), i % 2) for i in range(40)]
    first, again = (read(rows, max_train=10).train.sequences.names for _ in range(2))
    assert len(first) == 10 and first == again and first == sorted(first, key=int)
    assert len(read(rows, max_train=100).train.targets) == 40
    leaky = read(rows, test=rows, max_train=10)
    assert leaky.leaked == 40  # counted against the whole training table
    with pytest.raises(InputError, match="1 of its rows do not hold all classes; raise --max-train"):
        read(rows, max_train=1)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        (
            {"dev": [("ACGT", 0), ("ACGT", 2)]},
            {},
            r"dev\.csv, line 3: label '2' is not one of the trained classes: 0, 1",
        ),
        ({"test": [("ACGT", "")]}, {}, r"test\.csv, line 2: label '' is not one of the trained classes"),
        ({"train": [("ACGT", 1), ("ACGG", "")]}, {}, r"train\.csv, line 3: the label is empty"),
        ({"train": [("ACGT", 1), ("ACGG", 1)]}, {}, r"train\.csv: every row has the label '1'; a task needs two"),
        ({"train": [("ACGT", i) for i in range(9)]}, {}, r"9 different labels in 9 rows are too many.*regression"),
        ({"train": [("ACGT", "x")]}, {"kind": "regression"}, r"train\.csv, line 2: 'x' is not a number"),
        ({"dev": [("ACGT", 1), ("A", "nan")]}, {"kind": "regression"}, r"dev\.csv, line 3: 'nan' is not a number"),
        ({"train": [("A", 2), ("C", 2)]}, {"kind": "regression"}, r"train\.csv: all numbers to predict are 2\.0"),
        ({"dev": [("ACGT", 1), ("", 0)]}, {}, r"dev\.csv, line 3: the sequence is empty"),
        ({"dev": [("AC!T", 1)]}, {}, r"dev\.csv, line 2: '!' at position 3 is not a nucleotide code"),
        ({}, {"label_column": "y"}, r"train\.csv has no column 'y'; its first line has: 'sequence', 'label'"),
    ],
)
def test_bad_tasks_are_refused(read, tables, options, message):
    with pytest.raises(InputError, match=message):
        read(**tables, **options)
