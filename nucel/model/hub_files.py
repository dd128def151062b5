"""The files of a model directory, read with care: whatever they hold, the answer is their content or one HubError."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..runtime.errors import HubError

WEIGHTS = "model.safetensors"
_LARGEST_JSON = 64 << 20
"""Bytes. A config.json has a few thousand, a tokenizer.json for a large vocabulary some millions."""
_DTYPES = ("F64", "F32", "F16", "BF16")


class Stored(NamedTuple):
    """What the header of a safetensors file says of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def existing(directory: Path, name: str) -> Path:
    """The path of a file in a model directory.

    Raises:
        HubError: there is no such file.
    """
    if not (directory / name).is_file():
        raise HubError(f"{directory} holds no {name}; give a run directory or a ModernBERT model directory")
    return directory / name


def read_text(path: Path) -> str:
    """Raises:
    HubError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        if (size := path.stat().st_size) > _LARGEST_JSON:
            raise HubError(f"{path} has {size:,} bytes; such a file has at most {_LARGEST_JSON:,}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise HubError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise HubError(f"{path} is not UTF-8 text ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        HubError: it cannot be read, is not JSON, is not an object, or gives a key two values.
    """
    try:
        content = json.loads(read_text(path), object_pairs_hook=_unique)
    except RecursionError:
        raise HubError(f"{path} is not JSON that can be read: its brackets are nested too deeply") from None
    except HubError:
        raise
    except ValueError as error:
        raise HubError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise HubError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(names) if key in names[:i])
        raise ValueError(f"the key {twice!r:.60} occurs twice")
    return content


def read_header(directory: Path) -> dict[str, Stored]:
    """Names, dtypes and shapes of a directory's weights; nothing of their size is allocated.

    Raises:
        HubError: no weights, damaged ones, or numbers that are not floating-point.
    """
    path = existing(directory, WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
            header = {name: Stored(own.get_dtype(), tuple(own.get_shape())) for name, own in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise HubError(f"{path} is damaged: {error}") from None
    for name, stored in header.items():
        if stored.dtype not in _DTYPES:
            raise HubError(f"{path} has {name} in {stored.dtype}; weights must be one of {', '.join(_DTYPES)}")
    return header


def read_weights(directory: Path) -> dict[str, Tensor]:
    """A directory's tensors, of the names and shapes that `read_header` gives.

    Raises:
        HubError: as `read_header`.
    """
    path = existing(directory, WEIGHTS)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise HubError(f"{path} is damaged: {error}") from None


def first_not_finite(state: dict[str, Tensor]) -> str | None:
    """The name of a tensor that holds inf or nan; None where all numbers are finite."""
    return next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)


def warn_not_finite(state: dict[str, Tensor], directory: Path, level: int = 3) -> None:
    """Warn once where weights hold inf or nan, in the name of whoever called our caller (level 3), or its caller."""
    if name := first_not_finite(state):
        warnings.warn(
            f"{directory / WEIGHTS} holds values that are not finite, for example in {name}: what is computed from "
            "them means nothing. Take an earlier checkpoint, or train again with a lower learning rate",
            stacklevel=level,
        )
