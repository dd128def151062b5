"""What the command lines share: the console, the progress bar, and how a verb ends."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def run(verb: Callable[[], dict[str, Any]], console: Console, *refusals: type[Exception]) -> int:
    """Carry out a verb; its summary is one JSON object on the last line of stdout.

    Args:
        refusals: what is told as a reason and not as a traceback, besides OSError and ValueError (ConfigError,
            InputError, GenomeError and HubError are ValueErrors).

    Returns:
        the exit status: 0, or 2 for what was refused.
    """
    try:
        summary = verb()
    except (ValueError, OSError, *refusals) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        return 2
    print(json.dumps(summary))
    return 0


console = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar that is called with the step, the number of steps, and a line of text."""
    columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        shown = progress.add_task("", total=None, text="")
        yield lambda step, steps, text: progress.update(shown, completed=step, total=steps, text=text)


def announce(message: str) -> None:
    print(f"nucel: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def counting(total: int, what: str | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that is called with how many more are done, and shows how many that is a second."""
    if what is None:
        yield lambda done: None
        return
    columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as bar:
        task = bar.add_task("", total=total, rate=what)
        started = time.perf_counter()

        def count(done: int) -> None:
            bar.advance(task, done)
            rate = bar.tasks[0].completed / (time.perf_counter() - started)
            bar.update(task, rate=f"{what}, {rate:,.0f}/s")

        yield count
