"""Each verb ends with three lines for people on stderr, and one JSON object for programs on stdout."""

from __future__ import annotations

import importlib
import json
import math
import re
import shlex
from pathlib import Path

import pytest
from support.pair import save_pair, tiny_pair
from support.tiny import save_tiny_model, tiny_classifier, write_task
from support.tiny_run import MODEL, write_genome

from nucel import finetune, plot, predict, probe, report, scan, score, suite, train
from nucel.embed import __main__ as embed
from nucel.genome import __main__ as genome
from nucel.model import hub
from nucel.objectives.electra import Electra
from nucel.objectives.metrics import composition_cross_entropy
from nucel.objectives.mlm import MaskedLM

VERBS = {"train": train, "embed": embed, "predict": predict, "plot": plot, "genome": genome, "scan": scan} | {
    "score": score,
    "finetune": finetune,
    "suite": suite,
    "probe": probe,
    "report": report,
}


@pytest.fixture
def ended(capsys):
    """Calls a verb; returns the last three lines of stderr, and the JSON object."""

    def call(verb, *words) -> tuple[list[str], dict]:
        assert VERBS[verb].main(list(map(str, words))) == 0
        captured = capsys.readouterr()
        *_, where, following = lines = [line for line in captured.err.splitlines() if line.strip()][-3:]
        assert len(lines) == 3 and all(0 < len(line) < 400 for line in lines)
        assert re.match(r"(The|They|Nothing|This) ", where) and re.match(r"(Next|Go on)", following)
        return lines, json.loads(captured.out.splitlines()[-1])

    return call


@pytest.fixture
def sequences(tmp_path) -> Path:
    path = tmp_path / "genes.csv"
    path.write_text("sequence,label\nACGTTGCAAC,a\nTTTACGGATT,b\nCCGTACCGTA,c\n")
    return path


def command(line: str) -> list[str]:
    """The words of the command that a line ends with."""
    return shlex.split(line[line.index("python -m nucel.") :])


def test_a_run_says_whether_it_learned_and_what_to_type_next(ended, tmp_path):
    run = tmp_path / "run"
    words = (*MODEL, "--steps", 2, "--genome", write_genome(tmp_path / "a.fa"), "--out", run)
    lines, summary = ended("train", *words, "--stop-after", 1)
    assert lines[2].startswith("Next: train to step 2: python -m nucel.train")
    lines, summary = ended("train", *command(lines[2])[3:])
    loss, guess = (f"{summary[name]:.4f}" for name in ("val_rtd_loss", "val_rtd_blind"))
    assert lines[0].startswith("It has not learned yet: on held-out windows the discriminator's loss is ")
    assert f"is {loss}, not below a constant guess's {guess} (AUROC {summary['val_rtd_auroc']:.3f}, 95 %" in lines[0]
    assert f"The run is in {run}: models in discriminator/ and generator/" in lines[1]
    assert lines[2] == f"Next: train longer: python -m nucel.train --resume {run} --extend-steps 2"
    _, summary = ended("train", *command(lines[2])[3:])
    assert summary["step"] == 4


def test_a_masked_lm_is_compared_with_the_composition_of_its_genome(ended, tmp_path):
    genome = write_genome(tmp_path / "a.fa")
    bases = genome.read_text().split("\n")[1]
    gc = sum(bases.count(base) for base in "GC") / len(bases)
    guess = -gc * math.log(gc / 2) - (1 - gc) * math.log((1 - gc) / 2)
    words = (*MODEL, "--steps", 1, "--objective", "mlm", "--genome", genome, "--out", tmp_path / "run")
    lines, summary = ended("train", *words)
    assert f"the loss at masked bases is {summary['val_generator_loss']:.4f}, " in lines[0]
    assert f"not below a constant guess's {guess:.4f} " in lines[0]
    assert "models in masked_lm/" in lines[1]


def test_verdicts():
    metrics = {"rtd_loss": 0.28, "rtd_blind": 0.31, "rtd_auroc": 0.7, "rtd_auroc_low": 0.6, "rtd_auroc_high": 0.8}
    assert str(Electra.verdict(metrics)) == (
        "It has learned: on held-out windows the discriminator's loss is 0.2800, below a constant guess's 0.3100 "
        "(AUROC 0.700, 95 % interval 0.600 to 0.800)."
    )
    alone = Electra.verdict(metrics | {"rtd_auroc_low": math.nan, "rtd_loss": 0.31})
    assert not alone.learned and "(AUROC 0.700)." in str(alone)
    chance = Electra.verdict(metrics | {"rtd_auroc": 0.51, "rtd_auroc_low": 0.5})
    assert not chance.learned and str(chance).startswith("It is not shown that it has learned: on held-out windows ")
    assert ", below a constant guess's 0.3100 (AUROC 0.510, 95 % interval 0.500 to 0.800)" in str(chance)
    masked = MaskedLM.verdict({"generator_loss": 1.3, "composition": 1.38, "generator_accuracy": 0.4})
    assert masked.learned and "the loss at masked bases is 1.3000, below a constant guess's 1.3800" in str(masked)
    assert composition_cross_entropy(0.5) == pytest.approx(math.log(4))


def test_a_dry_run_says_how_long_and_that_nothing_was_written(ended, tmp_path, monkeypatch):
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.0)
    genome = write_genome(tmp_path / "a.fa")
    lines, _ = ended("train", *MODEL, "--genome", genome, "--dry-run")
    assert "The run would take about" in lines[0] and "nothing was written" in lines[1]
    assert lines[2] == "Next: the same command without --dry-run"


@pytest.mark.parametrize(("pooling", "ending"), [("mean", "npz"), ("none", "npz"), ("mean", "h5"), ("mean", "parquet")])
def test_embeddings_say_how_to_read_them(ended, tmp_path, sequences, pooling, ending):
    pytest.importorskip({"h5": "h5py", "parquet": "pyarrow"}.get(ending, "numpy"))
    out = tmp_path / f"genes.{ending}"
    model = save_tiny_model(tmp_path / "model")
    lines, _ = ended("embed", model, sequences, "--out", out, "--pooling", pooling, "--device", "cpu")
    assert "Embedded 3 sequences" in lines[0] and str(out) in lines[1]
    expression = lines[2].removeprefix("Next, in Python: ")
    package = expression.split(".")[0]
    importlib.import_module(re.match(r"[a-z0-9.]+(?=\.)", expression)[0])
    read = eval(expression, {package: importlib.import_module(package)})
    assert len(read) == (30 if pooling == "none" else 3)


def test_predictions_say_how_good_they_are_where_labels_tell(ended, tmp_path, sequences):
    pytest.importorskip("sklearn")
    hub.save(tiny_classifier(), tmp_path / "model")
    words = (tmp_path / "model", sequences, "--out", tmp_path / "genes.tsv", "--device", "cpu")
    lines, _ = ended("predict", *words)
    assert lines[0] == "Predicted one of 3 classes for 3 sequences." and "--label-column" in lines[2]
    lines, summary = ended("predict", *words, "--label-column", "label")
    assert f"against label: mcc {summary['mcc']:.4f}" in lines[0]
    assert command(lines[2])[:4] == ["python", "-m", "nucel.predict", str(tmp_path / "model")]


def test_a_scan_says_where_its_track_is(ended, tmp_path):
    pytest.importorskip("pyBigWig")
    model, fasta = save_tiny_model(tmp_path / "model"), write_genome(tmp_path / "a.fa")
    words = (model, "--genome", fasta, "--out", tmp_path / "a.bw", "--device", "cpu")
    lines, summary = ended("scan", *words, "--bed", tmp_path / "a.bed")
    assert f"Read 6,000 known bases: a surprise of {summary['mean_surprise']:.4f} nats" in lines[0]
    assert str(tmp_path / "a.bw") in lines[1] and str(tmp_path / "a.bed") in lines[1]
    lines, _ = ended("scan", *words)
    assert "stand out" not in lines[1]


def test_a_picture_and_a_survey_name_the_command_that_follows(ended, tmp_path):
    pytest.importorskip("matplotlib")
    fasta = write_genome(tmp_path / "a.fa")
    options = ("--context", 64, "--window-bp", 80, "--overlap-bp", 0)
    lines, _ = ended("genome", fasta, *options)
    assert command(lines[2]) == [
        "python", "-m", "nucel.train", "small", "--genome", str(fasta), "--out", "runs/a",
    ]  # fmt: skip
    run = tmp_path / "run"
    ended("train", *MODEL, "--steps", 1, "--genome", fasta, "--out", run)
    lines, _ = ended("plot", run)
    assert f"The picture is {run / 'loss.png'}." == lines[1]
    assert command(lines[2])[:4] == ["python", "-m", "nucel.plot", str(run)] and "tokens" in lines[2]


def test_fine_tuning_says_whether_it_beat_a_constant_guess(ended, tmp_path):
    model = save_tiny_model(tmp_path / "model", seed=5)
    tables = [word for part, path in write_task(tmp_path / "task").items() for word in (f"--{part}", path)]
    words = (*tables, "--seeds", 0, 1, "--lr", "5e-3", "--warmup-steps", 5, "--classifier-pooling", "cls")
    lines, summary = ended("finetune", model, *words, "--epochs", 4, "--out", tmp_path / "a")
    mean, spread = summary["test_mcc"], summary["test_mcc_sd"]
    assert lines[0] == f"MCC {mean:.3f} ± {spread:.3f} over 2 seeds on the test table, above a constant guess (0)."
    lines, summary = ended("finetune", model, *words, "--epochs", 1, "--lr", "1e-12", "--out", tmp_path / "b")
    assert "no better than a constant guess (0); try a larger --lr" in lines[0]
    assert command(lines[2])[:5] == ["python", "-m", "nucel.predict", str(tmp_path / "b"), "SEQUENCES.fa"]


def test_scored_variants_say_what_is_missing(ended, tmp_path):
    model = save_pair(tmp_path / "run", tiny_pair())
    (tmp_path / "g.fa").write_text(">c\n" + "ACGTTGCAAC" * 20 + "\n")
    (tmp_path / "v.tsv").write_text("chrom\tpos\tref\talt\nc\t100\tC\tA\nc\t101\tA\t<DEL>\n")
    words = (tmp_path / "v.tsv", "--genome", tmp_path / "g.fa", "--out", tmp_path / "o.tsv", "--max-mismatches", 1)
    lines, summary = ended("score", model, *words)
    assert lines[0] == "Scored 1 of 2 variants; without scores: 1 unsupported." and summary["scored"] == 1


def test_a_suite_says_where_its_table_is(ended, tmp_path):
    model = save_tiny_model(tmp_path / "model", seed=5)
    write_task(tmp_path / "tasks" / "one", train=32, dev=8, test=16)
    words = ("--models", f"tiny={model}", "--no-cnn", "--no-scratch", "--epochs", 1, "--seeds", 0)
    lines, _ = ended("suite", tmp_path / "tasks", "--out", tmp_path / "out", *words)
    assert lines[0].startswith("1 fits on 1 tasks done") and str(tmp_path / "out" / "table.md") in lines[1]


def test_a_probe_says_whether_it_beat_its_controls(ended, tmp_path):
    pytest.importorskip("sklearn")
    model = save_tiny_model(tmp_path / "model")
    tables = [word for part, path in write_task(tmp_path / "task", 40, 20, 30).items() for word in (f"--{part}", path)]
    words = ("--heads", "linear", "--poolings", "mean", "--seeds", 0, "--device", "cpu", "--out", tmp_path / "out")
    lines, summary = ended("probe", model, *tables, *words)
    assert lines[0].startswith("The best probe by dev, linear on model, mean, layer 2, has a test MCC of ")
    assert f"{summary['control_probe']}, {summary['control_test']:.3f} (difference" in lines[0]
    assert str(tmp_path / "out" / "table.tsv") in lines[1] and "--finetune" in lines[2]


def test_a_report_begins_with_its_answer(ended, tmp_path):
    for library in ("matplotlib", "logomaker"):
        pytest.importorskip(library)
    genome, run = write_genome(tmp_path / "a.fa"), tmp_path / "run"
    ended("train", *MODEL, "--steps", 1, "--genome", genome, "--out", run)
    lines, summary = ended("report", run, "--logos", 0)
    assert lines[0] == summary["answer"] and lines[0].startswith("Open: ")
    assert summary["out"] == str(run / "report.html") and summary["out"] in lines[1]
    assert "--tasks" in lines[2]
