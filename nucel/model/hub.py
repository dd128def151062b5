"""ModernBERT's directory format, both ways: config.json, model.safetensors, tokenizer.json.

A generator is written as ModernBertForMaskedLM, a discriminator as ModernBertForTokenClassification with two labels and
a classifier as ModernBertForSequenceClassification, so that transformers loads them without custom code.

A discriminator has one output, the log-odds that a token is original. In its directory that is the second of two,
after a row of zeros for "replaced": softmax over (0, x) is sigmoid(x), which is what transformers' pipelines compute.
Directories of earlier versions, which hold the one row, are read as well.

Read back are
our own directories, any ModernBERT encoder over this alphabet, and the published NucEL weights (a bare encoder).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn import functional as F

from ..runtime.errors import ConfigError, HubError
from .encoder import Encoder
from .hub_config import (
    SEQUENCE_CLASSIFICATION,
    Network,
    config_json,
    context_of,
    encoder_config,
    labels_of,
    one_of,
)
from .hub_tokenizer import require_alphabet, tokenizer_config_json, tokenizer_json
from .networks import Classifier, Discriminator, Generator

PREFIXES = ("", "model.", "bert.", "discriminator.bert.")
"""What precedes the names of an encoder's tensors in the checkpoints in use."""
_EMBEDDING = "embeddings.tok_embeddings.weight"


def save(network: Network, directory: Path) -> None:
    """Write a network as a directory that transformers loads; the directory must not exist."""
    directory.mkdir()
    files = {
        "config.json": config_json(network),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": tokenizer_config_json(network.model.context),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    if files["config.json"]["tie_word_embeddings"]:
        del state["decoder.weight"]
    if isinstance(network, Discriminator):
        state |= _with_replaced(state)
    # Written by Python, so that a full disk is an OSError.
    (directory / "model.safetensors").write_bytes(serialize(state, metadata={"format": "pt"}))


def _with_replaced(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weight (2, C) and bias (2,): zeros for "replaced", then the trained row."""
    weight, bias = (state[f"classifier.{name}"] for name in ("weight", "bias"))
    return {"classifier.weight": F.pad(weight, (0, 0, 1, 0)), "classifier.bias": F.pad(bias, (1, 0))}


def _without_replaced(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The classifier's trained row alone, weight (1, C) and bias (1,), of either form.

    Two rows that transformers has trained on make one: only their difference enters the softmax.
    """
    rows = {name: state[name] for name in ("classifier.weight", "classifier.bias") if name in state}
    counts = {len(tensor) if tensor.ndim else 0 for tensor in rows.values()}
    if counts == {2}:
        return {name: tensor[1:] - tensor[:1] for name, tensor in rows.items()}
    if counts <= {1}:
        return rows
    raise HubError(f"{path} has a classifier of {sorted(counts)} outputs; a discriminator has 2 (earlier: 1)")


def _read(directory: Path, name: str) -> Path:
    if not (directory / name).is_file():
        raise HubError(f"{directory} holds no {name}; give a run directory or a ModernBERT model directory")
    return directory / name


def _read_weights(directory: Path) -> dict[str, Tensor]:
    path = _read(directory, "model.safetensors")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise HubError(f"{path} is damaged: {error}") from None


def _require_match(network: Encoder | Network, state: dict[str, Tensor], source: Path) -> None:
    """Refuse a state dict that does not match the network name by name and shape by shape."""
    expected = network.state_dict()
    problems = [f"lacks {name}" for name in expected.keys() - state.keys()]
    problems += [f"has an unknown tensor {name}" for name in state.keys() - expected.keys()]
    problems += [
        f"has {name} of shape {tuple(state[name].shape)}, not {tuple(tensor.shape)} as its config.json says"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise HubError(f"{source} {'; '.join(sorted(problems)[:3])}{more}")


def weights_for(network: Generator | Discriminator, directory: Path) -> dict[str, Tensor]:
    """The state dict that `save` (or transformers, from the same classes) wrote of a network of the same sizes.

    Raises:
        HubError: missing or damaged weights, or those of another network.
    """
    state = _read_weights(directory)
    embedding = "model." + _EMBEDDING
    if embedding in state and isinstance(network, Generator) and network.tied:
        state.setdefault("decoder.weight", state[embedding])
    if isinstance(network, Discriminator):
        state |= _without_replaced(state, directory / "model.safetensors")
    _require_match(network, state, directory / "model.safetensors")
    return state


def read_config(directory: Path) -> dict:
    path = _read(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HubError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise HubError(f"{path} holds no object of settings")
    return config


def load(path: str | os.PathLike[str]) -> Encoder:
    """The encoder of a run directory (its discriminator's, or its masked LM's) or of a ModernBERT model directory.

    It is ready for inference. Heads that the directory may hold besides the encoder are left aside: a generator (MLM)
    or a fine-tuned classifier gives its encoder too. The encoder's `context` is max_position_embeddings.

    Raises:
        HubError: no such directory, another architecture or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    for network in ("discriminator", "masked_lm"):
        if (directory / network).is_dir():
            directory = directory / network
    config = read_config(directory)
    try:
        encoder = Encoder(encoder_config(config), context_of(config))
    except (HubError, ConfigError) as error:
        raise HubError(f"{directory / 'config.json'}: {error}") from None
    require_alphabet(directory)

    state = _read_weights(directory)
    prefix = next((p for p in reversed(PREFIXES) if p + _EMBEDDING in state), None)
    if prefix is None:
        raise HubError(
            f"{directory / 'model.safetensors'} holds no encoder: none of its tensors is {_EMBEDDING} "
            f"under one of the prefixes {', '.join(repr(p) for p in PREFIXES)}"
        )
    within = ("embeddings.", "layers.", "final_norm.")
    bare = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    bare = {name: tensor for name, tensor in bare.items() if name.startswith(within)}
    _require_match(encoder, bare, directory / "model.safetensors")
    encoder.load_state_dict(bare)
    return encoder.eval()


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """A fine-tuned model, of ours or of transformers' ModernBertForSequenceClassification, ready for inference.

    Raises:
        HubError: no such directory, no model of this kind, another alphabet, missing or damaged weights.
    """
    directory = Path(path)
    config = read_config(directory)
    if SEQUENCE_CLASSIFICATION not in config.get("architectures", ()):
        raise HubError(
            f"{directory} is not a fine-tuned model but {', '.join(config.get('architectures', ())) or 'an encoder'}; "
            f"python -m nucel.finetune makes one from it"
        )
    state = _read_weights(directory)
    try:
        network = Classifier(
            encoder_config(config),
            labels_of(config, len(state.get("classifier.weight", ()))),
            one_of(config, "classifier_pooling", "cls", "mean"),
            linear=one_of(config, "classifier_activation", "gelu", "linear") == "linear",
            context=context_of(config),
        )
    except (HubError, ConfigError) as error:
        raise HubError(f"{directory / 'config.json'}: {error}") from None
    require_alphabet(directory)
    _require_match(network, state, directory / "model.safetensors")
    network.load_state_dict(state)
    return network.eval()


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """A generator or masked LM, of ours or of transformers' ModernBertForMaskedLM, ready for inference.

    Raises:
        HubError: no such directory, another network or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    config = read_config(directory)
    tied = config.get("tie_word_embeddings", True)
    return _with_weights(directory, lambda: Generator(encoder_config(config), tied, context_of(config)))


def load_discriminator(path: str | os.PathLike[str]) -> Discriminator:
    """A discriminator, whose logits say which tokens look original, ready for inference.

    Raises:
        HubError: no such directory, another network or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    config = read_config(directory)
    return _with_weights(directory, lambda: Discriminator(encoder_config(config), context_of(config)))


def _with_weights(directory: Path, build: Callable[[], Generator | Discriminator]) -> Any:
    """The network that a directory's config describes, with the directory's weights."""
    try:
        network = build()
    except (HubError, ConfigError) as error:
        raise HubError(f"{directory / 'config.json'}: {error}") from None
    require_alphabet(directory)
    network.load_state_dict(weights_for(network, directory))
    return network.eval()
