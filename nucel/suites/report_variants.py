"""The section on variants: zero-shot scores beside measured effects or labels, and beside their controls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..genome.fasta import Genome
from ..genome.loci import Reference
from ..genome.variant_files import VariantFile
from ..interpretation.networks import load_networks
from ..interpretation.saturation import preferred_score
from ..interpretation.variant_effect import CHUNK, Scorer
from ..interpretation.variant_options import ScoreOptions
from ..interpretation.variant_scores import IS_DISTANCE
from ..interpretation.variant_survey import survey
from ..runtime.cli import command_line
from ..runtime.errors import InputError
from .probe_table import CONTROL, MODEL
from .report_data import CONTROL_NAME, INTERVALS, Judged, read_table
from .report_sections import Cell, Comparison, Figure, Section, Table, difference, known
from .variant_effects import Judge
from .variant_report import EvaluationOptions


def variants(path: Path, genome: Sequence[Path], judged: Judged, background: Path | None, tables: Path) -> Section:
    """Zero-shot scores of a table of variants with measured effects or labels, beside the same networks untrained.

    Args:
        background: FASTA whose 7-mers are counted for a control; None leaves it out.
        tables: folder to make, for what --evaluate writes.

    Raises:
        InputError: the table has neither measurements nor labels.
    """
    options = EvaluationOptions(
        models=() if judged.control is None else (f"{CONTROL_NAME}={judged.control}",), background=background
    )
    source = VariantFile(path)
    kind = evaluation_of(source, options)
    networks = load_networks(judged.run).to(judged.precision.device)
    reference = Reference(Genome(tuple(genome), judged.cache_dir, copy_beside=judged.cache_dir is None))
    scorer = Scorer(networks, reference, ScoreOptions(), judged.precision)
    judge = Judge(kind, source, options)
    judge.check()
    counts = survey(source, reference, 0.05)
    stream = source.records()
    while some := list(itertools.islice(stream, CHUNK)):
        judge.add(some, scorer.score([variant for record in some for variant in record.variants()]))
    tables.mkdir(parents=True)
    judge.report(tables / "scores.tsv", scorer)
    lines = read_table(tables / "scores.tsv.evaluation.tsv")
    score = preferred_score(scorer.scores)
    words: list[Any] = [judged.run, path, "--genome", *genome, "--out", "scores.tsv", "--evaluate", kind]
    words += ["--evaluation.models", *options.models] if options.models else []
    words += ["--evaluation.background", background] if background is not None else []
    shape = _effects if kind == "mutagenesis" else _labels
    comparisons, shown = shape(lines, score)
    notes = [
        f"Of the scores, {score} is compared, in one form that was chosen beforehand. {INTERVALS}",
        "Scores need no training on variants. The distance to an element's edge alone correlates with the effect in "
        "some elements.",
    ]
    return Section(
        "Variants", [f"{counts.variants:,} variants, scored by {networks.kind}."], comparisons, shown,
        commands=[command_line("score", words)], notes=notes,
    )  # fmt: skip


def evaluation_of(source: VariantFile, options: EvaluationOptions) -> Literal["mutagenesis", "labels"]:
    """What a table of variants can be compared with.

    Raises:
        InputError: it has neither column.
    """
    columns = {name.lower() for name in source.columns}
    if options.effect_column.lower() in columns:
        return "mutagenesis"
    if options.label_column.lower() in columns:
        return "labels"
    raise InputError(
        f"{source.path} has no column {options.effect_column} (measured effects) and none named {options.label_column} "
        f"(0 or 1); it has {', '.join(source.columns)}"
    )


def _effects(lines: Sequence[dict[str, str]], score: str) -> tuple[list[Comparison], list[Table]]:
    """Comparisons for each element, by the size of the effect of substitutions."""
    own = [line for line in lines if line["variants"] == "substitutions" and line["form"] != "-score"]
    elements = [x for x in dict.fromkeys(line["element"] for line in own) if not x.endswith(", mean")]
    comparisons, tables = [], []
    for element in elements:
        here = [line for line in own if line["element"] == element]
        rows: list[list[Cell]] = [
            [f"{line['model']}: {line['score']}", line["form"], _cell(line, "r"), _cell(line, "r_given_edge")]
            for line in here
        ]
        header = ["score", "form", "Pearson's r", "given the distance to the edge"]
        tables.append(Table(f"{element}: correlation with the size of the effect", header, rows))
        comparisons += _against(here, f"variants, {element}", "Pearson's r", "r", score)
    return comparisons, tables


def _labels(lines: Sequence[dict[str, str]], score: str) -> tuple[list[Comparison], list[Table]]:
    wanted = "score" if score in IS_DISTANCE else "-score"
    own = [line for line in lines if line["form"] in (wanted, "score")]
    rows: list[list[Cell]] = [
        [f"{line['model']}: {line['score']}", line["form"], _cell(line, "auroc"), _cell(line, "auprc")] for line in own
    ]
    table = Table("Ranking of labels", ["score", "form", "AUROC", "AUPRC"], rows)
    return _against(own, "variants", "AUROC", "auroc", score), [table]


def _against(lines: Sequence[dict[str, str]], task: str, metric: str, column: str, score: str) -> list[Comparison]:
    """The model's chosen score beside the same of other networks, and beside the controls without a network."""
    model = next((line for line in lines if line["model"] == MODEL and line["score"] == score), None)
    if model is None:
        return []
    one, found = Figure.of_cell(_cell(model, column)), []
    for line in lines:
        without_network = line["model"] == "control"
        if line["model"] == MODEL or not (without_network or line["score"] == score):
            continue
        other, pretrained = Figure.of_cell(_cell(line, column)), line["model"] == CONTROL_NAME
        name = line["score"] if without_network else CONTROL if pretrained else line["model"]
        found.append(Comparison.of(task, metric, name, one, other, difference(one, other), pretrained))
    return found


def _cell(line: dict[str, str], column: str) -> Cell:
    return [known(float(line[f"{column}{end}"] or "nan")) for end in ("", "_low", "_high")]
