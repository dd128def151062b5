"""A command that is stopped between two of its parts, without a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


class Stopped(BaseException):
    """As KeyboardInterrupt, nothing catches it on its way out."""


def counted(monkeypatch, target: str, key: Callable[..., Any], calls: int | None = None) -> list[Any]:
    """Replace a function, named MODULE.NAME, by itself; returns a list that tells of each call.

    Args:
        key: from the function's arguments to what the list holds.
        calls: how many of them are let through; the next one raises `Stopped`.
    """
    module, _, name = target.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    seen: list[Any] = []

    def wrapped(*words: Any, **named: Any) -> Any:
        if calls is not None and len(seen) == calls:
            raise Stopped
        seen.append(key(*words, **named))
        return function(*words, **named)

    monkeypatch.setattr(target, wrapped)
    return seen
