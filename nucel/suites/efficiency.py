"""What a score has cost: petaflop/s-days against score, along the checkpoints of runs and beside published models.

A petaflop/s-day is 8.64e19 operations. There are two ways to count them, which are never mixed:

- counted: operations of the forward and backward passes (`pretraining.cost`) times the windows that were seen;
- GPU time: time on GPUs times the dense peak of their precision, as the DNABERT-2 and NucEL papers have it.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro

from ..objectives.kinds import OBJECTIVES
from ..pretraining.config import TrainConfig
from ..pretraining.cost import training_flops
from ..pretraining.stored import stored_config
from ..runs import log
from ..runs.directory import RunDirectory
from ..runtime import cli
from ..runtime.cli import note
from ..runtime.errors import CheckpointError, ConfigError, InputError, require
from ..runtime.files import replacing, write_text

PF_DAY = 8.64e19
"""Operations of a petaflop/s-day: 1e15 for each second of a day."""
_SCORE = "mean MCC x 100, human groups of GUE"
_ENDINGS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class EfficiencyConfig:
    """Petaflop/s-days against score: runs along their checkpoints, beside published models."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run directories; without any, the published models alone are drawn."""
    out: Path = Path("efficiency.png")
    """The picture: .png, .svg or .pdf. The table is written beside it, with the ending .tsv."""
    scores: Path | None = None
    """TSV with the columns run (its directory's name), step and score: of checkpoints, mean MCC x 100 over GUE's human
    groups if they are to stand beside the published models."""
    figure: str = "rtd_auroc"
    """Held-out figure of metrics.jsonl that is the score where --scores is not given."""
    peak_tflops: float | None = None
    """Dense peak of all GPUs of a run together in their precision, for the second way to count: 8 A100 in bf16 are
    2496."""

    def __post_init__(self) -> None:
        require(self.out.suffix.lower() in _ENDINGS, f"--out must end with {', '.join(_ENDINGS)}, got {self.out}")
        require(self.peak_tflops is None or self.peak_tflops > 0, f"peak_tflops must be positive: {self.peak_tflops}")


class Point(NamedTuple):
    """One point of the picture, a line of the table; nan is what is not known."""

    name: str
    step: int
    """0 of published models."""
    tokens: float
    counted_pf_days: float
    gpu_pf_days: float
    score: float
    parameters: float
    source: str


class Cost(NamedTuple):
    """What a run's steps cost."""

    windows_per_step: int
    context: int
    flops_per_window: int
    parameters: int
    """Of the network that is used afterwards: the discriminator, the masked LM, or the autoencoder's encoder."""

    @classmethod
    def of(cls, config: TrainConfig) -> Cost:
        kind = OBJECTIVES[config.objective]
        with torch.device("meta"):
            model: Any = kind(config.model)
        kept = ("discriminator", "encoder", "masked_lm")
        used = next(getattr(model, name) for name in kept if hasattr(model, name))
        flops = training_flops(kind, config.model, config.context)
        return cls(config.batch_size, config.context, flops, sum(p.numel() for p in used.parameters()))

    def flops(self, step: int) -> int:
        """Counted operations up to a step, whatever sessions it took to come there."""
        return self.flops_per_window * self.windows_per_step * step


def efficiency(config: EfficiencyConfig) -> cli.Result:
    """Carry out `plot efficiency`; returns its summary and report.

    Raises:
        ConfigError, CheckpointError, InputError, OSError: a run or a table that cannot be read, no matplotlib.
    """
    if not config.out.parent.is_dir():
        raise ConfigError(f"there is no folder {config.out.parent} for the picture")
    try:
        import matplotlib  # noqa: F401  # optional dependency
    except ModuleNotFoundError:
        raise ConfigError("pictures need matplotlib, which is not installed: pip install 'nucel[plots]'") from None
    table = None if config.scores is None else read_scores(config.scores)
    points = [point for path in config.runs for point in run_points(path, table, config.figure, config.peak_tflops)]
    own_figure = bool(config.runs) and config.scores is None
    published = [] if own_figure else published_points()
    _draw(config.out, points, published, config.figure if own_figure else _SCORE)
    listed = config.out.with_suffix(".tsv")
    write_text(listed, tsv([*points, *published]))
    if own_figure:
        note(f"published models are left out: their score is no {config.figure}; give --scores to compare with them")
    last = {point.name: point for point in points}
    by_run = [[point for point in points if point.name == name] for name in last]
    equal = {own[0].name: at_equal_flops(by_run[0], own) for own in by_run[1:]}
    for name, found in equal.items():
        if found is not None:
            days, first, other = found
            cli.console.print(
                f"at {days:.3g} counted petaflop/s-days: {by_run[0][0].name} {first:.4g}, {name} {other:.4g}",
                soft_wrap=True, markup=False,
            )  # fmt: skip
    summary = {
        "points": len(points),
        "published": len(published),
        "counted_pf_days": {name: point.counted_pf_days for name, point in last.items()},
        "at_equal_flops": equal,
        "table": str(listed),
        "out": str(config.out),
    }
    report = (
        f"Drew {len(points)} points of {len(config.runs)} run(s) and {len(published)} published models.",
        f"The picture is {config.out}, the table {listed}.",
        "Next: compare runs at equal counted operations; the two ways to count do not compare with each other",
    )
    return cli.Result(summary, report)


def run_points(
    path: Path, scores: dict[str, dict[int, float]] | None, figure: str, peak_tflops: float | None = None
) -> list[Point]:
    """The points of a run, by step.

    Args:
        scores: of each run's steps, by the run's name; None takes a held-out figure of the run.
        figure: which one.
        peak_tflops: of all GPUs together; None leaves the GPU time out.

    Raises:
        CheckpointError: no run, or one that has no such figure.
        InputError: the table of scores does not have the run.
    """
    run = RunDirectory(path)
    config = stored_config(run)
    name = path.resolve().name
    if config.init_from is not None:
        note(f"{path} began with the weights of {config.init_from}, whose cost is not in its points")
    lines = log.read_metrics(run)
    if scores is None:
        held_out = [line for line in lines if line["split"] == "validation" and line.get(figure) is not None]
        known = {line["step"]: float(line[figure]) for line in held_out}
        if not known:
            names = sorted({key for line in lines if line["split"] == "validation" for key in line} - {"step", "split"})
            raise CheckpointError(f"{path} has no held-out {figure}; it has {', '.join(names) or 'none'} (--figure)")
    elif name in scores:
        known = scores[name]
    else:
        raise InputError(f"the table of scores has no run {name}; it has {', '.join(scores)}")
    cost = Cost.of(config)
    seconds = functools.partial(_seconds, lines, cost)
    points = []
    for step, score in sorted(known.items()):
        days = seconds(step) / 86_400
        gpu = math.nan if peak_tflops is None else days * peak_tflops / 1000
        tokens = float(step * cost.windows_per_step * cost.context)
        points.append(
            Point(name, step, tokens, cost.flops(step) / PF_DAY, gpu, score, cost.parameters, f"run {path}")
        )  # fmt: skip
    return points


def _seconds(lines: Sequence[dict[str, Any]], cost: Cost, step: int) -> float:
    """Time of training up to a step, from the speeds that were logged; nan where none was."""
    speeds = {x["step"]: x["tokens_per_s"] for x in lines if x["split"] == "train" and x.get("tokens_per_s")}
    total, before = 0.0, 0
    for end in sorted(speeds):
        stop = min(end, step)
        total += max(0, stop - before) * cost.windows_per_step * cost.context / speeds[end]
        before = max(before, stop)
    if not speeds:
        return math.nan
    return total + (step - before) * cost.windows_per_step * cost.context / speeds[max(speeds)]


def read_scores(path: Path) -> dict[str, dict[int, float]]:
    """Scores by run and step, from a TSV with the columns run, step and score.

    Raises:
        InputError: a column that is missing, or a cell that is not a number; the line is named.
    """
    found: dict[str, dict[int, float]] = {}
    with open(path, encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if missing := {"run", "step", "score"} - set(reader.fieldnames or ()):
            raise InputError(f"{path} has no column {', '.join(sorted(missing))}; it has {reader.fieldnames}")
        for row in reader:
            try:
                found.setdefault(row["run"], {})[int(row["step"])] = float(row["score"])
            except (TypeError, ValueError):
                raise InputError(f"{path}, line {reader.line_num}: step and score must be numbers") from None
    if not found:
        raise InputError(f"{path} has no rows")
    return found


def published_points() -> list[Point]:
    """Published models; their costs are nan where they are not known in that way of counting."""
    text = (importlib.resources.files(__package__) / "published" / "efficiency.tsv").read_text(encoding="utf-8")
    return [
        Point(
            row["model"], 0, math.nan, float(row["counted_pf_days"] or "nan"), float(row["gpu_pf_days"] or "nan"),
            float(row["score"]), float(row["parameters"]), row["source"],
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    ]  # fmt: skip


def tsv(points: Sequence[Point]) -> str:
    """The points as a table; what is not known is empty."""
    rows = ["\t".join(Point._fields)]
    for point in points:
        cells = [f"{x:.10g}" if isinstance(x, float) else str(x) for x in point]
        rows.append("\t".join("" if cell == "nan" else cell for cell in cells))
    return "\n".join(rows) + "\n"


def _draw(path: Path, points: Sequence[Point], published: Sequence[Point], label: str) -> None:
    """A panel for each way to count, and one against tokens; a published model's area is its parameters.

    What is in none of them stands in the table.
    """
    from matplotlib.figure import Figure

    panels = [
        ("counted_pf_days", "petaflop/s-days, counted operations"),
        ("gpu_pf_days", "petaflop/s-days, GPU time x peak"),
        ("tokens", "tokens"),
    ]
    shown = [
        panel for panel in panels if any(getattr(point, panel[0]) > 0 for point in (*points, *published))
    ]  # comparisons with nan are false
    figure = Figure(figsize=(4.6 * len(shown), 3.8), layout="constrained")
    for axes, (field, title) in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        for i, name in enumerate(dict.fromkeys(point.name for point in points)):
            own = [point for point in points if point.name == name and getattr(point, field) > 0]
            x, y = ([getattr(point, f) for point in own] for f in (field, "score"))
            axes.plot(x, y, "o-", ms=4, color=f"C{i % 10}", label=name)
        for point in published:
            x = getattr(point, field)
            if x > 0:
                axes.scatter([x], [point.score], s=0.4 * point.parameters / 1e6, color="0.6", alpha=0.6, lw=0)
                axes.annotate(
                    point.name, (x, point.score), (0, 8), textcoords="offset points", fontsize="small", ha="center"
                )
        axes.set(xlabel=title, ylabel=label, xscale="log")
        if points:
            axes.legend(frameon=False, fontsize="small")
        axes.margins(0.25)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def at_equal_flops(one: Sequence[Point], other: Sequence[Point]) -> tuple[float, float, float] | None:
    """Counted petaflop/s-days that both runs have reached, and each one's score there; None where there is no overlap.

    Scores between two checkpoints are interpolated on the logarithm of the cost.
    """
    curves = [(np.log([p.counted_pf_days for p in run]), np.array([p.score for p in run])) for run in (one, other)]
    low, high = max(x.min() for x, _ in curves), min(x.max() for x, _ in curves)
    if low > high:
        return None
    first, second = (float(np.interp(high, x, y)) for x, y in curves)
    return float(np.exp(high)), first, second
