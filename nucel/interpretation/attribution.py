"""Attributions: how much each base of a sequence contributes to what a model says.

    sequences --tile--> stretches of both strands --passes--> (L, k) --join, mean of strands--> Attribution

| method | value of a base | passes for L bases |
|---|---|---|
| `gradient` | dS/d(one-hot), less its mean over the four bases, at the base that is there | 1, with its backward |
| `ism` | minus the mean over the four bases of S(x with b at i) - S(x) | 3 L |
| `entropy` | max_j H_j - H_i, H_i the entropy in nats of the masked model's p_i | L |
| `entropy_gradient` | `entropy` times the norm of dS/dh_i, h_i what enters the first block | L + 1 |
| `surprise` | -ln sigma(z_i); `signed` z_i; `corrected` -ln p_D(x_i) | 1; `corrected` L more |
| `rtd_distribution` | ln 4 - H_i of p_D, the distribution that generator and discriminator imply | 4 L |
| `dependency` | M_ij = max over b of abs(z_j(x with b at i) - z_j(x)); the value is its mean over j | 3 L |

S is the target (`targets`), z the discriminator's logit. Values at unknown bases are nan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..inference.embedding import token_ids
from ..inference.predict import BATCH_TOKENS
from ..inference.tiles import Tile, Tiles
from ..model.encoder import Encoder
from ..runtime.cli import counting
from ..runtime.device import Precision, choose_precision
from ..runtime.errors import ConfigError, InputError, require
from ..tokenizers import nucleotide
from . import passes
from .passes import Stretch
from .targets import Model, Subject, Target

Method = Literal["gradient", "ism", "entropy", "entropy_gradient", "surprise", "rtd_distribution", "dependency"]
METHODS: tuple[str, ...] = get_args(Method)
_WITH_TARGET = ("gradient", "ism", "entropy_gradient")


@dataclass(frozen=True, kw_only=True)
class AttributionOptions:
    """What is attributed, and how sequences are read."""

    target: str | None = None
    """What is explained: class:K of a fine-tuned model (K a number or a name), originality (the sum of the
    discriminator's logits), plausibility (of their ln sigma) or site:i (one of them, counted from 0). By default
    originality, and of a fine-tuned model the second of two classes or the number."""
    average_reverse_complement: bool = True
    """Take the mean of both strands, so that a sequence and its reverse complement have the same map."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once, padding included; a longer sequence makes a batch of its own."""
    context: int | None = None
    """Longest sequence in tokens, [CLS] and bases; by default that of the windows which the model was trained on."""
    overlap_bp: int | None = None
    """Bases that neighbouring tiles of a long sequence share at least; by default a quarter of the context."""
    signed: bool = False
    """Surprise as the discriminator's logit z itself: high where a base looks original."""
    corrected: bool = False
    """Surprise as -ln of the base's probability by generator and discriminator together, with a pass for each base."""
    gradient_norm: Literal["l2", "max"] = "l2"
    """Norm over the channels in entropy_gradient: l2 as in published figures, max as in their text."""

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("context", 2), ("overlap_bp", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{name} must be at least {least}, got {value}")
        require(self.gradient_norm in ("l2", "max"), f"gradient_norm must be l2 or max, got {self.gradient_norm!r}")
        require(not (self.signed and self.corrected), "signed and corrected surprise exclude each other")


class Attribution(NamedTuple):
    """The map of a sequence of L bases; nan where a base is not known."""

    values: np.ndarray
    """float32 (L,)."""
    hypothetical: np.ndarray | None = None
    """float32 (L, 4), what A, C, G and T would contribute there; of `gradient` and `ism`."""
    probabilities: np.ndarray | None = None
    """float32 (L, 4), of A, C, G and T; of `entropy`, `entropy_gradient` and `rtd_distribution`."""
    dependency: np.ndarray | None = None
    """float32 (L, L), how much the logit at j (column) depends on the base at i (row)."""


class _Piece(NamedTuple):
    """A tile of a sequence, on one strand."""

    sequence: int
    tile: Tile
    reverse: bool
    stretch: Stretch


def attribute(
    model: Model,
    sequences: Sequence[str | np.ndarray],
    method: Method = "gradient",
    *,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
    progress: bool = False,
    **options: Any,
) -> list[Attribution]:
    """How much each base contributes to what a model says; one map for each sequence.

    Args:
        model: a directory of a run or of a fine-tuned model, or networks in memory, on their device.
        sequences: n of them, as text or as token ids (length,) without [CLS].
        method: as in the table of this module.
        dtype: compute precision. Maps are made of small differences, which bf16 blurs.
        progress: show a bar on stderr.
        options: those of `AttributionOptions`.

    Raises:
        InputError: one string in place of a list, an empty sequence, a letter that is not a nucleotide code, a site
            outside a sequence, or for `dependency` a sequence longer than the context.
        HubError: the method needs a network that the model lacks.
        ConfigError: an option has a value that is not allowed.
    """
    if isinstance(sequences, str):
        raise InputError("sequences must be a list of sequences, got one string; give [sequence]")
    tokens = [token_ids(sequence, f"sequence {i}") for i, sequence in enumerate(sequences, start=1)]
    subject = Subject.of(model)
    precision = choose_precision(str(subject.device), dtype)
    chosen = AttributionOptions(**options)
    return list(attributions(subject, tokens, method, chosen, precision, "bases" if progress else None))


def attributions(
    subject: Subject,
    tokens: Sequence[np.ndarray],
    method: Method,
    options: AttributionOptions,
    precision: Precision,
    progress: str | None = None,
) -> Iterator[Attribution]:
    """What `attribute` returns, one sequence after the other, in their order.

    Args:
        subject: on the precision's device.
        tokens: n arrays uint8 (length,), without [CLS]; none is empty.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not len(tokens):
        return
    target = Target.parse(options.target, subject) if method in _WITH_TARGET else None
    encoder = target.encoder if target is not None else subject.networks.encoder
    site = target.number if target is not None and target.kind == "site" else None
    pieces = _pieces(encoder, tokens, options, site, whole=method == "dependency")
    run = _Run(subject, target, options, precision)
    wanted = ("entropy", "norm") if method == "entropy_gradient" else (method,)
    streams = [_joined(run.raw(name, [p.stretch for p in pieces]), pieces, tokens) for name in wanted]
    with counting(sum(len(sequence) for sequence in tokens), progress) as count:
        for sequence, *tables in zip(tokens, *streams, strict=True):
            yield _finished(method, sequence, tables, options)
            count(len(sequence))


class _Run(NamedTuple):
    """What the passes of one call share."""

    subject: Subject
    target: Target | None
    options: AttributionOptions
    precision: Precision

    def raw(self, method: str, stretches: Sequence[Stretch]) -> Iterator[np.ndarray]:
        """A table (L, k) for each stretch: k is 1, the four bases, or L, so that both axes flip with the strand."""
        precision, size = self.precision, self.options.batch_tokens
        if method in ("gradient", "ism", "norm"):
            assert self.target is not None
            target = self.target
            if method == "gradient":
                return passes.base_gradients(target, stretches, precision, size)
            if method == "norm":
                return self._norms(target, stretches)
            return (_centred(passes.score_changes(target, stretch, precision, size)) for stretch in stretches)
        if method == "entropy":
            generator = self.subject.generator("entropy")
            return (np.exp(passes.masked_log_probabilities(generator, s.tokens, precision, size)) for s in stretches)
        if method == "surprise":
            return self._surprise(stretches)
        if method == "rtd_distribution":
            return (self._distribution(stretch.tokens) for stretch in stretches)
        discriminator = self.subject.discriminator("dependency")
        return (passes.logit_changes(discriminator, s.tokens, precision, size) for s in stretches)

    def _norms(self, target: Target, stretches: Sequence[Stretch]) -> Iterator[np.ndarray]:
        layer = target.encoder.embeddings
        for gradient in passes.input_gradients(layer, target, stretches, self.precision, self.options.batch_tokens):
            norm = np.linalg.norm(gradient, axis=1) if self.options.gradient_norm == "l2" else np.abs(gradient).max(1)
            yield norm[:, None]

    def _surprise(self, stretches: Sequence[Stretch]) -> Iterator[np.ndarray]:
        discriminator = self.subject.discriminator("surprise")
        tokens = [stretch.tokens for stretch in stretches]
        rows = passes.logits(discriminator, tokens, self.precision, self.options.batch_tokens)
        for sequence, z in zip(tokens, rows, strict=True):
            if self.options.corrected:
                places = np.flatnonzero(passes.known_bases(sequence))
                log_q, mask_rate = self._proposals(sequence)
                column = sequence[places] - nucleotide.BASES[0]
                z[places] = passes.corrected_logits(z[places], log_q[places, column], mask_rate)
            values = z if self.options.signed else np.logaddexp(0, -z)
            values[~passes.known_bases(sequence)] = np.nan
            yield values[:, None]

    def _distribution(self, tokens: np.ndarray) -> np.ndarray:
        """p_D over the four bases, (L, 4): the corrected probabilities, made to sum to 1."""
        discriminator = self.subject.discriminator("rtd_distribution")
        log_q, mask_rate = self._proposals(tokens)
        z = passes.logits_of_all_bases(discriminator, tokens, self.precision, self.options.batch_tokens)
        odds = passes.corrected_logits(z, log_q, mask_rate)
        probability = 1 / (1 + np.exp(-odds))
        return probability / probability.sum(1, keepdims=True)

    def _proposals(self, tokens: np.ndarray) -> tuple[np.ndarray, float]:
        """ln q (L, 4) of the run's generator at its temperature, and the run's mask rate."""
        what = "corrected surprise" if self.options.corrected else "rtd_distribution"
        generator = self.subject.generator(what)
        mask_rate, temperature = self.subject.rates(what)
        size = self.options.batch_tokens
        return passes.masked_log_probabilities(generator, tokens, self.precision, size, temperature), mask_rate


def _centred(changes: np.ndarray) -> np.ndarray:
    """Less the mean over the four bases: at the base that is there, minus the mean change."""
    return changes - changes.mean(1, keepdims=True)


def _pieces(
    encoder: Encoder | None,
    tokens: Sequence[np.ndarray],
    options: AttributionOptions,
    site: int | None,
    whole: bool,
) -> list[_Piece]:
    """The pieces of all sequences, in order: a sequence's tiles on its strand, then on the other one."""
    context = options.context or (None if encoder is None else encoder.context)
    strands = (False, True) if options.average_reverse_complement else (False,)
    pieces = []
    for i, sequence in enumerate(tokens):
        length = len(sequence)
        room = length if context is None else context - 1
        if whole and length > room:
            raise InputError(
                f"sequence {i + 1}: dependency maps are of whole sequences, and {length} bases are more than the "
                f"{room} of the context; --context raises the limit"
            )
        overlap = (context or 0) // 4 if options.overlap_bp is None else options.overlap_bp
        require(length <= room or overlap < room, f"overlap_bp must be below the {room} bases of a tile, got {overlap}")
        tiles: Sequence[Tile] = Tiles(length, room, overlap)
        if site is not None:
            if not site < length:
                raise InputError(f"sequence {i + 1}: it has {length} bases, so there is no site:{site}")
            start = min(max(site - room // 2, 0), max(length - room, 0))  # one window around the site, shifted inside
            end = min(start + room, length)
            tiles = [Tile(start, end, start, end)]
        for reverse in strands:
            for tile in tiles:
                part = sequence[tile.start : tile.end]
                part = nucleotide.reverse_complement(part) if reverse else part
                local = -1 if site is None else tile.end - 1 - site if reverse else site - tile.start
                pieces.append(_Piece(i, tile, reverse, Stretch(part, local)))
    return pieces


def _joined(
    tables: Iterator[np.ndarray], pieces: Sequence[_Piece], tokens: Sequence[np.ndarray]
) -> Iterator[np.ndarray]:
    """Each sequence's table float64 (length, k), from those of its pieces; nan where no piece was read."""
    held: np.ndarray | None = None
    for number, (piece, table) in enumerate(zip(pieces, tables, strict=True), start=1):
        tile = piece.tile
        if held is None:
            held = np.full((2, len(tokens[piece.sequence]), table.shape[1]), np.nan)
        forward = table[::-1, ::-1] if piece.reverse else table
        kept = slice(tile.keep_start - tile.start, tile.keep_end - tile.start)
        held[int(piece.reverse), tile.keep_start : tile.keep_end] = forward[kept]
        if number == len(pieces) or pieces[number].sequence != piece.sequence:
            yield held.mean(0) if piece.reverse else held[0]
            held = None


def _finished(method: str, tokens: np.ndarray, tables: list[np.ndarray], options: AttributionOptions) -> Attribution:
    table, small = tables[0], tables[0].astype(np.float32)
    if method in ("gradient", "ism"):
        column = np.where(passes.known_bases(tokens), tokens, nucleotide.BASES[0]) - nucleotide.BASES[0]
        return Attribution(small[np.arange(len(tokens)), column], hypothetical=small)
    if method == "surprise":
        return Attribution(small[:, 0])
    if method == "dependency":
        return Attribution(small.mean(1), dependency=small)
    entropy = entropies(table)
    if method == "rtd_distribution":
        return Attribution((np.log(4) - entropy).astype(np.float32), probabilities=small)
    values = (np.nanmax(entropy) if np.isfinite(entropy).any() else np.nan) - entropy
    if method == "entropy_gradient":
        values = values * tables[1][:, 0]
    return Attribution(values.astype(np.float32), probabilities=small)


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """Entropies in nats (L,) of distributions (L, 4); nan stays nan."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    return -(probabilities * logs).sum(1)
