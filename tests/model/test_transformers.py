"""transformers' ModernBERT as an independent implementation: files, hidden states, losses and every gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.whole_step import assert_step_agrees

import nucel
from nucel.model import hub, hub_config
from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.model.encoder import Encoder
from nucel.model.networks import Generator
from nucel.objectives.electra import Electra
from nucel.runtime.errors import HubError
from nucel.tokenizers import nucleotide

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

MODEL = ElectraConfig(
    generator=EncoderConfig(layers=4, width=64, heads=2, intermediate=96, radius=8, init_std=0.08),
    discriminator=EncoderConfig(layers=5, width=96, heads=3, intermediate=128, radius=8, init_std=0.08),
)


def windows(batch=3, positions=70):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(nucleotide.BASES[0], nucleotide.BASES[-1] + 1, (batch, positions), generator=generator)
    tokens[torch.rand(batch, positions, generator=generator) < 0.05] = nucleotide.UNK
    tokens[:, 0] = nucleotide.CLS
    return tokens.to(torch.uint8)


@pytest.fixture(scope="module")
def pair() -> Electra:
    return Electra(MODEL).initialize(0)


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    hub.save(pair.discriminator, folder / "discriminator")
    hub.save(pair.generator, folder / "generator")
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_training_step_agrees(tmp_path, attention, tied):
    """In fp64; transformers rotates in fp32 even then, so that the agreement is to fp32's rounding."""
    model = ElectraConfig(MODEL.generator, MODEL.discriminator, tie_embeddings=tied)
    assert_step_agrees(model, windows(), tmp_path, attention, torch.float64, rtol=1e-6, gradient_tolerance=2e-6)


FUSED_STEP = """
import sys
from pathlib import Path
import torch
from nucel.kernels import attention, attention_triton, fused_ops, rtd_loss, rtd_loss_triton
from test_transformers import MODEL, windows
from support.whole_step import assert_step_agrees

attention.attention_op.register_kernel("cpu", attention_triton.attention_forward)
attention.attention_backward_op.register_kernel("cpu", attention_triton.attention_backward)
rtd_loss.rtd_loss_op.register_kernel("cpu", rtd_loss_triton.rtd_loss_forward)
rtd_loss.rtd_loss_backward_op.register_kernel("cpu", rtd_loss_triton.rtd_loss_backward)
assert fused_ops(torch.device("cpu")) == ["attention", "rtd_loss"]
assert_step_agrees(
    MODEL, windows(), Path(sys.argv[1]), "eager", torch.float32, rtol=1e-5, gradient_tolerance=1e-4
)
"""


def test_a_whole_training_step_of_the_fused_kernels_agrees(tmp_path):
    """In fp32, the Triton kernels behind the registered ops, in Triton's interpreter.

    In a process of its own, since a kernel that is registered for a device stays registered.
    """
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests.parent, tests, tests / "model")))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", FUSED_STEP, str(tmp_path)], env=environment, check=True)


def test_automodel_gives_our_hidden_states(pair, saved):
    encoder = nucel.load(saved / "discriminator")
    model = transformers.AutoModel.from_pretrained(saved / "discriminator").eval()
    tokens = windows()
    with torch.no_grad():
        expected = model(input_ids=tokens.long()).last_hidden_state
        torch.testing.assert_close(encoder(tokens), expected, rtol=1e-4, atol=1e-5)

        lengths = torch.tensor([70, 31, 2])
        mask = torch.arange(70) < lengths[:, None]
        padded = tokens.masked_fill(~mask, nucleotide.PAD)
        expected = model(input_ids=padded.long(), attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(encoder(padded, lengths)[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_automodel_for_its_task_gives_our_logits(pair, saved):
    tokens = windows()
    discriminator = transformers.AutoModelForTokenClassification.from_pretrained(saved / "discriminator")
    original = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        expected = discriminator(input_ids=tokens.long()).logits
        assert not expected[..., 0].any()
        expected = expected[..., 1]
        torch.testing.assert_close(pair.discriminator(tokens, original)[1], expected, rtol=1e-4, atol=1e-5)
    assert discriminator.config.id2label == {0: "replaced", 1: "original"}
    generator = transformers.AutoModelForMaskedLM.from_pretrained(saved / "generator")
    with torch.no_grad():
        everywhere = torch.arange(70).expand(3, -1)
        expected = generator(input_ids=tokens.long()).logits
        torch.testing.assert_close(pair.generator(tokens, everywhere), expected, rtol=1e-4, atol=1e-5)


def test_a_token_classification_pipeline_gives_our_probabilities(pair, saved):
    classify = transformers.pipeline("token-classification", str(saved / "discriminator"), ignore_labels=[])
    sequence = "ACGTTGCAAC" * 3
    tokens = torch.tensor([[nucleotide.CLS, *nucleotide.encode(sequence).tolist()]])
    with torch.no_grad():
        logits = pair.discriminator(tokens, torch.ones_like(tokens, dtype=torch.bool))[1][0, 1:]
    answers = classify(sequence)
    assert [answer["entity"] for answer in answers] == ["original" if x > 0 else "replaced" for x in logits]
    scores = torch.tensor([float(answer["score"]) for answer in answers])
    torch.testing.assert_close(scores, logits.abs().sigmoid(), rtol=1e-4, atol=1e-5)


def test_a_discriminator_of_either_form_reads_back_bit_for_bit(pair, saved, tmp_path):
    """One row is what earlier versions wrote, checkpoints included."""
    network, written = pair.discriminator, load_file(saved / "discriminator" / "model.safetensors")
    one_row = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name, tensor in one_row.items():
        if name.startswith("classifier."):
            assert not written[name][0].any() and torch.equal(written[name][1:], tensor)
        else:
            assert torch.equal(written[name], tensor)
    hub.save(network, tmp_path / "old")
    save_file(one_row, tmp_path / "old" / "model.safetensors")
    for folder in (saved / "discriminator", tmp_path / "old"):
        state = hub.weights_for(network, folder)
        assert state.keys() == one_row.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in one_row.items())


@pytest.mark.parametrize("prefix", hub.PREFIXES)
def test_weights_saved_by_transformers_load_back_under_every_prefix(pair, saved, tmp_path, prefix):
    model = transformers.AutoModel.from_pretrained(saved / "discriminator")
    model.save_pretrained(tmp_path / "hub")
    state = load_file(tmp_path / "hub" / "model.safetensors")
    assert set(state) == set(pair.discriminator.model.state_dict())
    renamed = {prefix + name: tensor for name, tensor in state.items()}
    renamed["head.dense.weight"] = torch.zeros(96, 96)
    save_file(renamed, tmp_path / "hub" / "model.safetensors")
    encoder = nucel.load(tmp_path / "hub")
    assert isinstance(encoder, Encoder) and not encoder.training
    assert encoder.config == MODEL.discriminator
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, pair.discriminator.model.state_dict()[name])


def test_networks_saved_by_transformers_load_back(pair, saved, tmp_path):
    transformers.ModernBertForMaskedLM.from_pretrained(saved / "generator").save_pretrained(tmp_path / "generator")
    loaded = Generator(MODEL.generator)
    loaded.load_state_dict(hub.weights_for(loaded, tmp_path / "generator"))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, pair.generator.state_dict()[name])
    assert loaded.decoder.weight is loaded.model.embeddings.tok_embeddings.weight


def test_load_takes_a_run_directory(pair, saved):
    tokens = windows()
    with torch.no_grad():
        assert torch.equal(nucel.load(saved)(tokens), pair.discriminator.model(tokens))


@pytest.mark.parametrize("style", ["4", "5"])
def test_both_styles_of_config_are_read(saved, style):
    config = json.loads((saved / "generator" / "config.json").read_text())
    new, old = (
        ("layer_types", "rope_parameters"),
        ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
    )
    for key in new if style == "4" else old:
        del config[key]
    assert hub_config.encoder_config(config) == MODEL.generator


def test_tokenizer_loads_without_custom_code_and_encodes_like_us(saved):
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved / "discriminator")
    for text in ("ACGTacgtUu", "NnRYK-*.acgu N\n>", "A", ""):
        expected = [nucleotide.CLS, *nucleotide.encode(text).tolist()]
        assert tokenizer(text)["input_ids"] == expected, text
    assert tokenizer("AC[MASK]T")["input_ids"] == [nucleotide.CLS, 11, 12, nucleotide.MASK, 14]
    batch = tokenizer(["ACGT", "AC"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[2, 11, 12, 13, 14], [2, 11, 12, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert tokenizer.decode([11, 12, 13, 14]) == "ACGT"
    assert len(tokenizer) == 27
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(tokenizer, f"{role}_token_id") == nucleotide.ID[f"[{role.upper()}]"]


# ---- what is refused -------------------------------------------------------------------------------------------------


def _change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type must be 'modernbert'.*'bert'"),
        ({"vocab_size": 50368}, "vocab_size must be 27.*50368"),
        ({"norm_bias": True}, "norm_bias must be False"),
        ({"hidden_size": 128, "num_attention_heads": 4}, r"of shape \(\d+.*as its config.json says"),
        ({"num_hidden_layers": 9, "layer_types": None}, "lacks layers"),
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types must be global at layers 0, n, 2n"),
        ({"local_attention": 17}, "local_attention must be even"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_type of full_attention must be 'default'",
        ),
        ({"hidden_size": 97}, "width must be a multiple of"),
    ],
)
def test_other_models_are_refused(pair, tmp_path, changes, message):
    hub.save(pair.discriminator, tmp_path / "model")
    _change_config(tmp_path / "model", **changes)
    with pytest.raises(HubError, match=message):
        nucel.load(tmp_path / "model")


def test_damaged_directories_are_refused(pair, tmp_path):
    with pytest.raises(HubError, match=r"holds no config\.json"):
        nucel.load(tmp_path)
    hub.save(pair.discriminator, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HubError, match="is damaged"):
        nucel.load(tmp_path / "model")
    save_file({"some.other.weight": torch.zeros(2)}, weights)
    with pytest.raises(HubError, match="holds no encoder"):
        nucel.load(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(HubError, match=r"config\.json"):
        nucel.load(tmp_path / "model")


def test_a_generator_without_its_embedding_is_refused(pair, tmp_path):
    hub.save(pair.generator, tmp_path / "generator")
    weights = tmp_path / "generator" / "model.safetensors"
    state = load_file(weights)
    del state["model.embeddings.tok_embeddings.weight"]
    save_file(state, weights)
    with pytest.raises(HubError, match=r"lacks decoder\.weight; lacks model\.embeddings\.tok_embeddings\.weight"):
        hub.weights_for(Generator(MODEL.generator), tmp_path / "generator")
