"""Scores of variants against measured effects and against labels, with their controls.

| kind | figures | drawn together in the bootstrap |
|---|---|---|
| mutagenesis: measured effects | Pearson's r per element, also given the distance to its edge | a position |
| labels: a column of 0 and 1 | AUROC, AUPRC, the weighted mean of the contigs' AUPRC | a contig |

Ratios are judged as -score (less likely: larger effect) and as their size, both always. Beside the model stand the
distance to the element's nearest edge, the 7-mer log-ratio of a background genome, the same networks untrained, and
other models that are named, such as a masked LM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..genome.fasta import Genome
from ..genome.kmers import kmer_counts
from ..genome.loci import Reference
from ..genome.variant_files import BCF, VCF, VariantFile
from ..genome.variants import Record, Variant
from ..interpretation.networks import Networks, load_networks
from ..interpretation.saturation import Source
from ..interpretation.variant_effect import Scored, Scorer
from ..interpretation.variant_options import ScoreOptions
from ..interpretation.variant_scores import IS_DISTANCE
from ..runtime.cli import console
from ..runtime.errors import ConfigError, InputError
from ..runtime.files import write_text
from ..tokenizers.nucleotide import BASES, reverse_complement
from .variant_report import EvaluationOptions, Judged, Predictor, labels_report, mutagenesis_report

_K = 7


class Judge:
    """Collects the variants of a table with their measurements, then compares.

    Raises:
        InputError: the table lacks a column.
        ConfigError: the variants are not from a table.
    """

    def __init__(self, kind: Literal["mutagenesis", "labels"], source: Source, options: EvaluationOptions):
        if not isinstance(source, VariantFile) or source.kind in (VCF, BCF):
            raise ConfigError("--evaluate needs a table (.tsv, .csv, .parquet) with a column of measurements")
        self._kind, self._options, self._source = kind, options, source
        self._truth_at = source.column(options.effect_column if kind == "mutagenesis" else options.label_column)
        self._element_at = self._optional(options.element_column)
        self._barcodes_at = self._optional(options.barcodes_column)
        self._variants: list[Variant] = []
        self._cells: list[tuple[float, str, float]] = []
        self._scored: list[Scored] = []

    def _optional(self, name: str | None) -> int | None:
        lower = [column.lower() for column in self._source.columns]
        there = self._kind == "mutagenesis" and name is not None and name.lower() in lower
        return self._source.column(name) if there and name is not None else None

    def add(self, records: Sequence[Record], scored: Scored) -> None:
        """Keep some records and their scores."""
        self._scored.append(scored)
        for record in records:
            measured = self._measured(record)
            for variant in record.variants():
                self._variants.append(variant)
                self._cells.append(measured)

    def check(self) -> None:
        """Read all measurements once, before anything is computed.

        Raises:
            InputError: one is not a number, or not a label; says which.
        """
        for record in self._source.records():
            self._measured(record)

    def _measured(self, record: Record) -> tuple[float, str, float]:
        """What was measured, the element's name, the number of barcodes."""
        cells = self._source.cells(record)
        truth = self._number(record, cells[self._truth_at])
        if self._kind == "labels" and truth not in (0, 1):
            raise InputError(f"{self._source.path}, {record.where}: a label must be 0 or 1, got {truth:g}")
        element = "all" if self._element_at is None else str(cells[self._element_at])
        barcodes = math.nan if self._barcodes_at is None else self._number(record, cells[self._barcodes_at])
        return truth, element, barcodes

    def _number(self, record: Record, cell: Any) -> float:
        try:
            return float(cell)
        except (TypeError, ValueError):
            raise InputError(f"{self._source.path}, {record.where}: not a number: {cell!r:.40}") from None

    def report(self, out: Path, scorer: Scorer) -> dict[str, Any]:
        """Compute the controls, and write OUT.evaluation.tsv and OUT.evaluation.md; returns their names."""
        judged = self._judged(scorer)
        make = mutagenesis_report if self._kind == "mutagenesis" else labels_report
        table, page = make(judged, self._options)
        paths = [out.with_name(out.name + f".evaluation.{ending}") for ending in ("tsv", "md")]
        for path, text in zip(paths, (table, page), strict=True):
            write_text(path, text)
        console.print(f"compared with what was measured in {paths[1]}", soft_wrap=True, markup=False)
        return {"evaluation": str(paths[0])}

    def _judged(self, scorer: Scorer) -> Judged:
        truth, elements, barcodes = zip(*self._cells, strict=True)
        scored = Scored.joined(self._scored)
        predictors = predictors_of("model", scored)
        for name, networks in self._other_models(scorer):
            predictors += predictors_of(name, self._score_again(scorer, networks))
        edge = edge_distance(self._variants, elements)
        if self._kind == "mutagenesis":
            predictors.append(Predictor("control", "distance to the element's edge", edge, "score"))
        if self._options.background is not None:
            ratio = kmer_log_ratio(Genome(self._options.background), scorer.reference, self._variants)
            predictors += forms("control", "7-mer log-ratio", ratio)
        return Judged(
            self._variants, np.array(scored.status), np.array(truth), np.array(elements), np.array(barcodes),
            edge, predictors,
        )  # fmt: skip

    def _other_models(self, scorer: Scorer) -> list[tuple[str, Networks]]:
        found = []
        if self._options.untrained:
            found.append(("untrained", scorer.networks.untrained(self._options.seed)))
        for word in self._options.models:
            name, _, path = word.partition("=")
            found.append((name, load_networks(path).to(scorer.passes.precision.device)))
        return found

    def _score_again(self, scorer: Scorer, networks: Networks) -> Scored:
        """The same scores by other networks, or, where they do not have them, all that they have."""
        options: ScoreOptions = scorer.options
        try:
            other = Scorer(networks, scorer.reference, options, scorer.passes.precision)
        except ConfigError:
            other = Scorer(networks, scorer.reference, replace(options, scores=()), scorer.passes.precision)
        return Scored.joined(list(other.stream(self._variants)))


def forms(model: str, score: str, values: np.ndarray) -> list[Predictor]:
    """A ratio in both its forms."""
    return [Predictor(model, score, -values, "-score"), Predictor(model, score, np.abs(values), "|score|")]


def predictors_of(model: str, scored: Scored) -> list[Predictor]:
    """Every score of a model, distances as they are, ratios in both forms."""
    found = []
    for name, values in scored.scores.items():
        found += [Predictor(model, name, values, "score")] if name in IS_DISTANCE else forms(model, name, values)
    return found


def edge_distance(variants: Sequence[Variant], elements: Sequence[str]) -> np.ndarray:
    """Bases between each variant and the nearest end of its element, as far as the element has variants, float (n,)."""
    starts, names = np.array([variant.start_bp for variant in variants]), np.array(elements)
    found = np.empty(len(starts))
    for name in np.unique(names):
        here = names == name
        places = starts[here]
        found[here] = np.minimum(places - places.min(), places.max() - places)
    return found


def kmer_log_ratio(background: Genome, reference: Reference, variants: Sequence[Variant]) -> np.ndarray:
    """ln count(7-mer with alt) - ln count(7-mer with ref) around each single-base variant, float (n,).

    Counts are those of the background on both strands, plus one. It is nan for other variants, and where the 7-mer
    leaves the contig or holds an unknown base.
    """
    counts = background_counts(background)
    found = np.full(len(variants), np.nan)
    powers = 4 ** np.arange(_K - 1, -1, -1)
    flank = _K // 2
    for i, variant in enumerate(variants):
        place = reference.locate(variant.contig, variant.start_bp - flank, variant.start_bp + flank + 1)
        if isinstance(place, str) or len(variant.ref) != 1 or len(variant.alt) != 1:
            continue
        word = reference.genome.fetch(place[0], place[1], place[1] + _K).astype(np.int64) - BASES[0]
        alt = "ACGT".find(variant.alt.upper().replace("U", "T"))
        if alt >= 0 and ((word >= 0) & (word < 4)).all():
            changed = word.copy()
            changed[flank] = alt
            found[i] = math.log(counts[changed @ powers]) - math.log(counts[word @ powers])
    return found


def background_counts(genome: Genome) -> np.ndarray:
    """How often each 7-mer occurs on both strands, plus one, int64 (4^7,)."""
    counts = np.ones(4**_K, np.int64)
    for number, length in enumerate(genome.lengths.tolist()):
        for start in range(0, length, 1 << 20):
            forward = genome.fetch(number, start, min(length, start + (1 << 20) + _K - 1))
            counts += kmer_counts(forward, _K) + kmer_counts(reverse_complement(forward), _K)
    return counts
