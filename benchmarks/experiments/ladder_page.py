"""The ladder's page: each arm's mean over the seeds with its spread, a picture, and every run."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from .. import table

LABELS = ("data", "arm", "M tokens")
PANELS = {"masked": "masked model, nats per base", "auroc": "AUROC of the discriminator", "probes": "probes, mean MCC"}
NOTES = (
    "Means over the seeds ± standard deviation. A seed draws weights, windows and masks. Masked model: cross-entropy "
    "at masked bases of held-out windows, of a pair's generator or of the masked LM. Own: that of the distribution "
    "over the four bases which generator and discriminator imply, each base left unmasked in turn. Gain: how far the "
    "RTD loss is below that of a constant guess. Probes: logistic regression on the mean of the frozen last layer, "
    "mean test MCC over all labelled tables at hand. Markov chains, networks with new weights and k-mer counts are "
    "the controls."
)


def groups(shown: table.Table) -> dict[tuple[str, ...], list[table.Row]]:
    """The rows that differ in the seed alone."""
    found: dict[tuple[str, ...], list[table.Row]] = {}
    for row in shown.rows:
        found.setdefault(tuple(str(row.get(label, "")) for label in LABELS), []).append(row)
    return found


def spread(rows: list[table.Row], key: str, spec: str) -> str:
    """Mean ± standard deviation of what was measured."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return ""
    mean = format(statistics.mean(values), spec)
    return f"{mean} ± {format(statistics.stdev(values), spec)}" if len(values) > 1 else mean


def page(shown: table.Table, command: str) -> str:
    """Markdown."""
    figures = {key: about for key, about in shown.values.items() if key != "command"}
    titles = [*LABELS, "seeds", *(title for title, _ in figures.values())]
    means = [
        [
            *labels,
            str(len(rows)) if "seed" in rows[0] else "",
            *(spread(rows, key, spec) for key, (_, spec) in figures.items()),
        ]
        for labels, rows in groups(shown).items()
    ]
    lines = [
        "# What a budget of tokens buys", "",
        f"{table.machine_line(shown.facts)}. Pairs and masked LMs of the preset `small`; `ARMS` in "
        "`benchmarks/experiments/ladder.py` says what each arm changes of it.", "",
        "```sh", command, "```", "",
        table.markdown_table(titles, means), "",
        NOTES, "",
        "## Every run", "",
        shown.markdown(),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(path: Path, shown: table.Table) -> None:
    """What was measured against tokens, a line for each data and arm, a point for each run; controls are dashed."""
    from matplotlib.figure import Figure

    measured = {key: title for key, title in PANELS.items() if any(row.get(key) is not None for row in shown.rows)}
    figure = Figure(figsize=(4.2 * len(measured), 3.6), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    names = list(dict.fromkeys(_name(row) for row in shown.rows))
    colours = {name: f"C{number % 10}" for number, name in enumerate(names)}
    drawn: dict[str, Any] = {}
    for axes, (key, title) in zip(panels, measured.items(), strict=True):
        for name in names:
            rows = [row for row in shown.rows if _name(row) == name and row.get(key) is not None]
            runs = [row for row in rows if row.get("M tokens")]
            if runs:
                at = sorted({float(row["M tokens"]) for row in runs})
                means = [statistics.mean(row[key] for row in runs if float(row["M tokens"]) == x) for x in at]
                (drawn[name],) = axes.plot(at, means, color=colours[name])
                axes.plot(
                    [float(row["M tokens"]) for row in runs], [row[key] for row in runs], ".", color=colours[name]
                )
            elif rows:
                drawn[name] = axes.axhline(statistics.mean(row[key] for row in rows), color=colours[name], ls="--")
        axes.set(title=title, xlabel="million tokens", xscale="log")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _name(row: table.Row) -> str:
    return f"{row['data']}: {row['arm']}" if row["data"] else str(row["arm"])
