"""What a run does when it cannot go on, what it tells beforehand, and its control, the masked LM."""

from __future__ import annotations

import json

import pytest
import torch
from support.tiny_run import MODEL, write_genome

import nucel
from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import Windows
from nucel.objectives import masking
from nucel.pretraining.config import TrainConfig
from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.train import main

TINY = [*MODEL, "--steps", "6", "--log-every", "2", "--save-every", "2"]


@pytest.fixture
def run(tmp_path, capsys):
    genome = write_genome(tmp_path / "genome.fa")

    def run(*words):
        code = main([*TINY, "--genome", str(genome), "--out", str(tmp_path / "run"), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_too_many_steps_that_are_not_finite_end_the_run_and_name_their_windows(run, tmp_path, monkeypatch):
    whole, broken_from = masking.masked_cross_entropy, 3
    steps = []

    def loss(logits, masked):
        steps.append(torch.is_grad_enabled())
        broken = torch.is_grad_enabled() and sum(steps) > broken_from
        return whole(logits, masked) * (torch.nan if broken else 1)

    monkeypatch.setattr(masking, "masked_cross_entropy", loss)
    code, _, stderr = run("--max-skipped", "2", "--validate-every", "100")
    assert code == 1
    assert "3 steps in a row had a loss or gradient that is not finite" in stderr and "step 6" in stderr
    assert "newest checkpoint is intact" in stderr and "Traceback" not in stderr

    lines = log.read_metrics(RunDirectory(tmp_path / "run"))
    assert [line["skipped_steps"] for line in lines if line["split"] == "train"] == [0, 1]
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000004"
    assert nucel.load(newest / "discriminator").embeddings.tok_embeddings.weight.isfinite().all()

    genome = Genome(tmp_path / "genome.fa")
    config = TrainConfig(context=64, window_bp=80, overlap_bp=0, hold_out_fraction=0.1)
    windows, _ = Windows.tile(genome, config).hold_out((), 0.1)
    batch = WindowSampler(windows, 64, 8).batch(5)
    header, *rows = (tmp_path / "run" / "not_finite.tsv").read_text().splitlines()
    assert header == "contig\tstart\tend\tstrand"
    assert [row.split("\t") for row in rows] == [
        ["contig", str(start), str(start + 63), "+" if strand > 0 else "-"]
        for start, strand in zip(batch.start_bp, batch.strand, strict=True)
    ]


def test_a_validation_that_is_not_finite_ends_the_run_and_is_not_published(run, tmp_path, monkeypatch):
    whole = masking.masked_cross_entropy

    def loss(logits, masked):
        return whole(logits, masked) * (1 if torch.is_grad_enabled() else torch.nan)

    assert run("--stop-after", "2")[0] == 0
    monkeypatch.setattr(masking, "masked_cross_entropy", loss)
    code, _, stderr = run("--resume", "auto")
    assert code == 1 and "the loss on held-out windows is not finite after step 4" in stderr
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step-00000002"


@pytest.mark.parametrize(
    "words",
    ["lr inf", "lr nan", "weight-decay inf", "max-grad-norm inf", "model.temperature inf",
     "model.discriminator.norm-eps -1", "model.discriminator.init-std -1", "model.generator.local-theta nan"],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(run, tmp_path, words, capsys):
    flag, value = words.split()
    with pytest.raises(SystemExit) as exit:
        run(f"--{flag}", value)
    assert exit.value.code == 2 and "finite, got" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_says_what_to_lower(run, monkeypatch, error):
    def too_large(*arguments):
        raise error

    monkeypatch.setattr("nucel.pretraining.loop.train_step", too_large)
    code, _, stderr = run()
    assert code == 1 and "--micro-batch 8 of 64 tokens; give a smaller one" in stderr


def test_other_errors_of_a_step_are_not_taken_for_memory(run, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("nucel.pretraining.loop.train_step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run()


def test_a_small_memory_gets_a_small_micro_batch(run, monkeypatch):
    monkeypatch.setattr("nucel.runtime.environment.free_memory", lambda device: 0)
    code, _, stderr = run()
    assert code == 0 and "micro-batch 1, 8 to a step" in stderr


def test_the_masked_lm_trains_resumes_and_loads(run, tmp_path):
    code, stdout, _ = run("--objective", "mlm", "--stop-after", "4")
    assert code == 0
    code, stdout, stderr = run("--objective", "mlm", "--resume", "auto")
    summary = json.loads(stdout.splitlines()[-1])
    assert code == 0 and summary["step"] == 6 and not any("rtd" in name for name in summary)
    assert "masked lm 2 x 64" in stderr
    assert nucel.load(tmp_path / "run").config.width == 64
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) == ["checkpoints", "masked_lm"]

    code, _, stderr = run("--resume", "auto")
    assert code == 2 and "objective: the run has mlm, given is electra" in stderr
