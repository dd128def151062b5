"""Our networks' settings as transformers' config.json, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.errors import HubError
from ..tokenizers import nucleotide
from .config import EncoderConfig
from .networks import Classifier, Discriminator, Generator

Network = Generator | Discriminator | Classifier
_MAX_POSITIONS = 8192
"""Written for an encoder whose training context is not known: ModernBERT's own."""
DISCRIMINATOR_LABELS = ("replaced", "original")
SEQUENCE_CLASSIFICATION = "ModernBertForSequenceClassification"


def _head_json(network: Network) -> dict:
    """What config.json says about the task that a network is for."""
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
    config = network.model.config
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
        "max_position_embeddings": network.model.context or _MAX_POSITIONS,
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


def _global_every(layer_types: list[str]) -> int:
    """The n of "layers 0, n, 2n, ... are global" that a list of layer types spells out."""
    is_global = [kind == "full_attention" for kind in layer_types]
    every = next((i for i, full in enumerate(is_global) if full and i > 0), len(is_global))
    if is_global != [layer % every == 0 for layer in range(len(is_global))]:
        raise HubError(f"layer_types must be global at layers 0, n, 2n, ..., got {layer_types}")
    return every


def encoder_config(config: Mapping) -> EncoderConfig:
    """The encoder that a ModernBERT config.json describes, in the style of transformers 4 or 5.

    Raises:
        HubError: another architecture, another vocabulary, or an option this encoder does not have.
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
            raise HubError(f"{key} must be {value!r} for a NucEL encoder, got {config[key]!r}")
    if config.get("local_attention", 128) % 2:
        raise HubError(f"local_attention must be even (it is twice the radius), got {config['local_attention']}")
    rope = config.get("rope_parameters") or {}
    for kind, parameters in rope.items():
        if parameters.get("rope_type", "default") != "default":
            raise HubError(f"rope_type of {kind} must be 'default', got {parameters['rope_type']!r}")
    layer_types = config.get("layer_types")
    try:
        return EncoderConfig(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            radius=config.get("local_attention", 128) // 2,
            global_every=_global_every(layer_types) if layer_types else config.get("global_attn_every_n_layers", 3),
            global_theta=_theta(rope, "full_attention", config.get("global_rope_theta"), 160_000.0),
            local_theta=_theta(rope, "sliding_attention", config.get("local_rope_theta"), 10_000.0),
            norm_eps=config.get("norm_eps", 1e-5),
            init_std=config.get("initializer_range", 0.02),
        )
    except KeyError as missing:
        raise HubError(f"config.json lacks {missing}") from None


def _theta(rope: Mapping, kind: str, legacy: float | None, default: float) -> float:
    theta = rope.get(kind, {}).get("rope_theta", legacy)
    return float(default if theta is None else theta)


def context_of(config: Mapping) -> int:
    return config.get("max_position_embeddings", _MAX_POSITIONS)


def one_of(config: Mapping, key: str, default: str, other: str) -> str:
    value = config.get(key, default)
    if value not in (default, other):
        raise HubError(f"{key} must be {default!r} or {other!r}, got {value!r}")
    return value


def labels_of(config: Mapping, outputs: int) -> tuple[str, ...] | None:
    """Names of a classifier's outputs; None where its one output is a number."""
    problem = config.get("problem_type") or ("regression" if outputs == 1 else "single_label_classification")
    if problem == "regression" and outputs == 1:
        return None
    if problem != "single_label_classification" or outputs < 2:
        raise HubError(f"problem_type {problem!r} with {outputs} outputs is neither classification nor regression")
    named = config.get("id2label") or {}
    return tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(outputs))
