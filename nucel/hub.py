"""ModernBERT's directory format, both ways: config.json, model.safetensors, tokenizer.json.

A generator is written as ModernBertForMaskedLM, a discriminator as ModernBertForTokenClassification with one label and
a classifier as ModernBertForSequenceClassification, so that transformers loads them without custom code. Read back are
our own directories, any ModernBERT encoder over this alphabet, and the published NucEL weights (a bare encoder).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from . import vocab
from .config import ConfigError, EncoderConfig
from .model import Classifier, Discriminator, Encoder, Generator

Network = Generator | Discriminator | Classifier

PREFIXES = ("", "model.", "bert.", "discriminator.bert.")
"""Where an encoder's tensors are found in the checkpoints in use."""
_EMBEDDING = "embeddings.tok_embeddings.weight"
_MAX_POSITIONS = 8192
"""Written for an encoder whose training context is not known: ModernBERT's own."""
_TASK = "ModernBertForSequenceClassification"


class HubError(ValueError):
    """A directory that holds no model we can load; says which file and what is wrong."""


# ---- configuration ---------------------------------------------------------------------------------------------------


def _head_json(network: Network) -> dict:
    """What config.json says about the task that a network is for."""
    activation = {"classifier_activation": "linear" if network.head.linear else "gelu"}
    if isinstance(network, Generator):
        return {"architectures": ["ModernBertForMaskedLM"], **activation}
    labels = ("original",) if isinstance(network, Discriminator) else network.labels or ("value",)
    named = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if isinstance(network, Discriminator):
        return {"architectures": ["ModernBertForTokenClassification"], **named, **activation}
    return {
        "architectures": [_TASK],
        "problem_type": "regression" if network.labels is None else "single_label_classification",
        "classifier_pooling": network.pooling,
        **named,
        **activation,
    }


def _config_json(network: Network) -> dict:
    config = network.model.config
    return {
        **_head_json(network),
        "model_type": "modernbert",
        "dtype": "float32",
        "vocab_size": len(vocab.TOKENS),
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
        "pad_token_id": vocab.PAD,
        "cls_token_id": vocab.CLS,
        "sep_token_id": vocab.SEP,
        "bos_token_id": vocab.ID["[BOS]"],
        "eos_token_id": vocab.ID["[EOS]"],
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
        "vocab_size": len(vocab.TOKENS),
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


# ---- tokenizer -------------------------------------------------------------------------------------------------------


def _tokenizer_json() -> dict:
    """A WordLevel tokenizer of single letters: the alphabet of `vocab`, [CLS] in front."""
    names = [token for token in vocab.TOKENS if token not in "ACGT"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab.ID[name],
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name in names
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": letter}, "content": base}
                for letter, base in vocab.ALIASES.items()
            ],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                name: {"id": name, "ids": [vocab.ID[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab.ID, "unk_token": "[UNK]"},
    }


def _tokenizer_config_json(context: int | None) -> dict:
    named = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context or _MAX_POSITIONS,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": name for role, name in named.items()},
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
    }


# ---- directories -----------------------------------------------------------------------------------------------------


def save(network: Network, directory: Path) -> None:
    """Write a network as a directory that transformers loads; the directory must not exist."""
    directory.mkdir()
    files = {
        "config.json": _config_json(network),
        "tokenizer.json": _tokenizer_json(),
        "tokenizer_config.json": _tokenizer_config_json(network.model.context),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    if files["config.json"]["tie_word_embeddings"]:
        del state["decoder.weight"]
    # Written by Python, so that a full disk is an OSError.
    (directory / "model.safetensors").write_bytes(serialize(state, metadata={"format": "pt"}))


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
    _require_match(network, state, directory / "model.safetensors")
    return state


def _read_config(directory: Path) -> dict:
    path = _read(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HubError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise HubError(f"{path} holds no object of settings")
    return config


def _require_alphabet(directory: Path) -> None:
    """Refuse a directory whose tokenizer, where one of the usual files tells, gives other ids to the letters we use."""
    name = next((n for n in ("tokenizer.json", "vocab.json", "vocab.txt") if (directory / n).is_file()), "config.json")
    try:
        theirs = _token_ids(name, (directory / name).read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{directory / name} cannot be read as a tokenizer's ({error})") from None
    ours = {token: vocab.ID[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[MASK]", *"ACGT")}
    wrong = [f"{token} is {theirs[token]}, not {i}" for token, i in ours.items() if theirs.get(token, i) != i]
    if wrong:
        raise HubError(f"{directory / name} has another alphabet than NucEL's: {'; '.join(wrong)}")


def _token_ids(name: str, text: str) -> dict[str, int]:
    """The ids that a tokenizer's file, or config.json where there is none, gives to tokens."""
    if name == "vocab.txt":
        return {token: i for i, token in enumerate(text.splitlines())}
    content = json.loads(text)
    if name == "vocab.json":
        return content
    if name == "config.json":
        return {f"[{role.upper()}]": i for role in ("pad", "cls") if (i := content.get(f"{role}_token_id")) is not None}
    return dict(content["model"]["vocab"]) | {token["content"]: token["id"] for token in content["added_tokens"]}


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
    config = _read_config(directory)
    try:
        encoder = Encoder(encoder_config(config))
    except (HubError, ConfigError) as error:
        raise HubError(f"{directory / 'config.json'}: {error}") from None
    _require_alphabet(directory)
    encoder.context = config.get("max_position_embeddings", _MAX_POSITIONS)

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
    config = _read_config(directory)
    if _TASK not in config.get("architectures", ()):
        raise HubError(
            f"{directory} is no fine-tuned model but {', '.join(config.get('architectures', ())) or 'an encoder'}; "
            f"python -m nucel.finetune makes one from it"
        )
    state = _read_weights(directory)
    try:
        network = Classifier(
            encoder_config(config),
            _labels(config, len(state.get("classifier.weight", ()))),
            _one_of(config, "classifier_pooling", "cls", "mean"),
            linear=_one_of(config, "classifier_activation", "gelu", "linear") == "linear",
        )
    except (HubError, ConfigError) as error:
        raise HubError(f"{directory / 'config.json'}: {error}") from None
    _require_alphabet(directory)
    network.model.context = config.get("max_position_embeddings", _MAX_POSITIONS)
    _require_match(network, state, directory / "model.safetensors")
    network.load_state_dict(state)
    return network.eval()


def _one_of(config: Mapping, key: str, default: str, other: str) -> str:
    value = config.get(key, default)
    if value not in (default, other):
        raise HubError(f"{key} must be {default!r} or {other!r}, got {value!r}")
    return value


def _labels(config: Mapping, outputs: int) -> tuple[str, ...] | None:
    """Names of a classifier's outputs; None where its one output is a number."""
    problem = config.get("problem_type") or ("regression" if outputs == 1 else "single_label_classification")
    if problem == "regression" and outputs == 1:
        return None
    if problem != "single_label_classification" or outputs < 2:
        raise HubError(f"problem_type {problem!r} with {outputs} outputs is neither classification nor regression")
    named = config.get("id2label") or {}
    return tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(outputs))
