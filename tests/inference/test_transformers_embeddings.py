"""transformers' ModernBERT on the same weights: embeddings of every layer, attention weights, classifiers' logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import TINY, tiny_classifier, tiny_encoder

import nucel
from nucel.inference.predict import make_batch
from nucel.model import hub
from nucel.model.config import EncoderConfig
from nucel.model.networks import Discriminator, Generator, initialize
from nucel.runtime.errors import HubError
from nucel.tokenizers import nucleotide

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

CONFIG = EncoderConfig(layers=4, width=64, heads=2, intermediate=96, radius=8, init_std=0.08)
SEQUENCES = ["ACGT" * 9, "TTGACNNA", "G", "ACGTACCATTTGCAGTATAAATTTGCC"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    network = Discriminator(CONFIG)
    initialize(network, torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("hub") / "model"
    hub.save(network, folder)
    return folder


@pytest.fixture(scope="module")
def theirs(directory):
    """transformers' outputs for the padded batch of all sequences, and its mask."""
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(SEQUENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch, output_hidden_states=True, output_attentions=True), batch["attention_mask"].bool()


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4, -1, -2])
def test_embeddings_agree_in_every_layer(directory, theirs, layer):
    outputs, mask = theirs
    hidden = outputs.hidden_states[layer].numpy()
    encoder = nucel.load(directory)
    close = {"rtol": 1e-4, "atol": 1e-5}

    np.testing.assert_allclose(nucel.embed(encoder, SEQUENCES, pooling="cls", layer=layer), hidden[:, 0], **close)
    bases = mask.numpy().copy()
    bases[:, 0] = False
    mean = (hidden * bases[..., None]).sum(1) / bases.sum(1, keepdims=True)
    np.testing.assert_allclose(nucel.embed(encoder, SEQUENCES, layer=layer), mean, **close)
    for ours, row, real in zip(nucel.embed_positions(encoder, SEQUENCES, layer=layer), hidden, bases, strict=True):
        np.testing.assert_allclose(ours, row[real], **close)


def test_attention_weights_agree_in_every_block(directory, theirs):
    outputs, mask = theirs
    encoder = nucel.load(directory)
    for i, sequence in enumerate(SEQUENCES):
        ours = nucel.attention_weights(encoder, sequence, range(4))
        length = int(mask[i].sum())
        assert list(ours) == [0, 1, 2, 3]
        for layer, weights in ours.items():
            expected = outputs.attentions[layer][i, :, :length, :length].numpy()
            np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_attention_weights_of_padding_are_zero():
    encoder = tiny_encoder()
    tokens = torch.full((2, 30), nucleotide.PAD, dtype=torch.uint8)
    tokens[:, 0] = nucleotide.CLS
    tokens[0, 1:21] = tokens[1, 1:30] = nucleotide.BASES[1]
    weights = encoder.attention_weights(tokens, [1], torch.tensor([21, 30]))[1]
    assert weights[0, :, 21:].eq(0).all() and weights[0, :, :, 21:].eq(0).all()
    torch.testing.assert_close(weights[0, :, :21].sum(-1), torch.ones(2, 21))


# ---- classifiers -----------------------------------------------------------------------------------------------------


def their_logits(directory, sequences):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    batch = transformers.AutoTokenizer.from_pretrained(directory)(sequences, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits, model


def our_logits(network, sequences):
    batch = make_batch([nucleotide.encode(s) for s in sequences], torch.device("cpu"))
    with torch.no_grad():
        return network(batch.tokens, batch.lengths)


@pytest.mark.parametrize("labels", [("no", "yes"), ("EI", "IE", "N"), None])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("linear", [True, False])
def test_transformers_gives_a_classifier_s_logits(tmp_path, labels, pooling, linear):
    network = tiny_classifier(labels, pooling, linear, CONFIG)
    hub.save(network, tmp_path / "model")
    expected, model = their_logits(tmp_path / "model", SEQUENCES)
    torch.testing.assert_close(our_logits(network, SEQUENCES), expected, rtol=1e-4, atol=1e-5)
    assert tuple(model.config.id2label.values()) == (labels or ("value",))
    assert model.config.problem_type == ("regression" if labels is None else "single_label_classification")

    loaded = nucel.load_classifier(tmp_path / "model")
    assert (loaded.labels, loaded.pooling, loaded.head.linear) == (labels, pooling, linear)
    assert torch.equal(our_logits(loaded, SEQUENCES), our_logits(network, SEQUENCES))
    whole = our_logits(loaded, SEQUENCES[:1])
    torch.testing.assert_close(whole, their_logits(tmp_path / "model", SEQUENCES[:1])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("linear", [True, False])
def test_transformers_gives_a_classifier_s_gradients(tmp_path, pooling, linear):
    network = tiny_classifier(pooling=pooling, linear=linear, config=CONFIG)
    hub.save(network, tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")(SEQUENCES, padding=True, return_tensors="pt")
    targets = torch.tensor([0, 1, 2, 1])
    model(**batch, labels=targets).loss.backward()
    logits = network(batch["input_ids"], batch["attention_mask"].sum(1))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    theirs = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:  # all but a linear head's identity
            scale = float(theirs[name].abs().max())
            torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-5 * scale, msg=name)


def test_a_linear_head_is_a_linear_layer_on_the_normalized_cls():
    network = tiny_classifier()
    with torch.no_grad():
        network.model.final_norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    batch = torch.tensor([[nucleotide.CLS, *nucleotide.encode(SEQUENCES[0])]])
    with torch.no_grad():
        cls = network.model(batch)[:, 0]
        normalized = torch.nn.functional.layer_norm(cls, cls.shape[-1:], eps=1e-5)
        torch.testing.assert_close(network(batch), network.classifier(normalized), rtol=1e-5, atol=1e-5)
    assert not network.head.dense.weight.requires_grad


def test_what_transformers_fine_tuned_is_loaded(directory, tmp_path):
    """As its own defaults write it: no id2label, a dense head, [CLS]."""
    config = transformers.AutoConfig.from_pretrained(directory, num_labels=3)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "theirs" / "tokenizer_config.json").write_bytes((directory / "tokenizer_config.json").read_bytes())
    network = nucel.load_classifier(tmp_path / "theirs")
    assert network.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and network.pooling == "cls" and not network.head.linear
    expected, _ = their_logits(tmp_path / "theirs", SEQUENCES)
    torch.testing.assert_close(our_logits(network, SEQUENCES), expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_and_a_generator_give_their_encoders(tmp_path):
    classifier = tiny_classifier()
    hub.save(classifier, tmp_path / "classifier")
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(0))
    hub.save(generator, tmp_path / "generator")
    for network, name in ((classifier, "classifier"), (generator, "generator")):
        loaded = nucel.load(tmp_path / name)
        for key, tensor in network.model.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[key])


# ---- what is refused -------------------------------------------------------------------------------------------------


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ModernBertForMaskedLM"]}, "is not a fine-tuned model"),
        ({"classifier_pooling": "max"}, "classifier_pooling must be 'cls' or 'mean', got 'max'"),
        ({"classifier_activation": "relu"}, "classifier_activation must be 'gelu' or 'linear', got 'relu'"),
        ({"problem_type": "multi_label_classification"}, "'multi_label_classification' with 3 outputs"),
        ({"problem_type": "regression"}, "'regression' with 3 outputs"),
    ],
)
def test_other_classifiers_are_refused(tmp_path, changes, message):
    hub.save(tiny_classifier(), tmp_path / "model")
    change_config(tmp_path / "model", **changes)
    with pytest.raises(HubError, match=message):
        nucel.load_classifier(tmp_path / "model")


def test_a_classifier_without_its_head_is_refused(tmp_path):
    hub.save(tiny_classifier(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    state = load_file(weights)
    del state["head.norm.weight"]
    save_file(state, weights)
    with pytest.raises(HubError, match=r"lacks head\.norm\.weight"):
        nucel.load_classifier(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T"])),
        ("vocab.json", '{"[PAD]": 0, "A": 5}'),
        ("tokenizer.json", '{"model": {"vocab": {"A": 5}}, "added_tokens": []}'),
    ],
)
def test_another_alphabet_is_refused(directory, tmp_path, name, text):
    """Of 27 tokens too, so that nothing but the tokenizer tells."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((directory / file).read_bytes())
    nucel.load(folder)
    (folder / name).write_text(text)
    with pytest.raises(HubError, match=rf"{name} has another alphabet than NucEL's: A is 5, not 11"):
        nucel.load(folder)
    (folder / name).write_text('{"model"' if name.endswith("json") else "[UNK]\n[PAD]")
    with pytest.raises(HubError, match=name):
        nucel.load(folder)


def test_special_tokens_of_config_json_count_where_there_is_no_tokenizer(directory, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((directory / file).read_bytes())
    change_config(folder, cls_token_id=None, pad_token_id=3)
    with pytest.raises(HubError, match=r"config\.json has another alphabet than NucEL's: \[PAD\] is 3, not 0"):
        nucel.load(folder)


def test_a_model_knows_its_context(directory, tmp_path):
    assert nucel.load(directory).context == 8192  # that of ModernBERT, where none was told
    hub.save(tiny_classifier(context=128), tmp_path / "model")
    assert nucel.load_classifier(tmp_path / "model").model.context == nucel.load(tmp_path / "model").context == 128
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.model_max_length == 128
