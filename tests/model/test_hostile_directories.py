"""Whatever stands in the files of a model directory, loading it gives a network or one HubError, at once."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.tiny import TINY, save_tiny_model, tiny_classifier

import nucel
from nucel.model import hub
from nucel.model.networks import Generator
from nucel.runtime.errors import HubError
from nucel.tokenizers import nucleotide


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """For each function that loads one, a directory."""
    folder = tmp_path_factory.mktemp("models")
    hub.save(tiny_classifier(), folder / "classifier")
    hub.save(Generator(TINY), folder / "generator")
    encoder = save_tiny_model(folder / "encoder")
    return {
        "load": encoder,
        "load_discriminator": encoder,
        "load_generator": folder / "generator",
        "load_classifier": folder / "classifier",
    }


@pytest.fixture
def folder(models, tmp_path) -> Path:
    return shutil.copytree(models["load"], tmp_path / "model")


@contextlib.contextmanager
def little_effort():
    """Fails where the block takes long or much memory."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.perf_counter() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10  # KiB


def change(folder: Path, name: str, **changes) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with little_effort(), pytest.raises(HubError) as error:
        nucel.load(folder)
    assert str(folder) in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


HUGE = [10**5, 10**9, 2**31, 10**30]


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"])
@pytest.mark.parametrize("value", [*HUGE, 0, -1, 2.5, True, "2", [2], None])
def test_sizes_are_compared_with_the_weights_before_anything_is_built(folder, key, value):
    change(folder, "config.json", **{key: value}, layer_types=None)
    refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 100_000, "layer_types": None},
            "lacks layers: it has 2, and its config.json says 100000",
        ),
        ({"num_hidden_layers": 1, "layer_types": None}, "has 2 layers, and its config.json says 1"),
        ({"hidden_size": 10**9}, "of shape (27, 32), not (27, 1000000000) as its config.json says"),
        ({"intermediate_size": 10**9}, "layers.0.mlp.Wi.weight of shape (96, 32)"),
        ({"hidden_size": None}, "config.json: it lacks 'hidden_size'"),
        ({"norm_eps": float("nan")}, "norm_eps must be finite, got nan"),
        ({"global_rope_theta": float("nan"), "rope_parameters": None}, "global_rope_theta must be finite"),
        ({"rope_parameters": {"full_attention": {"rope_theta": float("inf")}}}, "rope_theta must be finite, got inf"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e-300}}}, "global_theta must be at least 1"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "full_attention and sliding_attention, got 'rope_theta'"),
        ({"rope_parameters": "default"}, "rope_parameters must be an object, got 'default'"),
        ({"layer_types": ["full_attention"]}, "layer_types must be a list of num_hidden_layers = 2, got 1"),
        ({"layer_types": ["full_attention", 7]}, "got 7"),
        ({"layer_types": "sliding"}, "layer_types must be a list"),
        ({"local_attention": 10**30}, "local_attention must lie in"),
        ({"max_position_embeddings": "long"}, "max_position_embeddings must be a whole number, got 'long'"),
        ({"max_position_embeddings": 1}, "at least 2"),
    ],
)
def test_a_refusal_says_what_is_wrong(folder, changes, message):
    change(folder, "config.json", **changes)
    assert message in refusal(folder)


NOT_JSON = {
    "nothing": b"",
    "a brace": b"{",
    "nested brackets": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a list": b"[]",
    "a number": b"12",
    "a long number": b'{"vocab_size": ' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "a key twice": b'{"model_type": "modernbert", "model_type": "bert"}',
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_a_json_object_is_refused(folder, name, content):
    if name == "vocab.json":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


def test_a_file_of_the_wrong_size_is_not_read(folder):
    with open(folder / "config.json", "r+b") as file:
        file.truncate(1 << 36)
    assert "such a file has at most" in refusal(folder)


def tokenizer(**changes) -> dict:
    model = {"vocab": {"A": 11, "C": 12, "G": 13, "T": 14}}
    return {"model": model, "added_tokens": [], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tokenizer(model={"vocab": {"A": 11, "C": 12, "G": 13}}), "it lacks T"),
        (tokenizer(model={}), "it lacks 'vocab'"),
        (tokenizer(model=[1]), "model must be an object"),
        (tokenizer(model={"vocab": [["A", -1.5]]}), "vocab must be an object"),
        (tokenizer(added_tokens=[{"content": "A", "id": 3}]), "it gives 'A' two ids, 11 and 3"),
        (tokenizer(added_tokens=[{"content": ["A"], "id": 3}]), "content must be a string, got ['A']"),
        (tokenizer(added_tokens=["A"]), "added_tokens must be a list of objects"),
        (tokenizer(added_tokens=[{"content": "[PAD]", "id": "0"}]), "id must be a whole number"),
        (tokenizer(model={"vocab": {"A": [11], "C": 12, "G": 13, "T": 14}}), "A is [11], not 11"),
    ],
)
def test_a_tokenizer_that_is_not_one_is_refused(folder, content, message):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert message in refusal(folder)


def test_a_vocabulary_that_names_a_base_twice_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join([*nucleotide.TOKENS, "A"]))
    assert "it gives 'A' two ids, 11 and 27" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, (2**63).to_bytes(8, "little") + b"{}"])
def test_weights_that_are_none_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert "is damaged" in refusal(folder)


def test_weights_that_are_not_numbers_of_floating_point_are_refused(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "model.final_norm.weight"
    save_file(state | {name: state[name].to(torch.int64)}, path)
    assert f"{name} in I64" in refusal(folder)


def test_one_large_layer_does_not_stand_for_many_small_ones(folder):
    """The sizes that are compared first agree; the rest of the header does not, and nothing is built of that size."""
    width, layers = 2048, 200
    state = {f"layers.{i}.attn.Wo.weight": torch.zeros(1) for i in range(layers)}
    state |= {"embeddings.tok_embeddings.weight": torch.zeros(27, width)}
    save_file(state, folder / "model.safetensors")
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 2**20, "layer_types": None}
    change(folder, "config.json", **sizes)
    assert "(1,), not (2048, 2048)" in refusal(folder)


# ---- any value at any key --------------------------------------------------------------------------------------------

ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([*HUGE, -1, 0, 1, 2, 64]),
)  # fmt: skip
KEYS = ("rope_type", "rope_theta", "full_attention", "sliding_attention", "0", "1", "content", "id", "vocab", "A")
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
REMOVED = object()


@pytest.mark.parametrize("function", ["load", "load_classifier", "load_discriminator", "load_generator"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_any_value_at_any_key_gives_a_network_or_one_error(models, tmp_path, name, function):
    original = json.loads((models[function] / name).read_text())
    keys = [*original, "problem_type", "vocab_size"]

    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.dictionaries(st.sampled_from(keys), VALUES | st.just(REMOVED), min_size=1, max_size=3))
    def attempt(changes):
        content = original | changes
        content = {key: value for key, value in content.items() if value is not REMOVED}
        (folder / name).write_text(json.dumps(content))
        with little_effort(), contextlib.suppress(HubError):
            assert isinstance(getattr(hub, function)(folder), torch.nn.Module)

    folder = shutil.copytree(models[function], tmp_path / "model")
    attempt()


# ---- weights that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("load", torch.nan),
        ("load_classifier", torch.inf),
        ("load_generator", torch.nan),
        ("load_discriminator", -torch.inf),
    ],
)
def test_weights_that_are_not_finite_load_with_one_warning_that_names_them(models, tmp_path, function, value):
    folder = shutil.copytree(models[function], tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(hub, function)(folder)
    state = load_file(folder / "model.safetensors")
    for name in ("model.layers.1.mlp.Wi.weight", "model.final_norm.weight"):
        state[name].view(-1)[3] = value
    save_file(state, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="are not finite, for example in") as given:
        getattr(hub, function)(folder)
    assert len(given) == 1 and given[0].filename == __file__ and str(folder) in str(given[0].message)
    assert "mlp.Wi.weight" in str(given[0].message) or "final_norm.weight" in str(given[0].message)
