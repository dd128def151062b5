"""A run knows all that its resume needs, can be trained on after its end, and can lend its weights to another run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_run import MODEL, write_genome

from nucel.pretraining import loop
from nucel.pretraining.config import PRESETS
from nucel.pretraining.stored import stored_config
from nucel.pretraining.trainer import train
from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.runtime.errors import CheckpointError
from nucel.train import main, parse

WORDS = [*MODEL[1:], "--save-every", "2", "--log-every", "1", "--lr", "0.003", "--betas", "0.8", "0.99"]
"""Without the preset's name."""


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "genome.fa")


@pytest.fixture
def start(genome, tmp_path, capsys):
    """Starts a run of a name; returns its directory. Later calls of main are the tests' own."""

    def call(name, *words):
        folder = tmp_path / name
        assert main([*WORDS, "--genome", str(genome), "--out", str(folder), *map(str, words)]) == 0
        capsys.readouterr()
        return folder

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_weights(one: Path, other: Path, networks=("generator", "discriminator")) -> None:
    for name in networks:
        first, second = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def refused(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    return capsys.readouterr().err


# ---- a run knows its settings ----------------------------------------------------------------------------------------


def test_the_run_alone_is_enough(start, tmp_path, genome, monkeypatch):
    """Recipe, regions, genome and the other settings; also where the genome was named from another folder."""
    (tmp_path / "drop.bed").write_text("contig\t100\t200\n")
    monkeypatch.chdir(tmp_path)
    words = ("--steps", 6, "--genome", "genome.fa", "--drop-bed", "drop.bed", "--hold-out-fraction", 0.2, "--keep", 5,
             "--no-reverse-complement", "--contigs", "cont*", "--validation-windows", 7)  # fmt: skip
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


def command_in(text: str) -> list[str]:
    """The words after `python -m nucel.train` of the command that a message ends with."""
    (command,) = re.findall(r"python -m nucel\.train (.*)", text)
    return shlex.split(re.split(r"[;,]| or choose", command)[0])


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


# ---- --extend-steps --------------------------------------------------------------------------------------------------


def test_a_finished_run_is_trained_on_as_if_it_had_been_planned_so(start, tmp_path, capsys):
    """With a constant rate, for which the number of steps decides nothing else."""
    constant = ("--decay", "constant")
    whole = start("whole", "--steps", 7, *constant)
    folder = start("run", "--steps", 4, *constant)
    assert main(["--resume", str(folder), "--extend-steps", "3", "--stop-after", "5"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 5
    assert main(["--resume", str(folder)]) == 0
    assert_same_weights(whole, folder)
    described = json.loads((folder / "run.json").read_text())
    assert described["recipe"]["steps"] == 7 and described["extended_from"] == [4]
    assert "(extended after 4 steps)" in (folder / "README.md").read_text()
    assert [line["step"] for line in log.read_metrics(RunDirectory(folder)) if line["split"] == "train"] == [
        *range(1, 8)
    ]

    assert main(["--resume", "auto", "--out", str(folder), "--extend-steps", "2"]) == 0
    described = json.loads((folder / "run.json").read_text())
    assert described["recipe"]["steps"] == 9 and described["extended_from"] == [4, 7]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_decaying_rate_is_that_of_a_run_of_all_steps(start, decay):
    long = start("long", "--steps", 8, "--decay", decay)
    folder = start("run", "--steps", 4, "--decay", decay)
    assert main(["--resume", str(folder), "--extend-steps", "4"]) == 0
    rates = [
        {line["step"]: line["lr"] for line in log.read_metrics(RunDirectory(run)) if line["split"] == "train"}
        for run in (long, folder)
    ]
    assert all(rates[1][step] == rates[0][step] for step in (5, 6, 7, 8))
    assert rates[1][4] < rates[0][4] and rates[1][5] > rates[1][4]


def test_what_is_not_finished_is_not_extended(start, capsys):
    folder = start("run", "--steps", 4, "--stop-after", 2)
    before = contents(folder)
    error = refused(capsys, "--resume", folder, "--extend-steps", 3)
    assert "is at step 2 of 4" in error and contents(folder) == before
    assert main(command_in(error)) == 0
    with pytest.raises(SystemExit):
        main(["--extend-steps", "3"])
    assert "name it with --resume" in " ".join(capsys.readouterr().err.split())


def test_an_extended_run_goes_back_to_no_checkpoint_from_before(start, capsys):
    """The steps between would be trained on another schedule than they were."""
    folder = start("run", "--steps", 4, "--keep", 9)
    assert main(["--resume", str(folder), "--extend-steps", "2"]) == 0
    for step in (4, 6):
        (folder / "checkpoints" / f"step-0000000{step}" / "trainer.pt").unlink()
    before = contents(folder)
    error = refused(capsys, "--resume", folder)
    assert "step-00000002 is skipped: it is of step 2, and the run was extended from step 4" in error
    assert contents(folder) == before


# ---- --init-from -----------------------------------------------------------------------------------------------------


def test_a_new_run_starts_from_the_weights_of_another(start, tmp_path):
    old = start("old", "--steps", 3)
    pair = tmp_path / "pair"
    for name in ("generator", "discriminator"):
        shutil.copytree(old / name, pair / name)
    new = [
        start(f"from {source.name}", "--steps", 4, "--stop-after", 2, "--init-from", source) for source in (old, pair)
    ]
    fresh = start("fresh", "--steps", 4, "--stop-after", 2)
    assert_same_weights(*new)
    with pytest.raises(AssertionError):
        assert_same_weights(new[0], fresh)
    # At rate 0 the weights stay, in both networks.
    still = start("still", "--steps", 1, "--lr", 1e-30, "--weight-decay", 0, "--init-from", old)
    assert_same_weights(old, still)

    described = json.loads((new[0] / "run.json").read_text())
    assert described["recipe"]["init_from"] == str(old) and set(described["initial_weights"]) == {
        "generator", "discriminator",
    }  # fmt: skip
    card = (new[0] / "README.md").read_text()
    assert "| started from | `old`, SHA-256 of the weights: " in card and str(tmp_path) not in card

    whole = start("whole", "--steps", 4, "--init-from", old)
    shutil.rmtree(old)  # a resume does not need it
    assert main(["--resume", str(new[0])]) == 0
    assert_same_weights(whole, new[0])


def test_a_masked_lm_starts_from_a_masked_lm(start):
    old = start("old", "--steps", 2, "--objective", "mlm")
    words = ("--steps", 1, "--lr", 1e-30, "--weight-decay", 0, "--objective", "mlm")
    for source in (old, old / "masked_lm"):
        assert_same_weights(old, start(f"from {source.name}", *words, "--init-from", source), ["masked_lm"])


WIDER = ("--model.discriminator.width", 128, "--model.discriminator.heads", 4)


def test_weights_that_do_not_fit_are_refused_with_their_differences(start, tmp_path, genome, capsys):
    old = start("old", "--steps", 1)
    folder = tmp_path / "new"
    for words, message in (
        (WIDER, "discriminator of this run: width is 64 there, 128 here"),
        (("--model.generator.layers", 2), "generator of this run: layers is 1 there, 2 here"),
        (("--model.discriminator.heads", 2), "heads is 4 there, 2 here"),
        (("--model.no-tie-embeddings",), "tie_embeddings is True there, False here"),
        (("--objective", "mlm"), "holds no masked_lm/ but discriminator, generator"),
        (("--init-from", tmp_path / "nowhere"), "holds no generator/ but no model at all"),
        (("--init-from", old / "generator"), "holds no generator/"),
    ):
        error = refused(capsys, *WORDS, "--genome", genome, "--out", folder, "--init-from", old, *words)
        assert message in error and not folder.exists()

    path = old / "generator" / "model.safetensors"
    state = load_file(path)
    save_file(state | {"decoder.bias": state["decoder.bias"] * torch.nan}, path)
    error = refused(capsys, *WORDS, "--genome", genome, "--out", folder, "--init-from", old)
    assert "decoder.bias holds values that are not finite" in error and not folder.exists()


def test_other_settings_of_the_same_shape_are_noted(start, genome, tmp_path, capsys):
    old = start("old", "--steps", 1)
    words = [*WORDS, "--steps", "1", "--genome", str(genome), "--out", str(tmp_path / "new"), "--init-from", str(old)]
    assert main([*words, "--model.discriminator.radius", "16"]) == 0
    assert "trained with other settings: radius is 64 there, 16 here" in capsys.readouterr().err


def test_a_dry_run_measures_what_would_be_resumed(start, capsys, monkeypatch):
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.0)
    folder = start("run", "--steps", 4)
    before = contents(folder)
    assert main(["--resume", str(folder), "--extend-steps", "3", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 7
    assert contents(folder) == before
