"""`benchmarks.experiments.judged` on a miniature of the folder of real data: all parts, a stop, refusals."""

from __future__ import annotations

import dataclasses
import gzip
import re
from pathlib import Path

import pytest
from support.checkpoints import DESCRIPTION
from support.real_data import TASKS, write_data
from support.stopping import Stopped, counted
from support.tiny import save_tiny_model

from benchmarks.experiments import judged, judged_data
from nucel.runs.directory import RunDirectory
from nucel.suites import barcode_protocols, methods

pytest.importorskip("sklearn")


def write_run(path: Path, seed: int) -> Path:
    """A run of 8 steps of 4 x 32 tokens, whose context is shorter than the tasks' sequences."""
    path.mkdir()
    save_tiny_model(path / "discriminator", context=32, seed=seed)
    run = RunDirectory(path)
    run.write_description(DESCRIPTION)
    run.checkpoint(8).mkdir(parents=True)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data and two runs; what costs time and is tested elsewhere is made short."""
    pytest.importorskip("xgboost")
    monkeypatch.setattr(barcode_protocols, "_EPOCHS", 3)
    monkeypatch.setattr(judged, "MIN_GENES", 10)
    monkeypatch.setattr("nucel.runtime.environment.available_cpus", lambda: 1)
    monkeypatch.setattr(methods, "_CNN_FIT", dataclasses.replace(methods._CNN_FIT, epochs=1))
    monkeypatch.setattr(barcode_protocols.ProtocolOptions, "chosen_reduction", "pca")
    monkeypatch.setattr("nucel.suites.biotypes.draw_map", lambda path, *_: path.write_text("a picture"))
    for name in ("tsne", "umap"):
        monkeypatch.setattr(f"nucel.suites.biotypes.{name}", lambda vectors, seed: vectors)
    write_data(tmp_path / "data")
    for seed, name in enumerate(("rtd", "mlm")):
        write_run(tmp_path / name, seed)
    return tmp_path


def call(place: Path, *words: str, out: str = "judged.md", work: str = "work") -> int:
    paths = [str(place / name) for name in ("rtd", "mlm", "data")]
    given = ["--out", str(place / out), "--work", str(place / work), "--seeds", "0", "1", "--epochs", "1", *words]
    return judged.main([*paths, *given])


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_tables_are_those_of_the_data_and_the_draw_is_fixed(place):
    before = contents(place / "data")
    whole = judged_data.prepare(place / "data", place / "work", None)
    some = judged_data.prepare(place / "data", place / "work", 20)
    assert contents(place / "data") == before  # nothing is unpacked beside the originals
    rows = {}
    for folder in (whole, some):
        for table in folder.rglob("*.csv"):
            header, *lines = table.read_text().splitlines()
            assert header == "sequence,label"
            rows[folder, table.relative_to(folder).as_posix()] = lines
    names = {name for folder, name in rows if folder == whole}
    assert names == {f"{task}/{part}.csv" for task in TASKS for part in ("train", "dev", "test")}
    for name in names:
        assert len(rows[some, name]) == min(20, len(rows[whole, name])) and set(rows[some, name]) <= set(
            rows[whole, name]
        )
    original = gzip.decompress((place / "data" / "gue" / "tf" / "0" / "test.csv.gz").read_bytes()).decode()
    assert rows[whole, "tf/0/test.csv"] == original.splitlines()[1:]
    labels = {line.partition(",")[2] for line in rows[whole, "splice/train.csv"]}
    assert labels == {"EI", "IE", "N"} and all(
        line.partition(",")[0][-2:] == "NN" for line in rows[whole, "splice/dev.csv"]
    )
    ecoli = [line for part in ("train", "dev", "test") for line in rows[whole, f"promoters/ecoli/{part}.csv"]]
    assert {line.partition(",")[2] for line in ecoli} == {"promoter", "other"}
    again = judged_data.prepare(place / "data", place / "again", 20)
    assert all((again / name).read_text() == (some / name).read_text() for name in names)


@pytest.mark.slow
def test_one_command_makes_the_table_and_goes_on_where_it_was_stopped(place, monkeypatch, capsys):
    words = ("--rows", "30", "--fits", "20")
    assert call(place, *words, out="whole.md", work="other") == 0

    def first(*words, **named):
        return None

    targets = {  # what each part calls for a fit, and how many of them are let through before it is stopped
        "probes": ("benchmarks.experiments.judged_probes._packed", 4),
        "finetune": ("nucel.suites.runner.fit", 3),
        "barcodes": ("nucel.suites.barcodes.evaluate", 2),
        "biotypes": ("nucel.suites.biotypes.classify", 3),
    }
    everything = {"probes": 4 * 5, "finetune": 4 * 4 * 2, "barcodes": 6, "biotypes": 2 * 5}
    for part, (target, calls) in targets.items():
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            counted(patch, target, first, calls)
            call(place, *words, "--parts", part)
    seen = {part: counted(monkeypatch, target, first) for part, (target, _) in targets.items()}
    for part in targets:  # as several processes would, each with a page of its own
        assert call(place, *words, "--parts", part, out=f"{part}.md") == 0
    assert {part: len(calls) for part, calls in seen.items()} == {
        part: everything[part] - calls for part, (_, calls) in targets.items()
    }
    assert call(place, *words) == 0 and sum(map(len, seen.values())) == sum(everything.values()) - 12

    text, whole = (place / "judged.md").read_text(), (place / "whole.md").read_text()
    for one in (r"--(?:out|work) \S+", r"\| [^|\n]+ M \|.*"):  # the times of fits differ
        text, whole = re.sub(one, "", text), re.sub(one, "", whole)
    assert text == whole
    for part in targets:
        alone = (place / f"{part}.md").read_text()
        assert [line for line in alone.splitlines() if line.startswith("## ")] == [
            line for line in text.splitlines() if line.startswith("## ")
        ][list(targets).index(part) :][:1]
    assert str(place) not in text and "rtd: run `rtd`, 0.0 M tokens (electra, 8 steps of 4 x 32 tokens" in text
    assert "This table is for one question" in text.splitlines()[2]
    assert "read at most 30 rows of each table and fine-tuning reads at most 20 rows of each table, from" in text


@pytest.mark.slow
def test_results_of_other_models_or_data_are_refused(place, capsys):
    assert call(place, "--rows", "20", "--parts", "probes") == 0
    before = (place / "judged.md").read_bytes()
    figures = [line for line in before.decode().splitlines() if line.startswith("| splice")]
    assert len(figures) == 1 and len(re.findall(r"\[-?\d\.\d+, -?\d\.\d+\]", figures[0])) == 10  # and a constant guess
    weights = (place / "rtd" / "discriminator" / "model.safetensors").read_bytes()
    save_tiny_model(place / "other", context=32, seed=7)
    (place / "rtd" / "discriminator" / "model.safetensors").write_bytes(
        (place / "other" / "model.safetensors").read_bytes()
    )
    assert call(place, "--rows", "20", "--parts", "probes") == 2 and "models.rtd" in capsys.readouterr().err
    (place / "rtd" / "discriminator" / "model.safetensors").write_bytes(weights)
    splice = place / "data" / "uci" / "splice.data.txt"
    splice.write_text(splice.read_text().replace("EI,ROW-0,", "IE,ROW-0,"))
    assert call(place, "--rows", "20", "--parts", "probes") == 2
    assert "data.uci/splice.data.txt" in capsys.readouterr().err
    assert (place / "judged.md").read_bytes() == before
