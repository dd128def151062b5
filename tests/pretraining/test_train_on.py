"""A finished run is trained on with --extend-steps; a new one starts from old weights with --init-from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.resuming import WORDS, assert_same_weights, command_in, contents, refused
from support.tiny_run import write_genome

from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.train import main


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "genome.fa")


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


def test_a_run_without_a_checkpoint_begins_again_with_the_same_weights_only(start, capsys):
    old, other = start("old", "--steps", 2), start("other", "--steps", 3)
    folder = start("new", "--steps", 2, "--stop-after", 1, "--init-from", old)
    shutil.rmtree(folder / "checkpoints")
    again = shutil.copytree(folder, folder.with_name("again"))
    assert main(["--resume", str(again)]) == 0
    for name in ("generator", "discriminator"):
        shutil.copyfile(other / name / "model.safetensors", old / name / "model.safetensors")
    before = contents(folder)
    assert "has other weights than those that" in refused(capsys, "--resume", folder)
    assert contents(folder) == before


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
