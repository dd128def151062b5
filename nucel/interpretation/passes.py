"""The passes through a network that attributions are made of: gradients, substitutions, masked positions.

Legend: B batch, T = 1 + L positions with [CLS], L bases, C model width. Results have one row for each base; a row that
means nothing, since the base is not known, is nan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..inference.predict import Batch, make_batch, predict
from ..model.networks import Discriminator, Generator
from ..runtime.device import Precision
from ..tokenizers import nucleotide
from .targets import Rows, Target

_FIRST = nucleotide.BASES[0]


class Stretch(NamedTuple):
    """Bases that a network reads at once, on one strand."""

    tokens: np.ndarray
    """uint8 (L,), without [CLS]."""
    site: int = -1
    """The base that a target `site:i` is about."""


def known_bases(tokens: np.ndarray) -> np.ndarray:
    """Which tokens are A, C, G or T, bool of the same shape."""
    return np.isin(tokens, nucleotide.BASES)


def _rows(batch: Batch, sites: Sequence[int]) -> Rows:
    every = torch.tensor(sites, dtype=torch.int64, device=batch.tokens.device)
    return Rows(batch.tokens, batch.lengths, every)


def input_gradients(
    layer: nn.Module, target: Target, stretches: Sequence[Stretch], precision: Precision, batch_tokens: int
) -> Iterator[np.ndarray]:
    """dS/dx for the output x (B, T, C) of a layer, as float64 (L, C) for each stretch.

    Args:
        layer: a part of the target's encoder that gives (B, T, C); it must be called once in a pass.
        batch_tokens: tokens of a batch at most, padding included; a longer stretch makes a batch of its own.
    """
    for group in _groups(stretches, batch_tokens):
        leaves: list[Tensor] = []

        def replace(module: nn.Module, inputs: object, output: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        batch = make_batch([stretch.tokens for stretch in group], precision.device)
        hook = layer.register_forward_hook(replace)
        try:
            with torch.enable_grad(), precision.autocast():
                score = target.score(_rows(batch, [stretch.site for stretch in group]))
            (gradient,) = torch.autograd.grad(score.sum(), leaves[0])
        finally:
            hook.remove()
        for stretch, row in zip(group, gradient.double().cpu().numpy(), strict=True):
            yield row[1 : 1 + len(stretch.tokens)]


def _groups(stretches: Sequence[Stretch], batch_tokens: int) -> Iterator[list[Stretch]]:
    """Stretches that share a batch, in order."""
    group: list[Stretch] = []
    longest = 0
    for stretch in stretches:
        longest = max(longest, 1 + len(stretch.tokens))
        if group and longest * (len(group) + 1) > batch_tokens:
            yield group
            group, longest = [], 1 + len(stretch.tokens)
        group.append(stretch)
    if group:
        yield group


def base_gradients(
    target: Target, stretches: Sequence[Stretch], precision: Precision, batch_tokens: int
) -> Iterator[np.ndarray]:
    """dS/d(one-hot base) less its mean over the four bases, float64 (L, 4) for each stretch.

    The gradient at a token's embedding, before the embeddings' norm, is projected on the embeddings of A, C, G and T.
    The mean, which no sequence can change, is noise (Majdandzic et al. 2023, Genome Biol 24:109).
    """
    table = target.encoder.embeddings.tok_embeddings
    rows = table.weight[list(nucleotide.BASES)].detach().double().cpu().numpy()
    gradients = input_gradients(table, target, stretches, precision, batch_tokens)
    for stretch, gradient in zip(stretches, gradients, strict=True):
        projected = gradient @ rows.T
        projected -= projected.mean(1, keepdims=True)
        projected[~known_bases(stretch.tokens)] = np.nan
        yield projected


def substitutions(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sequences that differ from one in one known base.

    Returns:
        sequences uint8 (n, L), the base that was changed int64 (n,), and its new letter, 0 to 3, int64 (n,).
    """
    sites, letters = np.nonzero(known_bases(tokens)[:, None] & (tokens[:, None] != _FIRST + np.arange(4)))
    mutants = np.repeat(tokens[None], len(sites), axis=0)
    mutants[np.arange(len(sites)), sites] = _FIRST + letters
    return mutants, sites, letters


def score_changes(target: Target, stretch: Stretch, precision: Precision, batch_tokens: int) -> np.ndarray:
    """S(x with base b at i) - S(x), float64 (L, 4): 0 where b is already there, nan where no base is known."""
    mutants, sites, letters = substitutions(stretch.tokens)

    def score(batch: Batch) -> Tensor:
        return target.score(_rows(batch, [stretch.site] * len(batch.tokens)))

    with torch.no_grad(), precision.autocast():
        reference = score(make_batch([stretch.tokens], precision.device))
    changes = predict(lambda batch: score(batch) - reference, list(mutants), precision, batch_tokens)
    table = np.where(known_bases(stretch.tokens)[:, None], np.zeros(4), np.nan)
    if len(mutants):
        table[sites, letters] = np.array(list(changes))
    return table


def logit_changes(
    discriminator: Discriminator, tokens: np.ndarray, precision: Precision, batch_tokens: int
) -> np.ndarray:
    """M_ij = max over b of |z_j(x with b at i) - z_j(x)|, float64 (L, L); rows of unknown bases are nan."""
    mutants, sites, _ = substitutions(tokens)
    (reference,) = logits(discriminator, [tokens], precision, batch_tokens)
    table = np.where(known_bases(tokens)[:, None], np.zeros(len(tokens)), np.nan)
    for site, z in zip(sites, logits(discriminator, list(mutants), precision, batch_tokens), strict=True):
        np.maximum(table[site], np.abs(z - reference), out=table[site])
    return table


def logits(
    discriminator: Discriminator, tokens: Sequence[np.ndarray], precision: Precision, batch_tokens: int
) -> Iterator[np.ndarray]:
    """The discriminator's z of every base, float64 (L,) for each sequence."""
    z = predict(lambda b: discriminator.logits(b.tokens, b.lengths)[:, 1:], tokens, precision, batch_tokens)
    for sequence, row in zip(tokens, z, strict=True):
        yield row[: len(sequence)].astype(np.float64)


def logits_of_all_bases(
    discriminator: Discriminator, tokens: np.ndarray, precision: Precision, batch_tokens: int
) -> np.ndarray:
    """z_i(b), the discriminator's logit at i where b stands there, float64 (L, 4); nan where no base is known."""
    mutants, sites, letters = substitutions(tokens)
    table = np.full((len(tokens), 4), np.nan)
    (reference,) = logits(discriminator, [tokens], precision, batch_tokens)
    places = np.flatnonzero(known_bases(tokens))
    table[places, tokens[places] - _FIRST] = reference[places]
    chosen = torch.from_numpy(sites).to(precision.device)

    def at_site(batch: Batch) -> Tensor:
        z = discriminator.logits(batch.tokens, batch.lengths)
        return z.gather(1, 1 + chosen[batch.rows, None]).squeeze(1)

    if len(mutants):
        table[sites, letters] = np.array(list(predict(at_site, list(mutants), precision, batch_tokens)))
    return table


def masked_log_probabilities(
    generator: Generator, tokens: np.ndarray, precision: Precision, batch_tokens: int, temperature: float = 1.0
) -> np.ndarray:
    """ln p_i(b) over A, C, G, T with i masked, float64 (L, 4), from a pass for each known base; nan at the others.

    Args:
        temperature: 1 gives the masked model's probability, the run's own the proposals' distribution q.
    """
    places = np.flatnonzero(known_bases(tokens))
    masked = np.repeat(tokens[None], len(places), axis=0)
    masked[np.arange(len(places)), places] = nucleotide.MASK
    positions = torch.from_numpy(1 + places).to(precision.device)

    def at_mask(batch: Batch) -> Tensor:
        found = generator(batch.tokens, positions[batch.rows, None], batch.lengths)[:, 0]
        return (found[:, _FIRST : _FIRST + 4].double() / temperature).log_softmax(-1)

    table = np.full((len(tokens), 4), np.nan)
    if len(places):
        table[places] = np.stack(list(predict(at_mask, list(masked), precision, batch_tokens)))
    return table


def corrected_logits(z: np.ndarray, log_q: np.ndarray, mask_rate: float) -> np.ndarray:
    """logit p_D = z + ln q - ln(((1 - r) + r q) / r): the probability of a base that a pair implies, by Bayes' rule.

    z says how much likelier than the generator's proposal q a base is the original; with r the mask rate.
    """
    return z + log_q - np.log(((1 - mask_rate) + mask_rate * np.exp(log_q)) / mask_rate)
