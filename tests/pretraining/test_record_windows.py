"""Runs on files of short sequences: every objective, rows of all lengths, resumes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nucel.genome.fasta import Genome
from nucel.genome.records import Records, RecordSampler
from nucel.genome.windows import WindowOptions
from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.objectives.electra import Electra
from nucel.objectives.metrics import RankedScores, bootstrap_auroc
from nucel.tokenizers.nucleotide import PAD
from nucel.train import main

NETWORK = {"layers": 1, "width": 32, "heads": 2, "intermediate": 32}
WORDS = [
    "debug", "--device", "cpu", "--context", "48", "--window", "record", "--drop-gaps", "--batch-size", "6",
    "--micro-batch", "3", "--steps", "4", "--warmup-steps", "2", "--validate-every", "4", "--validation-windows", "8",
    "--save-every", "2", "--log-every", "1", "--model.mask-rate", "0.3", "--model.mask-span", "3",
    *[str(word) for name in ("generator", "discriminator", "decoder") for key, value in NETWORK.items()
      for word in (f"--model.{name}.{key}", value)],
]  # fmt: skip
FOLDERS = {"electra": ("discriminator", "generator"), "mlm": ("masked_lm",), "mae": ("encoder",)}


@pytest.fixture(scope="module")
def barcodes(tmp_path_factory) -> Path:
    draws, path = np.random.default_rng(0), tmp_path_factory.mktemp("barcodes") / "barcodes.fa"
    with open(path, "w") as file:
        for i in range(40):
            letters = draws.choice(list("ACGT-"), draws.integers(25, 60), p=[0.3, 0.2, 0.2, 0.2, 0.1])
            file.write(f">ref|Genus_species{i % 4}|{i}\n{''.join(letters)}\n")
    return path


@pytest.mark.parametrize("objective", FOLDERS)
def test_every_objective_trains_on_records_and_resumes_bit_for_bit(barcodes, tmp_path, objective, capsys):
    words = [*WORDS, "--objective", objective, "--genome", str(barcodes), "--hold-out", "*species3*"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["step"] == 4 and 0 < summary["val_generator_loss"] < 4
    assert main([*words, "--out", str(tmp_path / "part"), "--stop-after", "3"]) == 0
    assert main(["--resume", str(tmp_path / "part")]) == 0
    for name in FOLDERS[objective]:
        one, other = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "part"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    described = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert described["windows"]["train"] + described["windows"]["held_out"] == 40
    assert described["recipe"]["window"] == "record" and described["recipe"]["drop_gaps"] is True


def test_padding_enters_no_metric_of_the_pair(barcodes):
    shape = EncoderConfig(layers=1, width=32, heads=2, intermediate=32, init_std=0.2)
    pair = Electra(ElectraConfig(generator=shape, discriminator=shape, mask_rate=0.4)).initialize(0).eval()
    batch = RecordSampler(Records.of(Genome(barcodes), WindowOptions(max_unknown=1), True), 60, 8).batch(0)
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)
    wider = torch.nn.functional.pad(tokens, (0, 30), value=PAD)
    with torch.no_grad():
        first, second = (pair(x, 0, torch.arange(8), lengths) for x in (tokens, wider))
    figures = [pair.metrics(*pair.sums(last)) for last in (first, second)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    scores = [pair.scores(last) for last in (first, second)]
    assert pair.exact_metrics(*scores[0]) == pytest.approx(pair.exact_metrics(*scores[1]))
    assert pair.interval(*scores[0]) == pytest.approx(pair.interval(*scores[1]))
    bases = torch.arange(60) < lengths[:, None]
    bases[:, 0] = False  # [CLS]
    assert torch.equal(scores[0][2], bases)
    by_hand = RankedScores(-first.logits[bases], ~first.corrupted.original[bases]).auroc()
    assert pair.exact_metrics(*scores[0])["rtd_auroc"] == by_hand
    fraction = float((~first.corrupted.original[bases]).float().mean())
    assert figures[0]["replaced_fraction"] == pytest.approx(fraction)


def test_an_interval_without_padding_is_that_of_whole_rows():
    draws = torch.Generator().manual_seed(0)
    scores, positive = torch.randn(12, 9, generator=draws), torch.rand(12, 9, generator=draws) < 0.3
    assert bootstrap_auroc(scores, positive) == bootstrap_auroc(scores, positive, torch.ones_like(positive))


def refused(capsys, *words) -> str:
    try:
        code = main([*WORDS, *map(str, words)])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_what_makes_no_sense_with_records_is_refused(barcodes, tmp_path, capsys):
    out = tmp_path / "run"
    said = refused(capsys, "--keep-bed", "a.bed", "--genome", barcodes, "--out", out)
    assert "--window record takes whole records" in said
    said = refused(capsys, "--window", "tile", "--genome", barcodes, "--out", out)
    assert "--drop-gaps changes where bases lie" in said
    assert not (out / "run.json").exists()


def test_a_run_says_when_rows_are_mostly_padding_or_records_are_cropped(barcodes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.0)
    words = [*WORDS, "--objective", "mlm", "--genome", str(barcodes), "--dry-run", "--context"]
    assert main([*words, "100"]) == 0
    assert "much of each row is padding, --context 5" in (said := capsys.readouterr().err) and "records of" in said
    assert main([*words, "30"]) == 0
    assert "are longer than 29 bp and are cropped" in capsys.readouterr().err
