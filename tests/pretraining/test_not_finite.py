"""Weights that are not finite, or that give no finite loss, are never saved, published or taken up again."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_run import MODEL, write_genome

from nucel.objectives import masking
from nucel.pretraining import loop
from nucel.runtime import files
from nucel.train import main

RARE = ("--save-every", "1000", "--validate-every", "1000", "--log-every", "1000")
OVERFLOW = ("--lr", "3e38", "--warmup-steps", "0")
"""The first step makes all later losses nan; its own was finite."""


@pytest.fixture
def run(tmp_path, capsys):
    genome = write_genome(tmp_path / "genome.fa")

    def call(*words):
        code = main([*MODEL, "--genome", str(genome), "--out", str(tmp_path / "run"), *words])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def after_step(monkeypatch):
    """Has something happen after a step, counted from 1."""

    def plan(number, happen):
        def train_step(state, batch, *rest):
            original(state, batch, *rest)
            if batch.step + 1 == number:
                happen(state)

        original = loop.train_step
        monkeypatch.setattr(loop, "train_step", train_step)

    return plan


def saved(folder: Path) -> dict[str, bytes]:
    """The files of all checkpoints and of the published networks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in ("checkpoints", "generator", "discriminator")
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


def test_a_periodic_save_is_refused(run, tmp_path):
    code, stderr = run("--steps", "4", *RARE, *OVERFLOW, "--save-every", "1")
    assert code == 1 and "not finite after step 1; the weights of this step are not saved" in stderr
    assert "Traceback" not in stderr and saved(tmp_path / "run") == {}


def test_the_save_at_a_signal_is_refused(run, tmp_path, after_step):
    after_step(2, lambda state: os.kill(os.getpid(), signal.SIGTERM))
    code, stderr = run("--steps", "50", *RARE, *OVERFLOW)
    assert code == 1 and "not finite after step 2" in stderr and saved(tmp_path / "run") == {}


def test_a_good_run_is_saved_at_a_signal(run, tmp_path, after_step):
    after_step(2, lambda state: os.kill(os.getpid(), signal.SIGTERM))
    assert run("--steps", "50", *RARE)[0] == 75
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()


@torch.no_grad()
def spoil(state) -> None:
    state.model.discriminator.classifier.weight[0, 5] = torch.inf


def test_the_last_steps_of_a_run_replace_nothing_by_nan(run, tmp_path, after_step):
    """Fewer steps than --max-skipped are not finite before the end."""
    assert run("--steps", "6", *RARE, "--stop-after", "3")[0] == 0
    before = saved(tmp_path / "run")
    after_step(4, spoil)
    code, stderr = run("--steps", "6", *RARE, "--resume", "auto", "--save-every", "4")
    assert code == 1 and saved(tmp_path / "run") == before
    assert "the weights discriminator.classifier.weight are not finite after step 4" in stderr
    assert run("--steps", "6", *RARE, "--resume", "auto")[0] == 1


def test_a_finished_run_that_no_longer_validates_keeps_its_summary(run, tmp_path, monkeypatch):
    assert run("--steps", "2", *RARE)[0] == 0
    folder = tmp_path / "run"
    before, summary = saved(folder), (folder / "summary.json").read_bytes()
    whole = masking.masked_cross_entropy
    monkeypatch.setattr(masking, "masked_cross_entropy", lambda *arguments: whole(*arguments) * torch.nan)
    code, stderr = run("--steps", "2", *RARE, "--resume", "auto")
    assert code == 1 and "not finite after step 2" in stderr
    assert saved(folder) == before and (folder / "summary.json").read_bytes() == summary


def test_a_checkpoint_with_nan_is_passed_over_by_a_resume(run, tmp_path):
    """As an earlier version may have written it: its sums are right."""
    folder = tmp_path / "run"
    assert run("--steps", "4", *RARE, "--save-every", "2")[0] == 0
    whole = saved(folder)
    newest = folder / "checkpoints" / "step-00000004"
    path = newest / "generator" / "model.safetensors"
    state = load_file(path)
    state["decoder.bias"][3] = torch.nan
    save_file(state, path, metadata={"format": "pt"})
    (newest / "SHA256SUMS").unlink()
    files.write_sums(newest)
    shutil.copyfile(path, folder / "generator" / path.name)
    code, stderr = run("--steps", "4", *RARE, "--save-every", "2", "--resume", "auto")
    assert code == 0 and "step-00000004 is skipped: generator: decoder.bias holds values that are not finite" in stderr
    now = saved(folder)
    assert now["generator/model.safetensors"] == whole["generator/model.safetensors"]
    assert now["checkpoints/step-00000004/generator/model.safetensors"] == whole["generator/model.safetensors"]
