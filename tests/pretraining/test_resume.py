"""A run knows all that its resume needs, refuses what contradicts it, and prints the command that continues it."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support.resuming import WORDS, assert_same_weights, command_in, contents, refused
from support.tiny_run import MODEL, write_genome

from nucel.pretraining import loop
from nucel.pretraining.config import PRESETS
from nucel.pretraining.stored import stored_config
from nucel.pretraining.trainer import train
from nucel.runs.directory import RunDirectory
from nucel.runtime.errors import CheckpointError
from nucel.train import main, parse


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "genome.fa")


# ---- a run knows its settings ----------------------------------------------------------------------------------------


def test_the_run_alone_is_enough(start, tmp_path, genome, monkeypatch):
    """Recipe, regions, genome and the other settings; also where the genome was named from another folder."""
    (tmp_path / "drop.bed").write_text("contig\t100\t200\n")
    monkeypatch.chdir(tmp_path)
    words = ("--steps", 6, "--genome", "genome.fa", "--drop-bed", "drop.bed", "--hold-out-fraction", 0.2, "--keep", 5,
             "--no-augment-reverse-complement", "--contigs", "cont*", "--validation-windows", 7)  # fmt: skip
    whole = start("whole", *words)
    parts = start("parts", *words, "--stop-after", 3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = stored_config(RunDirectory(parts))
    assert config.genome == (genome,) and config.drop_bed == str(tmp_path / "drop.bed") and config.keep == 5
    assert config.stop_after is None and config.betas == (0.8, 0.99) and config.hold_out_fraction == 0.2
    assert main(["--resume", str(parts)]) == 0
    assert_same_weights(whole, parts)
    steps = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (whole, parts)]
    assert steps[0] == ["step-00000002", "step-00000004", "step-00000006"]
    assert steps[1] == ["step-00000002", "step-00000003", "step-00000004", "step-00000006"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("words", [("--resume", "auto", "--out", "RUN"), ("--resume=RUN",), ("--resume", "RUN")])
def test_words_beside_the_resume_override_settings_that_do_not_decide_the_result(start, words):
    folder = start("run", "--steps", 4, "--stop-after", 2)
    config = parse([word.replace("RUN", str(folder)) for word in (*words, "--keep", "7", "--validate-every", "3")])
    assert (config.keep, config.validate_every, config.save_every, config.lr) == (7, 3, 2, 0.003)
    assert config.model.discriminator.width == 64 and config.out == folder


def test_a_preset_that_is_named_is_asked_for_whole_but_for_the_genome(start, genome, capsys):
    folder = start("run", "--steps", 4, "--stop-after", 2)
    before = contents(folder)
    assert parse([*MODEL, "--resume", str(folder)]).genome == (genome,)
    error = refused(capsys, *MODEL, "--resume", folder)
    assert "lr: the run has 0.003, given is 0.002" in error and "genome" not in error.split("It was started")[0]
    assert contents(folder) == before


def test_a_run_of_an_earlier_version_knows_its_recipe_and_genome(start, tmp_path):
    whole, parts = start("whole", "--steps", 4), start("parts", "--steps", 4, "--stop-after", 2)
    description = json.loads((parts / "run.json").read_text())
    for name in ("settings", "extended_from", "initial_weights"):
        del description[name]
    del description["recipe"]["init_from"]
    (parts / "run.json").write_text(json.dumps(description))
    assert main(["--resume", str(parts), "--save-every", "2"]) == 0
    assert_same_weights(whole, parts)


def test_a_run_on_the_demo_genome_goes_on_with_it(tmp_path):
    folder = tmp_path / "run"
    assert main([*WORDS, "--steps", "2", "--stop-after", "1", "--out", str(folder)]) == 0
    moved = folder.rename(tmp_path / "moved")
    (moved / "demo.fa").unlink()
    assert main(["--resume", str(moved)]) == 0
    assert (moved / "demo.fa").is_file() and not folder.exists()


def test_a_run_without_a_checkpoint_begins_again(start, tmp_path):
    whole, killed = start("whole", "--steps", 3), start("killed", "--steps", 3, "--stop-after", 1)
    shutil.rmtree(killed / "checkpoints")
    assert main(["--resume", str(killed)]) == 0
    assert_same_weights(whole, killed)


@pytest.mark.parametrize(
    "change",
    [{"lr": "fast"}, {"lr": [1]}, {"model": {}}, {"frobnicate": 3}, {"betas": None}, {"context": 1}, {"genome": [1]}],
)
def test_a_run_that_does_not_tell_its_settings_is_refused(start, capsys, change):
    folder = start("run", "--steps", 2, "--stop-after", 1)
    description = json.loads((folder / "run.json").read_text())
    description["settings" if "genome" in change else "recipe"].update(change)
    (folder / "run.json").write_text(json.dumps(description))
    error = refused(capsys, "--resume", folder)
    assert "run.json" in error or "does not tell its settings" in error


# ---- refusals change nothing -----------------------------------------------------------------------------------------


def test_options_that_contradict_the_run_are_refused_and_change_nothing(start, tmp_path, capsys):
    folder = start("run", "--steps", 4, "--stop-after", 2, "--hold-out-fraction", 0.2)
    before = contents(folder)
    other = write_genome(tmp_path / "other.fa")
    other.write_text(other.read_text().replace("AAA", "CCC", 1))
    for words, difference in (
        (("--lr", 0.1), "lr: the run has 0.003, given is 0.1"),
        (("--betas", 0.8, 0.9), "betas: the run has [0.8, 0.99], given is [0.8, 0.9]"),
        (("--model.mask-rate", 0.3), "model.mask_rate: the run has 0.15, given is 0.3"),
        (("--objective", "mlm"), "objective: the run has electra, given is mlm"),
        (("--init-from", "x"), "init_from: the run has None, given is"),
        (("--genome", other), "genome: the run's is"),
        (("--steps", 9), "steps: the run has 4, given is 9"),
    ):
        error = refused(capsys, "--resume", folder, *words)
        assert difference in error and f"Go on with it as it is: python -m nucel.train --resume {folder}" in error
        assert contents(folder) == before


def test_a_run_on_a_genome_gets_no_demo_genome(start, capsys):
    """The demo genome was left in the run by a resume that forgot --genome."""
    folder = start("run", "--steps", 4, "--stop-after", 2)
    before = contents(folder)
    config = replace(stored_config(RunDirectory(folder)), genome=(), resume=str(folder))
    with pytest.raises(CheckpointError, match=r"genome: the run's is .*genome\.fa, the demo genome"):
        train(config)
    assert contents(folder) == before
    other = replace(PRESETS["debug"](), resume="auto", out=folder)
    with pytest.raises(CheckpointError, match="lr: the run has"):
        train(other)
    assert contents(folder) == before


def test_a_directory_without_a_run_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("work of years")
    for words in (("--resume", tmp_path), ("--resume", "auto", "--out", tmp_path), ("--out", tmp_path)):
        error = refused(capsys, *WORDS, *words)
        assert "run" in error and "--resume" not in error.replace(f"--resume {tmp_path}:", "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ---- messages print the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "a run"])
def test_the_command_that_a_stopped_run_prints_continues_it(start, tmp_path, genome, capsys, monkeypatch, name):
    whole = start("whole", "--steps", 5)
    folder = tmp_path / name
    original = loop.train_step

    def stopped(state, batch, *rest):
        original(state, batch, *rest)
        if batch.step in (1, 3):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "train_step", stopped)
    assert main([*WORDS, "--steps", "5", "--genome", str(genome), "--out", str(folder)]) == 75
    words = command_in(capsys.readouterr().err)
    assert words == ["--resume", str(folder)]
    # What a session overrides is repeated by the command that continues it.
    assert main([*words, "--keep", "9"]) == 75
    again = command_in(capsys.readouterr().err)
    assert again == [*words, "--keep", "9"]
    assert main(again) == 0
    assert_same_weights(whole, folder)


def test_an_occupied_directory_names_the_command_that_continues_its_run(start, tmp_path, genome, capsys):
    folder = start("run", "--steps", 3, "--stop-after", 2)
    error = refused(capsys, *WORDS, "--genome", genome, "--out", folder)
    assert main(command_in(error)) == 0
