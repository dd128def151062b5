"""The networks' passes over the rows of a chunk: as few as the chosen scores need, each in the one batched loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inference.predict import Batch, make_batch, predict
from ..runtime.device import Precision
from ..tokenizers import nucleotide
from .networks import Networks
from .variant_options import ScoreOptions
from .variant_scores import (
    DISTANCES,
    JUDGEMENTS,
    UNDEFINED_FOR_INDELS,
    align,
    distances,
    judgements,
    log_ratio,
    log_softmax,
    proposal_term,
)
from .variant_windows import Row

_PLL_ROWS = 16
"""Rows whose masked copies, 66 for each by default, are held at once."""
_FIRST, _LAST = nucleotide.BASES[0], nucleotide.BASES[-1] + 1


class _Masked(Sequence[Any]):
    """Copies of sequences with [MASK] at some positions, made when they are asked for."""

    def __init__(self, tokens: Sequence[np.ndarray], positions: Sequence[tuple[int, ...]]):
        self._tokens, self._positions = tokens, positions

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, i: Any) -> Any:
        masked = self._tokens[i].copy()
        masked[list(self._positions[i])] = nucleotide.MASK
        return masked


class Passes:
    """Runs networks over rows. Legend: n rows, T positions without [CLS], K sites.

    Attributes:
        tokens: how many, [CLS] included, went through the encoder or discriminator, and through the generator.
    """

    def __init__(self, networks: Networks, scores: tuple[str, ...], options: ScoreOptions, precision: Precision):
        self.networks, self._scores, self._options, self.precision = networks, scores, options, precision
        # What the scores need is there, or the options would have refused them.
        self._encoder: Any = networks.encoder
        self._generator: Any = networks.generator
        self._discriminator: Any = networks.discriminator
        self._mask_rate, self._temperature = networks.mask_rate or 0.0, networks.temperature or 1.0
        self.tokens = {"encoder": 0, "generator": 0}

    def run(self, rows: list[Row]) -> dict[str, np.ndarray]:
        """The chosen scores of rows, float64 (n,) by name; nan where a score is not defined for an indel."""
        found = self._contrast(rows)
        substitutions = [row for row in rows if not row.is_indel]
        at = [i for i, row in enumerate(rows) if not row.is_indel]
        ratios: dict[str, list[float]] = {}
        if substitutions and {"llr", "rtd_corrected"} & set(self._scores):
            logits = self._masked_logits(substitutions)
            ratios["llr"] = [log_ratio(log_softmax(x), row) for x, row in zip(logits, substitutions, strict=True)]
            if "rtd_corrected" in self._scores:
                beyond = found["rtd"][at]
                ratios["rtd_corrected"] = [
                    z + self._proposed(x, row) for z, x, row in zip(beyond, logits, substitutions, strict=True)
                ]
        if substitutions and "llr_unmasked" in self._scores:
            logits = self._unmasked_logits(substitutions)
            ratios["llr_unmasked"] = [
                log_ratio(log_softmax(x), row) for x, row in zip(logits, substitutions, strict=True)
            ]
        if substitutions and "pll" in self._scores:
            ratios["pll"] = self._pseudo_likelihood(substitutions)
        for name, values in ratios.items():
            found[name] = np.full(len(rows), np.nan)
            found[name][at] = values
        for name in UNDEFINED_FOR_INDELS & found.keys():
            found[name][[row.is_indel for row in rows]] = np.nan
        return {name: found[name] for name in self._scores if name in found}

    def _proposed(self, logits: np.ndarray, row: Row) -> float:
        """The generator's part of rtd_corrected, from its logits (K, 4) at the masked sites."""
        log_q = log_softmax(logits, self._temperature)
        return log_ratio(proposal_term(log_q, self._mask_rate), row)

    def _predict(self, network: Callable[[Batch], Tensor], tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        # A batch of alleles brings as many tokens of the reference with it.
        return list(predict(network, tokens, self.precision, max(1, self._options.batch_tokens // 2)))

    # ---- both alleles against each other -----------------------------------------------------------------------------

    def _contrast(self, rows: list[Row]) -> dict[str, np.ndarray]:
        """Distances and what the discriminator says of both alleles; a window's reference is read once a batch."""
        wanted = set(self._scores)
        if "rtd_corrected" in wanted:
            wanted.add("rtd")
        names = [name for name in (*DISTANCES, *JUDGEMENTS) if name in wanted]
        if not names:
            return {}

        def contrast(batch: Batch) -> Tensor:
            chosen = [rows[i] for i in batch.rows.tolist()]
            numbers: dict[Hashable, int] = {}
            which = [numbers.setdefault(row.window, len(numbers)) for row in chosen]
            first = [which.index(number) for number in range(len(numbers))]
            references = make_batch([chosen[i].ref for i in first], batch.tokens.device)
            ref, alt = self._states(references, names), self._states(batch, names)
            if len(first) < len(which):
                ref = [None if state is None else state[which] for state in ref]
            positions = references.tokens.shape[1] - 1, batch.tokens.shape[1] - 1
            aligned = align(chosen, self._options.near_bp, positions, batch.tokens.device)
            scores = {} if ref[0] is None else distances(ref[0], alt[0], aligned)
            if ref[1] is not None:
                scores |= judgements(ref[1], alt[1], aligned)
            return torch.stack([scores[name] for name in names], 1)

        values = np.stack(self._predict(contrast, [row.alt for row in rows])).astype(np.float64)
        return dict(zip(names, values.T.copy(), strict=True))

    def _states(self, batch: Batch, names: list[str]) -> list[Any]:
        """Hidden states (B, T, C) and logits z (B, T) without [CLS], each only where a score needs it."""
        layer = self._options.layer
        hidden = logits = None
        self.tokens["encoder"] += batch.tokens.numel()
        if not set(JUDGEMENTS) & set(names):
            hidden = self._encoder(batch.tokens, batch.lengths, layer)
        elif set(DISTANCES) & set(names):
            hidden, last = self._encoder.hidden_states(batch.tokens, (layer, -1), batch.lengths)
            logits = self._discriminator.logits_of_hidden(last)
        else:
            logits = self._discriminator.logits(batch.tokens, batch.lengths)
        return [None if state is None else state[:, 1:] for state in (hidden, logits)]

    @torch.no_grad()
    def noise(self, rows: list[Row]) -> float | None:
        """The largest cosine distance of a row's reference alone and the same among others; None without an encoder."""
        if self.networks.encoder is None:
            return None
        tokens = [tokens for row in rows for tokens in (row.ref, row.alt)] * 2
        device = self.precision.device
        alone, among = make_batch(tokens[:1], device), make_batch(tokens, device)
        with self.precision.autocast():
            hidden = [self._states(batch, list(DISTANCES))[0] for batch in (alone, among)]
        n = alone.tokens.shape[1] - 1
        aligned = align([rows[0]._replace(alt=rows[0].ref)], 1, (n, n), device)
        return distances(hidden[0], hidden[1][:1, :n], aligned)["cosine"].item()

    # ---- the generator -----------------------------------------------------------------------------------------------

    def _masked_logits(self, rows: list[Row]) -> list[np.ndarray]:
        """Logits (K, 4) at the sites of each row, all masked together; alleles of the same sites share a pass."""
        keys = [(row.window, row.sites) for row in rows]
        unique = dict(zip(keys, rows, strict=True))
        tokens, sites = [row.ref for row in unique.values()], [key[1] for key in unique]
        logits = dict(zip(unique, self._logits_at(_Masked(tokens, sites), sites), strict=True))
        return [logits[key] for key in keys]

    def _unmasked_logits(self, rows: list[Row]) -> list[np.ndarray]:
        """Logits (K, 4) at the sites of each row, from one pass over each window as it is."""
        unique = {row.window: row.ref for row in rows}

        def network(batch: Batch) -> Tensor:
            self.tokens["generator"] += batch.tokens.numel()
            return self._generator.logits(batch.tokens, batch.lengths)[:, 1:, _FIRST:_LAST]

        logits = dict(zip(unique, self._predict(network, list(unique.values())), strict=True))
        return [logits[row.window][list(row.sites)] for row in rows]

    def _logits_at(self, tokens: Sequence[np.ndarray], positions: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Logits of the four bases (K, 4) at K positions of each sequence, counted without [CLS]."""
        most = max(map(len, positions))
        padded = np.array([[*at, *[0] * (most - len(at))] for at in positions]) + 1
        table = torch.from_numpy(padded).to(self.precision.device)

        def network(batch: Batch) -> Tensor:
            self.tokens["generator"] += batch.tokens.numel()
            return self._generator(batch.tokens, table[batch.rows], batch.lengths)[..., _FIRST:_LAST]

        found = self._predict(network, tokens)
        return [logits[: len(at)] for logits, at in zip(found, positions, strict=True)]

    def _pseudo_likelihood(self, rows: list[Row]) -> list[float]:
        """Sum over known bases near the change of ln p, each masked in turn, of alt minus that of ref."""
        found = []
        for start in range(0, len(rows), _PLL_ROWS):
            some = rows[start : start + _PLL_ROWS]
            tokens, positions, owners = [], [], []
            for number, row in enumerate(some):
                near = range(max(0, row.left - self._options.pll_bp), row.left + row.ref_bp + self._options.pll_bp)
                for sign, allele in ((-1.0, row.ref), (1.0, row.alt)):
                    at = [(j,) for j in near if j < len(allele) and _FIRST <= allele[j] < _LAST]
                    tokens += [allele] * len(at)
                    positions += at
                    owners += [(number, sign)] * len(at)
            totals = np.zeros(len(some))
            logits = self._logits_at(_Masked(tokens, positions), positions)
            for (number, sign), x, sequence, (j,) in zip(owners, logits, tokens, positions, strict=True):
                totals[number] += sign * log_softmax(x)[0, sequence[j] - _FIRST]
            found += totals.tolist()
        return found
