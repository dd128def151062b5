"""Embeddings of sequences of any length.

    sequences --tile--> pieces --predict--> hidden states --pool--> one vector per sequence

Legend: B batch, T positions, C model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..genome.sequences import parse_bases
from ..model.encoder import Encoder
from ..model.hub import load
from ..runtime.device import Precision, choose_precision
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide
from .predict import BATCH_TOKENS, Batch, predict
from .tiles import Tiles


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What an embedding is."""

    pooling: Literal["mean", "cls", "none"] = "mean"
    """mean of the bases' hidden states ([CLS] and padding left out), the hidden state of [CLS], or none: a hidden state
    for each base."""
    layer: int = -1
    """Whose hidden states, as transformers counts them: 0 enters the first block, n leaves the n-th, -1 is the end."""
    average_reverse_complement: bool = False
    """Average with the other strand's embedding, position by position where there is no pooling."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once, padding included; a longer sequence makes a batch of its own."""
    context: int | None = None
    """Longest sequence in tokens, [CLS] and bases; by default that of the windows which the model was trained on."""
    long: Literal["tile", "refuse"] = "tile"
    """How to handle sequences longer than the context: tiles of its length, or an error. With tiles, a base's hidden
    state is that of the tile whose ends are farther from it, the mean is over all bases, and [CLS] is the mean of the
    tiles'."""
    overlap_bp: int | None = None
    """Bases that neighbouring tiles share at least; by default a quarter of the context."""

    def __post_init__(self) -> None:
        allowed = {
            "pooling": ("mean", "cls", "none"),
            "long": ("refuse", "tile"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        for name, least in (("batch_tokens", 1), ("context", 2), ("overlap_bp", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")


class _Piece(NamedTuple):
    """Bases [start, end) of a sequence, read on one strand; [keep_start, keep_end) are those it answers for."""

    sequence: int
    start: int
    end: int
    keep_start: int
    keep_end: int
    reverse: bool

    def kept(self) -> slice:
        """The bases it answers for, counted in its own direction from its own first base."""
        if self.reverse:
            return slice(self.end - self.keep_end, self.end - self.keep_start)
        return slice(self.keep_start - self.start, self.keep_end - self.start)


def _pieces(
    encoder: Encoder, tokens: Sequence[np.ndarray], options: EmbedOptions, where: Sequence[str]
) -> list[_Piece]:
    """The pieces of all sequences, in order: a sequence's tiles on its strand, then on the other one."""
    context = options.context or encoder.context
    longest = max(len(sequence) for sequence in tokens)
    room = longest if context is None else context - 1
    overlap = context // 4 if options.overlap_bp is None and context is not None else options.overlap_bp or 0
    if longest > room and options.long == "refuse":
        i = next(i for i, sequence in enumerate(tokens) if len(sequence) > room)
        raise InputError(
            f"{where[i]}: {len(tokens[i])} bases are more than the context of {context} tokens holds, [CLS] and "
            f"{room} bases; --long tile reads such sequences in tiles, --context raises the limit"
        )
    if longest > room and overlap >= room:
        raise ConfigError(f"overlap_bp must be below the {room} bases of a tile, got {overlap}")
    strands = (False, True) if options.average_reverse_complement else (False,)
    return [
        _Piece(i, *tile, reverse)
        for i, sequence in enumerate(tokens)
        for reverse in strands
        for tile in Tiles(len(sequence), room, overlap)
    ]


def _cut(tokens: Sequence[np.ndarray], piece: _Piece) -> np.ndarray:
    forward = tokens[piece.sequence][piece.start : piece.end]
    return nucleotide.reverse_complement(forward) if piece.reverse else forward


def embeddings(
    encoder: Encoder,
    tokens: Sequence[np.ndarray],
    options: EmbedOptions,
    precision: Precision,
    where: Sequence[str] | None = None,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """What `embed` returns, one sequence after the other, in their order.

    Args:
        encoder: on the precision's device.
        tokens: n arrays uint8 (length,), without [CLS]; none is empty.
        where: n names for error messages.

    Yields:
        n arrays float32: (C,), or (length, C) without pooling.

    Raises:
        InputError: a sequence is longer than the context, and tiles were not asked for.
        ValueError, ConfigError: an invalid layer or overlap.
    """
    if not len(tokens):
        return
    pieces = _pieces(encoder, tokens, options, where or [f"sequence {i + 1}" for i in range(len(tokens))])
    kept = _kept(pieces, precision.device)

    def pooled(batch: Batch) -> Tensor:
        hidden = encoder(batch.tokens, batch.lengths, options.layer)
        if options.pooling == "cls":
            return hidden[:, 0]
        return hidden[:, 1:] if options.pooling == "none" else _sum(hidden, kept[batch.rows])

    for held in _by_sequence(pooled, tokens, pieces, options, precision, progress):
        yield _joined(held, options.pooling, len(tokens[held[0][0].sequence]))


def layer_vectors(
    encoder: Encoder,
    tokens: Sequence[np.ndarray],
    layers: Sequence[int],
    options: EmbedOptions,
    precision: Precision,
    where: Sequence[str] | None = None,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """[CLS] and the mean of the bases at several layers, from one pass over each sequence.

    Arguments and errors are those of `embeddings`; the layer and the pooling of `options` are not used.

    Yields:
        n arrays float32 (layers, 2, C): [CLS], then the mean, as `embeddings` gives them.
    """
    if not len(tokens):
        return
    pieces = _pieces(encoder, tokens, options, where or [f"sequence {i + 1}" for i in range(len(tokens))])
    kept = _kept(pieces, precision.device)

    def pooled(batch: Batch) -> Tensor:
        states = encoder.hidden_states(batch.tokens, layers, batch.lengths)
        rows = kept[batch.rows]
        return torch.stack([torch.stack([hidden[:, 0].float(), _sum(hidden, rows)], 1) for hidden in states], 1)

    for held in _by_sequence(pooled, tokens, pieces, options, precision, progress):
        length = len(tokens[held[0][0].sequence])
        halves = ([(piece, result[:, half]) for piece, result in held] for half in (0, 1))
        yield np.stack([_joined(half, kind, length) for half, kind in zip(halves, ("cls", "mean"), strict=True)], 1)


def _kept(pieces: Sequence[_Piece], device: torch.device) -> Tensor:
    """First and last base that each piece answers for, int64 (pieces, 2)."""
    return torch.tensor([(p.kept().start, p.kept().stop) for p in pieces], device=device)


def _sum(hidden: Tensor, kept: Tensor) -> Tensor:
    """Sum (B, C) of the hidden states (B, T, C) of the bases that each row, kept (B, 2), answers for."""
    first, last = kept[:, :, None].unbind(1)
    position = torch.arange(hidden.shape[1] - 1, device=hidden.device)
    wanted = (position >= first) & (position < last)
    return (hidden[:, 1:].float() * wanted[..., None]).sum(1)


def _by_sequence(
    network: Callable[[Batch], Tensor],
    tokens: Sequence[np.ndarray],
    pieces: Sequence[_Piece],
    options: EmbedOptions,
    precision: Precision,
    progress: str | None,
) -> Iterator[list[tuple[_Piece, np.ndarray]]]:
    """The pieces of each sequence, with what a network gives for them."""
    if progress is not None and len(pieces) > len(tokens):
        progress = f"pieces of {len(tokens):,} {progress}"
    results = predict(network, [_cut(tokens, piece) for piece in pieces], precision, options.batch_tokens, progress)
    held: list[tuple[_Piece, np.ndarray]] = []
    for number, (piece, result) in enumerate(zip(pieces, results, strict=True), start=1):
        held.append((piece, result))
        if number == len(pieces) or pieces[number].sequence != piece.sequence:
            yield held
            held = []


def _joined(held: list[tuple[_Piece, np.ndarray]], pooling: str, length: int) -> np.ndarray:
    """A sequence's embedding from its pieces: their mean, sum over bases, or their positions side by side."""
    if pooling == "cls":
        return np.mean([result for _, result in held], axis=0)
    strands = 1 + any(piece.reverse for piece, _ in held)
    if pooling == "mean":
        return np.sum([result for _, result in held], axis=0) / np.float32(strands * length)
    whole = np.zeros((length, held[0][1].shape[-1]), np.float32)
    for piece, result in held:
        part = result[piece.kept()]
        whole[piece.keep_start : piece.keep_end] += part[::-1] if piece.reverse else part
    return whole / np.float32(strands)


def embed(
    encoder: Encoder | str | Path,
    sequences: Sequence[str | np.ndarray],
    *,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    progress: bool = False,
    **options: Any,
) -> np.ndarray:
    """One vector for each sequence, computed on the encoder's device.

    Args:
        encoder: as `nucel.load` gives it, or the directory that it reads.
        sequences: n of them, as text or as token ids (length,) without [CLS].
        dtype: compute precision; auto is bf16 on a GPU and fp32 on a CPU.
        progress: show a bar on stderr.
        options: those of `EmbedOptions`.

    Returns:
        float32 (n, C).

    Raises:
        InputError: one string in place of a list, an empty sequence, a letter that is not a nucleotide code, or, with
            long="refuse", a sequence longer than the context.
        ConfigError, ValueError: an option has a value that is not allowed.
    """
    chosen = EmbedOptions(**options)
    if chosen.pooling == "none":
        raise ConfigError("embed gives one vector for each sequence; embed_positions gives one for each base")
    network = _network(encoder)
    rows = _rows(network, sequences, chosen, dtype, progress)
    return np.stack(rows) if rows else np.empty((0, network.config.width), np.float32)


def embed_positions(
    encoder: Encoder | str | Path,
    sequences: Sequence[str | np.ndarray],
    *,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    progress: bool = False,
    **options: Any,
) -> list[np.ndarray]:
    """One vector for each base of each sequence: n arrays float32 (length, C).

    Arguments and errors are those of `embed`; there is no pooling.
    """
    if "pooling" in options:
        raise ConfigError("embed_positions does not pool; embed does")
    return _rows(_network(encoder), sequences, EmbedOptions(pooling="none", **options), dtype, progress)


def _network(encoder: Encoder | str | Path) -> Encoder:
    return encoder if isinstance(encoder, Encoder) else load(encoder)


def _rows(
    encoder: Encoder, sequences: Sequence[str | np.ndarray], options: EmbedOptions, dtype: str, progress: bool
) -> list[np.ndarray]:
    """Each sequence's embedding, (C,) or (length, C)."""
    if isinstance(sequences, str):
        raise InputError("sequences must be a list of sequences, got one string; give [sequence]")
    tokens = [token_ids(sequence, f"sequence {i}") for i, sequence in enumerate(sequences, start=1)]
    precision = choose_precision(str(encoder.final_norm.weight.device), dtype)
    return list(embeddings(encoder, tokens, options, precision, progress="sequences" if progress else None))


def token_ids(sequence: str | np.ndarray, where: str) -> np.ndarray:
    """Token ids uint8 (length,) of a sequence, checked; `where` names it in errors."""
    if isinstance(sequence, str):
        return parse_bases(sequence, where)
    ids = np.asarray(sequence)
    if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= len(nucleotide.TOKENS):
        raise InputError(f"{where}: token ids must be (length,) in [0, {len(nucleotide.TOKENS)}), not empty")
    return ids.astype(np.uint8)
