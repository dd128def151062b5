"""Tables of how scores of variants agree with measured effects or with labels: tab-separated, and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..genome.variants import INDEL, OK, Variant
from ..runtime.errors import ConfigError
from .judging import Figure, correlations, ranking

PUBLISHED = Path(__file__).parent / "published" / "cagi5.tsv"
_CELLS = {"HepG2": ("LDLR", "SORT1", "F9"), "K562": ("PKLR",)}
"""The elements of CAGI5's cell lines, whose means the published figures are."""
_FEWEST = 10
"""Variants that a correlation needs."""
_NOISE = (
    "A figure without its controls says little. Distances to an element's edge alone correlate with the effect in some "
    "elements; a correlation below about 0.06 on one element is noise. Ratios are shown in both forms: choose one "
    "before looking."
)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How scores are judged; for --evaluate."""

    effect_column: str = "Coefficient"
    """Column with the measured effect (mutagenesis)."""
    element_column: str | None = "Element"
    """Column that tells one measured element from another (mutagenesis)."""
    barcodes_column: str | None = "Barcodes"
    """Column with the number of barcodes, where there is one (mutagenesis)."""
    min_barcodes: int = 10
    """Variants with fewer are left out of a figure of its own."""
    label_column: str = "label"
    """Column with 0 or 1 (labels)."""
    untrained: bool = True
    """Score with the same networks, untrained, too."""
    models: tuple[str, ...] = ()
    """NAME=MODEL, other models to score with, such as a run of the masked LM."""
    background: Path | None = None
    """FASTA whose 7-mers are counted for the 7-mer control; without it that control is left out."""
    draws: int = 1000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the untrained networks."""

    def __post_init__(self) -> None:
        if self.draws < 20:
            raise ConfigError(f"evaluation.draws must be at least 20, got {self.draws}")
        for word in self.models:
            if not all(word.partition("=")[::2]):
                raise ConfigError(f"evaluation.models are NAME=MODEL, got {word!r}")


class Predictor(NamedTuple):
    """Something that is compared with what was measured."""

    model: str
    score: str
    values: np.ndarray
    """float (n,)."""
    form: str
    """"score", "-score" or "|score|"; larger should mean a larger effect."""


class Judged(NamedTuple):
    """What was measured for n variants, and what is compared with it."""

    variants: list[Variant]
    status: np.ndarray
    truth: np.ndarray
    """float (n,): the effect, or the label."""
    elements: np.ndarray
    """str (n,)."""
    barcodes: np.ndarray
    """float (n,), nan where the number is missing."""
    edge: np.ndarray
    """float (n,), bases to the nearest end of the element."""
    predictors: list[Predictor]


class _Row(NamedTuple):
    """How one predictor agrees with the effects of one element."""

    variants: str
    element: str
    predictor: Predictor
    n: int
    size: Figure
    given_edge: Figure
    signed: float
    enough_barcodes: float


# ---- measured effects ------------------------------------------------------------------------------------------------


def mutagenesis_report(judged: Judged, options: EvaluationOptions) -> tuple[str, str]:
    """Tab-separated figures, and the page with the published ones beside them."""
    rows = [row for kind in ("substitutions", "deletions") for row in _rows_of(judged, kind, options)]
    titles = (
        "variants", "element", "model", "score", "form", "n", "r", "r_low", "r_high",
        "r_given_edge", "r_given_edge_low", "r_given_edge_high", "r_signed", f"r_{options.min_barcodes}_barcodes",
    )  # fmt: skip
    table = _tsv(
        titles,
        (
            (r.variants, r.element, r.predictor.model, r.predictor.score, r.predictor.form, r.n, *r.size[:3],
             *r.given_edge[:3], r.signed, r.enough_barcodes)
            for r in rows
        ),
    )  # fmt: skip
    head = (
        "element", "model", "score", "form", "n", "r with the effect's size", "given the distance to the edge",
        "r with the signed effect", f"r, at least {options.min_barcodes} barcodes",
    )  # fmt: skip
    pages = []
    for kind in ("substitutions", "deletions"):
        lines = [
            (r.element, r.predictor.model, r.predictor.score, r.predictor.form, r.n, _interval(r.size),
             _interval(r.given_edge), _short(r.signed), _short(r.enough_barcodes))
            for r in rows if r.variants == kind
        ]  # fmt: skip
        if lines:
            pages.append(f"Single-base {kind}, Pearson's r, 95 % intervals over positions:\n\n{_markdown(head, lines)}")
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        published, *cells = csv.reader(file, delimiter="\t")
    pages.append(f"Published, Pearson's r with the effect's size (means as above):\n\n{_markdown(published, cells)}")
    return table, "\n\n".join([_NOISE, *pages]) + "\n"


def _chosen(judged: Judged, kind: str) -> np.ndarray:
    """Single-base substitutions or deletions, bool (n,)."""
    sizes = np.array([(len(v.ref), len(v.alt)) for v in judged.variants])
    if kind == "substitutions":
        return (sizes == 1).all(1) & (judged.status == OK)
    return (sizes[:, 0] - sizes[:, 1] == 1) & (judged.status == INDEL)


def _rows_of(judged: Judged, kind: str, options: EvaluationOptions) -> Iterator[_Row]:
    chosen = _chosen(judged, kind)
    for predictor in judged.predictors:
        found: dict[str, _Row] = {}
        for element in dict.fromkeys(judged.elements.tolist()):
            here = chosen & (judged.elements == element) & np.isfinite(predictor.values) & np.isfinite(judged.truth)
            if here.sum() >= _FEWEST:
                found[element] = _row(judged, kind, element, predictor, here, options)
        yield from found.values()
        by_name = {element.split("-")[0].upper(): row for element, row in found.items()}
        for cell, names in _CELLS.items():
            if by_name.keys() >= set(names):
                rows = [by_name[name] for name in names]
                yield _Row(
                    kind, f"{cell}, mean", predictor, sum(r.n for r in rows), Figure.mean([r.size for r in rows]),
                    Figure.mean([r.given_edge for r in rows]), float(np.mean([r.signed for r in rows])),
                    float(np.mean([r.enough_barcodes for r in rows])),
                )  # fmt: skip


def _row(
    judged: Judged, kind: str, element: str, predictor: Predictor, here: np.ndarray, options: EvaluationOptions
) -> _Row:
    values, truth, edge = predictor.values[here], judged.truth[here], judged.edge[here]
    starts = np.array([variant.start_bp for variant in judged.variants])[here]
    size, partial = correlations(values, np.abs(truth), edge, starts, options.draws, options.seed)
    if np.array_equal(values, edge):  # given itself, it says nothing
        partial = Figure.of(np.nan, np.full(options.draws, np.nan))
    enough = judged.barcodes[here] >= options.min_barcodes
    raw = {"score": values, "-score": -values}.get(predictor.form)
    return _Row(
        kind, element, predictor, int(here.sum()), size, partial,
        np.nan if raw is None else _pearson(raw, truth), _pearson(values[enough], np.abs(truth[enough])),
    )  # fmt: skip


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < _FEWEST or x.std() == 0 or y.std() == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


# ---- labels ----------------------------------------------------------------------------------------------------------


def labels_report(judged: Judged, options: EvaluationOptions) -> tuple[str, str]:
    """Tab-separated figures, and the page."""
    contigs = np.array([variant.contig for variant in judged.variants])
    rows = []
    for predictor in judged.predictors:
        here = np.isfinite(predictor.values)
        labels = judged.truth[here] == 1
        if 0 < labels.sum() < len(labels):
            found = ranking(predictor.values[here], labels, contigs[here], options.draws, options.seed)
            rows.append((predictor, len(labels), int(labels.sum()), found))
    names = ("auroc", "auprc", "auprc_by_contig")
    titles = (
        "model",
        "score",
        "form",
        "n",
        "positives",
        *(f"{n}{end}" for n in names for end in ("", "_low", "_high")),
    )
    table = _tsv(
        titles, ((p.model, p.score, p.form, n, k, *(x for figure in r for x in figure[:3])) for p, n, k, r in rows)
    )
    lines = [(p.model, p.score, p.form, n, k, *map(_interval, r)) for p, n, k, r in rows]
    head = ("model", "score", "form", "n", "positives", "AUROC", "AUPRC", "AUPRC, weighted mean over contigs")
    note = (
        "Larger should mean label 1. The AUPRC of a coin is the share of positives. 95 % intervals over contigs; with "
        "few contigs they are wide or meaningless. Ratios are shown in both forms: choose one before looking."
    )
    return table, f"{note}\n\n{_markdown(head, lines)}\n"


# ---- text ------------------------------------------------------------------------------------------------------------


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _interval(figure: Figure) -> str:
    return "" if np.isnan(figure.value) else f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _tsv(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(titles)
    for row in rows:
        writer.writerow(format(cell, ".6g") if isinstance(cell, float) else cell for cell in row)
    return text.getvalue()


def _markdown(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    titles = list(titles)
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, ["---"] * len(titles), *cells])
