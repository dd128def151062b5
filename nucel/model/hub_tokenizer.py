"""Our alphabet as transformers' tokenizer.json, both ways."""

from __future__ import annotations

import json
from pathlib import Path

from ..runtime.errors import HubError
from ..tokenizers import nucleotide
from .hub_config import _MAX_POSITIONS


def tokenizer_json() -> dict:
    """A WordLevel tokenizer of single letters: the alphabet of `nucleotide`, [CLS] in front."""
    names = [token for token in nucleotide.TOKENS if token not in "ACGT"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": nucleotide.ID[name],
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
                for letter, base in nucleotide.ALIASES.items()
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
                name: {"id": name, "ids": [nucleotide.ID[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": nucleotide.ID, "unk_token": "[UNK]"},
    }


def tokenizer_config_json(context: int | None) -> dict:
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


def require_alphabet(directory: Path) -> None:
    """Refuse a directory whose tokenizer, where one of the usual files tells, gives other ids to the letters we use."""
    name = next((n for n in ("tokenizer.json", "vocab.json", "vocab.txt") if (directory / n).is_file()), "config.json")
    try:
        theirs = _token_ids(name, (directory / name).read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{directory / name} cannot be read as a tokenizer's ({error})") from None
    ours = {token: nucleotide.ID[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[MASK]", *"ACGT")}
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
