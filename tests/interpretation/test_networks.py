"""What directories hold: pairs, halves of pairs, masked language models, bare encoders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.pair import RATES, save_masked_lm, save_pair, tiny_pair

import nucel
from nucel.interpretation.networks import load_networks
from nucel.runtime.errors import CheckpointError, HubError

TOKENS = torch.tensor([[2, 11, 12, 13, 14, 11, 4, 12]], dtype=torch.uint8)


@pytest.fixture
def run(tmp_path):
    return save_pair(tmp_path / "run", tiny_pair(context=48))


@pytest.fixture
def bare(tmp_path, run):
    """An encoder without a head, as the published weights are."""
    folder = tmp_path / "bare"
    (run / "discriminator").rename(folder)
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if n.startswith("model.")}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["ModernBertModel"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def test_a_pair_comes_back_with_its_rates_and_its_logits(run):
    made, loaded = tiny_pair(), nucel.load_pair(run)
    assert (loaded.config.mask_rate, loaded.config.temperature) == (RATES["mask_rate"], RATES["temperature"])
    assert not loaded.training and loaded.discriminator.model.context == 48
    assert torch.equal(loaded.discriminator.logits(TOKENS), made.discriminator.logits(TOKENS))
    assert torch.equal(loaded.generator.logits(TOKENS), made.generator.logits(TOKENS))


def test_each_directory_gives_what_it_holds(run, bare, tmp_path):
    whole = save_pair(tmp_path / "whole", tiny_pair())
    pair, half = load_networks(whole), load_networks(whole / "discriminator")
    assert pair.kind == "a pair" and pair.discriminator and pair.generator and pair.mask_rate == RATES["mask_rate"]
    assert half.kind == "a discriminator alone" and half.generator is None and half.mask_rate is None
    assert load_networks(run / "generator").kind == "a masked language model"
    assert load_networks(save_masked_lm(tmp_path / "mlm")).kind == "a masked language model"
    assert load_networks(bare).kind == "a bare encoder"
    prints = {load_networks(path).fingerprint for path in (whole, whole / "discriminator", whole / "generator")}
    assert len(prints) == 3 and all(len(digest) == 64 for digest in prints)


@torch.no_grad()
def test_the_untrained_control_has_the_same_shape_and_other_weights(tmp_path):
    trained = load_networks(save_pair(tmp_path / "run", tiny_pair()))
    control = trained.untrained(seed=1)
    assert control.kind == trained.kind and control.context == trained.context
    assert control.encoder is control.discriminator.model
    assert not torch.equal(control.discriminator.logits(TOKENS), trained.discriminator.logits(TOKENS))
    again = trained.untrained(seed=1)
    assert torch.equal(control.discriminator.logits(TOKENS), again.discriminator.logits(TOKENS))
    assert torch.equal(control.generator.logits(TOKENS), again.generator.logits(TOKENS))


def test_what_is_no_pair_is_refused_as_one(run, bare, tmp_path):
    with pytest.raises(HubError, match="no discriminator"):
        nucel.load_pair(run)  # `bare` has taken it
    with pytest.raises(HubError, match="no discriminator and no generator"):
        nucel.load_pair(bare)
    whole = save_pair(tmp_path / "whole", tiny_pair())
    (whole / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"run\.json"):
        nucel.load_pair(whole)
