"""ModernBERT's directory format, both ways: config.json, model.safetensors, tokenizer.json.

A generator is written as ModernBertForMaskedLM, a discriminator as ModernBertForTokenClassification with two labels and
a classifier as ModernBertForSequenceClassification, so that transformers loads them without custom code. An encoder
that was trained without a head of these is written alone, as ModernBertModel.

A discriminator has one output, the log-odds that a token is original. In its directory that is the second of two,
after a row of zeros for "replaced": softmax over (0, x) is sigmoid(x), which is what transformers' pipelines compute.
Directories of earlier versions, which hold the one row, are read as well.

Read back are
our own directories, any ModernBERT encoder over this alphabet, and the published NucEL weights (a bare encoder).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import HubError
from ..tokenizers import nucleotide
from .config import EncoderConfig
from .encoder import Encoder
from .hub_config import (
    SEQUENCE_CLASSIFICATION,
    Network,
    architectures_of,
    config_json,
    context_of,
    encoder_config,
    encoder_of,
    labels_of,
    one_of,
    value_of,
)
from .hub_files import WEIGHTS, Stored, existing, read_header, read_json, read_weights, warn_not_finite
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
        "tokenizer_config.json": tokenizer_config_json(encoder_of(network).context),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    if files["config.json"]["tie_word_embeddings"]:
        del state["decoder.weight"]
    if isinstance(network, Discriminator):
        state |= _with_replaced(state)
    # Written by Python, so that a full disk is an OSError.
    (directory / WEIGHTS).write_bytes(serialize(state, metadata={"format": "pt"}))


def networks_of(model: nn.Module) -> dict[str, Network]:
    """Those parts of what is trained that `save` writes, by name; a masked autoencoder's decoder is none of them."""
    return {name: part for name, part in model.named_children() if isinstance(part, Network)}


def _with_replaced(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weight (2, C) and bias (2,): zeros for "replaced", then the trained row."""
    weight, bias = (state[f"classifier.{name}"] for name in ("weight", "bias"))
    return {"classifier.weight": F.pad(weight, (0, 0, 1, 0)), "classifier.bias": F.pad(bias, (1, 0))}


def _without_replaced(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The classifier's trained row alone, weight (1, C) and bias (1,), of either form.

    Two rows that transformers has trained on make one: only their difference enters the softmax.
    """
    rows: dict[str, Tensor] = {name: state[name] for name in ("classifier.weight", "classifier.bias") if name in state}
    counts = {len(tensor) if tensor.ndim else 0 for tensor in rows.values()}
    if counts == {2}:
        return {name: tensor[1:] - tensor[:1] for name, tensor in rows.items()}
    if counts <= {1}:
        return rows
    raise HubError(f"{path} has a classifier of {sorted(counts)} outputs; a discriminator has 2 (earlier: 1)")


def _require_sizes(config: EncoderConfig, prefix: str, header: dict[str, Stored], source: Path) -> None:
    """Refuse a config.json of other sizes than the weights have, before anything of these sizes is built."""
    sizes = {
        _EMBEDDING: (len(nucleotide.TOKENS), config.width),
        "layers.0.mlp.Wi.weight": (2 * config.intermediate, config.width),
    }
    for name, shape in sizes.items():
        stored = header.get(prefix + name)
        if stored is not None and stored.shape != shape:
            raise HubError(f"{source} has {prefix + name} of shape {stored.shape}, not {shape} as its config.json says")
    blocks = (name.removeprefix(prefix + "layers.").split(".")[0] for name in header if name.startswith(prefix))
    layers = len({number for number in blocks if number.isdecimal()})
    if config.layers > layers:
        raise HubError(f"{source} lacks layers: it has {layers}, and its config.json says {config.layers}")
    if config.layers < layers:
        raise HubError(f"{source} has {layers} layers, and its config.json says {config.layers}")


def _require_match(
    network: Network,
    shapes: Mapping[str, Stored | Tensor],
    source: Path,
    says: str = "as its config.json says",
) -> None:
    """Refuse tensors that do not match the network name by name and shape by shape."""
    expected = network.state_dict()
    problems = [f"lacks {name}" for name in expected.keys() - shapes.keys()]
    problems += [f"has an unknown tensor {name:.100}" for name in shapes.keys() - expected.keys()]
    problems += [
        f"has {name} of shape {tuple(shapes[name].shape)}, not {tuple(tensor.shape)} {says}"
        for name, tensor in expected.items()
        if name in shapes and tuple(shapes[name].shape) != tuple(tensor.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise HubError(f"{source} {'; '.join(sorted(problems)[:3])}{more}")


def weights_for(network: Network, directory: Path, says: str = "as its config.json says") -> dict[str, Tensor]:
    """The state dict that `save` (or transformers, from the same classes) wrote of a network of the same sizes.

    `says` ends the message about another shape: where the expected one comes from.

    Raises:
        HubError: missing or damaged weights, or those of another network.
    """
    read_header(directory)
    state = read_weights(directory)
    embedding = "model." + _EMBEDDING
    if embedding in state and isinstance(network, Generator) and network.tied:
        state.setdefault("decoder.weight", state[embedding])
    if isinstance(network, Discriminator):
        state |= _without_replaced(state, directory / WEIGHTS)
    _require_match(network, state, directory / WEIGHTS, says)
    return state


def read_architectures(directory: Path) -> tuple[str, ...]:
    """The classes of transformers that a model directory was written for.

    Raises:
        HubError: no such directory, or its config.json cannot be read.
    """
    settings = existing(directory, "config.json")
    config = read_json(settings)
    with _naming(settings):
        return architectures_of(config)


def load(path: str | os.PathLike[str]) -> Encoder:
    """The encoder of a run directory (its discriminator's, its masked LM's, or all there is) or of a model directory.

    It is ready for inference. Heads that the directory may hold besides the encoder are left aside: a generator (MLM)
    or a fine-tuned classifier gives its encoder too. The encoder's `context` is max_position_embeddings. Weights that
    hold inf or nan are loaded with a warning.

    Raises:
        HubError: no such directory, another architecture or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    for network in ("discriminator", "masked_lm", "encoder"):
        if (directory / network).is_dir():
            directory = directory / network
    settings = existing(directory, "config.json")
    config = read_json(settings)
    with _naming(settings):
        sizes, context = encoder_config(config), context_of(config)
    require_alphabet(directory)

    header = read_header(directory)
    prefix = next((p for p in reversed(PREFIXES) if p + _EMBEDDING in header), None)
    if prefix is None:
        raise HubError(
            f"{directory / WEIGHTS} holds no encoder: none of its tensors is {_EMBEDDING} "
            f"under one of the prefixes {', '.join(repr(p) for p in PREFIXES)}"
        )
    encoder = _empty_encoder(sizes, context, prefix, header, directory / WEIGHTS)
    state = read_weights(directory)
    state = {name: state[prefix + name] for name in encoder.state_dict()}
    warn_not_finite(state, directory)
    return _filled(encoder, state)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """A fine-tuned model, of ours or of transformers' ModernBertForSequenceClassification, ready for inference.

    Weights that hold inf or nan are loaded with a warning.

    Raises:
        HubError: no such directory, no model of this kind, another alphabet, missing or damaged weights.
    """
    directory = Path(path)
    settings = existing(directory, "config.json")
    config = read_json(settings)
    with _naming(settings):
        architectures = architectures_of(config)
        if SEQUENCE_CLASSIFICATION not in architectures:
            raise HubError(
                f"this is not a fine-tuned model but {', '.join(architectures)[:100] or 'an encoder'}; "
                f"python -m nucel.finetune makes one from it"
            )
        sizes, context = encoder_config(config), context_of(config)
        pooling = one_of(config, "classifier_pooling", "cls", "mean")
        linear = one_of(config, "classifier_activation", "gelu", "linear") == "linear"
    require_alphabet(directory)

    header = read_header(directory)
    _require_sizes(sizes, "model.", header, directory / WEIGHTS)
    output = header.get("classifier.weight")
    with _naming(settings):
        labels = labels_of(config, output.shape[0] if output and output.shape else 0)
    with torch.device("meta"):
        network = Classifier(sizes, labels, pooling, linear, context)
    _require_match(network, header, directory / WEIGHTS)
    state = read_weights(directory)
    warn_not_finite(state, directory)
    return _filled(network, state)


def _empty_encoder(sizes: EncoderConfig, context: int, prefix: str, header: dict[str, Stored], source: Path) -> Encoder:
    """An encoder of meta tensors, which take no memory.

    Raises:
        HubError: the header has other tensors under the prefix.
    """
    _require_sizes(sizes, prefix, header, source)
    with torch.device("meta"):
        encoder = Encoder(sizes, context)
    within = tuple(prefix + part for part in ("embeddings.", "layers.", "final_norm."))
    own = {name.removeprefix(prefix): stored for name, stored in header.items() if name.startswith(within)}
    _require_match(encoder, own, source)
    return encoder


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its content."""
    try:
        yield
    except HubError as error:
        raise HubError(f"{file}: {error}") from None


_Module = TypeVar("_Module", bound=nn.Module)


def _filled(network: _Module, state: dict[str, Tensor]) -> _Module:
    """A network of meta tensors with these weights, ready for inference."""
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval()


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """A generator or masked LM, of ours or of transformers' ModernBertForMaskedLM, ready for inference.

    Raises:
        HubError: no such directory, another network or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    config, sizes, context = _read_settings(directory)
    with _naming(directory / "config.json"):
        tied = value_of(config, "tie_word_embeddings", bool, True)
    return _with_weights(Generator(sizes, tied, context), directory)


def load_discriminator(path: str | os.PathLike[str]) -> Discriminator:
    """A discriminator, whose logits say which tokens look original, ready for inference.

    Raises:
        HubError: no such directory, another network or alphabet, missing or damaged weights.
    """
    directory = Path(path)
    _, sizes, context = _read_settings(directory)
    return _with_weights(Discriminator(sizes, context), directory)


def _read_settings(directory: Path) -> tuple[dict[str, Any], EncoderConfig, int]:
    """What config.json says, once the encoder in the weights was seen to be of these sizes."""
    settings = existing(directory, "config.json")
    config = read_json(settings)
    with _naming(settings):
        sizes, context = encoder_config(config), context_of(config)
    require_alphabet(directory)
    _empty_encoder(sizes, context, "model.", read_header(directory), directory / WEIGHTS)
    return config, sizes, context


_Pair = TypeVar("_Pair", Generator, Discriminator)


def _with_weights(network: _Pair, directory: Path) -> _Pair:
    """The network with the directory's weights, ready for inference."""
    state = weights_for(network, directory)
    warn_not_finite(state, directory, level=4)
    network.load_state_dict(state)
    return network.eval()
