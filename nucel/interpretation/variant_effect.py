"""Zero-shot effects of variants: `score_variants`, and the `Scorer` behind it.

variants --resolve--> alleles --place--> windows --rows--> networks --formulas--> scores, the mean of both strands
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..genome.fasta import Genome
from ..genome.loci import Reference
from ..genome.variant_files import open_variants
from ..genome.variants import TOO_LONG, Allele, Variant, resolve
from ..model.encoder import Encoder
from ..model.networks import Discriminator, Generator
from ..objectives.electra import Electra
from ..runtime.cli import counting
from ..runtime.device import Precision, choose_precision
from ..runtime.errors import ConfigError
from .networks import Networks, load_networks
from .variant_options import ScoreOptions
from .variant_passes import Passes
from .variant_windows import Window, place, rows_of, unknown_near

Model = str | os.PathLike[str] | Networks | Electra | Discriminator | Generator | Encoder
CHUNK = 512
"""Variants that are scored together; more are never held."""
_WINDOW_ARRAYS = ("window_start_bp", "window_end_bp", "unknown_near")


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of n variants, in their order.

    Attributes:
        scores: float64 (n,) by name; nan where a score is not defined or the variant cannot be scored.
        status: n words that say why; see docs/variants.md.
        window_start_bp, window_end_bp: int64 (n,), the window on the variant's contig, 0-based and half-open; -1
            where there is none.
        unknown_near: float64 (n,), the share of unknown bases within 64 bp; nan where there is no window.
    """

    scores: dict[str, np.ndarray]
    status: list[str]
    window_start_bp: np.ndarray
    window_end_bp: np.ndarray
    unknown_near: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, score: str) -> np.ndarray:
        return self.scores[score]

    def part(self, start: int, stop: int) -> Scored:
        """Variants [start, stop)."""
        scores = {name: values[start:stop] for name, values in self.scores.items()}
        own = (getattr(self, name)[start:stop] for name in _WINDOW_ARRAYS)
        return Scored(scores, self.status[start:stop], *own)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays (n,) by name, to be stored."""
        own = {name: getattr(self, name) for name in _WINDOW_ARRAYS}
        return {**self.scores, **own, "status": np.array(self.status, np.str_)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Scored:
        """From what `arrays` gave."""
        scores = {name: values for name, values in arrays.items() if name not in (*_WINDOW_ARRAYS, "status")}
        return cls(scores, arrays["status"].tolist(), *(arrays[name] for name in _WINDOW_ARRAYS))

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """One after the other; at least one."""
        return cls(
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0].scores},
            [status for part in parts for status in part.status],
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _WINDOW_ARRAYS),
        )


class Scorer:
    """Scores chunks of variants; what it holds does not grow with their number.

    Attributes:
        scores: names of the scores that it computes, in order.
        reference: where it finds contigs.
        room_bp: bases of the longest window.
        passes: what it runs, with the tokens that went through so far.
    """

    def __init__(self, networks: Networks, reference: Reference, options: ScoreOptions, precision: Precision):
        self.reference, self.options = reference, options
        self.scores = options.chosen(networks)
        self.room_bp = options.room_bp(networks)
        self._share_bp = options.share_window or (max(1, self.room_bp // 2) if options.fast else None)
        if self._share_bp is not None and self._share_bp > self.room_bp:
            raise ConfigError(f"share_window must be at most the {self.room_bp} bases of a window")
        depth = len(networks.encoder.layers) if networks.encoder is not None else 0
        if networks.encoder is not None and not -depth - 1 <= options.layer <= depth:
            raise ConfigError(f"layer must lie in [{-depth - 1}, {depth}] for this model, got {options.layer}")
        self.passes = Passes(networks, self.scores, options, precision)

    @property
    def networks(self) -> Networks:
        return self.passes.networks

    def score(self, variants: Sequence[Variant]) -> Scored:
        """Scores of some variants, whose windows are all held at once; see `Scored`."""
        alleles = [self._fitting(resolve(self.reference, variant)) for variant in variants]
        n = len(alleles)
        scored = Scored(
            {name: np.full(n, np.nan) for name in self.scores},
            [allele.status for allele in alleles],
            np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, np.nan),
        )  # fmt: skip
        windows = {i: self._window(allele) for i, allele in enumerate(alleles) if allele.scored}
        rows, owners = [], []
        tokens: dict[Window, np.ndarray] = {}
        for i, window in sorted(windows.items(), key=lambda item: item[1]):  # one window's rows side by side
            allele = alleles[i]
            scored.window_start_bp[i] = window.start_bp + allele.offset_bp
            scored.window_end_bp[i] = window.end_bp + allele.offset_bp
            scored.unknown_near[i] = unknown_near(self.reference, allele)
            if not len(allele.ref) and not len(allele.alt):  # nothing changes
                for values in scored.scores.values():
                    values[i] = 0
                continue
            if window not in tokens:
                tokens[window] = self.reference.genome.fetch(*window)
            made = rows_of(allele, window, tokens[window], self.options.average_reverse_complement)
            rows += made
            owners += [i] * len(made)
        if rows:
            strands = 2 if self.options.average_reverse_complement else 1
            for name, values in self.passes.run(rows).items():
                scored.scores[name][owners[::strands]] = values.reshape(-1, strands).mean(1)
        return scored

    def noise(self, variant: Variant) -> float | None:
        """The cosine distance between a variant's window and itself in another batch; None without an encoder."""
        allele = resolve(self.reference, variant)
        window = self._window(allele)
        tokens = self.reference.genome.fetch(*window)
        return self.passes.noise(rows_of(allele, window, tokens, both_strands=True))

    def _fitting(self, allele: Allele) -> Allele:
        """What is longer than a window with some bases around it cannot be scored in it."""
        longest = max(len(allele.ref), len(allele.alt))
        return Allele(TOO_LONG, allele.contig) if allele.scored and longest > self.room_bp // 2 else allele

    def _window(self, allele: Allele) -> Window:
        return place(allele, int(self.reference.genome.lengths[allele.contig]), self.room_bp, self._share_bp)

    def stream(self, variants: Iterable[Variant]) -> Iterator[Scored]:
        """Chunks of any number of variants, in order."""
        remaining = iter(variants)
        while chunk := list(islice(remaining, CHUNK)):
            yield self.score(chunk)


def networks_of(model: Model) -> Networks:
    """The networks of a directory, or of what is in memory.

    Raises:
        HubError, CheckpointError: a directory that cannot be loaded.
    """
    if isinstance(model, str | os.PathLike):
        return load_networks(model)
    return model if isinstance(model, Networks) else Networks.of(model)


def make_scorer(
    model: Model, genome: Genome | str | os.PathLike[str], options: ScoreOptions, device: str, dtype: str
) -> Scorer:
    """A scorer of a model, or of its directory, with a genome, or its FASTA.

    Raises:
        ConfigError, HubError, CheckpointError, GenomeError: what cannot be used together, or at all.
    """
    networks = networks_of(model)
    if device == "model":
        device = str(networks.device)
    precision = choose_precision(device, "fp32" if dtype == "auto" else dtype)
    genome = genome if isinstance(genome, Genome) else Genome(genome)
    return Scorer(networks.to(precision.device), Reference(genome), options, precision)


@torch.no_grad()
def score_variants(
    model: Model,
    variants: str | os.PathLike[str] | Sequence[Variant | tuple[str, int, str, str]],
    genome: Genome | str | os.PathLike[str],
    *,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    progress: bool = False,
    **options: Any,
) -> Scored:
    """Zero-shot effects of variants, computed on the model's device.

    Args:
        model: a run directory or a ModernBERT directory, or networks in memory: what `nucel.load_pair` gives scores
            everything, an encoder alone the distances.
        variants: a VCF, BCF, TSV, CSV or Parquet, every alternative allele of which is one variant; or n of
            (contig, start_bp, ref, alt), 0-based.
        genome: a `Genome`, or its FASTA.
        dtype: compute precision. Differences of one base are small, so that fp32 is the default on every device.
        progress: show a bar on stderr.
        options: those of `ScoreOptions`.

    Returns:
        n variants' scores; what cannot be scored is nan, and its status says why.

    Raises:
        ConfigError: an option that is not allowed, or a score that the model cannot give.
        InputError, GenomeError, HubError: a file or a directory that cannot be read.
    """
    scorer = make_scorer(model, genome, ScoreOptions(**options), "model", dtype)
    if isinstance(variants, str | os.PathLike):
        records = open_variants(Path(variants)).records()
        variants = [variant for record in records for variant in record.variants()]
    listed = [Variant(*variant) for variant in variants]
    parts = [scorer.score([])]
    with counting(len(listed), "variants" if progress else None) as count:
        for part in scorer.stream(listed):
            parts.append(part)
            count(len(part))
    return Scored.joined(parts)
