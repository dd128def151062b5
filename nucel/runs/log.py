"""Where a run's metrics go as they come: metrics.jsonl, and TensorBoard's event files where asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from ..runtime.errors import ConfigError
from ..runtime.files import finite
from .directory import RunDirectory


def append_metrics(run: RunDirectory, line: dict[str, Any]) -> None:
    with run.writing("a line of metrics.jsonl"), open(run.metrics, "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(line)) + "\n")


def read_metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl; damaged ones, as a last line that a crash cut short, are left out."""
    return parse_metrics(run)[0]


def parse_metrics(run: RunDirectory) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics.jsonl, and how many are damaged."""
    lines, damaged = [], 0
    if run.metrics.exists():
        for text in run.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if _is_line(line):
                lines.append(line)
            else:
                damaged += 1
    return lines, damaged


def _is_line(line: Any) -> bool:
    """Whether this has a step, a split, and otherwise numbers or null, as all that `append_metrics` writes."""
    if not isinstance(line, dict) or type(line.get("step")) is not int or not isinstance(line.get("split"), str):
        return False
    return all(value is None or type(value) in (int, float) for name, value in line.items() if name != "split")


def require(tensorboard: bool) -> None:
    """Refuse, before anything has begun, what cannot be written.

    Raises:
        ConfigError: TensorBoard's events are asked for, and the package is not installed.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("--track needs TensorBoard, which is not installed: pip install 'nucel[track]'")


@contextlib.contextmanager
def recording(run: RunDirectory, after: int, tensorboard: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes lines of metrics.jsonl, {"step": ..., "split": ..., and numbers}.

    Each number of a line becomes the scalar `name/split` in RUN/tensorboard. A run that is continued after a step
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

    with SummaryWriter(str(run.tensorboard), purge_step=after + 1) as writer:
        yield record
