"""Genomic Benchmarks and the Nucleotide Transformer's tasks: read as their own loaders do, and refused by file."""

from __future__ import annotations

import collections
import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny import save_tiny_model, write_task

from nucel.genome.sequences import SequenceOptions
from nucel.runtime.errors import ConfigError, InputError
from nucel.suite import main
from nucel.suites import methods
from nucel.suites.layouts import cut, find_layouts, nt_version, with_dev
from nucel.suites.protocols import published_fit
from nucel.tasks.fit import FitOptions
from nucel.tasks.task import Task, TaskOptions
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")


def bases(rng: np.random.Generator, low: int = 20, high: int = 40) -> str:
    return "".join(rng.choice(list("ACGT"), int(rng.integers(low, high))))


def write_texts(task: Path, classes=("zebra", "ant"), sizes=(30, 8), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for part, size in zip(("train", "test"), sizes, strict=True):
        for name in classes:
            (task / part / name).mkdir(parents=True)
            for i in range(size):
                (task / part / name / f"{i}.txt").write_text(bases(rng))
    return task


def write_fna(task: Path, classes: int = 3, sizes=(40, 12)) -> Path:
    rng = np.random.default_rng(1)
    task.mkdir(parents=True)
    for part, size in zip(("train", "test"), sizes, strict=True):
        rows = [f">chr1:{i}-{i + 9}|{i % classes}\n{bases(rng)}\n" for i in range(size)]
        (task / f"{part}.fna").write_text("".join(rows))
    return task


def read(layout, **columns) -> Task:
    return layout.read(TaskOptions(), SequenceOptions(**columns))


def rows_of(split, labels) -> collections.Counter:
    texts = [nucleotide.decode(tokens) for tokens in split.sequences.tokens]
    return collections.Counter(zip(texts, (labels[i] for i in split.targets), strict=True))


# ---- the same rows as their own loaders ------------------------------------------------------------------------------


def test_text_files_are_read_as_the_benchmark_s_loader_reads_them(tmp_path):
    task = write_texts(tmp_path / "demo_coding_vs_intergenomic_seqs")
    ((name, layout),) = find_layouts((tmp_path,)).items()
    assert name == task.name and layout.suite == "Genomic Benchmarks" and not layout.has_dev
    found = read(layout)
    assert found.labels == ("ant", "zebra")  # in sorted order, whatever the file system's is
    assert found.train.sequences.names[:3] == ["ant/0", "ant/1", "ant/2"]
    for part, split in (("train", found.train), ("test", found.test)):
        theirs = collections.Counter()  # every path below a class's folder, labelled by the folder
        for folder in (task / part).iterdir():
            for path in folder.iterdir():
                theirs[path.open().read(), folder.name] += 1
        assert rows_of(split, found.labels) == theirs
    assert layout.metric(found, name) == "accuracy" and not len(found.dev.targets)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_regions_are_read_as_the_benchmark_s_loader_reads_them(tmp_path, ending):
    rng = np.random.default_rng(2)
    contigs = {"1": bases(rng, 500, 501), "X": bases(rng, 300, 301)}
    genome = tmp_path / "genome.fa"
    genome.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    expected = {part: collections.Counter() for part in ("train", "test")}
    for part, counts in expected.items():
        for label in ("negative", "positive"):
            lines = ["id,region,start,end" + ",strand" * (label == "positive")]
            for i in range(12):
                name = "1" if i % 2 else "X"
                start = int(rng.integers(0, 250))
                strand = "-" if i % 3 == 0 and label == "positive" else "+"
                text = contigs[name][start : start + 30]
                if strand == "-":
                    text = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
                counts[text, label] += 1
                lines.append(f"{i},chr{name},{start},{start + 30}" + f",{strand}" * (label == "positive"))
            path = tmp_path / "suite" / "ocr" / part / f"{label}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(path, "wt") if ending.endswith("gz") else open(path, "w") as file:
                file.write("\n".join(lines) + "\n")
    layout = find_layouts((tmp_path / "suite",))["ocr"]
    found = read(layout, genome=genome)
    assert found.labels == ("negative", "positive")
    assert rows_of(found.train, found.labels) == expected["train"]
    assert rows_of(found.test, found.labels) == expected["test"]
    with pytest.raises(InputError, match=r"negative\.csv.* has regions but no sequences; give the FASTA .* --genome"):
        read(layout)
    (tmp_path / "suite" / "ocr" / "test" / f"negative{ending}").unlink()
    other = tmp_path / "suite" / "ocr" / "test" / "negative.csv"
    other.write_text("id,region,start,end\n0,chr1,490,520\n")
    with pytest.raises(InputError, match=r"negative.csv, line 2: chr1:490-520\(\+\) cannot be read .*outside"):
        read(layout, genome=genome)
    other.write_text("id,region,start\n0,chr1,490\n")
    with pytest.raises(InputError, match=r"negative.csv has no column end"):
        read(layout, genome=genome)


def test_fasta_of_nt_is_read_as_its_headers_say(tmp_path):
    task = write_fna(tmp_path / "H2AFZ")
    write_fna(tmp_path / "splice_sites_donors", 2)
    layouts = find_layouts((tmp_path,))
    assert {name: layout.suite for name, layout in layouts.items()} == {
        "H2AFZ": "NT, revised", "splice_sites_donors": "NT, revised"
    }  # fmt: skip
    found = read(layouts["H2AFZ"])
    for part, split in (("train", found.train), ("test", found.test)):
        lines = (task / f"{part}.fna").read_text().splitlines()
        theirs = collections.Counter(
            (text, head.split("|")[-1]) for head, text in zip(lines[::2], lines[1::2], strict=True)
        )
        assert rows_of(split, found.labels) == theirs
    assert found.labels == ("0", "1", "2") and found.train.sequences.names[0] == "chr1:0-9"
    assert layouts["H2AFZ"].metric(found, "H2AFZ") == "mcc"


def test_parquet_of_nt_has_a_task_for_each_value_of_its_column(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rng = np.random.default_rng(3)
    written = {}
    for part, size in (("train-00000-of-00001", 40), ("test-00000-of-00001", 10)):
        table = {"sequence": [bases(rng) for _ in range(size)], "name": [f"n{i}" for i in range(size)]}
        table |= {"label": [i // 2 % 2 for i in range(size)], "task": [("H3", "enhancers")[i % 2] for i in range(size)]}
        parquet.write_table(pyarrow.table(table), tmp_path / f"{part}.parquet")
        written[part[:4]] = table
    layouts = find_layouts((tmp_path,))
    assert {name: layout.suite for name, layout in layouts.items()} == {
        "H3": "NT, first version", "enhancers": "NT, first version"
    }  # fmt: skip
    found = read(layouts["enhancers"])
    for part, split in (("trai", found.train), ("test", found.test)):
        frame = pyarrow.table(written[part]).to_pandas()
        frame = frame[frame.task == "enhancers"]
        theirs = collections.Counter(zip(frame.sequence, frame.label.astype(str), strict=True))
        assert rows_of(split, found.labels) == theirs and split.sequences.names == list(frame.name)

    folder = tmp_path / "single"
    folder.mkdir()
    for part in ("train", "test"):
        table = pyarrow.table({"sequence": ["ACGT", "GGGT", "AAAA"] * 4, "label": [0, 1, 2] * 4})
        parquet.write_table(table, folder / f"{part}.parquet")
    assert read(find_layouts((folder,))["single"]).labels == ("0", "1", "2")
    parquet.write_table(pyarrow.table({"sequence": ["ACGT"], "y": [0]}), folder / "test.parquet")
    with pytest.raises(InputError, match=r"test.parquet has no column label; it has sequence, y"):
        read(find_layouts((folder,))["single"])


def test_versions_of_nt_are_told_by_their_marks():
    assert nt_version({"H3K4me1", "H2AFZ"}) == "NT, revised"
    assert nt_version({"H3K4me1", "H3K79me3"}) == "NT, first version"
    assert nt_version({"H3K4me1"}) == nt_version({"H2AFZ", "H4ac"}) == "NT"


# ---- what is refused, by the file's name -----------------------------------------------------------------------------


def test_files_that_are_wrong_are_named(tmp_path):
    task = write_texts(tmp_path / "a")
    layout = find_layouts((tmp_path,))["a"]
    (task / "test" / "ant" / "3.txt").write_text("\n")
    with pytest.raises(InputError, match=r"a/test/ant/3.txt: the sequence is empty"):
        read(layout)
    (task / "test" / "ant" / "3.txt").write_text("ACGT!")
    with pytest.raises(InputError, match=r"a/test/ant/3.txt: '!' at position 5"):
        read(layout)
    for path in (task / "test" / "ant").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"a/test/ant: class ant has no sequence"):
        read(layout)
    (task / "test" / "ant").rmdir()
    with pytest.raises(InputError, match=r"a/test has no class ant, which .*a/train/ant has"):
        read(layout)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (">x|3\nACGT\n", r"test.fna, record 'x\|3': label '3' is not a whole number below 3"),
        (">x|-1\nACGT\n", "label '-1' is not a whole number"),
        (">x 1\nACGT\n", r"test.fna, record 'x 1': the header must be name\|label"),
        (">x|1\n", r"test.fna, record 'x\|1': the sequence is empty"),
    ],
)
def test_labels_out_of_range_are_named(tmp_path, record, message):
    task = write_fna(tmp_path / "enhancers_types")
    path = task / "test.fna"
    path.write_text(path.read_text() + record)
    with pytest.raises(InputError, match=message):
        read(find_layouts((tmp_path,))["enhancers_types"])


def test_a_part_that_is_missing_is_refused(tmp_path):
    task = write_fna(tmp_path / "enhancers")
    (task / "test.fna").unlink()
    with pytest.raises(ConfigError, match=r"enhancers must hold train.fna and test.fna"):
        find_layouts((tmp_path,))
    with pytest.raises(ConfigError, match="two tasks are named"):
        find_layouts((write_fna(tmp_path / "b" / "c"), tmp_path / "b" / "c"))


# ---- dev tables, cuts, protocols -------------------------------------------------------------------------------------


def test_the_dev_table_is_a_tenth_of_train_by_seed(tmp_path):
    write_texts(tmp_path / "a")
    task = read(find_layouts((tmp_path,))["a"])
    one, same, other = with_dev(task, 0), with_dev(task, 0), with_dev(task, 1)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.dev.targets) == 6 and len(one.train.targets) == 54
    assert rows_of(one.train, one.labels) + rows_of(one.dev, one.labels) == rows_of(task.train, task.labels)
    assert one.test is task.test
    few = with_dev(task, 0, share=0.5)
    assert len(few.dev.targets) == 30
    with pytest.raises(InputError, match="no row is of class"):
        with_dev(task, 0, share=0.99)


def test_long_sequences_are_cut_and_counted(tmp_path):
    write_texts(tmp_path / "a")
    task = read(find_layouts((tmp_path,))["a"])
    lengths = [len(tokens) for split in task.splits for tokens in split.sequences.tokens]
    shorter, longer = cut(task, 25)
    assert longer == sum(length > 25 for length in lengths) > 0
    for one, other in zip(shorter.train.sequences.tokens, task.train.sequences.tokens, strict=True):
        assert (one == other[:25]).all()


def test_protocols_are_as_published():
    fit = FitOptions(lr=1e-3, epochs=2)
    gue = {"tf/0": 3, "mouse/2": 5, "prom/prom_core_all": 4, "prom/prom_300_tata": 10, "prom/prom_core_tata": 10}
    gue |= {"prom/prom_300_notata": 4, "EMP/H3": 3, "splice/reconstructed": 5, "virus/covid": 8, "mine": 2}
    for task, epochs in gue.items():
        assert published_fit("tables", task, fit).epochs == epochs, task
        assert published_fit("tables", task, fit).lr == 3e-5
    assert published_fit("Genomic Benchmarks", "x", fit) == FitOptions(lr=1e-3, epochs=10, batch_size=128)
    assert published_fit("NT, revised", "x", fit) == fit


# ---- the suite on them -----------------------------------------------------------------------------------------------


def test_a_suite_of_all_layouts_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, "_CNN_FIT", FitOptions(epochs=1, lr=1e-3, warmup_steps=0))
    write_texts(tmp_path / "gb" / "dummy_mouse_enhancers_ensembl")
    write_fna(tmp_path / "nt" / "H2AFZ")
    write_task(tmp_path / "gue" / "tf" / "0", train=32, dev=8, test=8)
    folders = [str(tmp_path / name) for name in ("gb", "nt", "gue")]
    words = [*folders, "--out", str(tmp_path / "out"), "--seeds", "0", "1"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["tasks"] == 3 and summary["fits"] == 6
    (tmp_path / "out" / "results" / "H2AFZ" / "one-hot CNN" / "seed-1.json").unlink()
    assert main(words) == 0 and json.loads(capsys.readouterr().out.splitlines()[-1])["fits"] == 1
    rows = {
        row["task"]: row
        for row in csv.DictReader((tmp_path / "out" / "table.tsv").read_text().splitlines(), delimiter="\t")
    }
    assert rows["H2AFZ"]["suite"] == "NT, revised" and rows["H2AFZ"]["dev"] == "4"
    assert float(rows["dummy_mouse_enhancers_ensembl"]["majority"]) == 0.5
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| dummy_mouse_enhancers_ensembl (accuracy) | 54 / 6 / 16 |" in table
    assert "0.508" in table and "0.676 (TF-H)" in table and "HyenaDNA, own report (recalled)" in table


def test_protocol_and_cuts_reach_the_fits(tmp_path, capsys):
    write_texts(tmp_path / "gb" / "dummy_mouse_enhancers_ensembl")
    model = save_tiny_model(tmp_path / "model", context=30)
    words = [str(tmp_path / "gb"), "--out", str(tmp_path / "out"), "--seeds", "0", "--models", f"a={model}"]
    words += ["--no-cnn", "--no-scratch", "--warmup-steps", "0", "--lr", "1e-3"]
    assert main(words) == 2 and "bases are more than the context of 30 tokens" in capsys.readouterr().err
    assert main([*words, "--long", "cut", "--protocol"]) == 0
    (path,) = (tmp_path / "out" / "results").rglob("seed-0.json")
    result = json.loads(path.read_text())
    assert result["settings"]["fit"]["epochs"] == 10 and result["settings"]["fit"]["batch_size"] == 128
    assert result["settings"]["fit"]["lr"] == 1e-3 and result["cut"] > 0 and result["metric"] == "accuracy"
