"""The verb of frozen probes: its table, its controls, layers, few-shot curves, and what it refuses."""

from __future__ import annotations

import csv
import json
import re

import pytest
from support.pair import save_masked_lm
from support.tiny import planted_rows, save_tiny_model, write_task

from nucel.probe import main

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"), 80, 40, 60)


@pytest.fixture
def run(model, tables, tmp_path, capsys):
    """Calls main; returns the exit code, the summary or None, and what stood on stderr."""

    def call(*words, tables=tables, out=tmp_path / "out"):
        named = [word for part, path in tables.items() for word in (f"--{part}", str(path))]
        code = main([str(model), *named, "--out", str(out), "--device", "cpu", *map(str, words)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else None, captured.err

    return call


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_table_has_every_control_and_the_verdict_says_the_difference(run, tmp_path):
    code, summary, errors = run("--seeds", 0, 1, "--control", save_masked_lm(tmp_path / "mlm"))
    assert code == 0
    rows = read(tmp_path / "out" / "table.tsv")
    names = {(row["features"], row["pooling"], row["head"]) for row in rows}
    heads = ("linear", "tuned", "knn")
    of_encoders = {(f, p, h) for f in ("model", "untrained", "MLM control") for p in ("mean", "cls") for h in heads}
    others = {(f, "", h) for f in ("one-hot", "dinucleotides", "1- to 6-mers") for h in heads}
    assert names == of_encoders | others | {("constant guess", "", "majority class")}
    for row in rows:
        assert int(row["fits"]) == (2 if row["features"] == "untrained" else 1)
        assert float(row["test_mcc_low"]) <= float(row["test_mcc"]) <= float(row["test_mcc_high"])
        assert row["leaked"] == "0" and row["test"] == "60"
    difference = summary["model_test"] - summary["control_test"]
    assert summary["difference"] == pytest.approx(difference)
    assert summary["difference_low"] <= difference <= summary["difference_high"]
    assert f"(difference {difference:+.3f}, 95 % interval" in errors
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["bootstrap_draws"] == 1000 and len(stored["table"]) == len(rows) == summary["rows"]
    assert stored["command"].startswith("python -m nucel.probe ") and stored["settings"]["heads"] == list(heads)


def test_dev_chooses_the_layer_and_the_penultimate_is_shown_too(run, tmp_path):
    assert run("--layers", "all", "--heads", "linear", "--poolings", "mean", "--seeds", 0)[0] == 0
    layers = [r for r in read(tmp_path / "out" / "layers.tsv") if r["features"] == "model"]
    assert [row["layer"] for row in layers] == ["0", "1", "2"]
    chosen, penultimate = (r for r in read(tmp_path / "out" / "table.tsv") if r["features"] == "model")
    best = max(layers, key=lambda row: float(row["dev_mcc"]))
    assert (chosen["layer"], chosen["layer_by"], chosen["test_mcc"]) == (best["layer"], "dev", best["test_mcc"])
    assert (penultimate["layer"], penultimate["layer_by"]) == ("1", "penultimate")
    assert penultimate["test_mcc"] == layers[1]["test_mcc"]


@pytest.mark.slow
def test_few_shot_curves_begin_at_five_labels_and_end_with_all(run, tmp_path):
    words = ("--few-shot", "--few-shot-draws", 3, "--heads", "knn", "--poolings", "mean", "--seeds", 0)
    assert run(*words)[0] == 0
    curves = read(tmp_path / "out" / "few_shot.tsv")
    for name in ("model", "untrained", "one-hot", "dinucleotides", "1- to 6-mers"):
        own = [row for row in curves if row["features"] == name and row["head"] == "knn"]
        assert [(row["labels"], row["fits"]) for row in own] == [
            ("5", "3"), ("10", "3"), ("20", "3"), ("50", "3"), ("80", "1"),
        ]  # fmt: skip
    whole = next(row for row in read(tmp_path / "out" / "table.tsv") if row["features"] == "model")
    last = next(row for row in curves if (row["features"], row["head"], row["labels"]) == ("model", "knn", "80"))
    assert last["test_mcc"] == whole["test_mcc"]


@pytest.mark.slow
def test_drawn_heads_fine_tuning_and_fewer_rows(run, tmp_path):
    words = ("--heads", "mlp", "cnn", "--poolings", "mean", "--max-epochs", 1, "--seeds", 0, 1, "--max-rows", 40)
    fine = ("--finetune", "--finetuning.epochs", 1, "--finetuning.warmup-steps", 1)
    code, summary, _ = run(*words, *fine)
    assert code == 0 and (summary["train"], summary["dev"], summary["test"]) == (40, 40, 40)
    rows = read(tmp_path / "out" / "table.tsv")
    assert {(row["features"], row["head"]) for row in rows if row["pooling"] == "per base"} == {
        (name, "cnn") for name in ("model", "untrained", "one-hot")
    }
    assert all(row["fits"] == ("1" if row["features"] == "constant guess" else "2") for row in rows)
    assert rows[-1]["features"] == "model, all weights"


def test_numbers_of_two_sequences(run, tmp_path):
    tables = {}
    for seed, part in enumerate(("train", "dev", "test")):
        lines = ["sequence_left,sequence_right,target_a,target_b"]
        for i, (text, _) in enumerate(planted_rows(40, seed)):
            lines.append(f"{text},{text[::-1]},{text.count('A')},{'' if i % 2 else text.count('C')}")
        tables[part] = tmp_path / f"{part}.csv"
        tables[part].write_text("\n".join(lines) + "\n")
    words = ("--heads", "linear", "cnn", "--poolings", "mean", "--max-epochs", 1, "--seeds", 0)
    code, summary, _ = run(*words, tables=tables)
    assert code == 0 and summary["metric"] == "pearson"
    rows = {(r["features"], r["head"]): r for r in read(tmp_path / "out" / "table.tsv")}
    assert float(rows["dinucleotides", "linear"]["test_pearson"]) > 0.5
    assert rows["constant guess", "mean"]["test_pearson"] == ""
    code, _, errors = run("--finetune", tables=tables, out=tmp_path / "other")
    assert code == 2 and "fine-tuning takes one sequence and one label" in errors


def test_what_is_refused_leaves_nothing(run, tmp_path, capsys):
    for words, message in [
        (("--layers", "9"), "layers must lie in"),
        (("--heads", "cnn", "--cnn-form", "residualbind"), "one-hot bases only"),
        (("--cache", str(tmp_path / "c"), "--cache-limit-gb", "0"), "--cache-limit-gb"),
        (("--cache", str(tmp_path / "c"), "--cache-limit-gb", "-1"), "cache_limit_gb must be at least 0"),
        (("--heads", "linear", "linear"), "must be distinct"),
        (("--max-rows", "3"), "at least 10"),
        (("--neighbors", "0"), "at least 1"),
    ]:
        try:
            code, _, errors = run(*words)
        except SystemExit as refused:  # tyro's, for what a configuration refuses by itself
            code, errors = refused.code, capsys.readouterr().err
        assert code == 2 and message in re.sub(r"[\s│|]+", " ", errors), words
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".nucel*"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    assert "not an empty directory" in run()[2]
