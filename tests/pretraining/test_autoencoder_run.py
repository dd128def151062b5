"""A run of the masked autoencoder: what it writes, resumes and starts from, and what others make of its encoder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.resuming import refused
from support.tiny_run import MODEL, write_genome

import nucel
from nucel.interpretation.networks import load_networks
from nucel.model.config import EncoderConfig
from nucel.objectives.mae import MaskedAutoencoder
from nucel.pretraining.config import TrainConfig
from nucel.pretraining.cost import activation_bytes, window_bytes
from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.runtime import files
from nucel.train import main

WORDS = [
    *MODEL[1:], "--objective", "mae", "--model.mask-rate", "0.5", "--model.mask-span", "3", "--save-every", "2",
    "--log-every", "1", "--lr", "0.003", "--model.decoder.layers", "1", "--model.decoder.width", "32",
    "--model.decoder.heads", "2", "--model.decoder.intermediate", "48",
]  # fmt: skip


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> Path:
    return write_genome(tmp_path_factory.mktemp("genome") / "genome.fa")


@pytest.fixture(scope="module")
def whole(genome, tmp_path_factory) -> Path:
    """A run that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*WORDS, "--steps", "7", "--genome", str(genome), "--out", str(out)]) == 0
    return out


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds, flat."""
    newest = sorted((run / "checkpoints").glob("step-????????"))[-1]
    trainer = torch.load(newest / "trainer.pt", weights_only=True)
    state = {f"encoder.{name}": x for name, x in load_file(newest / "encoder" / "model.safetensors").items()}
    state |= {f"decoder.{name}": x for name, x in trainer["helpers"]["decoder"].items()}
    for number, moments in trainer["optimizer"]["state"].items():
        state |= {f"{number}.{name}": x for name, x in moments.items()}
    return state | {"step": torch.tensor(trainer["step"])}


def test_it_keeps_the_encoder_and_publishes_no_decoder(whole):
    assert sorted(p.name for p in whole.iterdir() if p.is_dir()) == ["checkpoints", "encoder"]
    assert not any("decoder" in name for name in load_file(whole / "encoder" / "model.safetensors"))
    assert any(name.startswith("decoder.mask_token") for name in state_of(whole))
    held = [line for line in log.read_metrics(RunDirectory(whole)) if line["split"] == "validation"]
    assert 0 < held[-1]["generator_loss"] < held[0]["generator_loss"] < math.log(4) + 0.2
    assert (whole / "loss.png").exists()


@pytest.mark.parametrize("stop", [2, 3])
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(whole, genome, tmp_path, stop):
    out = tmp_path / "run"
    words = [*WORDS, "--steps", "7", "--genome", str(genome), "--out", str(out)]
    assert main([*words, "--stop-after", str(stop)]) == 0
    assert main(["--resume", str(out)]) == 0
    expected, state = state_of(whole), state_of(out)
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_a_micro_batch_changes_it_by_rounding_alone(whole, genome, tmp_path):
    words = [*WORDS, "--steps", "7", "--genome", str(genome), "--out", str(tmp_path / "run"), "--micro-batch", "2"]
    assert main(words) == 0
    one, other = (load_file(run / "encoder" / "model.safetensors") for run in (whole, tmp_path / "run"))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda helpers: helpers.pop("decoder"), "must hold all weights of the decoder"),
        (lambda helpers: helpers["decoder"].pop("mask_token"), "must hold all weights of the decoder"),
        (lambda helpers: helpers["decoder"].update(mask_token=torch.zeros(3)), "mask_token has shape"),
        (lambda helpers: helpers["decoder"]["mask_token"].fill_(math.nan), "not finite"),
    ],
    ids=["decoder", "weight", "shape", "nan"],
)
def test_a_damaged_decoder_is_noticed_and_the_checkpoint_before_it_taken(whole, tmp_path, capsys, change, said):
    run = shutil.copytree(whole, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000007"
    saved = torch.load(newest / "trainer.pt", weights_only=True)
    change(saved["helpers"])
    torch.save(saved, newest / "trainer.pt")
    (newest / "SHA256SUMS").unlink()
    files.write_sums(newest)
    assert main(["--resume", str(run)]) == 0
    stderr = capsys.readouterr().err
    assert "step-00000007 is skipped: trainer.pt: " in stderr and said in stderr
    expected, state = state_of(whole), state_of(run)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_transformers_reads_the_encoder_and_it_says_the_same(whole):
    transformers = pytest.importorskip("transformers")
    encoder = nucel.load(whole)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole / "encoder")
    model = transformers.AutoModel.from_pretrained(whole / "encoder").eval()
    batch = tokenizer("ACGTNTTACGA", return_tensors="pt")
    with torch.no_grad():
        theirs, ours = model(**batch).last_hidden_state, encoder(batch["input_ids"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert encoder.context == 64


def test_verbs_take_the_run(whole):
    assert load_networks(whole).kind == "a bare encoder"
    vectors = nucel.embed(whole, ["ACGTACGT", "TTTTT"])
    assert vectors.shape == (2, 64) and np.isfinite(vectors).all()
    assert np.array_equal(vectors, nucel.embed(whole / "encoder", ["ACGTACGT", "TTTTT"]))


def test_its_card_says_how_to_use_it(whole, monkeypatch):
    text = (whole / "README.md").read_text()
    assert "## Use `encoder/`" in text and "pipeline_tag: feature-extraction" in text and "| decoder_loss |" in text
    assert '"decoder"' in text and '"generator"' not in text and "discriminator/" not in text
    pytest.importorskip("transformers")
    monkeypatch.chdir(whole)
    namespace: dict = {}
    for block in text.split("```python\n")[1:]:
        exec(block.split("```")[0], namespace)
    assert namespace["hidden"].shape == (1, 9, 64) and namespace["vectors"].shape == (1, 64)


def test_another_run_starts_from_its_encoder(whole, genome, tmp_path, capsys):
    out = tmp_path / "run"
    words = [*WORDS, "--steps", "1", "--genome", str(genome), "--lr", "1e-30", "--weight-decay", "0", "--init-from"]
    assert main([*words, str(whole), "--out", str(out)]) == 0
    one, other = (load_file(run / "encoder" / "model.safetensors") for run in (whole, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert list(json.loads((out / "run.json").read_text())["initial_weights"]) == ["encoder"]
    said = refused(
        capsys, *words[:-3], "--init-from", out, "--model.discriminator.width", "32", "--out", tmp_path / "b"
    )
    assert "does not fit the encoder of this run: width is 64 there, 32 here" in said


def test_a_dry_run_counts_its_work(genome, capsys, monkeypatch):
    monkeypatch.setattr("nucel.pretraining.estimate._MEASURED_SECONDS", 0.0)
    assert main([*WORDS, "--genome", str(genome), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "encoder 2 x 64" in captured.err and "decoder 1 x 32" in captured.err
    flops = json.loads(captured.out.splitlines()[-1])["flops_per_token"]
    assert main([*WORDS, "--genome", str(genome), "--dry-run", "--model.mask-rate", "0.05"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["flops_per_token"] > 1.2 * flops


def test_memory_is_planned_for_both_halves_at_once():
    shape = EncoderConfig(layers=2, width=64, heads=2, intermediate=96)
    config = TrainConfig().model.__class__(discriminator=shape, decoder=shape, mask_rate=0.5)
    planned = window_bytes(config, 257, torch.float32, False, MaskedAutoencoder)
    assert planned > (257 + 129) * activation_bytes(shape, torch.float32, False)


def test_masks_of_no_whole_block_are_refused(genome, tmp_path, capsys):
    said = " ".join(_refusal(capsys, "--model.mask-span", "60", "--model.mask-rate", "0.2").split())
    assert "masks no position of a context of 64" in said and "blocks of 60" in said
    assert "mask_span must be at least 1" in " ".join(_refusal(capsys, "--model.mask-span", "0").split())


def _refusal(capsys, *words) -> str:
    with pytest.raises(SystemExit) as exit:
        main([*WORDS, *words])
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_the_control_takes_the_same_masks_and_old_runs_are_the_same_runs(genome, tmp_path):
    words = [*WORDS, "--objective", "mlm", "--steps", "1", "--genome", str(genome), "--out"]
    assert main([*words, str(tmp_path / "span")]) == 0
    assert main([*words, str(tmp_path / "single"), "--model.mask-span", "1"]) == 0
    recipes = [json.loads((tmp_path / name / "run.json").read_text())["recipe"] for name in ("span", "single")]
    assert recipes[0]["model"]["mask_span"] == 3
    assert recipes[1]["model"]["mask_span"] is None and recipes[1]["model"]["decoder"] is None  # as if there were none
    one, other = (load_file(tmp_path / name / "masked_lm" / "model.safetensors") for name in ("span", "single"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
