"""Results of a suite as one table: every contender on every task, beside what has been published.

Everything in it is computed from the results; the published figures are data too: published/gue.tsv names their source.
"""

from __future__ import annotations

import csv
import fnmatch
import importlib.resources
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_MAIN = {"classification": "test_mcc", "regression": "test_pearson"}
"""The figure that the table shows."""


class Row(NamedTuple):
    """All seeds of one contender on one task."""

    task: str
    contender: str
    main: str
    """Name of the figure that the table shows."""
    figures: dict[str, np.ndarray]
    """Each figure's values over the seeds, (seeds,); nan where it does not exist."""
    first: dict[str, Any]
    """The result of the first seed, for what all share."""

    def mean(self, name: str) -> float:
        return float(self.figures[name].mean())

    def deviation(self, name: str) -> float:
        """Sample standard deviation over the seeds; nan with one."""
        values = self.figures[name]
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan


class Published(NamedTuple):
    """A line of published/gue.tsv: a model's mean over the tasks of a group of GUE."""

    tasks: str
    """Glob of the names of the tasks in the group."""
    group: str
    model: str
    metric: str
    value: str
    source: str


def published() -> list[Published]:
    """All published figures."""
    text = (importlib.resources.files(__package__) / "published" / "gue.tsv").read_text(encoding="utf-8")
    header, *lines = csv.reader(text.splitlines(), delimiter="\t")
    assert tuple(header) == Published._fields
    return [Published(*line) for line in lines]


def summarize(results: Sequence[dict[str, Any]], contenders: Sequence[str]) -> list[Row]:
    """A row for each task and contender, tasks by name, contenders in the given order and then by name."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["task"], result["contender"]), []).append(result)
    place = {name: i for i, name in enumerate(contenders)}
    rows = []
    for (task, contender), seeds in groups.items():
        seeds.sort(key=lambda result: result["seed"])
        names = [name for name in seeds[0] if name.startswith("test_")] + ["seconds", "steps_per_s", "steps"]
        figures = {
            name: np.array([math.nan if s[name] is None else s[name] for s in seeds], np.float64) for name in names
        }
        rows.append(Row(task, contender, _MAIN[seeds[0]["kind"]], figures, seeds[0]))
    return sorted(rows, key=lambda row: (row.task, place.get(row.contender, len(place)), row.contender))


def tsv(rows: Sequence[Row]) -> str:
    """Every figure's mean and standard deviation, a line for each task and contender."""
    shared = ("train", "dev", "test", "leaked", "leaked_reverse", "parameters", "device")
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [["task", "contender", "seeds", *shared, "lr", *(x for name in names for x in (name, f"{name}_sd"))]]
    for row in rows:
        line = [row.task, row.contender, str(len(row.figures["seconds"])), *(str(row.first[name]) for name in shared)]
        line.append(f"{row.first['settings']['fit']['lr']:g}")
        for name in names:
            known = name in row.figures
            line += [f"{row.mean(name):.6g}", f"{row.deviation(name):.6g}"] if known else ["", ""]
        lines.append(line)
    return "".join("\t".join(line) + "\n" for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """The table of a suite, the contenders' settings, and what both show."""
    contenders = list(dict.fromkeys(row.contender for row in sorted(rows, key=_order(rows))))
    by_place = {(row.task, row.contender): row for row in rows}
    tasks = list(dict.fromkeys(row.task for row in rows))
    theirs = [line for line in published() if any(fnmatch.fnmatchcase(task, line.tasks) for task in tasks)]
    models = list(dict.fromkeys(line.model for line in theirs))

    header = ["task", "train / dev / test", "leaked", *contenders, *models]
    lines = [header, ["---"] * len(header)]
    for task in tasks:
        found = [by_place.get((task, contender)) for contender in contenders]
        some = next(row for row in found if row is not None)
        best = max(row.mean(row.main) for row in found if row is not None)
        sizes = " / ".join(f"{some.first[part]:,}" for part in ("train", "dev", "test"))
        leaked = f"{some.first['leaked']} + {some.first['leaked_reverse']}"
        beside = [_published_cell(theirs, task, model, some.main) for model in models]
        name = task if some.main == "test_mcc" else f"{task} ({some.main.removeprefix('test_')})"
        lines.append([name, sizes, leaked, *(_cell(row, best) for row in found), *beside])
    whole = [c for c in contenders if all((task, c) in by_place for task in tasks)]
    if len(tasks) > 1:
        means = {c: np.mean([by_place[task, c].mean(by_place[task, c].main) for task in tasks]) for c in whole}
        lines.append(
            ["mean", "", "", *(f"{means[c]:.3f}" if c in means else "" for c in contenders), *[""] * len(models)]
        )

    seeds = sorted({len(row.figures["seconds"]) for row in rows})
    counted = " to ".join(dict.fromkeys((str(seeds[0]), str(seeds[-1]))))
    notes = [
        f"Test MCC (or what the task's name says), mean ± sample standard deviation over {counted} seed(s); bold is "
        f"the best mean of a row. Leaked: test sequences that occur in train, and further ones whose reverse "
        f"complement does."
    ]
    if theirs:
        sources = ", ".join(dict.fromkeys(line.source for line in theirs))
        notes.append(
            f"Published figures ({sources}) are means over all tasks of a group of GUE, which is named beside them; "
            f"a group may hold tasks that are not in this table."
        )
    parts = [_table(lines), "\n\n".join(notes), _table(_settings(rows, contenders)), _findings(by_place, tasks, whole)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _order(rows: Sequence[Row]):
    """Contenders as they come in the rows of the task that has most of them."""
    orders = [[row.contender for row in rows if row.task == task] for task in dict.fromkeys(r.task for r in rows)]
    longest = max(orders, key=len)
    place = {name: i for i, name in enumerate(longest)}
    return lambda row: place.get(row.contender, len(place))


def _cell(row: Row | None, best: float) -> str:
    if row is None:
        return ""
    mean, deviation = row.mean(row.main), row.deviation(row.main)
    text = f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"
    return f"**{text}**" if mean == best else text


def _published_cell(lines: Sequence[Published], task: str, model: str, main: str) -> str:
    for line in lines:
        if line.model == model and fnmatch.fnmatchcase(task, line.tasks):
            metric = "" if main == f"test_{line.metric}" else f", {line.metric}"
            return f"{float(line.value):.3f} ({line.group}{metric})"
    return ""


def _settings(rows: Sequence[Row], contenders: Sequence[str]) -> list[list[str]]:
    header = ["contender", "parameters", "learning rate", "epochs at most", "batch", "steps", "s for a fit", "device"]
    lines = [header, ["---"] * len(header)]
    for contender in contenders:
        own = [row for row in rows if row.contender == contender]
        fit = own[0].first["settings"]["fit"]
        parameters = sorted({row.first["parameters"] for row in own})
        devices = ", ".join(sorted({f"{row.first['device']} {row.first['settings']['dtype']}" for row in own}))
        size = " to ".join(f"{n / 1e6:.2f} M" for n in dict.fromkeys((parameters[0], parameters[-1])))
        lines.append(
            [contender, size, f"{fit['lr']:g}", str(fit["epochs"]), str(fit["batch_size"]),
             _range(own, "steps", "{:,.0f}"), _range(own, "seconds", "{:.0f}"), devices]
        )  # fmt: skip
    return lines


def _range(rows: Sequence[Row], name: str, form: str) -> str:
    means = [row.mean(name) for row in rows]
    return " to ".join(dict.fromkeys(form.format(x) for x in (min(means), max(means))))


def _findings(by_place: dict[tuple[str, str], Row], tasks: Sequence[str], contenders: Sequence[str]) -> str:
    """What the table says of the first contender against each other one."""
    lines = []
    for other in contenders[1:]:
        pairs = [(by_place[task, contenders[0]], by_place[task, other]) for task in tasks]
        gains = [first.mean(first.main) - second.mean(second.main) for first, second in pairs]
        values = [(first.figures[first.main], second.figures[second.main]) for first, second in pairs]
        above = sum(first.min() > second.max() for first, second in values)
        below = sum(first.max() < second.min() for first, second in values)
        lines.append(
            f"- {contenders[0]} against {other}: the higher mean on {sum(g > 0 for g in gains)} of {len(tasks)} tasks; "
            f"every seed above every seed of the other on {above}, below on {below}; "
            f"mean difference {np.mean(gains):+.3f}."
        )
    return "\n".join(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
