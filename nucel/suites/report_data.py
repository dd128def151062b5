"""Sections on data with labels: probes, DNA barcodes and biotypes, each beside its controls.

Each section calls what its own verb calls, with that verb's defaults, keeps the verb's table, and shows the verb's
command.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..genome.sequences import SequenceOptions
from ..model import hub
from ..runtime.cli import command_line, console
from ..runtime.device import Precision
from ..runtime.files import write_text
from ..tasks.features import resolve_layers
from ..tasks.intervals import Interval
from ..tasks.probe import HeadName
from ..tasks.task import TaskOptions
from . import barcode_protocols, biotypes
from .barcodes import BarcodesConfig, barcodes
from .biotypes import BiotypesConfig, SplitOptions
from .layouts import Layout, with_dev
from .probe_table import CONTROL, MODEL, Row, main_metric, make_rows, records, tsv, verdicts
from .probes import Plan, all_fits, limited
from .report_sections import Cell, Comparison, Figure, Section, Table, difference, picture

CONTROL_NAME = CONTROL.replace(" ", "-")
"""Its name in the tables of suites, which take NAME=MODEL."""
TASK_HEADS: tuple[HeadName, ...] = ("linear", "tuned", "knn")
TASK_POOLINGS = ("mean", "cls")
"""The defaults of python -m nucel.probe."""
INTERVALS = (
    "The interval of a difference is made from those of the two figures as if they were independent; on the same test "
    "sequences it is rather too wide than too narrow."
)


@dataclass(frozen=True)
class Judged:
    """What is judged, and how.

    Attributes:
        run: directory of the run.
        control: directory of the MLM control, where there is one.
        max_rows: of each table of a task.
        cache_dir: for the decompressed copies of .gz files; None leaves it to what reads them.
    """

    run: Path
    control: Path | None
    seeds: tuple[int, ...]
    max_rows: int | None
    precision: Precision
    cache_dir: Path | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """As the suites take them."""
        both = {MODEL: self.run, CONTROL_NAME: self.control}
        return tuple(f"{name}={path}" for name, path in both.items() if path is not None)


# ---- tasks -----------------------------------------------------------------------------------------------------------


def task(name: str, layout: Layout, judged: Judged, folder: Path, tables: Path) -> Section:
    """Frozen probes on one task.

    Args:
        folder: of the task's own tables, for the command.
        tables: folder to make, for table.tsv.
    """
    whole = layout.read(TaskOptions(), SequenceOptions())
    one = limited(whole if layout.has_dev else with_dev(whole, judged.seeds[0]), judged.max_rows)
    console.print(f"{name}: {one.describe()}", soft_wrap=True, markup=False)
    device = judged.precision.device
    encoder = hub.load(judged.run).to(device)
    control = None if judged.control is None else hub.load(judged.control).to(device)
    plan = Plan(TASK_HEADS, TASK_POOLINGS, resolve_layers(("-1",), encoder), judged.seeds)
    rows = make_rows(list(all_fits(encoder, control, one, plan, judged.precision)), one, encoder.config.layers - 1)
    tables.mkdir(parents=True)
    write_text(tables / "table.tsv", tsv(records(rows, one)))
    main = main_metric(one)
    metric = "MCC" if main == "mcc" else "Pearson's r"
    found = verdicts(rows, one)
    comparisons = [
        Comparison.of(
            name, metric, control_name, _figure(verdict.model, main), _figure(verdict.control, main),
            Figure(verdict.difference, *verdict.interval), pretrained=control_name == CONTROL,
        )
        for control_name, verdict in found.items()
    ]  # fmt: skip
    other = [main, *(x for x in ("auroc",) if x in rows[0].draws)]
    cells: list[list[Cell]] = [[row.name, *(_figure(row, x).cell for x in other)] for row in rows]
    sizes = one.sizes()
    leaks = (
        f"Test sequences that occur in the training table: {sizes['leaked']:,}, and on the other strand "
        f"{sizes['leaked_reverse']:,} more; dev sequences that do: {sizes['leaked_dev']:,}."
    )
    notes = [
        leaks,
        "Heads read frozen embeddings. Of each kind of features the dev table chooses the head and the pooling; the "
        "difference on the test table is a bootstrap over its sequences, the same draws for both (1,000).",
    ]
    if judged.max_rows is not None:
        notes.append(f"At most {judged.max_rows:,} rows of each table were used, drawn once (--max-rows).")
    return Section(
        f"Task {name}", [f"{one.describe()}."], comparisons,
        [Table("Test table", ["probe", *(_METRICS[x] for x in other)], cells)],
        commands=_probe_command(folder, judged, layout.has_dev), notes=notes,
    )  # fmt: skip


_METRICS = {"mcc": "MCC", "pearson": "Pearson's r", "auroc": "AUROC"}


def _figure(row: Row, name: str) -> Figure:
    return Figure(row.test(name), *Interval.of(row.draws[name]))


def _probe_command(folder: Path, judged: Judged, has_tables: bool) -> list[str]:
    """The command of nucel.probe, where the task is three tables."""
    paths = [next(iter(sorted(folder.glob(f"{part}.[ct]sv*"))), None) for part in ("train", "dev", "test")]
    if not has_tables or None in paths:
        return []
    words: list[Any] = [judged.run]
    for part, path in zip(("train", "dev", "test"), paths, strict=True):
        words += [f"--{part}", path]
    words += [] if judged.control is None else ["--control", judged.control]
    words += [] if judged.max_rows is None else ["--max-rows", judged.max_rows]
    return [command_line("probe", [*words, "--seeds", *judged.seeds, "--out", "probes"])]


# ---- suites ----------------------------------------------------------------------------------------------------------


def barcode_set(name: str, folders: Sequence[Path], judged: Judged, tables: Path) -> Section:
    """Nearest neighbours, linear probe and clusters on one set of barcodes.

    Args:
        tables: folder to make, for what `nucel.suite barcodes` writes.
    """
    config = BarcodesConfig(
        folders=tuple(folders), out=tables, models=judged.models, sets=(glob.escape(name),), seeds=judged.seeds,
        cache_dir=judged.cache_dir,
    )  # fmt: skip
    words = ["barcodes", *folders, "--sets", glob.escape(name), *_suite_words(judged), "--out", "barcodes"]
    command = command_line("suite", words)
    barcodes(config, command)
    lines = read_table(tables / "table.tsv")
    evaluations = list(dict.fromkeys(line["evaluation"] for line in lines))
    shown = []
    for evaluation in evaluations:
        own = [line for line in lines if line["evaluation"] == evaluation]
        metric = _barcode_metric(evaluation)
        methods = list(dict.fromkeys(line["method"] for line in own))
        kinds = list(dict.fromkeys(line["rows"] for line in own))
        rows: list[list[Cell]] = [
            [method, *(_mean(own, metric, "low", "high", method=method, rows=kind).cell for kind in kinds)]
            for method in methods
        ]
        title = f"{evaluation[0].upper()}{evaluation[1:]}: {'AMI x 100' if metric == 'ami' else 'accuracy'}"
        shown.append(Table(title, ["method", *(f"{kind} rows" for kind in kinds)], rows))
    main = evaluations[0]
    own = [line for line in lines if line["evaluation"] == main]
    new = barcode_protocols.NEW if any(line["rows"] == barcode_protocols.NEW for line in own) else barcode_protocols.ALL
    comparisons = _compared(
        [line for line in own if line["rows"] == new], _barcode_metric(main), ("low", "high"), f"barcodes, {name}"
    )
    notes = [
        f"Compared is the first evaluation, {main}, on the rows that are {new}. {INTERVALS} The species that are held "
        "out here may have been in the genomes of pre-training.",
    ]
    return Section(f"Barcodes: {name}", [], comparisons, shown, commands=[command], notes=notes)


def _barcode_metric(evaluation: str) -> str:
    """The main figure of an evaluation; that of clusters says after a comma how they were found."""
    return "ami" if evaluation.startswith(barcode_protocols.CLUSTERS) else "accuracy"


def _suite_words(judged: Judged) -> list[Any]:
    return ["--models", *judged.models, "--seeds", *judged.seeds]


def gene_classes(inputs: Sequence[Path], genome: Sequence[Path], judged: Judged, tables: Path) -> Section:
    """Biotypes by XGBoost.

    Args:
        tables: folder to make, for what `nucel.suite biotypes` writes.
    """
    split: Literal["genome", "contig"] = "genome" if len(genome) > 1 else "contig"
    config = BiotypesConfig(
        inputs=tuple(inputs), out=tables, models=judged.models, genome=tuple(genome), seeds=judged.seeds,
        evaluation=SplitOptions(split_by=split), cache_dir=judged.cache_dir,
    )  # fmt: skip
    words = ["biotypes", *inputs, *_suite_words(judged), *(["--genome", *genome] if genome else [])]
    command = command_line("suite", [*words, "--split-by", split, "--out", "biotypes"])
    summary = biotypes.biotypes(config, command).summary
    lines = read_table(tables / "table.tsv")
    means = ("macro_f1", "micro_f1", "weighted_f1")
    rows: list[list[Cell]] = [
        [method, *(_mean(lines, mean, f"{mean}_low", f"{mean}_high", method=method).cell for mean in means)]
        for method in dict.fromkeys(line["method"] for line in lines)
    ]
    comparisons = _compared(lines, "macro_f1", ("macro_f1_low", "macro_f1_high"), "biotypes", "macro F1")
    classes = ", ".join(f"{name} {count:,}" for name, count in summary["classes"].items())
    near = ", ".join(f"{seed}: {share:.1%}" for seed, share in summary["nearly_identical"].items())
    names = {"tsne.png": "t-SNE", "umap.png": "UMAP"}
    pictures = [
        picture(Path(path), f"{names[Path(path).name]} of the model's embeddings, by biotype.")
        for path in summary["pictures"]
    ]
    return Section(
        "Biotypes", [f"{summary['sequences']:,} sequences: {classes}."], comparisons,
        [Table(f"Held out by {split}: F1", ["method", "macro", "micro", "weighted"], rows)], pictures, [command],
        [
            f"Leaks: test sequences 95 % of whose 12-mers are in one training sequence, by seed: {near}. {INTERVALS}",
            f"{summary['cut']:,} sequences were cut to {config.room_bp} bp.",
        ],
    )  # fmt: skip


def _compared(
    lines: Sequence[dict[str, str]], metric: str, ends: tuple[str, str], task: str, name: str | None = None
) -> list[Comparison]:
    """The model beside each other method of a suite's table."""
    model = _mean(lines, metric, *ends, method=MODEL)
    found = []
    for method in dict.fromkeys(line["method"] for line in lines if line["method"] != MODEL):
        other = _mean(lines, metric, *ends, method=method)
        is_control = method == CONTROL_NAME
        shown = CONTROL if is_control else method
        found.append(
            Comparison.of(task, name or metric, shown, model, other, difference(model, other), pretrained=is_control)
        )
    return found


def _mean(lines: Sequence[dict[str, str]], metric: str, low: str, high: str, **where: str) -> Figure:
    """Means over the seeds of a figure and of the ends of its interval."""
    own = [line for line in lines if all(line[name] == value for name, value in where.items())]
    if not own:
        return Figure(np.nan)
    return Figure(*(float(np.mean([float(line[name]) for line in own])) for name in (metric, low, high)))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, as text."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
