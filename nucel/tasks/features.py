"""What a frozen encoder says about the sequences of a table: vectors of all layers from one pass, or maps per base.

    rows --encoder, once--> [CLS] and mean of every layer asked for (n, layers, 2, C) --head--> outputs
    rows --encoder--> hidden states of one layer, in fp16 (n, T, C) --CNN--> outputs

Where a row has two sequences, their vectors stand side by side, and their maps are two inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..genome.kmers import kmer_frequencies
from ..inference.embedding import EmbedOptions, embeddings, layer_vectors
from ..model.encoder import Encoder
from ..model.networks import fingerprint
from ..runtime.device import Precision
from ..runtime.errors import ConfigError, TrainingError, require
from ..tokenizers.nucleotide import BASES
from .classifier import HeadOptions, make_classifier
from .feature_cache import FeatureCache
from .task import Split, Task

POOLINGS = ("cls", "mean")
"""The order of the third axis of `EncoderFeatures.vectors`."""
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How embeddings are made, and where they are kept."""

    average_reverse_complement: bool = False
    """Average with the other strand's embedding, position by position where there is no pooling."""
    cache: Path | None = None
    """Folder where embeddings are kept for later commands; by default they are computed anew by each."""
    cache_limit_gb: float = 20.0
    """Refuse to let the cache grow beyond so many GB."""
    memory_limit_gb: float = 2.0
    """Without --cache, hold one vector per base in memory where a table's take less, in fp16; else the encoder runs
    frozen within the training loop, once in each epoch."""

    def __post_init__(self) -> None:
        for name in ("cache_limit_gb", "memory_limit_gb"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Maps:
    """One vector per position of each row's inputs: what a CNN takes.

    Attributes:
        rows: n.
        channels: C of the embedding, or 4 of one-hot bases.
        lengths: positions of each input; shorter sequences are followed by zeros.
        read: from m rows by number to an array float32 (m, channels, length) for each input.
    """

    rows: int
    channels: int
    lengths: tuple[int, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]]

    def __len__(self) -> int:
        return self.rows


def longest(task: Task) -> tuple[int, ...]:
    """Bases of the longest sequence of each input, over all tables."""
    return tuple(
        max(len(tokens) for split in task.splits for tokens in split.inputs[i]) for i in range(len(task.train.inputs))
    )


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape and context, on the same device, with weights drawn from a seed."""
    fresh = make_classifier(encoder, None, HeadOptions(), seed, from_scratch=True).model
    return fresh.eval().to(encoder.final_norm.weight.device)


def one_hot(tokens: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Bases as vectors of four, float32 (n, 4, length); unknown bases and what follows a sequence are zeros."""
    found = np.zeros((len(tokens), len(BASES), length), np.float32)
    for row, sequence in zip(found, tokens, strict=True):
        row[:, : len(sequence)] = sequence == np.array(BASES)[:, None]
    return found


def composition_features(split: Split, ks: Sequence[int]) -> np.ndarray:
    """Shares of the k-mers, float32 (n, inputs * sum of 4^k)."""
    return np.concatenate([kmer_frequencies(tokens, ks) for tokens in split.inputs], 1)


def one_hot_features(split: Split, lengths: Sequence[int]) -> np.ndarray:
    """One-hot bases as one vector, float32 (n, 4 * sum of lengths)."""
    flat = [one_hot(t, n).reshape(len(t), -1) for t, n in zip(split.inputs, lengths, strict=True)]
    return np.concatenate(flat, 1)


def one_hot_maps(split: Split, lengths: tuple[int, ...]) -> Maps:
    """One-hot bases as maps of four channels."""

    def read(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        chosen = rows.tolist()
        return tuple(one_hot([t[i] for i in chosen], n) for t, n in zip(split.inputs, lengths, strict=True))

    return Maps(len(split.targets), 4, lengths, read)


class EncoderFeatures:
    """Embeddings of tables by one encoder, whose weights are only read.

    Args:
        encoder: on the precision's device.
        options: cache, limits and strands.
        precision: of the encoder's pass.
        progress: show a bar on stderr.

    Raises:
        ConfigError: a cache was asked for, and h5py is missing.
    """

    def __init__(self, encoder: Encoder, options: FeatureOptions, precision: Precision, progress: bool = False):
        self.encoder = encoder.eval()
        self.options = options
        self.precision = precision
        self._progress = "sequences" if progress else None
        self._cache = None if options.cache is None else FeatureCache(options.cache, options.cache_limit_gb)

    def _embed(self, pooling: str, layer: int = -1) -> EmbedOptions:
        strands = self.options.average_reverse_complement
        return EmbedOptions(pooling=pooling, layer=layer, average_reverse_complement=strands)  # type: ignore[arg-type]

    def _key(
        self, tokens: Sequence[np.ndarray], layers: Sequence[int], pooling: str, shape: tuple[int, ...]
    ) -> dict[str, Any]:
        digest = hashlib.sha256()
        for sequence in tokens:
            digest.update(sequence.tobytes() + b"\0")
        return {
            "version": 1,
            "weights": fingerprint(self.encoder),
            "encoder": repr(self.encoder.config),
            "sequences": digest.hexdigest(),
            "layers": list(layers),
            "pooling": pooling,
            "both_strands": self.options.average_reverse_complement,
            "dtype": self.precision.dtype_name,
            "context": self.encoder.context,
            "shape": list(shape),
        }

    def vectors(self, split: Split, layers: Sequence[int]) -> np.ndarray:
        """Pooled embeddings, float32 (n, layers, 2, C): [CLS] and the mean of the bases, layers in the given order.

        They equal `nucel.embed`'s. With two sequences in a row the last axis is 2 C, the first sequence's first.

        Raises:
            ConfigError: the cache would exceed its limit.
            ValueError: there is no such layer.
        """
        return np.concatenate([self._vectors(tokens, layers) for tokens in split.inputs], -1)

    def _vectors(self, tokens: Sequence[np.ndarray], layers: Sequence[int]) -> np.ndarray:
        options, shape = self._embed("mean"), (len(tokens), len(layers), 2, self.encoder.config.width)
        rows = layer_vectors(self.encoder, tokens, layers, options, self.precision, progress=self._progress)
        if self._cache is None:
            return np.stack(list(rows))
        return self._cache.read_or_fill(self._key(tokens, layers, "cls and mean", shape), shape, np.float32, rows)[:]

    def maps(self, split: Split, layer: int, lengths: tuple[int, ...]) -> Maps:
        """One vector per base of a layer, rounded to fp16: from the cache, from memory, or computed when it is read.

        Raises:
            ConfigError: the cache would exceed its limit.
            TrainingError: a hidden state is too large for fp16.
        """
        parts = [self._map(tokens, layer, n) for tokens, n in zip(split.inputs, lengths, strict=True)]

        def read(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(part(rows).astype(np.float32).swapaxes(1, 2) for part in parts)

        return Maps(len(split.targets), self.encoder.config.width, lengths, read)

    def _map(self, tokens: Sequence[np.ndarray], layer: int, length: int) -> Callable[[np.ndarray], np.ndarray]:
        """Reads rows as fp16 (m, length, C)."""
        options, shape = self._embed("none", layer), (len(tokens), length, self.encoder.config.width)

        def padded(sequences: Sequence[np.ndarray], progress: str | None = None) -> Iterator[np.ndarray]:
            for hidden in embeddings(self.encoder, sequences, options, self.precision, progress=progress):
                row = np.zeros(shape[1:], np.float16)
                with np.errstate(over="ignore"):
                    row[: len(hidden)] = hidden
                if not np.isfinite(row).all():
                    raise TrainingError(f"a hidden state of layer {layer} is too large for fp16; take another layer")
                yield row

        if self._cache is not None:
            rows = padded(tokens, self._progress)
            stored = self._cache.read_or_fill(self._key(tokens, (layer,), "none", shape), shape, np.float16, rows)
            return lambda chosen: np.stack([stored[i] for i in chosen.tolist()])
        if 2 * int(np.prod(shape)) <= self.options.memory_limit_gb * _GB:
            held = np.stack(list(padded(tokens, self._progress)))
            return lambda chosen: held[chosen]
        return lambda chosen: np.stack(list(padded([tokens[i] for i in chosen.tolist()])))


def resolve_layers(words: Sequence[str | int], encoder: Encoder) -> tuple[int, ...]:
    """Layers counted from 0 (what enters the first block) to the number of blocks, in ascending order.

    Args:
        words: "all", or numbers; negative ones count from the end.

    Raises:
        ConfigError: there is no such layer.
    """
    last = encoder.config.layers
    if list(words) == ["all"]:
        return tuple(range(last + 1))
    found = set()
    for word in words:
        try:
            layer = int(word)
        except ValueError:
            raise ConfigError(f"--layers takes all, or numbers, got {word!r}") from None
        require(-last - 1 <= layer <= last, f"layers must lie in [{-last - 1}, {last}], got {layer}")
        found.add(layer if layer >= 0 else layer + last + 1)
    require(bool(found), "--layers takes all, or numbers; none was given")
    return tuple(sorted(found))
