"""Lines of the evaluation of barcodes as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .barcode_protocols import ALL, NEW, Row

_SHOWN = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "f1_macro": "F1 macro", "ami": "AMI"}


def tsv(rows: Sequence[Row]) -> str:
    """Every line of every seed, with all its figures and the 95 % interval of the first of them."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    lines = [["set", "evaluation", "method", "seed", "rows", "n", *names, "low", "high"]]
    for row in rows:
        figures = [f"{row.metrics[name]:.6g}" if name in row.metrics else "" for name in names]
        head = [row.set, row.evaluation, row.method, str(row.seed), row.rows, str(row.n)]
        lines.append([*head, *figures, f"{row.low:.6g}", f"{row.high:.6g}"])
    return "".join("\t".join(line) + "\n" for line in lines)


def markdown(rows: Sequence[Row], sizes: dict[str, dict[str, int]], about: dict[str, Any]) -> str:
    """A table of the sets, and one table for each evaluation: methods by sets, with and without identical rows."""
    parts = [_sizes(sizes), _notes(about)]
    for evaluation in dict.fromkeys(row.evaluation for row in rows):
        own = [row for row in rows if row.evaluation == evaluation]
        parts += [f"## {evaluation[0].upper()}{evaluation[1:]}", _evaluation(own)]
    return "\n\n".join(parts) + "\n"


def _evaluation(rows: Sequence[Row]) -> str:
    names = [name for name in _SHOWN if name in rows[0].metrics]
    header = ["set", "method", "seeds"]
    header += [f"{_SHOWN[name]}, {which}" for which in (ALL, NEW) for name in names]
    lines = [header]
    for one, method in dict.fromkeys((row.set, row.method) for row in rows):
        own = [row for row in rows if (row.set, row.method) == (one, method)]
        cells = [one, method, str(len({row.seed for row in own}))]
        for which in (ALL, NEW):
            chosen = [row for row in own if row.rows == which]
            cells += [_cell(chosen, name, interval=name == names[0]) for name in names]
        lines.append(cells)
    return _table(lines)


def _cell(rows: Sequence[Row], name: str, interval: bool) -> str:
    """Mean over the seeds, its standard deviation where seeds differ, and the mean of their intervals."""
    if not rows:
        return ""
    values = np.array([row.metrics[name] for row in rows])
    digits = 1 if name == "ami" else 3
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1 and np.ptp(values) > 0:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    low, high = np.mean([(row.low, row.high) for row in rows], axis=0)
    return text + (f" [{low:.{digits}f}, {high:.{digits}f}]" if interval else "")


def _sizes(sizes: dict[str, dict[str, int]]) -> str:
    header = ["set", "train", "test", "species", "genera", "identical test rows"]
    lines = [header]
    for name, own in sizes.items():
        genera = f"{own['genera']} ({own['genera_of_two']} with two species or more)"
        numbers = (own["train"], own["test"], own["species"], genera, own["identical"])
        lines.append([name, *(f"{x:,}" if isinstance(x, int) else x for x in numbers)])
    return _table(lines)


def _notes(about: dict[str, Any]) -> str:
    saw = {"yes": "have read", "no": "have not read", "unknown": "may have read"}
    settings = about["settings"]
    return (
        f"Figures are means over seeds, ± their standard deviation where they differ, with the mean of the seeds' "
        f"95 % intervals ({settings['protocol']['draws']:,} draws over sequences; for clusters a tenth of them, of "
        f"random halves). Not identical: without rows whose sequence is that of a reference row. AMI is x 100, after "
        f"{about['reduction'].upper()} to 50 dimensions. In pre-training the models "
        f"{saw[settings['unseen_in_pretraining']]} the species that are held out here as unseen. The cosine of mean "
        f"vectors, k-mer frequencies and edit distance need no training at all."
    )


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))
