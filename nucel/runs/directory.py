"""A run directory: the names of its files, its lock, its description, its summary and its published weights.

    RUN/run.json                      recipe, genome, windows, versions, command line
    RUN/metrics.jsonl                 one line per log interval and per validation
    RUN/summary.json                  what the trainer printed at its end
    RUN/checkpoints/step-00001000/    discriminator/ and generator/ in hub form, trainer.pt, SHA256SUMS
    RUN/discriminator/ RUN/generator/ copies of the newest checkpoint's, for whoever loads the run (or RUN/masked_lm/)
    RUN/README.md RUN/loss.png        its card and its curves
    RUN/lock                          while a process writes here

run.json and the checkpoints are all that a resume needs. Everything else is derived: it may be lost or damaged.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import cli, files
from ..runtime.errors import CheckpointError
from ..runtime.files import finite, mib
from .description import GenomeDescription, RunDescription


class _File:
    """A file or a folder of a run, by its name in the run's folder."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, run: RunDirectory, owner: type[RunDirectory]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder. Making one of these creates nothing on the disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    metrics = _File("metrics.jsonl")
    tensorboard = _File("tensorboard")
    card = _File("README.md")
    curves = _File("loss.png")
    not_finite = _File("not_finite.tsv")
    """The windows of the last step whose loss or gradient was not finite."""
    demo_genome = _File("demo.fa")
    checkpoints_folder = _File("checkpoints")
    summary = _File("summary.json")
    _description = _File("run.json")
    _lock = _File("lock")

    @property
    def resume_command(self) -> str:
        """The command that continues this run; run.json holds whatever else it needs."""
        return cli.command_line("train", ["--resume", str(self)])

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints_folder / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.checkpoints_folder.glob("step-????????"))

    def has_checkpoint(self) -> bool:
        return bool(self.checkpoints())

    def newest_step(self) -> int:
        """Step of the newest checkpoint, 0 where there is none; only `restore` tells whether it is intact."""
        return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in self.checkpoints()), default=0)

    def published(self) -> list[Path]:
        """The run's model folders: copies of the newest checkpoint's, the discriminator before the generator.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        if not self.has_checkpoint():
            raise CheckpointError(f"{self} has no checkpoint yet")
        return sorted(self.path / folder.name for folder in self.checkpoints()[-1].iterdir() if folder.is_dir())

    def describes_run(self) -> bool:
        return self._description.is_file()

    def is_unused(self) -> bool:
        """Whether a run may begin here: the directory is missing, or holds only what a killed start left behind."""
        if not self.path.exists():
            return True
        begun = (self._description, self.demo_genome)
        left = {self._lock, self.demo_genome, *(path for target in begun for path in files.leftovers(target))}
        return self.path.is_dir() and left.issuperset(self.path.iterdir())

    def remove_leftovers(self) -> None:
        """Remove what killed trainers left under temporary names; what other programs write here is left alone."""
        networks = self.published() if self.has_checkpoint() else []
        own = (self._description, self.summary, self.metrics, self.card, self.curves, self.not_finite)
        for target in (*own, self.demo_genome, *networks):
            for leftover in files.leftovers(target):
                files.remove(leftover)
        for folder in (self.checkpoints_folder, *networks):
            files.remove_temporary(folder)

    def write_description(self, description: RunDescription) -> None:
        files.write_text(self._description, json.dumps(description.as_json(), indent=2) + "\n")

    def read_description(self) -> RunDescription:
        """What run.json holds.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = self._description
        try:
            return RunDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); {self} is not a run that can be continued"
            ) from None

    def require_same_run(self, recipe: dict[str, Any], genome: GenomeDescription | None = None) -> None:
        """Refuse to continue a run with another recipe or genome, naming every difference.

        Args:
            recipe: as `RunDescription` holds it.
            genome: None where it has not been opened yet.

        Raises:
            CheckpointError: run.json differs in its recipe or its genome's fingerprint.
        """
        stored = self.read_description()
        if lines := stored.differences(json.loads(json.dumps(recipe)), genome or stored.genome):
            raise CheckpointError(
                f"{self} was started differently and cannot be continued like this:\n  "
                + "\n  ".join(lines)
                + f"\nIt was started by: {stored.command}\nGo on with it as it is: {self.resume_command}"
            )

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Keep what the trainer printed when it ended, in RUN/summary.json."""
        with self.writing("summary.json"):
            files.write_text(self.summary, json.dumps(finite(summary), indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """What summary.json holds; empty where no trainer has come to its end, and where the file is damaged."""
        return self._parse_summary() or {}

    def has_damaged_summary(self) -> bool:
        return self.summary.exists() and self._parse_summary() is None

    def _parse_summary(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    @contextlib.contextmanager
    def writing(self, what: str, needed_bytes: int = 0) -> Iterator[None]:
        """Turn the system's refusal to write into a message that says what is safe and how to go on."""
        try:
            yield
        except OSError as error:
            reason = f"{what} could not be written to {self}: {error.strerror or error}"
            if error.filename:
                reason += f" ({error.filename})"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self.path).free
                reason += f". It needs {mib(needed_bytes)}; {mib(free)} are free, or less where there are quotas"
            good = self.checkpoints()
            raise CheckpointError(
                f"{reason}. What was complete before is intact. "
                + (f"The last good checkpoint is {good[-1]}. " if good else "There is no checkpoint yet. ")
                + f"Once that is put right, go on with: {self.resume_command}"
            ) from error

    @contextlib.contextmanager
    def locked(self, announce: Callable[[str], None]) -> Iterator[None]:
        """Hold the directory, so that no other process writes into it; created where there is none.

        A directory that this created is removed again if no run was described in it.

        The lock is on RUN/lock and ends with the process, however that ends. It also holds between machines where the
        network file system passes flock on (NFS unless mounted with nolock or local_lock, Lustre mounted with flock).
        Where there are no locks, `announce` is told so and the run goes on without.

        Raises:
            CheckpointError: another process holds it; says which, on which host.
        """
        try:
            self.path.mkdir(parents=True)
            created = True
        except FileExistsError:
            created = False
        try:
            descriptor = files.lock(self._lock)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{self} is in use by {error.strerror}; wait for it, stop it, or choose another --out"
            ) from None
        except files.NoLocksError as error:
            announce(f"No lock is taken on {self}: {error.strerror}. Take care that no second run writes into it")
            descriptor = None
        try:
            yield
        finally:
            self._lock.unlink(missing_ok=True)
            if created and not self.describes_run():
                shutil.rmtree(self.path, ignore_errors=True)
            if descriptor is not None:
                os.close(descriptor)
