"""Embeddings as a file: .npz (NumPy), .parquet (needs pyarrow) or .h5 (needs h5py), written as they come.

One vector per sequence:   names (n), embeddings (n, C)
One vector per base:       names (n), offsets (n + 1), hidden (total, C); sequence i has rows offsets[i]:offsets[i + 1].
                           In .parquet, which nests, the column embedding holds (length, C) in each row instead.
Attention on request:      attention_0, attention_1, ... (layers, H, T, T) for each sequence; not in .parquet.

Regions of a BED file also have contig, start_bp, end_bp and strand (n), as text.
What was done is JSON text beside them: the array `about`, Parquet's metadata under "nucel", HDF5's attribute `about`.
Every file is written under a temporary name and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime import files
from ..runtime.errors import ConfigError

_NEEDS = {".npz": None, ".parquet": "pyarrow", ".h5": "h5py"}
_PARQUET_ROWS = 1024


class Contents(NamedTuple):
    """What a file will hold, known before anything is computed."""

    names: list[str]
    width: int
    lengths: np.ndarray | None
    """int64 (n,), bases of each sequence where each base has a vector; None for one vector per sequence."""
    about: dict[str, Any]
    columns: dict[str, list[str]] = {}  # noqa: RUF012 - never changed
    """n cells each, by name: where each sequence is from."""

    @property
    def rows(self) -> int:
        return len(self.names) if self.lengths is None else int(self.lengths.sum())

    @property
    def offsets(self) -> np.ndarray:
        """int64 (n + 1,): sequence i has rows offsets[i]:offsets[i + 1], where each base has a vector."""
        return np.concatenate([[0], np.cumsum(() if self.lengths is None else self.lengths)]).astype(np.int64)

    @property
    def key(self) -> str:
        return "embeddings" if self.lengths is None else "hidden"


class Sink(NamedTuple):
    """Where results go: embeddings in the order of the names, then attention weights, if any, in that order."""

    embedding: Callable[[np.ndarray], object]
    """(C,), or (length, C)."""
    attention: Callable[[int, np.ndarray], None]
    """A sequence's number, and (layers, H, T, T)."""


def require_format(path: Path, attention: bool) -> None:
    """Refuse a file name that says no format, or one that cannot be written here.

    Raises:
        ConfigError: says what is missing.
    """
    if path.suffix not in _NEEDS:
        raise ConfigError(f"--out must end with {', '.join(_NEEDS)}, got {path}")
    library = _NEEDS[path.suffix]
    if library and importlib.util.find_spec(library) is None:
        raise ConfigError(f"{path.suffix} needs {library}, which is not installed: pip install 'nucel[embed]'")
    if attention and path.suffix == ".parquet":
        raise ConfigError("attention weights do not fit a table; give --out a name that ends with .npz or .h5")


@contextlib.contextmanager
def writing(path: Path, contents: Contents) -> Iterator[Sink]:
    """A sink that becomes the file `path` when all went well, and otherwise leaves no trace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {".npz": _npz, ".parquet": _parquet, ".h5": _hdf5}[path.suffix]
    with files.replacing(path) as temporary, write(temporary, contents) as sink:
        yield sink


@contextlib.contextmanager
def _npz(path: Path, contents: Contents) -> Iterator[Sink]:
    with zipfile.ZipFile(path, "w") as archive:

        def store(name: str, array: np.ndarray) -> None:
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

        store("names", np.array(contents.names, dtype=np.str_))
        for name, cells in contents.columns.items():
            store(name, np.array(cells, dtype=np.str_))
        store("about", np.array(json.dumps(contents.about)))
        if contents.lengths is not None:
            store("offsets", contents.offsets)
        # One member of the archive is open at a time: the embeddings', until attention weights follow.
        stream = archive.open(contents.key + ".npy", "w", force_zip64=True)
        header = {"descr": "<f4", "fortran_order": False, "shape": (contents.rows, contents.width)}
        np.lib.format.write_array_header_1_0(stream, header)

        def attention(number: int, weights: np.ndarray) -> None:
            stream.close()
            store(f"attention_{number}", weights)

        try:
            yield Sink(lambda rows: stream.write(np.ascontiguousarray(rows, "<f4").data), attention)
        finally:
            stream.close()


@contextlib.contextmanager
def _hdf5(path: Path, contents: Contents) -> Iterator[Sink]:
    import h5py  # optional dependency

    with h5py.File(path, "w") as file:
        file.attrs["about"] = json.dumps(contents.about)
        for name, cells in {"names": contents.names, **contents.columns}.items():
            file.create_dataset(name, data=np.array(cells, dtype=object), dtype=h5py.string_dtype())
        if contents.lengths is not None:
            file.create_dataset("offsets", data=contents.offsets)
        stream = file.create_dataset(contents.key, (contents.rows, contents.width), "f4")
        written = 0

        def embedding(rows: np.ndarray) -> None:
            nonlocal written
            rows = rows.reshape(-1, contents.width)
            stream[written : written + len(rows)] = rows
            written += len(rows)

        def attention(number: int, weights: np.ndarray) -> None:
            file.create_dataset(f"attention_{number}", data=weights)

        yield Sink(embedding, attention)


@contextlib.contextmanager
def _parquet(path: Path, contents: Contents) -> Iterator[Sink]:
    import pyarrow as pa  # optional dependency
    from pyarrow import parquet

    vector = pa.list_(pa.float32(), contents.width)
    kind = vector if contents.lengths is None else pa.list_(vector)
    about = {"nucel": json.dumps(contents.about)}
    texts = {"name": contents.names, **contents.columns}
    schema = pa.schema([*((name, pa.string()) for name in texts), ("embedding", kind)], metadata=about)
    rows_of_texts = zip(*texts.values(), strict=True)
    held: list[np.ndarray] = []

    def flush() -> None:
        flat = pa.array(np.concatenate(held, axis=None).astype(np.float32, copy=False))
        column = pa.FixedSizeListArray.from_arrays(flat, contents.width)
        if contents.lengths is not None:
            ends = np.cumsum([0, *(len(rows) for rows in held)])
            column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), column)
        cells = zip(*(next(rows_of_texts) for _ in held), strict=True)
        writer.write_table(pa.Table.from_arrays([*(pa.array(c, pa.string()) for c in cells), column], schema=schema))
        held.clear()

    def embedding(rows: np.ndarray) -> None:
        held.append(rows)
        if len(held) == _PARQUET_ROWS:
            flush()

    def attention(number: int, weights: np.ndarray) -> None:
        raise AssertionError("require_format refuses attention weights in .parquet")

    with parquet.ParquetWriter(path, schema) as writer:
        yield Sink(embedding, attention)
        if held:
            flush()
