"""What experiments that train share: running ``python -m nucel.train``, and words for it on their own command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
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
