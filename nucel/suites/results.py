"""Results of a suite as one table: every method on every task, beside what has been published.

Everything in it is computed from the results; the published figures are data too: published/*.tsv name their sources.
"""

from __future__ import annotations

import csv
import fnmatch
import importlib.resources
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .layouts import GENOMIC_BENCHMARKS, NT_REVISED, TABLES

_MAIN = {"classification": "mcc", "regression": "pearson"}
"""The metric that the table shows where a result names none."""
_FILES = {
    TABLES: ("gue.tsv", "gue_tasks.tsv"),
    GENOMIC_BENCHMARKS: ("genomic_benchmarks.tsv",),
    NT_REVISED: ("nucleotide_transformer.tsv",),
}
"""What has been published on the tasks of a suite."""


class Row(NamedTuple):
    """All seeds of one method on one task."""

    task: str
    method: str
    main: str
    """Name of the metric that the table shows."""
    values: dict[str, np.ndarray]
    """Each metric's values over the seeds, (seeds,); nan where it does not exist."""
    first: dict[str, Any]
    """The result of the first seed, for what all share."""

    @property
    def score(self) -> float:
        """Mean of the metric that the table shows."""
        return self.mean(self.main)

    def mean(self, name: str) -> float:
        return float(self.values[name].mean())

    def deviation(self, name: str) -> float:
        """Sample standard deviation over the seeds; nan with one."""
        values = self.values[name]
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan


class Published(NamedTuple):
    """A line of published/*.tsv: a model's figure on a task, or its mean over a group of tasks."""

    tasks: str
    """Glob of the names of the tasks."""
    group: str
    """Of whose tasks it is the mean; empty where it is of one task."""
    model: str
    metric: str
    value: str
    source: str


def published(suite: str = TABLES) -> list[Published]:
    """All published figures on the tasks of a suite."""
    found = []
    for name in _FILES.get(suite, ()):
        text = (importlib.resources.files(__package__) / "published" / name).read_text(encoding="utf-8")
        header, *lines = csv.reader(text.splitlines(), delimiter="\t")
        if tuple(header) != Published._fields:
            raise ValueError(f"published/{name} must have the columns {', '.join(Published._fields)}, has {header}")
        found += [Published(*line) for line in lines]
    return found


def _published_on(row: Row) -> list[Published]:
    suite = row.first.get("suite", TABLES)
    return [line for line in published(suite) if fnmatch.fnmatchcase(row.task, line.tasks)]


def summarize(results: Sequence[dict[str, Any]], methods: Sequence[str]) -> list[Row]:
    """A row for each task and method, tasks by name, methods in the given order and then by name."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["task"], result["method"]), []).append(result)
    order = {name: i for i, name in enumerate(methods)}
    rows = []
    for (task, method), seeds in groups.items():
        seeds.sort(key=lambda result: result["seed"])
        names = [name for name in seeds[0] if name.startswith("test_")] + ["seconds", "steps_per_s", "steps"]
        values = {
            name: np.array([math.nan if s[name] is None else s[name] for s in seeds], np.float64) for name in names
        }
        rows.append(Row(task, method, _main(seeds[0]), values, seeds[0]))
    return sorted(rows, key=lambda row: (row.task, order.get(row.method, len(order)), row.method))


def _main(result: dict[str, Any]) -> str:
    return f"test_{result.get('metric') or _MAIN[result['kind']]}"


def tsv(rows: Sequence[Row]) -> str:
    """Every metric's mean and standard deviation, a line for each task and method."""
    shared = ("train", "dev", "test", "leaked", "leaked_reverse", "parameters", "device", "suite", "majority", "cut")
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [["task", "method", "seeds", *shared, "lr", *(x for name in names for x in (name, f"{name}_sd"))]]
    for row in rows:
        line = [
            row.task,
            row.method,
            str(len(row.values["seconds"])),
            *(str(row.first.get(name, "")) for name in shared),
        ]
        line.append(f"{row.first['settings']['fit']['lr']:g}")
        for name in names:
            known = name in row.values
            line += [f"{row.mean(name):.6g}", f"{row.deviation(name):.6g}"] if known else ["", ""]
        lines.append(line)
    return "".join("\t".join(line) + "\n" for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """The table of a suite, the methods' settings, and what both show."""
    methods = _methods(rows)
    by_key = {(row.task, row.method): row for row in rows}
    tasks = list(dict.fromkeys(row.task for row in rows))
    lines = list(dict.fromkeys(line for row in rows for line in _published_on(row)))
    models = list(dict.fromkeys(line.model for line in lines))
    complete = [m for m in methods if all((task, m) in by_key for task in tasks)]

    header = ["task", "train / dev / test", "leaked", "majority", *methods, *models]
    table = [header, ["---"] * len(header)]
    for task in tasks:
        ours = [by_key.get((task, method)) for method in methods]
        table.append([*_task_cells(ours), *_score_cells(ours), *_published_cells(ours, models)])
    if len(tasks) > 1:
        means = {m: np.mean([by_key[task, m].score for task in tasks]) for m in complete}
        cells = [f"{means[m]:.3f}" if m in means else "" for m in methods]
        table.append(["mean", "", "", "", *cells, *[""] * len(models)])
    findings = _comparisons(by_key, tasks, complete)
    parts = [_table(table), _notes(rows, lines), _table(_settings(rows, methods)), findings]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notes(rows: Sequence[Row], lines: Sequence[Published]) -> str:
    """How the table is to be read."""
    seeds = sorted({len(row.values["seconds"]) for row in rows})
    counted = " to ".join(dict.fromkeys((str(seeds[0]), str(seeds[-1]))))
    notes = [
        f"Test MCC (or what the task's name says), mean ± sample standard deviation over {counted} seed(s); bold is "
        f"the best mean of a row. Leaked: test sequences that occur in train, and further ones whose reverse "
        f"complement does. Majority: share of the test sequences that are of the training table's most frequent "
        f"class, the accuracy of a constant guess, whose MCC is 0."
    ]
    if lines:
        sources = ", ".join(dict.fromkeys(line.source for line in lines))
        notes.append(
            f"Published figures ({sources}) are of the task, or means over all tasks of the group that is named beside "
            f"them, which may hold tasks that are not in this table."
        )
    return "\n\n".join(notes)


def _methods(rows: Sequence[Row]) -> list[str]:
    """Methods as they come in the rows of the task that has most of them, then the others."""
    orders = [[row.method for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)]
    return list(dict.fromkeys([*max(orders, key=len), *(row.method for row in rows)]))


def _task_cells(ours: Sequence[Row | None]) -> list[str]:
    """Name, sizes, leaks and constant guess of the task that these rows are of."""
    some = next(row for row in ours if row is not None)
    name = some.task if some.main == "test_mcc" else f"{some.task} ({some.main.removeprefix('test_')})"
    sizes = " / ".join(f"{some.first[part]:,}" for part in ("train", "dev", "test"))
    share = some.first.get("majority")
    majority = "" if share is None else f"{share:.3f}"
    return [name, sizes, f"{some.first['leaked']} + {some.first['leaked_reverse']}", majority]


def _score_cells(ours: Sequence[Row | None]) -> list[str]:
    """Mean and deviation of each method, the best mean bold."""
    best = max(row.score for row in ours if row is not None)
    return ["" if row is None else _cell(row, best) for row in ours]


def _cell(row: Row, best: float) -> str:
    deviation = row.deviation(row.main)
    text = f"{row.score:.3f}" if math.isnan(deviation) else f"{row.score:.3f} ± {deviation:.3f}"
    return f"**{text}**" if row.score == best else text


def _published_cells(ours: Sequence[Row | None], models: Sequence[str]) -> list[str]:
    """The published value of each model for the task that these rows are of, or for its group."""
    some = next(row for row in ours if row is not None)
    cells = dict.fromkeys(models, "")
    for line in reversed(_published_on(some)):
        notes = [line.group] * bool(line.group) + [line.metric] * (some.main != f"test_{line.metric}")
        cells[line.model] = f"{float(line.value):.3f}" + (f" ({', '.join(notes)})" if notes else "")
    return list(cells.values())


def _settings(rows: Sequence[Row], methods: Sequence[str]) -> list[list[str]]:
    header = ["method", "parameters", "learning rate", "epochs at most", "batch", "steps", "s for a fit", "device"]
    lines = [header, ["---"] * len(header)]
    for method in methods:
        own = [row for row in rows if row.method == method]
        fit = own[0].first["settings"]["fit"]
        parameters = sorted({row.first["parameters"] for row in own})
        devices = ", ".join(sorted({f"{row.first['device']} {row.first['settings']['dtype']}" for row in own}))
        size = " to ".join(f"{n / 1e6:.2f} M" for n in dict.fromkeys((parameters[0], parameters[-1])))
        lines.append(
            [method, size, f"{fit['lr']:g}", str(fit["epochs"]), str(fit["batch_size"]),
             _range(own, "steps", "{:,.0f}"), _range(own, "seconds", "{:.0f}"), devices]
        )  # fmt: skip
    return lines


def _range(rows: Sequence[Row], name: str, form: str) -> str:
    means = [row.mean(name) for row in rows]
    return " to ".join(dict.fromkeys(form.format(x) for x in (min(means), max(means))))


def _comparisons(by_key: dict[tuple[str, str], Row], tasks: Sequence[str], methods: Sequence[str]) -> str:
    """What the table says of the first method against each other one."""
    lines = []
    for other in methods[1:]:
        pairs = [(by_key[task, methods[0]], by_key[task, other]) for task in tasks]
        gains = [first.score - second.score for first, second in pairs]
        values = [(first.values[first.main], second.values[second.main]) for first, second in pairs]
        above = sum(first.min() > second.max() for first, second in values)
        below = sum(first.max() < second.min() for first, second in values)
        lines.append(
            f"- {methods[0]} against {other}: the higher mean on {sum(g > 0 for g in gains)} of {len(tasks)} tasks; "
            f"every seed above every seed of the other on {above}, below on {below}; "
            f"mean difference {np.mean(gains):+.3f}."
        )
    return "\n".join(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
