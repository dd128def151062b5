"""--dry-run: measured steps are steps of the run, nothing is written, and nothing is named that does not exist."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from support.tiny_run import MODEL, write_genome

from nucel.objectives import masking
from nucel.pretraining import step
from nucel.train import main


@pytest.fixture
def dry_run(tmp_path, capsys, monkeypatch):
    """Calls main with --dry-run in an empty folder beside the genome; the exit code, what it printed, and its steps."""
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.5)
    genome = write_genome(tmp_path / "genome.fa")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    rates = []

    def learning_rate(recipe, number):
        rates.append((number, step_rate(recipe, number)))
        return rates[-1][1]

    step_rate = step.learning_rate
    monkeypatch.setattr(step, "learning_rate", learning_rate)

    def call(*words, genome=genome):
        code = main([*MODEL, "--dry-run", *([] if genome is None else ["--genome", str(genome)]), *words])
        captured = capsys.readouterr()
        assert list(work.iterdir()) == []
        assert {path.name for path in tmp_path.iterdir()} <= {"genome.fa", "genome.fa.gz", "work"}
        return code, captured.out, captured.err, rates

    return call


def test_it_estimates_and_writes_nothing(dry_run):
    code, stdout, stderr, _ = dry_run("--steps", "6")
    assert code == 0 and "50 epochs" in stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["tokens"] == 6 * 8 * 64 and summary["epochs"] == pytest.approx(6 * 8 / 67, abs=0.02)
    assert summary["steps_for_50_epochs"] == pytest.approx(50 * 67 / 8, abs=1)
    hours = summary["tokens_for_50_epochs"] / summary["tokens_per_s"] / 3600
    assert summary["hours_for_50_epochs"] == pytest.approx(hours, abs=0.01)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_never_steps_beyond_the_schedule(dry_run, steps):
    code, stdout, _, rates = dry_run("--steps", str(steps), "--warmup-steps", "0", "--decay", "linear")
    assert code == 0
    assert [number for number, _ in rates] == list(range(steps)) and all(rate > 0 for _, rate in rates)
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["steps_measured"] == max(1, steps - 1) and summary["tokens_per_s"] > 0


def named_paths(text: str) -> list[Path]:
    return [Path(word.rstrip(".,:;)")) for word in re.findall(r"(?<![\w.])/[\w./-]+", text)]


def test_it_names_no_file_that_is_gone(dry_run, monkeypatch):
    code, _, stderr, _ = dry_run("--steps", "3", genome=None)
    assert code == 0 and "demo genome" in stderr and named_paths(stderr) == []

    whole = masking.masked_cross_entropy
    monkeypatch.setattr(masking, "masked_cross_entropy", lambda *arguments: whole(*arguments) * torch.nan)
    for genome in ({}, {"genome": None}):
        code, stdout, stderr, _ = dry_run("--steps", "3", "--max-skipped", "2", **genome)
        assert code == 1 and stdout == ""
        message = stderr.split("error: ")[1]
        assert "3 steps in a row" in message and "Nothing was saved" in message
        assert "not_finite.tsv" not in message and "checkpoint" not in message
        assert all(path.exists() for path in named_paths(message))


def test_a_compressed_genome_is_not_unpacked_beside_itself(dry_run, tmp_path):
    packed = tmp_path / "genome.fa.gz"
    packed.write_bytes(gzip.compress((tmp_path / "genome.fa").read_bytes()))
    assert dry_run("--steps", "1", genome=packed)[0] == 0


def test_the_clock_is_read_between_steps_only(dry_run, monkeypatch):
    """A run that is longer than what is measured is cut by time, not by its steps."""
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.0)
    code, stdout, _, rates = dry_run("--steps", "500")
    assert code == 0 and len(rates) == 3 and json.loads(stdout.splitlines()[-1])["steps_measured"] == 2
