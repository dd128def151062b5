"""What the command lines share: how a verb runs and ends, the console, notes, and the progress bar.

Text for people goes to stderr. The last line on stdout is one JSON object, for programs.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import TrainingError
from .version import __version__

Config = TypeVar("Config")

console = Console(stderr=True, highlight=False)


# ---- a verb ----------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a verb hands back when it has done its work."""

    summary: dict[str, Any]
    """For programs: the JSON object on the last line of stdout."""
    report: tuple[str, ...] = ()
    """For people, on stderr, three short lines: whether it worked, where the result is, what to type next."""


def run(
    verb: str,
    config: type[Config],
    function: Callable[[Config], Result | dict[str, Any] | None],
    arguments: list[str] | None = None,
) -> int:
    """Parse the arguments into the verb's configuration, call its function, and print the result, if it returns one.

    Args:
        verb: as in ``python -m nucel.VERB``.
        arguments: by default the process's own.

    Returns:
        the exit status: 0, or 2 where the input or a setting was refused, with the reason on stderr.
    """
    arguments = shared_flags(arguments)
    try:
        description = f"{inspect.getdoc(config)}\n\n{SHARED_FLAGS}"
        with help_with_examples(verb, arguments):
            options = tyro.cli(config, prog=f"python -m nucel.{verb}", description=description, args=arguments)
        result = function(options)
    except (ValueError, OSError, TrainingError) as error:  # bad arguments and bad files
        return fail(error)
    if result is not None:
        finish(result if isinstance(result, Result) else Result(result))
    return 0


SHARED_FLAGS = "Every verb also takes --quiet (only errors and the result) and --version."


def shared_flags(arguments: Sequence[str] | None) -> list[str]:
    """The other arguments, by default the process's own, once the flags that all verbs share are obeyed.

    Raises:
        SystemExit: after --version.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--version" in words:
        print(f"nucel {__version__}")
        raise SystemExit(0)
    console.quiet = "--quiet" in words
    return [word for word in words if word != "--quiet"]


@contextlib.contextmanager
def help_with_examples(verb: str, arguments: Sequence[str]) -> Iterator[None]:
    """Print the examples, which end the docstring of a verb's module, after the help that is printed within."""
    try:
        yield
    except SystemExit:
        if {"-h", "--help"} & set(arguments):
            name = f"nucel.{verb.split()[0]}"  # without a subcommand
            modules = map(sys.modules.get, (f"{name}.__main__", name, "__main__"))
            parts = [(module.__doc__ or "").split("\nExamples:\n") for module in modules if module is not None]
            print(*(f"examples:\n{examples.rstrip()}" for _, examples in (p for p in parts if len(p) == 2)))
        raise


def finish(result: Result) -> None:
    """Print what a verb has done: its report on stderr, then its summary, the last line of stdout."""
    for line in result.report:
        console.print(line, soft_wrap=True, markup=False)
    console.file.flush()
    print(json.dumps(result.summary), flush=True)


def fail(error: Exception | str, status: int = 2) -> int:
    """Print the reason why a verb ends; returns the exit status."""
    console.quiet = False
    console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
    return status


def command_line(verb: str, arguments: Sequence[object] | None = None) -> str:
    """The command as a shell takes it; `arguments` are by default the process's own."""
    return shlex.join(["python", "-m", f"nucel.{verb}", *map(str, sys.argv[1:] if arguments is None else arguments)])


def note(message: str) -> None:
    """Tell what a user should know and need not act on."""
    console.print(f"note: {message}", style="yellow", soft_wrap=True, markup=False)


# ---- progress --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar that is called with what is done, how much there is in all, and a line of text."""
    text = TextColumn("{task.fields[text]}", markup=False)
    columns = (BarColumn(bar_width=10), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, text="")
        yield lambda completed, total, text: progress.update(task, completed=completed, total=total, text=text)


@contextlib.contextmanager
def counting(total: int, what: str | None) -> Iterator[Callable[[int], None]]:
    """A bar that is called with how many more are done, and shows how many that is per second; none without `what`."""
    if what is None:
        yield lambda done: None
        return
    with progress_bar() as show:
        completed, started = 0, time.perf_counter()
        show(0, total, what)

        def count(done: int) -> None:
            nonlocal completed
            completed += done
            show(completed, total, f"{what}, {completed / (time.perf_counter() - started):,.0f}/s")

        yield count
