"""Finished parts of a long command's result, kept beside its output until that is complete.

A command that is stopped goes on where it was: it asks which parts are missing. The ranks of a command share its parts
out among them, and the first one puts them together in order.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .errors import CheckpointError, ConfigError

_ABOUT = "about.json"


class Parts:
    """The folder OUT.parts: about.json says what it is of, NUMBER.npz holds a part's arrays.

    Args:
        out: the file that the parts are for.
        command: its name, for messages.
        identity: all that the result depends on, as JSON takes it. Parts of another identity are never mixed in.

    Attributes:
        seconds: that the parts which `once` and `once_json` gave took, in this call of the command or in earlier ones.

    Raises:
        ConfigError: the folder is there and holds something else.
        CheckpointError: about.json is damaged.
    """

    def __init__(self, out: Path, command: str, identity: dict[str, Any]):
        self.folder = out.with_name(out.name + ".parts")
        self.seconds = 0.0
        about = self.folder / _ABOUT
        wanted = json.loads(json.dumps(identity))
        if self.folder.exists() and not about.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is not of a {command}; move it away, or choose another --out")
        if about.exists():
            try:
                stored = json.loads(about.read_text(encoding="utf-8"))
            except ValueError:
                raise CheckpointError(f"{about} is damaged; delete {self.folder} to begin anew") from None
            if stored != wanted:
                changed = "\n  ".join(files.differences(stored, wanted))
                raise ConfigError(
                    f"{self.folder} is of another {command}:\n  {changed}\nDelete it, or choose another --out"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(about, json.dumps(wanted, indent=2) + "\n")

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def __contains__(self, number: int) -> bool:
        return self._file(number).exists()

    def save(self, number: int, **arrays: np.ndarray) -> None:
        """Keep a part, whole or not at all."""
        with files.replacing(self._file(number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes any name for allow_pickle

    def load(self, number: int) -> dict[str, np.ndarray]:
        """A part's arrays, as `save` took them."""
        with np.load(self._file(number), allow_pickle=False) as arrays:
            return dict(arrays)

    def once(self, number: int, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """A part's arrays: those that are kept, or else new ones, which then are."""
        if number not in self:
            started = time.perf_counter()
            arrays = make()
            self.save(number, seconds=np.array(time.perf_counter() - started), **arrays)
        arrays = self.load(number)
        self.seconds += float(arrays.pop("seconds"))
        return arrays

    def once_json(self, number: int, make: Callable[[], Any]) -> Any:
        """The same for what JSON takes; numbers come back with all their digits, tuples as lists."""
        return json.loads(str(self.once(number, lambda: {"json": np.array(json.dumps(make()))})["json"]))

    def remove(self) -> None:
        """Forget all parts: the output is complete."""
        shutil.rmtree(self.folder)

    def remove_if_empty(self) -> None:
        """Leave no folder behind where no part was finished."""
        if not any(self.folder.glob("*.npz")):
            self.remove()
