"""Our networks' settings as transformers' config.json, both ways."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..runtime.errors import ConfigError, HubError
from ..tokenizers import nucleotide
from .config import EncoderConfig
from .encoder import Encoder
from .networks import Classifier, Discriminator, Generator

Network = Generator | Discriminator | Classifier | Encoder
_MAX_POSITIONS = 8192
"""Written for an encoder whose training context is not known: ModernBERT's own."""
DISCRIMINATOR_LABELS = ("replaced", "original")
SEQUENCE_CLASSIFICATION = "ModernBertForSequenceClassification"
BARE_ENCODER = "ModernBertModel"


def encoder_of(network: Network) -> Encoder:
    """The encoder of a network, which may be all there is of it."""
    return network if isinstance(network, Encoder) else network.model


def _head_json(network: Network) -> dict:
    """What config.json says about the task that a network is for."""
    if isinstance(network, Encoder):
        return {"architectures": [BARE_ENCODER]}
    activation = {"classifier_activation": "linear" if network.head.linear else "gelu"}
    if isinstance(network, Generator):
        return {"architectures": ["ModernBertForMaskedLM"], **activation}
    labels = DISCRIMINATOR_LABELS if isinstance(network, Discriminator) else network.labels or ("value",)
    named = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if isinstance(network, Discriminator):
        return {"architectures": ["ModernBertForTokenClassification"], **named, **activation}
    return {
        "architectures": [SEQUENCE_CLASSIFICATION],
        "problem_type": "regression" if network.labels is None else "single_label_classification",
        "classifier_pooling": network.pooling,
        **named,
        **activation,
    }


def config_json(network: Network) -> dict:
    encoder = encoder_of(network)
    config = encoder.config
    return {
        **_head_json(network),
        "model_type": "modernbert",
        "dtype": "float32",
        "vocab_size": len(nucleotide.TOKENS),
        "hidden_size": config.width,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_activation": "gelu",
        "max_position_embeddings": encoder.context or _MAX_POSITIONS,
        "initializer_range": config.init_std,
        "norm_eps": config.norm_eps,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_dropout": 0.0,
        "tie_word_embeddings": isinstance(network, Generator) and network.tied,
        "pad_token_id": nucleotide.PAD,
        "cls_token_id": nucleotide.CLS,
        "sep_token_id": nucleotide.SEP,
        "bos_token_id": nucleotide.ID["[BOS]"],
        "eos_token_id": nucleotide.ID["[EOS]"],
        "local_attention": 2 * config.radius,
        # transformers 5
        "layer_types": [
            "full_attention" if config.is_global(layer) else "sliding_attention" for layer in range(config.layers)
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.global_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_theta},
        },
        # transformers 4
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_theta,
        "local_rope_theta": config.local_theta,
    }


def value_of(config: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A setting of the given type; the default, if there is one, where it is missing or null.

    Raises:
        HubError: it is missing without a default, of another type, a whole number outside [0, 2^31), or not finite.
    """
    value: Any = config.get(key)
    if value is None:
        if default is None:
            raise HubError(f"it lacks {key!r}")
        return default
    # JSON writes 1.0 as 1 too; True, which Python counts as an int, is not a number there.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise HubError(f"{key} must be {_KINDS[kind]}, got {value!r:.60}")
    number: Any = value  # mypy takes the comparison of types for one that narrows
    if kind is int and not 0 <= number < _LARGEST:
        raise HubError(f"{key} must lie in [0, {_LARGEST}), got {value!r:.60}")
    if kind is float and not abs(number) <= sys.float_info.max:
        raise HubError(f"{key} must be finite, got {value!r:.60}")
    return value


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}
_LARGEST = 2**31
_LAYER_TYPES = ("full_attention", "sliding_attention")


def _global_every(config: Mapping, layers: int) -> int:
    """The n of "layers 0, n, 2n, ... are global", which transformers 5 spells out as a list of layer types."""
    if config.get("layer_types") is None:
        return value_of(config, "global_attn_every_n_layers", int, 3)
    layer_types = value_of(config, "layer_types", list)
    if len(layer_types) != layers:
        raise HubError(f"layer_types must be a list of num_hidden_layers = {layers}, got {len(layer_types)}")
    if others := [kind for kind in layer_types if kind not in _LAYER_TYPES]:
        raise HubError(f"layer_types must be of {' and '.join(_LAYER_TYPES)}, got {others[0]!r:.60}")
    is_global = [kind == _LAYER_TYPES[0] for kind in layer_types]
    every = next((i for i, full in enumerate(is_global) if full and i > 0), len(is_global))
    if is_global != [layer % every == 0 for layer in range(len(is_global))]:
        raise HubError(f"layer_types must be global at layers 0, n, 2n, ..., got {layer_types!r:.200}")
    return every


def encoder_config(config: Mapping) -> EncoderConfig:
    """The encoder that a ModernBERT config.json describes, in the style of transformers 4 or 5.

    Nothing is built. Whether the weights are of these sizes, their header tells.

    Raises:
        HubError: another architecture, another vocabulary, an option this encoder does not have, or a value of the
            wrong type or range.
    """
    expected = {
        "model_type": "modernbert",
        "vocab_size": len(nucleotide.TOKENS),
        "hidden_activation": "gelu",
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise HubError(f"{key} must be {value!r} for a NucEL encoder, got {config[key]!r:.60}")
    layers = value_of(config, "num_hidden_layers", int)
    if (local := value_of(config, "local_attention", int, 128)) % 2:
        raise HubError(f"local_attention must be even (it is twice the radius), got {local}")
    try:
        return EncoderConfig(
            layers=layers,
            width=value_of(config, "hidden_size", int),
            heads=value_of(config, "num_attention_heads", int),
            intermediate=value_of(config, "intermediate_size", int),
            radius=local // 2,
            global_every=_global_every(config, layers) if layers else 1,
            global_theta=_theta(config, "full_attention", "global_rope_theta", 160_000.0),
            local_theta=_theta(config, "sliding_attention", "local_rope_theta", 10_000.0),
            norm_eps=value_of(config, "norm_eps", float, 1e-5),
            init_std=value_of(config, "initializer_range", float, 0.02),
        )
    except ConfigError as error:
        raise HubError(str(error)) from None


def _theta(config: Mapping, kind: str, legacy: str, default: float) -> float:
    """The rotary embedding's base in the layers of a kind."""
    rope = value_of(config, "rope_parameters", dict, {})
    if others := rope.keys() - set(_LAYER_TYPES):
        raise HubError(f"rope_parameters must be given for {' and '.join(_LAYER_TYPES)}, got {sorted(others)[0]!r:.60}")
    parameters = value_of(rope, kind, dict, {})
    if (rope_type := parameters.get("rope_type", "default")) != "default":
        raise HubError(f"rope_type of {kind} must be 'default', got {rope_type!r:.60}")
    theta = value_of(parameters, "rope_theta", float, value_of(config, legacy, float, default))
    return float(theta)


def context_of(config: Mapping) -> int:
    context = value_of(config, "max_position_embeddings", int, _MAX_POSITIONS)
    if context < 2:
        raise HubError(f"max_position_embeddings must be at least 2, [CLS] and a base, got {context}")
    return context


def architectures_of(config: Mapping) -> tuple[str, ...]:
    """The classes of transformers that a directory was written for; a bare encoder's may be missing."""
    return tuple(str(name) for name in value_of(config, "architectures", list, []))


def one_of(config: Mapping, key: str, default: str, other: str) -> str:
    value = value_of(config, key, str, default)
    if value not in (default, other):
        raise HubError(f"{key} must be {default!r} or {other!r}, got {value!r:.60}")
    return value


def labels_of(config: Mapping, outputs: int) -> tuple[str, ...] | None:
    """Names of a classifier's outputs; None where its one output is a number."""
    problem = value_of(config, "problem_type", str, "regression" if outputs == 1 else "single_label_classification")
    if problem == "regression" and outputs == 1:
        return None
    if problem != "single_label_classification" or outputs < 2:
        raise HubError(f"problem_type {problem!r:.60} with {outputs} outputs is neither classification nor regression")
    named = value_of(config, "id2label", dict, {})
    labels = tuple(named.get(str(i), f"LABEL_{i}") for i in range(outputs))
    if others := [label for label in labels if not isinstance(label, str | int | float)]:
        raise HubError(f"id2label must give a name to each output, got {others[0]!r:.60}")
    labels = tuple(map(str, labels))
    if len(set(labels)) < outputs:
        raise HubError(f"id2label must give each output another name, got {labels!r:.200}")
    return labels
