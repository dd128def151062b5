"""Curves of one or several runs in one picture: ``python -m nucel.plot RUN... [--out curves.pdf] [--x tokens]``.

Reads nothing but run.json and metrics.jsonl, so that a run that is still being trained, or that was cut off, is drawn
as far as it has come. Needs matplotlib (the extra ``plots``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .runs.curves import Plot, draw
from .runtime import cli
from .runtime.errors import ConfigError


def plot(options: Plot) -> dict[str, Any]:
    """Draw the picture; returns where it is.

    Raises:
        ConfigError, CheckpointError, OSError: no run is given, matplotlib is missing, or a run cannot be read.
    """
    if not options.runs:
        raise ConfigError("give at least one run directory")
    target = options.out or (options.runs[0] / "loss.png" if len(options.runs) == 1 else Path("runs.png"))
    try:
        draw(options.runs, target, options.x)
    except ModuleNotFoundError as missing:
        if missing.name != "matplotlib":
            raise
        raise ConfigError("pictures need matplotlib, which is not installed: pip install 'nucel[plots]'") from None
    return {"out": str(target), "runs": [str(run) for run in options.runs]}


def main(arguments: list[str] | None = None) -> int:
    """Draw as the command line says; returns the exit status."""
    return cli.run("plot", Plot, plot, arguments)


if __name__ == "__main__":
    sys.exit(main())
