"""Curves of one or several runs in one picture: ``python -m nucel.plot RUN... [--out curves.pdf] [--x tokens]``.

Reads nothing but run.json and metrics.jsonl, so that a run that is still being trained, or that was cut off, is drawn
as far as it has come. Needs matplotlib (the extra ``plots``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from .runs.curves import Plot, draw
from .runtime.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Command line: draw, print where the picture is as one JSON object on the last line of stdout."""
    options = tyro.cli(Plot, prog="python -m nucel.plot", args=arguments)
    target = options.out or (options.runs[0] / "loss.png" if len(options.runs) == 1 else Path("runs.png"))
    try:
        if not options.runs:
            raise ConfigError("give at least one run directory")
        draw(options.runs, target, options.x)
    except ModuleNotFoundError as missing:
        if missing.name != "matplotlib":
            raise
        error = "pictures need matplotlib, which is not installed: pip install 'nucel[plots]'"
    except (CheckpointError, ConfigError, OSError) as refused:
        error = str(refused)
    else:
        print(json.dumps({"out": str(target), "runs": [str(run) for run in options.runs]}))
        return 0
    Console(stderr=True, highlight=False).print(f"error: {error}", style="red", soft_wrap=True, markup=False)
    return 2


if __name__ == "__main__":
    sys.exit(main())
