"""A run directory: its lock, its description, its summary and its published weights."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..runtime import files
from ..runtime.errors import CheckpointError
from ..runtime.files import differences, finite, mib


@contextlib.contextmanager
def writing(run: Path, what: str, needed_bytes: int = 0) -> Iterator[None]:
    """Turn the system's refusal to write into a message that says what is safe and how to go on."""
    try:
        yield
    except OSError as error:
        reason = f"{what} could not be written to {run}: {error.strerror or error}"
        if error.filename:
            reason += f" ({error.filename})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(run).free
            reason += f". It needs {mib(needed_bytes)}; {mib(free)} are free, or less where there are quotas"
        good = checkpoints(run)
        raise CheckpointError(
            f"{reason}. What was complete before is intact. "
            + (f"The last good checkpoint is {good[-1]}. " if good else "There is no checkpoint yet. ")
            + f"Once that is put right, --resume auto --out {run} continues the run"
        ) from error


@contextlib.contextmanager
def locked(run: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold a run directory, so that no other process writes into it; created where there is none.

    A directory that this created is removed again if no run was described in it: nothing half-begun is left.

    The lock is on RUN/lock and ends with the process, however that ends. It also holds between machines where the
    network file system passes flock on (NFS unless mounted with nolock or local_lock, Lustre mounted with flock). Where
    there are no locks, `announce` is told so and the run goes on without.

    Raises:
        CheckpointError: another process holds it; says which, on which host.
    """
    try:
        run.mkdir(parents=True)
        created = True
    except FileExistsError:
        created = False
    try:
        descriptor = files.lock(run / "lock")
    except BlockingIOError as error:
        raise CheckpointError(
            f"{run} is in use by {error.strerror}; wait for it, stop it, or choose another --out"
        ) from None
    except files.NoLocksError as error:
        announce(f"No lock is taken on {run}: {error.strerror}. Take care that no second run writes into it")
        descriptor = None
    try:
        yield
    finally:
        (run / "lock").unlink(missing_ok=True)
        if created and not describes_run(run):
            shutil.rmtree(run, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-????????"))


def has_checkpoint(run: Path) -> bool:
    return bool(checkpoints(run))


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none; whether it is intact shows only in `restore`."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in checkpoints(run)), default=0)


def published(run: Path) -> list[Path]:
    """The run's model folders: copies of the newest checkpoint's, the discriminator before the generator.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if not has_checkpoint(run):
        raise CheckpointError(f"{run} has no checkpoint yet")
    return sorted(run / path.name for path in checkpoints(run)[-1].iterdir() if path.is_dir())


def describes_run(run: Path) -> bool:
    return (run / "run.json").is_file()


def is_unused(run: Path) -> bool:
    """Whether a run may begin in a directory: there is none, or it holds no more than a start that was killed left."""
    if not run.exists():
        return True
    left = {"lock", "run.json.tmp", "demo.fa", "demo.fa.tmp"}
    return run.is_dir() and all(path.name in left for path in run.iterdir())


def write_description(run: Path, description: dict[str, Any]) -> None:
    files.write_text(run / "run.json", json.dumps(description, indent=2) + "\n")


def read_description(run: Path) -> dict[str, Any]:
    """What run.json holds.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = run / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {run} is no run that can be continued") from None


def write_summary(run: Path, summary: dict[str, Any]) -> None:
    """Keep what the trainer printed when it ended, in RUN/summary.json."""
    with writing(run, "summary.json"):
        files.write_text(run / "summary.json", json.dumps(finite(summary), indent=2) + "\n")


def read_summary(run: Path) -> dict[str, Any]:
    """What summary.json holds; empty where no trainer has come to its end."""
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def require_same_run(run: Path, description: dict[str, Any]) -> None:
    """Refuse to continue a run with another recipe or genome, naming every difference.

    Raises:
        CheckpointError: run.json differs in its recipe or its genome's fingerprint.
    """
    stored = read_description(run)
    if found := _differences(stored, json.loads(json.dumps(description))):
        raise CheckpointError(
            f"{run} was started differently and cannot be continued like this:\n  "
            + "\n  ".join(found)
            + f"\nIt was started by: {stored['command']}"
        )


def _differences(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What tells one run's description from another's: each setting of the recipe, and the genome."""
    found = differences(stored["recipe"], given["recipe"])
    if stored["genome"]["fingerprint"] != given["genome"]["fingerprint"]:
        found.append(
            f"genome: the run's is {', '.join(stored['genome']['files'])}, "
            f"{', '.join(given['genome']['files'])} has other content"
        )
    return found
