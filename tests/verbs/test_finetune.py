"""Fine-tuning and prediction as a user meets them: commands, directories, refusals."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.tiny import planted_rows, save_tiny_model, tiny_classifier, write_table, write_task

import nucel
from nucel.finetune import main as finetune_main
from nucel.model import hub
from nucel.predict import main as predict_main
from nucel.runtime.device import Precision
from nucel.tasks import plots
from nucel.tasks.predictions import raw_outputs, tiled_outputs
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")

CPU = Precision(torch.device("cpu"), torch.float32)
QUICK = ("--epochs", "4", "--lr", "5e-3", "--warmup-steps", "5", "--classifier-pooling", "cls")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=5)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture
def run(capsys):
    """Calls a verb's main; returns the exit code, the summary or None, and what stood on stderr."""

    def call(main, *arguments):
        code = main([str(word) for word in arguments])
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else None, captured.err

    return call


@pytest.fixture
def finetune(run, model, task, tmp_path):
    def call(*arguments, out=tmp_path / "out", tables=task, seeds=(0,), model=model):
        words = [word for part, path in tables.items() for word in (f"--{part}", path)]
        return run(finetune_main, model, *words, "--out", out, "--seeds", *seeds, *QUICK, *arguments)

    return call


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def finished(model, task, tmp_path_factory):
    """Results of two seeds and their summary, for the tests that look at them."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("finetune") / "out"
    words = [str(word) for part, path in task.items() for word in (f"--{part}", path)]
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert finetune_main([str(model), *words, "--out", str(out), "--seeds", "0", "1", *QUICK]) == 0
    return out, json.loads(stdout.getvalue().splitlines()[-1])


def test_a_planted_motif_is_learned_by_every_seed(finished):
    _, summary = finished
    per_seed = [figures["test_mcc"] for figures in summary["seeds"]]
    assert [figures["seed"] for figures in summary["seeds"]] == [0, 1]
    assert min(per_seed) > 0.6
    assert summary["test_mcc"] == pytest.approx(np.mean(per_seed))
    assert summary["test_mcc_sd"] == pytest.approx(np.std(per_seed, ddof=1))
    for name in ("test_accuracy", "test_f1", "test_auroc", "test_average_precision"):
        assert 0.7 < summary[name] <= 1
    assert (summary["train"], summary["dev"], summary["test"], summary["leaked"]) == (320, 80, 120, 0)


def test_results_are_where_the_docstring_says(finished):
    out, summary = finished
    assert sorted(path.name for path in out.iterdir()) == ["model", "result.json", "seed-0", "seed-1", "test.png"]
    assert (out / "test.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "result.json").read_text())
    assert result["test_mcc"] == summary["test_mcc"] and result["settings"]["fit"]["lr"] == 5e-3
    assert result["search"] is None and (result["lr"], result["classifier_pooling"], result["epochs"]) == (
        5e-3,
        "cls",
        4,
    )
    assert result["labels"] == ["0", "1"] and result["command"].startswith("python -m nucel.finetune")
    history = rows_of(out / "seed-0" / "history.tsv")
    assert [int(line["step"]) for line in history] == [10, 20, 30, 40]
    best = min(history, key=lambda line: float(line["dev_loss"]))
    assert int(best["step"]) == summary["seeds"][0]["best_step"]


def test_predictions_are_the_figures(finished, task):
    out, summary = finished
    for figures in summary["seeds"]:
        rows = rows_of(out / f"seed-{figures['seed']}" / "predictions.tsv")
        assert list(rows[0]) == ["name", "label", "predicted", "p_0", "p_1"] and len(rows) == 120
        assert [row["name"] for row in rows[:2]] == ["1", "2"]
        right = [row["label"] == row["predicted"] for row in rows]
        assert np.mean(right) == pytest.approx(figures["test_accuracy"])
        assert all((float(row["p_1"]) > 0.5) == (row["predicted"] == "1") for row in rows)


def test_the_model_is_that_of_the_best_seed_and_predicts_the_same(run, finished, task, tmp_path):
    out, summary = finished
    best = min(summary["seeds"], key=lambda figures: figures["dev_loss"])
    code, found, _ = run(
        predict_main, out / "model", task["test"], "--out", tmp_path / "p.tsv", "--label-column", "label"
    )
    assert code == 0 and found["mcc"] == pytest.approx(best["test_mcc"]) and found["sequences"] == 120
    rows, before = rows_of(tmp_path / "p.tsv"), rows_of(out / f"seed-{best['seed']}" / "predictions.tsv")
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in before]

    fasta = tmp_path / "s.fa"
    fasta.write_text("".join(f">s{i}\n{text}\n" for i, (text, _) in enumerate(planted_rows(120, 2))))
    code, found, _ = run(predict_main, out / "model", fasta, "--out", tmp_path / "f.tsv", "--batch-tokens", 300)
    assert code == 0 and "mcc" not in found
    by_fasta = rows_of(tmp_path / "f.tsv")
    assert list(by_fasta[0]) == ["name", "predicted", "p_0", "p_1"] and by_fasta[5]["name"] == "s5"
    expected = [float(row["p_1"]) for row in rows]
    np.testing.assert_allclose([float(row["p_1"]) for row in by_fasta], expected, atol=2e-6)


def test_the_directory_of_a_fine_tuning_predicts(run, finished, task, tmp_path):
    """What a user tries first is the --out of the command before."""
    for name, model in (("one", finished[0]), ("two", finished[0] / "model")):
        assert run(predict_main, model, task["test"], "--out", tmp_path / name)[0] == 0
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()


def test_sequences_longer_than_the_context_are_predicted_by_tiles(run, finished, tmp_path):
    table = write_table(tmp_path / "long.csv", [(text * 2, 0) for text, _ in planted_rows(5, 2)])
    words = (finished[0], table, "--out", tmp_path / "long.tsv", "--context", 41)
    code, _, stderr = run(predict_main, *words)
    assert code == 0 and "5 sequences are longer than the 40 bases of the context" in stderr


def test_tiles_count_by_the_bases_that_they_answer_for():
    """Of 80 bases with a quarter shared at least, the tiles [0, 40), [20, 60) and [40, 80) keep 30, 20 and 30."""
    network = tiny_classifier()
    tokens = [nucleotide.encode((text * 3)[:80]) for text, _ in planted_rows(6, 2)]
    parts = [raw_outputs(network, [t[a : a + 40] for t in tokens], CPU, both_strands=False) for a in (0, 20, 40)]
    expected = (30 * parts[0] + 20 * parts[1] + 30 * parts[2]) / 80
    found = tiled_outputs(network, tokens, 40, CPU, both_strands=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    whole = tiled_outputs(network, tokens, 80, CPU, both_strands=False)
    np.testing.assert_allclose(whole, raw_outputs(network, tokens, CPU, both_strands=False), rtol=1e-5, atol=1e-6)


def test_predictions_of_regions_keep_their_place(run, finished, tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\n" + "ACGTTGCA" * 10 + "\n")
    (tmp_path / "r.bed").write_text("chr1\t3\t40\tsame\t0\t-\nchr1\t8\t48\tsame\n")
    words = (finished[0], tmp_path / "r.bed", "--genome", tmp_path / "g.fa", "--out", tmp_path / "p.tsv")
    assert run(predict_main, *words)[0] == 0
    rows = [list(row.values())[:5] for row in rows_of(tmp_path / "p.tsv")]
    assert rows == [["same", "chr1", "3", "40", "-"], ["same", "chr1", "8", "48", "+"]]


def test_fasta_files_are_fine_tuned_on_with_a_split(run, model, tmp_path):
    rows = planted_rows(120, 0)
    for label in (0, 1):
        (tmp_path / f"{label}.fa").write_text("".join(f">s\n{text}\n" for text, y in rows if y == label))
    classes = (f"no={tmp_path}/0.fa", f"yes={tmp_path}/1.fa")
    words = (*QUICK, "--warmup-steps", 50, "--split", "60,20,20", "--seeds", 0, "--out", tmp_path / "out")
    code, summary, stderr = run(finetune_main, model, "--train", *classes, *words)
    assert code == 0 and (summary["train"], summary["dev"], summary["test"]) == (72, 24, 24)
    assert "the warm-up of 50 steps is not over after the 12 steps of the training" in stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["labels"] == ["no", "yes"] and result["versions"]["nucel"] == nucel.__version__
    code, _, stderr = run(finetune_main, model, "--train", *classes, "--dev", *classes, "--out", tmp_path / "o")
    assert code == 2 and "give --dev and --test, or --split 80,10,10" in stderr


@pytest.mark.interop
def test_transformers_predicts_the_same(finished, task):
    transformers = pytest.importorskip("transformers")
    out, summary = finished
    best = min(summary["seeds"], key=lambda figures: figures["dev_loss"])["seed"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    texts = [text for text, _ in planted_rows(120, 2)]
    with torch.no_grad():
        found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)[:, 1]
    expected = [float(row["p_1"]) for row in rows_of(out / f"seed-{best}" / "predictions.tsv")]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_fine_tuned_model_embeds(finished):
    assert nucel.embed(nucel.load(finished[0] / "model"), ["ACGT"]).shape == (1, 32)


def test_weights_begin_where_the_model_ended_unless_from_scratch(finetune, model, tmp_path):
    still = ("--epochs", 1, "--lr", 1e-12)
    before = load_file(model / "model.safetensors")["model.layers.0.mlp.Wi.weight"]
    for name, words in (("tuned", ()), ("scratch", ("--from-scratch",))):
        assert finetune(*still, *words, out=tmp_path / name)[0] == 0
    tuned, scratch = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("tuned", "scratch"))
    torch.testing.assert_close(tuned["model.layers.0.mlp.Wi.weight"], before)
    assert not torch.allclose(scratch["model.layers.0.mlp.Wi.weight"], before, atol=1e-2)
    assert torch.equal(scratch["classifier.weight"].sign(), tuned["classifier.weight"].sign())


def test_options_reach_the_model(finetune, tmp_path):
    code, _, _ = finetune("--classifier-pooling", "mean", "--head", "dense", "--context", 200, "--epochs", 1)
    assert code == 0
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["classifier_pooling"] == "mean" and config["classifier_activation"] == "gelu"
    assert config["max_position_embeddings"] == 200


def test_numbers_are_regressed(finetune, run, tmp_path):
    tables = {
        part: write_table(tmp_path / f"{part}.csv", [(s, 20.5 + 3 * y) for s, y in planted_rows(n, seed)])
        for seed, (part, n) in enumerate({"train": 200, "dev": 50, "test": 60}.items())
    }
    code, summary, _ = finetune(tables=tables)
    assert code == 0 and summary["test_pearson"] > 0.5 and summary["test_r2"] > 0 and "test_mcc" not in summary
    assert summary["test_spearman_sd"] is None  # of one seed
    out = tmp_path / "out"
    rows = rows_of(out / "seed-0" / "predictions.tsv")
    assert list(rows[0]) == ["name", "label", "predicted"] and 15 < float(rows[0]["predicted"]) < 30
    assert json.loads((out / "model" / "config.json").read_text())["problem_type"] == "regression"
    code, found, _ = run(
        predict_main, out / "model", tables["test"], "--out", tmp_path / "p.tsv", "--label-column", "label"
    )
    assert code == 0 and found["pearson"] == pytest.approx(summary["test_pearson"], abs=1e-5)


def test_leaks_are_announced(finetune, task, tmp_path):
    tables = {**task, "test": write_table(tmp_path / "test.csv", planted_rows(4, 0) + planted_rows(8, 2))}
    code, summary, stderr = finetune("--epochs", 1, tables=tables)
    assert code == 0 and summary["leaked"] == 4 and summary["test"] == 12
    assert "4 test sequences occur in train (--drop-leaked leaves them out)" in stderr
    code, summary, _ = finetune("--epochs", 1, "--drop-leaked", tables=tables, out=tmp_path / "dropped")
    assert code == 0 and summary["leaked"] == 4 and summary["test"] == 8


# ---- learning rate, pooling and epochs that suit the model -----------------------------------------------------------


@pytest.mark.slow
def test_defaults_learn_where_the_protocol_learns_nothing(run, model, task, tmp_path):
    words = [word for part, path in task.items() for word in (f"--{part}", path)]
    words += ["--seeds", 0, "--out"]
    code, protocol, _ = run(finetune_main, model, *words, tmp_path / "protocol", "--protocol")
    assert code == 0 and (protocol["lr"], protocol["classifier_pooling"], protocol["epochs"]) == (3e-5, "cls", 3)
    code, auto, stderr = run(finetune_main, model, *words, tmp_path / "auto")
    assert code == 0 and abs(protocol["test_mcc"]) < 0.2 and auto["test_mcc"] > 0.6
    result = json.loads((tmp_path / "auto" / "result.json").read_text())
    trials = result["search"]["trials"]
    best = min(trials, key=lambda trial: trial["dev_loss"])
    for name in ("lr", "classifier_pooling"):
        assert result[name] == auto[name] == best[name]
    assert result["settings"]["fit"]["lr"] == "auto" and result["epochs"] == 20 and len(trials) == 5
    assert f"it costs about {result['search']['share_of_training']:.0%} of the training" in stderr
    assert all(
        f"lr {t['lr']:g}, pooling {t['classifier_pooling']}: dev loss {t['dev_loss']:.4f}" in stderr for t in trials
    )
    assert f"Training with lr {auto['lr']:g}, pooling {auto['classifier_pooling']}, 20 epochs of 10 steps" in stderr
    config = json.loads((tmp_path / "auto" / "model" / "config.json").read_text())
    assert config["classifier_pooling"] == auto["classifier_pooling"]
    chosen = ("--lr", auto["lr"], "--classifier-pooling", auto["classifier_pooling"], "--epochs", 20)
    code, by_hand, stderr = run(finetune_main, model, *words, tmp_path / "hand", *chosen)
    assert code == 0 and "Search" not in stderr and by_hand["test_mcc"] == auto["test_mcc"]


def test_a_search_that_cannot_choose_says_so(finetune, tmp_path):
    code, _, stderr = finetune("--epochs", 1, "--lr", "1e-12", "--classifier-pooling", "auto")
    assert code == 0 and "no setting was better than a constant guess" in stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["search"]["decided"] is False and {trial["lr"] for trial in found["search"]["trials"]} == {1e-12}


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_bad_input_leaves_no_directory(finetune, task, model, tmp_path):
    bad = write_table(tmp_path / "bad.csv", [("ACGT", 0), ("ACGT", 7)])
    long = write_table(tmp_path / "long.csv", [("ACGT", 0), ("ACGT" * 16, 1)])
    for changes, message in (
        ({"tables": {**task, "dev": bad}}, "bad.csv, line 3: label '7' is not one of the trained classes: 0, 1"),
        ({"tables": {**task, "test": long}}, "long.csv, line 3: 64 bases are more than the context of 64 tokens"),
        ({"tables": {**task, "train": tmp_path / "none.csv"}}, "none.csv"),
        ({"model": tmp_path / "nothing"}, "holds no config.json"),
    ):
        code, _, stderr = finetune(**changes)
        assert code == 2 and message in stderr
        assert not (tmp_path / "out").exists()


def test_settings_that_cannot_be_are_refused(finetune, capsys):
    with pytest.raises(SystemExit):
        finetune(seeds=(1, 1))
    assert "seeds must be distinct" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        finetune("--epochs", 0)
    assert "epochs must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        finetune("--protocol")
    error = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert "--protocol means --lr 3e-05 and --classifier-pooling cls, given are 0.005 and cls" in error


def test_a_used_directory_is_refused(finetune, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, stderr = finetune()
    assert code == 2 and "is not an empty directory; choose another --out" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_loss_that_explodes_is_reported(finetune, tmp_path):
    code, _, stderr = finetune("--lr", 1e30, "--max-grad-norm", "inf", "--classifier-pooling", "auto")
    assert code == 2 and "not finite with any setting that was tried" in stderr and not (tmp_path / "out").exists()
    code, _, stderr = finetune("--lr", 1e30, "--max-grad-norm", "inf")
    assert code == 2 and "the loss is" in stderr and "lower --lr" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label-column", "label"), "line 2: label '9' is not one of the trained classes: a, b, c"),
        (("--label-column", "truth"), "has no column 'truth'"),
        (("--context", 5, "--long", "refuse"), "line 2: 8 bases are more than the context of 5 tokens"),
    ],
)
def test_predictions_that_cannot_be_made_leave_no_file(run, tmp_path, arguments, message):
    hub.save(tiny_classifier(), tmp_path / "model")
    table = write_table(tmp_path / "t.csv", [("ACGTACGT", 9)])
    code, _, stderr = run(predict_main, tmp_path / "model", table, "--out", tmp_path / "p.tsv", *arguments)
    assert code == 2 and message in stderr and not (tmp_path / "p.tsv").exists()


def test_an_encoder_cannot_predict(run, model, task, tmp_path):
    code, _, stderr = run(predict_main, model, task["test"], "--out", tmp_path / "p.tsv")
    assert code == 2 and "is not a fine-tuned model but ModernBertForTokenClassification" in stderr
    assert "python -m nucel.finetune makes one from it" in stderr


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "targets"),
    [(("0", "1"), [0, 1, 1, 0]), (("EI", "IE", "N"), [0, 1, 2, 1]), (("0", "1"), [1, 1, 1, 1]), (None, [0.5, 1, 2, 3])],
)
def test_predictions_are_drawn(tmp_path, labels, targets):
    pytest.importorskip("matplotlib")
    draws = np.random.default_rng(0)
    outputs = draws.normal(size=(4, 1)) if labels is None else draws.dirichlet([1] * len(labels), 4)
    plots.plot_predictions(labels, np.array(targets), outputs, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
