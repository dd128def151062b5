"""Tasks: labels, their refusals with lines, and test sequences that training has seen."""

from __future__ import annotations

import numpy as np
import pytest
from support.tiny import write_table

from nucel.genome.sequences import SequenceOptions, read_sequences
from nucel.runtime.errors import ConfigError, InputError
from nucel.tasks.splitting import clusters
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
    assert task.sizes() == {"train": 4, "dev": 2, "test": 2, "leaked": 0, "leaked_reverse": 0, "leaked_dev": 0}
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
    with pytest.raises(InputError, match="--max-train 2 leaves it no training row of class"):
        read([*rows[:38], ("TTTT", 2), ("TTTA", 2)], max_train=2)


# ---- one table becomes three, FASTA files become a table -------------------------------------------------------------


def test_dev_rows_that_occur_in_train_are_counted(read):
    reverse = nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode("TTGCA")))
    task = read(dev=[("ACGTA", 1), (reverse, 0), ("AAAAA", 1)])
    assert task.leaked_dev == 2 and "2 dev sequences occur in train" in task.describe()
    assert "dev sequences" not in read().describe()


@pytest.fixture
def table(tmp_path):
    """60 rows: ten genes of six copies with one substitution each, on either strand, on five contigs."""
    draws = np.random.default_rng(0)
    lines = ["sequence,label,chrom"]
    for gene in range(10):
        bases = draws.choice(list("ACGT"), 120)
        for copy in range(6):
            changed = bases.copy()
            changed[10 + 15 * copy] = "A" if bases[10 + 15 * copy] != "A" else "C"
            text = "".join(changed)
            if copy % 2:
                text = nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode(text)))
            lines.append(f"{text},{(gene // 2 + copy) % 2},chr{gene // 2}")
    path = tmp_path / "genes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("by", ["rows", "contig", "cluster"])
def test_a_table_is_split_into_parts_of_their_shares(table, by):
    task, again = (read_task(table, options=TaskOptions(split="60,20,20", split_by=by)) for _ in range(2))
    parts = [set(split.sequences.names) for split in task.splits]
    assert sorted(map(int, set().union(*parts))) == list(range(1, 61)) and sum(map(len, parts)) == 60
    assert [len(part) for part in parts] == pytest.approx([36, 12, 12], abs=0 if by == "rows" else 6)
    assert task.fingerprint == again.fingerprint
    group_of_row = {"rows": lambda row: row, "contig": lambda row: row // 12, "cluster": lambda row: row // 6}[by]
    groups = [{group_of_row(int(name) - 1) for name in part} for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_genes_make_the_clusters(table):
    """Copies with a substitution, on either strand, are one cluster; unrelated genes are not."""
    found = clusters(read_sequences(table)).reshape(10, 6)
    assert (found == found[:, :1]).all() and len(set(found[:, 0])) == 10


def test_contigs_come_from_names_of_regions(tmp_path):
    text = "".join(f">chr{i // 4}:{i}-{i + 9}(+)\n{'ACGTTGCATG'[i % 3 :]}ACGTA\n" for i in range(12))
    (tmp_path / "a.fa").write_text(text)
    (tmp_path / "b.fa").write_text(text.replace("ACGTA", "TTTTT"))
    sources = (f"a={tmp_path / 'a.fa'}", f"b={tmp_path / 'b.fa'}")
    task = read_task(sources, options=TaskOptions(split="1,1,1", split_by="contig"))
    contigs = [{name.partition(":")[0] for name in split.sequences.names} for split in task.splits]
    assert sorted(map(len, contigs)) == [1, 1, 1] and len(set().union(*contigs)) == 3
    (tmp_path / "a.fa").write_text(text.replace("chr0:0-9(+)", "plasmid"))
    with pytest.raises(InputError, match="does not say what contig its sequences are from"):
        read_task(sources, options=TaskOptions(split="1,1,1", split_by="contig"))


def test_a_fasta_file_for_each_class_is_a_table(tmp_path):
    (tmp_path / "p.fa").write_text(">s\nTATAAA\n>s\nTATATA\n")  # a name may occur twice
    (tmp_path / "o.fa").write_text(">s\nGGGCCC\n>t\nGGGCCA\n")
    sources = (f"promoter={tmp_path / 'p.fa'}", f"other={tmp_path / 'o.fa'}")
    task = read_task(sources, sources, sources)
    assert task.labels == ("other", "promoter") and task.train.targets.tolist() == [1, 1, 0, 0]
    assert task.train.sequences.names == ["s", "s", "s", "t"]
    assert list(task.train.labels) == ["promoter"] * 2 + ["other"] * 2
    with pytest.raises(InputError, match="give one table, or CLASS=FASTA for each class"):
        read_task((sources[0], str(tmp_path / "o.fa")), sources, sources)


def test_regions_with_a_class_are_a_table(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\n" + "ACGTTGCA" * 10 + "\n")
    bed = tmp_path / "r.bed"
    bed.write_text("".join(f"chr1\t{i}\t{i + 8 + i % 3}\t{'ab'[i % 2]}\t0\t{'+-'[i % 2]}\n" for i in range(12)))
    task = read_task(bed, bed, bed, TaskOptions(label_column="name"), SequenceOptions(genome=tmp_path / "g.fa"))
    assert task.labels == ("a", "b") and task.train.targets.tolist() == [0, 1] * 6
    assert task.train.sequences.columns["start_bp"] == [str(i) for i in range(12)]


@pytest.mark.parametrize("split", ["80,20", "a,b,c", "80,20,0", "80,-10,30", "nan,1,1", "inf,1,1", ""])
def test_bad_shares_are_refused(split):
    with pytest.raises(ConfigError, match="--split takes three positive numbers, as in 80,10,10"):
        TaskOptions(split=split)


def test_too_few_groups_to_split_are_refused(table):
    small = table.with_name("small.csv")
    small.write_text("".join(table.read_text().splitlines(keepends=True)[:13]))
    with pytest.raises(InputError, match="has 1 contigs, too few to split into 3 parts"):
        read_task(small, options=TaskOptions(split="80,10,10", split_by="contig"))


def test_either_three_tables_or_a_split_are_given(table):
    for dev, options in ((None, TaskOptions()), (table, TaskOptions()), (table, TaskOptions(split="80,10,10"))):
        with pytest.raises(ConfigError, match="give --dev and --test, or --split"):
            read_task(table, dev, None, options)
    with pytest.raises(ConfigError, match="give --dev and --test, or --split"):
        read_task(table, table, table, TaskOptions(split="80,10,10"))


# ---- labels that are missing, or written in two ways -----------------------------------------------------------------


@pytest.mark.parametrize("missing", ["nan", "NA", "inf", "-inf", "N/A", "None", "null", "NaN"])
@pytest.mark.parametrize("others", [(0, 1), ("0.5", "1.5"), ("enhancer", "none of them")])
def test_missing_labels_are_refused_with_their_row(read, missing, others):
    rows = [("ACGT", others[0]), ("ACGA", others[1]), ("ACGG", missing), ("ACGC", others[0])]
    with pytest.raises(InputError, match=rf"train\.csv, line 4: the label '{missing}' stands for a missing value"):
        read(rows, rows, rows)


def test_a_class_may_be_called_na_where_it_is_said(read):
    rows = [("ACGT", "NA"), ("ACGA", "EU"), ("ACGG", "NA"), ("ACGC", "EU")]
    assert read(rows, rows, rows, kind="classification").labels == ("EU", "NA")


def test_one_number_written_in_two_ways_is_refused(read):
    rows = [("ACGT", "1"), ("ACGA", "0"), ("ACGG", "1.0"), ("ACGC", "0")]
    with pytest.raises(InputError, match=r"train\.csv, line 4: the labels '1' and '1\.0' are the same number"):
        read(rows, rows, rows)
    assert read(rows, rows, rows, kind="regression").train.targets.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (("1e300", "0.5", "2"), r"line 2: 1e\+300 is too large to train on: numbers must lie within"),
        (("0.5", "-1e300", "2"), r"line 3: -1e\+300 is too large"),
        (("1e-300", "2e-300", "3e-300"), "differ too little for fp32: their standard deviation is"),
        (("1000000000.5", "1000000001.5", "1000000002"), "differ too little for fp32"),
    ],
)
def test_numbers_that_fp32_cannot_hold_are_refused(read, numbers, message):
    rows = list(zip(("ACGT", "ACGA", "ACGG"), numbers, strict=True))
    with pytest.raises(InputError, match=message):
        read(rows, rows, rows, kind="regression")


@pytest.mark.parametrize("max_train", [-3, 0, 1])
def test_a_training_table_of_less_than_two_rows_is_refused(max_train):
    with pytest.raises(ConfigError, match="max_train must be at least 2"):
        TaskOptions(max_train=max_train)


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
