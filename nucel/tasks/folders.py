"""Folders of tasks, as GUE and others lay them out: each task a folder with the tables train, dev and test."""

from __future__ import annotations

from pathlib import Path

from ..runtime.errors import ConfigError
from .task import PARTS

_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def find_tasks(folders: tuple[Path, ...]) -> dict[str, tuple[Path, Path, Path]]:
    """The tables train, dev and test of every task, by the task's name, in alphabetical order.

    A task's name is its path below the folder that is given, as in tf/0.

    Raises:
        ConfigError: no task, two of one name, or one that lacks a table.
    """
    tasks: dict[str, tuple[Path, Path, Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder of tasks")
        for task in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
            tables = {part: [task / (part + s) for s in _SUFFIXES if (task / (part + s)).is_file()] for part in PARTS}
            if not any(tables.values()):
                continue
            name = task.relative_to(folder).as_posix() if task != folder else folder.resolve().name
            for part, paths in tables.items():
                if len(paths) != 1:
                    raise ConfigError(f"{task} must hold one table {part} ({', '.join(_SUFFIXES)}), has {len(paths)}")
            if name in tasks:
                raise ConfigError(f"two tasks are named {name}: {tasks[name][0].parent} and {task}")
            train, dev, test = (tables[part][0] for part in PARTS)
            tasks[name] = (train, dev, test)
    if not tasks:
        raise ConfigError(f"no folder below {', '.join(map(str, folders))} holds tables train, dev and test")
    return dict(sorted(tasks.items()))
