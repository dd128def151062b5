"""Pictures of the metrics of one or several runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..runtime import files
from ..runtime.errors import CheckpointError, ConfigError
from . import log
from .directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which stay apart for all kinds of colour vision. Markers tell runs apart in black and white."""
_MARKERS = "os^Dv"
_ENDINGS = (".png", ".svg", ".pdf")
_TRAINING_POINTS, _MARKERS_SHOWN = 120, 25
"""At most, on a curve: of training, each the mean of as many lines as it takes, and of what is held out."""


class Panel(NamedTuple):
    """One pair of axes: a figure of metrics.jsonl, and what it is to be compared with."""

    figure: str
    title: str
    unit: str
    constant_guess: str | None = None
    """Another figure: what a constant guess reaches."""
    level: tuple[float, str] | None = None
    """A value that needs no run, and its name."""
    falls: bool = False
    """The axes leave out its first half, whose values lie far above all later ones."""
    from_zero: bool = False


_PANELS = (
    Panel(
        "generator_loss", "Masked bases", "cross-entropy (nats)", level=(math.log(4), "uniform guess, ln 4"), falls=True
    ),
    Panel("rtd_loss", "Replaced bases: loss", "cross-entropy (nats)", constant_guess="rtd_blind", falls=True),
    Panel("rtd_auroc", "Replaced bases: ranking", "AUROC", level=(0.5, "chance")),
    Panel("tokens_per_s", "Throughput", "tokens/s", from_zero=True),
)


class Run(NamedTuple):
    """What is drawn of a run directory."""

    name: str
    colour: str
    marker: str
    lines: list[dict[str, Any]]
    x_per_step: int

    def curve(self, split: str, figure: str) -> tuple[np.ndarray, np.ndarray]:
        """x and y, float64 (N,), of the lines that have the figure; y is nan where it is null."""
        lines = [line for line in self.lines if line["split"] == split and figure in line]
        x = np.array([line["step"] for line in lines], float) * self.x_per_step
        return x, np.array([line[figure] for line in lines], float)


def plot_run(run: RunDirectory) -> None:
    """Draw one run against its steps, in its own loss.png; see `draw`."""
    draw([run.path], run.curves)


def draw(paths: Sequence[Path], target: Path, x: Literal["steps", "tokens"] = "steps") -> None:
    """Draw generator loss, RTD loss with the constant guess's, AUROC and speed of runs; replaces `target` at once.

    What no run has is left out: one without a discriminator has no RTD loss.

    Raises:
        CheckpointError: a directory without metrics.
        ConfigError: another ending than .png, .svg or .pdf, or no such folder.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if target.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"a picture's name must end with {', '.join(_ENDINGS)}, got {target}")
    runs = [_read(path, name, i, x) for i, (path, name) in enumerate(zip(paths, _names(paths), strict=True))]
    panels = [
        panel
        for panel in _PANELS
        if any(len(run.curve(split, panel.figure)[0]) for run in runs for split in ("train", "validation"))
    ]
    if not panels:
        raise CheckpointError(f"{paths[0]} has nothing to draw: its metrics.jsonl has no figure that is drawn")
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent} for the picture")

    import matplotlib  # optional dependency
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, MaxNLocator

    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    # Text stays text: fonts that journals take in PDF, letters that can be edited in SVG.
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.8 * columns, 3.1 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, axes in zip(panels, grid, strict=False):
            _draw_panel(axes, panel, runs)
            axes.set(title=panel.title, xlabel=f"optimizer {x}" if x == "steps" else x, ylabel=panel.unit)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if panel.from_zero:
                axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        if len(runs) == 1:
            figure.suptitle(runs[0].name)
        else:
            keys = [Line2D([], [], color=r.colour, marker=r.marker, markersize=4, label=r.name) for r in runs]
            figure.legend(handles=keys, loc="outside upper center", ncols=min(4, len(runs)), frameon=False)
        with files.replacing(target) as temporary:
            figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=150)


def _read(path: Path, name: str, number: int, x: str) -> Run:
    run = RunDirectory(path)
    lines = log.read_metrics(run)
    if not lines:
        raise CheckpointError(
            f"{path} has nothing to draw yet: its metrics.jsonl is empty"
            if run.describes_run()
            else f"{path} is not a run directory: it holds no run.json and no metrics"
        )
    x_per_step = 1
    if x == "tokens":
        description = run.read_description()
        x_per_step = description.batch_size * description.context
    return Run(name, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], lines, x_per_step)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many more as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _draw_panel(axes: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    kinds = {}  # what a kind of line is called, and one of that kind
    shown = []  # values that the axes must reach
    for run in runs:
        x, y = _means(*run.curve("train", panel.figure))
        held_x, held_y = run.curve("validation", panel.figure)
        if len(x):
            (kinds["training"],) = axes.plot(x, y, color=run.colour, lw=0.8, alpha=0.4 if len(held_x) else 1)
        if len(held_x):
            style: dict[str, Any] = {
                "marker": run.marker,
                "markersize": 3.5,
                "markevery": math.ceil(len(held_x) / _MARKERS_SHOWN),
            }
            (kinds["held out"],) = axes.plot(held_x, held_y, color=run.colour, lw=1.3, **style)
        shown += [y[len(y) // 2 :] if panel.falls else y, held_y]
        if panel.constant_guess:
            guess_x, guess_y = run.curve("validation" if len(held_x) else "train", panel.constant_guess)
            (kinds["constant guess"],) = axes.plot(guess_x, guess_y, color=run.colour, lw=1, ls="--")
            shown.append(guess_y[len(guess_y) // 2 :])
    if panel.level:
        value, name = panel.level
        kinds[name] = axes.axhline(value, color="0.3", lw=1, ls=":")
        shown.append(np.array([value]))
    if panel.from_zero:
        shown.append(np.array([0.0]))
    reached = np.concatenate(shown)
    reached = reached[np.isfinite(reached)]
    if len(reached):
        margin = 0.06 * np.ptp(reached) + 1e-3
        axes.set_ylim(0 if panel.from_zero else reached.min() - margin, reached.max() + margin)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    if len(kinds) > 1:
        axes.legend(handles=_keys(kinds, len(runs) > 1), facecolor="w", edgecolor="none", framealpha=0.8, fontsize=8)


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve (N,) as means over stretches of equal length, so that a long run's noise does not hide its course."""
    length = max(1, math.ceil(len(x) / _TRAINING_POINTS))
    stretches = [slice(start, start + length) for start in range(0, len(x), length)]
    return np.array([x[part].mean() for part in stretches]), np.array([y[part].mean() for part in stretches])


def _keys(kinds: dict[str, Line2D], of_several_runs: bool) -> list[Line2D]:
    """Entries of a legend that stand for kinds of lines; grey, where each kind has many colours."""
    keys = []
    for name, line in kinds.items():
        key = copy.copy(line)
        key.set_label(name)
        if of_several_runs:
            key.set(color="0.4", marker="")
        keys.append(key)
    return keys
