"""Curves of one or several runs in one picture: ``python -m nucel.plot RUN... [--out curves.pdf] [--x tokens]``.

Reads nothing but run.json and metrics.jsonl, so that a run that is still being trained, or that was cut off, is drawn
as far as it has come. Needs matplotlib (the extra ``plots``).

``python -m nucel.plot efficiency [RUN...]`` draws what a score has cost, beside published models. A run directory of
that name is ``./efficiency``.

Examples:
    python -m nucel.plot runs/ecoli
    python -m nucel.plot runs/first runs/second --x tokens --out curves.pdf
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .runs.curves import draw
from .runs.directory import RunDirectory
from .runtime import cli
from .runtime.errors import ConfigError
from .suites.efficiency import EfficiencyConfig, efficiency


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Draw losses, AUROC and throughput of one or several runs in one picture."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories; those that are still being trained too."""
    out: Path | None = None
    """The picture: .png, .svg or .pdf. By default RUN/loss.png, or runs.png here for several runs."""
    x: Literal["steps", "tokens"] = "steps"
    """What the curves are drawn against. Tokens compare runs of different batch sizes."""


def plot(options: PlotConfig) -> cli.Result:
    """Draw the picture; returns where it is, and the report.

    Raises:
        ConfigError, CheckpointError, OSError: no run is given, matplotlib is missing, or a run cannot be read.
    """
    if not options.runs:
        raise ConfigError("give at least one run directory")
    target = options.out or (RunDirectory(options.runs[0]).curves if len(options.runs) == 1 else Path("runs.png"))
    try:
        draw(options.runs, target, options.x)
    except ModuleNotFoundError as missing:
        if missing.name != "matplotlib":
            raise
        raise ConfigError("pictures need matplotlib, which is not installed: pip install 'nucel[plots]'") from None
    again = [*options.runs, "--x", "steps" if options.x == "tokens" else "tokens", "--out", "curves.pdf"]
    lines = (
        f"Drew the curves of {len(options.runs)} run(s) against their {options.x}.",
        f"The picture is {target}.",
        f"Next: for print, {cli.command_line('plot', again)}",
    )
    return cli.Result({"out": str(target), "runs": [str(run) for run in options.runs]}, lines)


def main(arguments: list[str] | None = None) -> int:
    """Draw as the command line says; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["efficiency"]:
        return cli.run("plot efficiency", EfficiencyConfig, efficiency, words[1:])
    return cli.run("plot", PlotConfig, plot, words)


if __name__ == "__main__":
    sys.exit(main())
