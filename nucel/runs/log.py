"""Where a run's figures go as they come: metrics.jsonl, and TensorBoard's event files where asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..runtime.errors import ConfigError
from ..runtime.files import finite
from .directory import writing


def append_metrics(run: Path, line: dict[str, Any]) -> None:
    with writing(run, "a line of metrics.jsonl"), open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(line)) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl; a last line cut short by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines


def require(tensorboard: bool) -> None:
    """Refuse, before anything has begun, what cannot be written.

    Raises:
        ConfigError: TensorBoard's events are asked for, and the package is not installed.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("--track needs TensorBoard, which is not installed: pip install 'nucel[track]'")


@contextlib.contextmanager
def recording(run: Path, after: int, tensorboard: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes lines of metrics.jsonl, {"step": ..., "split": ..., and figures}.

    Each figure of a line becomes the scalar `figure/split` in RUN/tensorboard. A run that is continued after a step
    writes those past it again; TensorBoard is told to drop the older ones.
    """
    if not tensorboard:
        yield lambda line: append_metrics(run, line)
        return

    from torch.utils.tensorboard import SummaryWriter  # optional dependency

    def record(line: dict[str, Any]) -> None:
        append_metrics(run, line)
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                writer.add_scalar(f"{name}/{line['split']}", value, line["step"])
        writer.flush()  # so that a kill loses nothing

    with SummaryWriter(str(run / "tensorboard"), purge_step=after + 1) as writer:
        yield record
