"""The eleven scores of a variant, as formulas.

| score | formula | sign |
|---|---|---|
| cosine | 1 - cos of all hidden states of the window, flattened | distance |
| cosine_mean | 1 - cos of the hidden states' mean over positions | distance |
| cosine_site | 1 - cos of the hidden state at the site | distance |
| l2 | Euclidean norm of the difference of all hidden states | distance |
| llr | ln p(alt) - ln p(ref) at the masked site | < 0: alt is less likely |
| llr_unmasked | the same from the reference without a mask | < 0 |
| pll | sum of ln p of each base near the site, masked in turn, alt minus ref | < 0 |
| rtd | z(alt) - z(ref) at the site | < 0: alt looks replaced |
| rtd_corrected | logit p_D(alt) - logit p_D(ref) | < 0 |
| rtd_window | sum near the site of ln sigmoid(z) of alt minus ref | < 0 |
| rtd_context | rtd_window without the site | < 0 |
| rtd_influence | mean near the site, without it, of abs(z(alt) - z(ref)) | distance |

z is the discriminator's logit that a token is the original, p the masked model's distribution over A, C, G, T, and q
the generator's proposal, p at the run's temperature. An ideal discriminator has

    z(b) = logit p(b) - ln q(b) + ln(((1 - r) + r q(b)) / r)

for mask rate r and the true conditional p (Bayes' rule over "kept" and "masked and drawn"; ELECTRA as noise-contrastive
estimation, Clark et al. 2020, Electric). So z alone holds what the discriminator knows beyond the generator, and
`rtd_corrected` adds the generator's part again.

Legend: B rows, T positions without [CLS], C model width, K sites of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .variant_windows import Row

ENCODER, GENERATOR, DISCRIMINATOR, PAIR = "an encoder", "a generator or masked LM", "a discriminator", "a pair"
DISTANCES = ("cosine", "cosine_mean", "cosine_site", "l2")
JUDGEMENTS = ("rtd", "rtd_window", "rtd_context", "rtd_influence")
NEEDS = {
    "cosine": ENCODER, "cosine_mean": ENCODER, "cosine_site": ENCODER, "l2": ENCODER,
    "llr": GENERATOR, "llr_unmasked": GENERATOR, "pll": GENERATOR,
    "rtd": DISCRIMINATOR, "rtd_corrected": PAIR,
    "rtd_window": DISCRIMINATOR, "rtd_context": DISCRIMINATOR, "rtd_influence": DISCRIMINATOR,
}  # fmt: skip
"""Every score, and what it is computed from."""
IS_DISTANCE = frozenset((*DISTANCES, "rtd_influence"))
"""Scores that are at least 0 and the same for ref and alt exchanged."""
UNDEFINED_FOR_INDELS = frozenset(NEEDS) - {"cosine", "cosine_mean", "l2", "rtd_context", "rtd_influence"}


class Aligned(NamedTuple):
    """Positions of both alleles side by side; where the reference has T of them. All are (B, T)."""

    alt_index: Tensor | None
    """int64, where each position of the reference is in the other allele; None where all are in the same place."""
    compared: Tensor
    """bool: real, and in both alleles."""
    changed: Tensor
    """bool: the sites."""
    near: Tensor
    """bool: compared, and within the radius of the change."""
    real: Tensor
    """bool: not padding."""
    alt_real: Tensor
    """bool (B, T of alt)."""


def align(rows: list[Row], radius_bp: int, positions: tuple[int, int], device: torch.device) -> Aligned:
    """Positions that rows compare, for tensors of so many positions of the reference and of the other allele."""
    index = np.arange(positions[0])
    columns = (
        [len(row.ref) for row in rows], [len(row.alt) for row in rows], [row.left for row in rows],
        [row.left + row.ref_bp for row in rows], [row.is_indel for row in rows],
    )  # fmt: skip
    ref_bp, alt_bp, first, after, indel = (np.array(column)[:, None] for column in columns)
    real = index < ref_bp
    compared = real & ~(indel & (index >= first) & (index < after))
    changed = np.zeros_like(real)
    for row, sites in zip(changed, (row.sites for row in rows), strict=True):
        row[list(sites)] = True
    near = compared & (index >= first - radius_bp) & (index < after + radius_bp)
    shift = (alt_bp - ref_bp) * (index >= after)
    alt_index = np.minimum(index + shift, positions[1] - 1) if shift.any() or positions[0] != positions[1] else None
    alt_real = np.arange(positions[1]) < alt_bp
    given = (alt_index, compared, changed, near, real, alt_real)
    tensors: Any = [None if array is None else torch.from_numpy(array).to(device) for array in given]
    return Aligned(*tensors)


def _one_minus_cosine(squares: Sequence[Tensor]) -> Tensor:
    """From |a|^2, |b|^2 and |a - b|^2 in fp64: half the squared distance of the unit vectors, without cancellation."""
    a, b = squares[0].sqrt(), squares[1].sqrt()
    return ((squares[2] - (a - b).square()) / (2 * a * b)).clamp(min=0)


def distances(ref: Tensor, alt: Tensor, aligned: Aligned) -> dict[str, Tensor]:
    """Distances of hidden states (B, T, C) and (B, T of alt, C), fp64 (B,) each; cosine_site is nan without sites."""
    ref, alt = ref.double(), alt.double()
    means = (
        (ref * aligned.real[..., None]).sum(1) / aligned.real.sum(1, keepdim=True),
        (alt * aligned.alt_real[..., None]).sum(1) / aligned.alt_real.sum(1, keepdim=True),
    )
    if aligned.alt_index is not None:
        alt = alt.gather(1, aligned.alt_index[..., None].expand(-1, -1, alt.shape[-1]))
    at_each = ref.square().sum(-1), alt.square().sum(-1), (ref - alt).square().sum(-1)
    whole = tuple(squares.where(aligned.compared, 0).sum(1) for squares in at_each)
    site = tuple(squares.where(aligned.changed, 0).sum(1) for squares in at_each)
    mean = means[0].square().sum(-1), means[1].square().sum(-1), (means[0] - means[1]).square().sum(-1)
    return {
        "cosine": _one_minus_cosine(whole),
        "cosine_mean": _one_minus_cosine(mean),
        "cosine_site": _one_minus_cosine(site),
        "l2": whole[2].sqrt(),
    }


def judgements(ref: Tensor, alt: Tensor, aligned: Aligned) -> dict[str, Tensor]:
    """Scores of the discriminator's logits z (B, T) and (B, T of alt), fp64 (B,) each."""
    ref, alt = ref.double(), alt.double()
    if aligned.alt_index is not None:
        alt = alt.gather(1, aligned.alt_index)
    difference = alt - ref
    likelihood = F.logsigmoid(alt) - F.logsigmoid(ref)
    context = aligned.near & ~aligned.changed
    return {
        "rtd": difference.where(aligned.changed, 0).sum(1),
        "rtd_window": likelihood.where(aligned.near, 0).sum(1),
        "rtd_context": likelihood.where(context, 0).sum(1),
        "rtd_influence": difference.abs().where(context, 0).sum(1) / context.sum(1),
    }


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities over the last axis, fp64, of logits (..., 4)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def log_ratio(log_p: np.ndarray, row: Row) -> float:
    """Sum over the sites of ln p(alt) - ln p(ref), for log-probabilities (K, 4) at the sites."""
    ref, alt = row.site_bases()
    site = np.arange(len(ref))
    return float((log_p[site, alt] - log_p[site, ref]).sum())


def proposal_term(log_q: np.ndarray, mask_rate: float) -> np.ndarray:
    """What the identity adds to z for logit p: ln q - ln(((1 - r) + r q) / r), for ln q of any shape."""
    return log_q - np.log(((1 - mask_rate) + mask_rate * np.exp(log_q)) / mask_rate)
