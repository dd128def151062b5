"""Our alphabet as transformers' tokenizer.json, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..runtime.errors import HubError
from ..tokenizers import nucleotide
from .hub_config import _MAX_POSITIONS, value_of
from .hub_files import read_json, read_text


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
    """Refuse a directory whose tokenizer, where one of the usual files tells, gives other ids to the letters we use.

    Raises:
        HubError: the file cannot be read, lacks a base, gives a token two ids, or one that is not ours.
    """
    name = next((n for n in _TOKENIZERS if (directory / n).is_file()), "config.json")
    theirs: dict[str, Any] = {}
    try:
        for token, number in _token_ids(directory / name):
            if theirs.setdefault(token, number) != number:
                raise HubError(f"it gives {token!r:.60} two ids, {theirs[token]!r:.60} and {number!r:.60}")
    except HubError as error:
        raise HubError(f"{directory / name} cannot be read as a tokenizer's: {error}") from None
    ours = {token: nucleotide.ID[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[MASK]", *"ACGT")}
    wrong = [f"{token} is {theirs[token]!r:.60}, not {i}" for token, i in ours.items() if theirs.get(token, i) != i]
    if wrong:
        raise HubError(f"{directory / name} has another alphabet than NucEL's: {'; '.join(wrong)}")
    if name != "config.json" and (missing := [base for base in "ACGT" if base not in theirs]):
        raise HubError(f"{directory / name} has another alphabet than NucEL's: it lacks {', '.join(missing)}")


_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")


def _token_ids(path: Path) -> Iterable[tuple[str, Any]]:
    """The ids that a tokenizer's file, or config.json where there is none, gives to tokens.

    Raises:
        HubError: the file is none of this kind.
    """
    if path.name == "vocab.txt":
        return ((token, number) for number, token in enumerate(read_text(path).splitlines()))
    content = read_json(path)
    if path.name == "vocab.json":
        return content.items()
    if path.name == "config.json":
        ids = {f"[{role.upper()}]": content.get(f"{role}_token_id") for role in ("pad", "cls")}
        return ((token, number) for token, number in ids.items() if number is not None)
    vocabulary = value_of(value_of(content, "model", dict), "vocab", dict)
    added = value_of(content, "added_tokens", list, [])
    for token in added:
        if not isinstance(token, dict):
            raise HubError(f"added_tokens must be a list of objects, got {token!r:.60}")
    return [
        *vocabulary.items(),
        *((value_of(token, "content", str), value_of(token, "id", int)) for token in added),
    ]
