"""Embeddings on disk, so that they are computed once: HDF5 files in a folder, each named by all that decides it.

A file's name is the digest of its key, and the key is stored in it. Other weights, sequences, layers, poolings, strands
or precision make another name, so an old file is never read for them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import files
from ..runtime.cli import console
from ..runtime.errors import ConfigError

_GB = 1e9


@dataclass(frozen=True)
class FeatureCache:
    """A folder of embeddings.

    Args:
        folder: created when something is written.
        limit_gb: 10^9 bytes that all files in it may have together.

    Raises:
        ConfigError: h5py is missing.
    """

    folder: Path
    limit_gb: float

    def __post_init__(self) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise ConfigError("--cache needs h5py, which is not installed: pip install 'nucel[embed]'")

    def read_or_fill(self, key: dict[str, Any], shape: tuple[int, ...], dtype: Any, rows: Iterable[np.ndarray]) -> Any:
        """The h5py dataset of a key, open for reading. If its file does not exist yet, it is written first.

        Args:
            key: all that decides the numbers.
            shape: (n, ...), stored in chunks of rows.
            rows: n arrays (...), iterated over only if the file does not exist yet.

        Raises:
            ConfigError: the folder would hold more than the limit; nothing is written.
        """
        import h5py  # optional dependency

        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.h5"
        if not path.exists():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            self._require_room(size)
            console.print(f"{files.mib(size)} of embeddings are computed and kept in {path}", soft_wrap=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.replacing(path) as temporary, h5py.File(temporary, "w") as file:
                file.attrs["key"] = text
                dataset = file.create_dataset("embeddings", shape, dtype, chunks=_chunks(shape, dtype))
                for number, block in _blocks(rows):
                    dataset[number : number + len(block)] = block
        file = h5py.File(path, "r")
        if file.attrs.get("key") != text or file["embeddings"].shape != shape:
            raise ConfigError(f"{path} does not hold what its name says; delete it")
        return file["embeddings"]

    def _require_room(self, size: int) -> None:
        held = sum(path.stat().st_size for path in self.folder.glob("*.h5"))
        if held + size > self.limit_gb * _GB:
            raise ConfigError(
                f"{size / _GB:.2f} GB of embeddings and {held / _GB:.2f} GB in {self.folder} are more than "
                f"--cache-limit-gb {self.limit_gb:g}; raise it, delete old files, or leave --cache out"
            )


def _chunks(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Chunks of whole rows of about 64 KiB, at least one row: training reads rows in random order."""
    row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    return (max(1, min(shape[0], (1 << 16) // max(1, row))), *shape[1:])


def _blocks(rows: Iterable[np.ndarray], size: int = 256) -> Iterator[tuple[int, np.ndarray]]:
    """Rows stacked in blocks, each with the number of its first row."""
    held: list[np.ndarray] = []
    start = 0
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield start, np.stack(held)
            start, held = start + size, []
    if held:
        yield start, np.stack(held)
