"""What a run says of itself: the words of its objective, and remarks on settings that work but are hardly meant."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from support.tiny_run import MODEL, write_genome

from nucel.genome.__main__ import main as genome_main
from nucel.objectives.electra import Electra
from nucel.objectives.metrics import bootstrap_auroc
from nucel.objectives.mlm import MaskedLM
from nucel.train import main


@pytest.fixture
def run(tmp_path, capsys):
    genome = write_genome(tmp_path / "genome.fa")

    def call(*words, genome=genome, model=MODEL):
        code = main([*model, "--steps", "2", "--genome", str(genome), "--out", str(tmp_path / "run"), *words])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


# ---- the words of the objective --------------------------------------------------------------------------------------


def test_a_masked_lm_is_never_called_a_generator(run):
    code, _, stderr = run("--objective", "mlm")
    assert code == 0 and "generator" not in stderr.lower().replace("generating", "")
    assert re.search(r"2/2 masked-base loss \d\.\d{3} [\d,]+ tokens/s", stderr)


def test_a_pair_shows_both_its_networks(run):
    code, _, stderr = run()
    assert code == 0 and re.search(r"2/2 generator \d\.\d{3} RTD 0\.\d{4} AUROC 0\.\d{3} [\d,]+ tokens/s", stderr)


def test_the_objectives_have_words_for_their_own_metrics():
    line = {"generator_loss": 1.25, "rtd_loss": 0.3, "rtd_auroc": 0.75}
    assert MaskedLM.progress(line) == "masked-base loss 1.250"
    assert Electra.progress(line) == "generator 1.250 RTD 0.3000 AUROC 0.750"


# ---- intervals -------------------------------------------------------------------------------------------------------


def test_one_window_has_no_interval():
    scores, positive = (
        torch.randn(2, 50, generator=torch.Generator().manual_seed(0)),
        torch.arange(100).view(2, 50) % 3 < 1,
    )
    assert all(map(math.isnan, bootstrap_auroc(scores[:1], positive[:1])))
    low, high = bootstrap_auroc(scores, positive)
    assert low < high


def test_a_run_with_one_held_out_window_says_that_there_is_no_interval(run, tmp_path):
    code, stdout, stderr = run("--validation-windows", "1")
    summary = json.loads(stdout.splitlines()[-1])
    assert code == 0 and summary["val_windows"] == 1 and 0 <= summary["val_rtd_auroc"] <= 1
    assert summary["val_rtd_auroc_low"] is None and summary["val_rtd_auroc_high"] is None
    assert "One window is held out, so that the AUROC has no interval" in stderr
    assert "(no interval: one held-out window)" in (tmp_path / "run" / "README.md").read_text()


# ---- small genomes ---------------------------------------------------------------------------------------------------


def test_a_genome_with_less_than_a_batch_is_remarked(run):
    assert "small for these settings" not in run()[2]
    code, _, stderr = run("--batch-size", "200", "--steps", "1", "--dry-run")
    assert code == 0
    assert "windows to train on, fewer than a batch of 200; take a smaller preset" in stderr


def test_a_run_of_many_epochs_is_remarked(run):
    code, _, stderr = run("--steps", "20000", "--stop-after", "1")
    assert code == 0 and re.search(r"reads each of its 67 windows 2,388 times, and may learn them by heart", stderr)


@pytest.mark.parametrize(("model", "bases"), [(("base",), 1000), (("base",), 1500), (("small",), 500)])
def test_a_genome_too_small_for_a_preset_names_the_presets_that_fit(run, tmp_path, model, bases):
    genome = tmp_path / "small.fa"
    genome.write_text(">plasmid\n" + ("ACGTTGCA" * bases)[:bases] + "\n")
    code, _, stderr = run(genome=genome, model=(*model, "--device", "cpu", "--batch-size", "4"))
    assert code == 2 and "Presets with smaller windows: debug (320 bp)" in stderr
    assert ("small (640 bp)" in stderr) == (model == ("base",))
    assert not (tmp_path / "run").exists()


# ---- everything masked -----------------------------------------------------------------------------------------------


def test_masking_all_bases_is_remarked(run, capsys):
    code, _, stderr = run("--model.mask-rate", "0.999")
    assert code == 0 and "--model.mask-rate 0.999 masks all 63 bases of a window" in stderr
    with pytest.raises(SystemExit):
        run("--model.mask-rate", "1.0")
    assert "there is no base left to predict from" in " ".join(capsys.readouterr().err.split())


def test_a_genome_of_lower_case_is_remarked(tmp_path, capsys):
    genome = write_genome(tmp_path / "genome.fa")
    words = [str(genome), "--window-bp", "80", "--overlap-bp", "0", "--context", "64"]
    assert genome_main(words) == 0 and "masked is 100 %" not in capsys.readouterr().err
    name, bases = Path(genome).read_text().split("\n", 1)
    genome.write_text(f"{name}\n{bases.lower()}")
    assert genome_main(words) == 0
    assert "masked is 100 %: every base is lower-case" in capsys.readouterr().err
