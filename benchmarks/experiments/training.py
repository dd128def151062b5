"""What experiments that train share: running ``python -m nucel.train``, and the words of command lines."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(*words: str) -> dict[str, Any]:
    """A run of ``python -m nucel.train``; its summary.

    Raises:
        subprocess.CalledProcessError: it failed; why is on stderr.
    """
    command = [sys.executable, "-m", "nucel.train", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before ``--``, and those after it, which are for the trainer."""
    own = list(words)
    at = own.index("--") if "--" in own else len(own)
    return own[:at], own[at + 1 :]


def command(module: str, words: list[str], data: Path) -> str:
    """A command line with $NUCEL_DATA for the folder of real data, and no other folder of this machine."""
    shown = []
    for word in words:
        path = Path(word)
        if path.is_relative_to(data):
            shown.append(str("$NUCEL_DATA" / path.relative_to(data)))
        else:
            shown.append(shlex.quote(path.name if path.is_absolute() else word))
    return " ".join(["python -m", module, *shown])
