"""A run directory: what is trained, its checkpoints, and the newest weights in hub form. docs/runs.md is its manual.

    RUN/run.json                      recipe, genome, windows, versions, command line
    RUN/metrics.jsonl                 one line per log interval and per validation
    RUN/summary.json                  what the trainer printed at its end
    RUN/checkpoints/step-00001000/    discriminator/ and generator/ in hub form, trainer.pt, SHA256SUMS
    RUN/discriminator/ RUN/generator/ copies of the newest checkpoint's, for whoever loads the run (or RUN/masked_lm/)
    RUN/lock                          while a process writes here

A checkpoint is written under a temporary name, flushed to disk and renamed, so that one either exists whole or not at
all; its SHA256SUMS tell later damage too, flipped bits and edits included. Nothing random has a state: optimizer,
scaler and the step are all a run needs to go on bit for bit.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import json
import math
import os
import pickle
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import durable, hub
from .electra import Electra, MaskedLM
from .hub import HubError

_TRAINER = "trainer.pt"


class CheckpointError(ValueError):
    """A run directory that cannot be used as asked; says what is in it and what to do."""


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
            reason += f". It needs {_mib(needed_bytes)}; {_mib(free)} are free, or less where there are quotas"
        good = _checkpoints(run)
        raise CheckpointError(
            f"{reason}. What was complete before is intact. "
            + (f"The last good checkpoint is {good[-1]}. " if good else "There is no checkpoint yet. ")
            + f"Once that is put right, --resume auto --out {run} continues the run"
        ) from error


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


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
        descriptor = durable.lock(run / "lock")
    except BlockingIOError as error:
        raise CheckpointError(
            f"{run} is in use by {error.strerror}; wait for it, stop it, or choose another --out"
        ) from None
    except durable.NoLocksError as error:
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


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-????????"))


def has_checkpoint(run: Path) -> bool:
    return bool(_checkpoints(run))


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none; whether it is intact shows only in `restore`."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in _checkpoints(run)), default=0)


def published(run: Path) -> list[Path]:
    """The run's model folders: copies of the newest checkpoint's, the discriminator before the generator.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if not has_checkpoint(run):
        raise CheckpointError(f"{run} has no checkpoint yet")
    return sorted(run / path.name for path in _checkpoints(run)[-1].iterdir() if path.is_dir())


def _parameter_bytes(model: Electra | MaskedLM) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def require_space(run: Path, model: Electra | MaskedLM, keep: int) -> None:
    """Refuse to start what could not be saved: `keep` checkpoints, one that is being written, and the run's own copy.

    A checkpoint is the weights and two moments of each.

    Raises:
        CheckpointError: the run's disk has not enough room for those that are not there yet.
    """
    missing = max(1, keep + 1 - len(_checkpoints(run)))
    needed = (3 * missing + 1) * _parameter_bytes(model)
    free = shutil.disk_usage(run).free
    if free < needed:
        raise CheckpointError(
            f"{run} has {_mib(free)} free, and its checkpoints need {_mib(needed)}; "
            "free some space, choose another --out, or --keep fewer"
        )


def save(
    run: Path,
    step: int,
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    keep: int,
) -> Path:
    """Write the checkpoint of a step, delete all but the newest `keep`, and publish its weights as the run's.

    Nothing is written if the step has an intact checkpoint already.

    Raises:
        CheckpointError: it could not be written; those before it are as they were.
    """
    folder = run / "checkpoints"
    target = folder / f"step-{step:08d}"
    with writing(run, f"the checkpoint of step {step}", 3 * _parameter_bytes(model)):
        folder.mkdir(exist_ok=True)
        durable.fsync(run)
        _remove_leftovers(folder)
        if durable.damage(target):
            _set_aside(target)
            _write(target, step, model, optimizer, scaler, read_description(run))
    _remove(_checkpoints(run)[:-keep])
    with writing(run, "the copy of the newest weights", _parameter_bytes(model)):
        _publish(target, run)
    return target


def _write(
    target: Path,
    step: int,
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    description: dict[str, Any],
) -> None:
    """Write a checkpoint whole or not at all. All of it, and the metrics up to it, are on the disk on return."""
    temporary = target.with_name(target.name + ".tmp")
    state = {
        "step": step,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "run": description,
        "versions": versions(next(model.parameters()).device),
    }
    try:
        temporary.mkdir()
        for name, network in model.named_children():
            hub.save(network, temporary / name)
        with open(temporary / _TRAINER, "wb") as file:
            _save_state(state, file)
        durable.write_sums(temporary)
        durable.flush(temporary)
        metrics = target.parents[1] / "metrics.jsonl"
        if metrics.exists():
            durable.fsync(metrics)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    durable.fsync(target.parent)


def _save_state(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # After a write has failed, torch complains that its archive is inconsistent.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob("step-????????.tmp"):
        shutil.rmtree(leftover)


def _remove(checkpoints: list[Path]) -> None:
    """Delete checkpoints; one that is half deleted no longer has a checkpoint's name."""
    doomed = [old.rename(old.with_name(old.name + ".tmp")) for old in checkpoints]
    for old in doomed:
        durable.fsync(old.parent)
        shutil.rmtree(old)


def _publish(checkpoint: Path, run: Path) -> None:
    """Make the run's model folders hold the files of a checkpoint's, each that is different replaced at once.

    Copies, not links: whoever saves fine-tuned weights into RUN/discriminator must not change the checkpoint.
    """
    for source in (path for path in checkpoint.iterdir() if path.is_dir()):
        target = run / source.name
        if target.exists():
            for file in source.iterdir():
                copy = target / file.name
                if copy.exists() and filecmp.cmp(file, copy, shallow=False):
                    continue
                with durable.replacing(copy) as temporary:
                    shutil.copyfile(file, temporary)
        else:
            temporary = run / (source.name + ".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir()
                for file in source.iterdir():
                    shutil.copyfile(file, temporary / file.name)
                durable.flush(temporary)
                temporary.rename(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            durable.fsync(run)


class Restored(NamedTuple):
    """What `restore` found."""

    step: int
    warnings: tuple[str, ...]
    """What is wrong with each newer checkpoint, and whether this one was written with other versions of software."""


def restore(
    run: Path,
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> Restored:
    """Load the newest intact checkpoint into networks, optimizer and scaler; changes nothing in the directory.

    A checkpoint is read and compared as a whole before anything of it is loaded.

    Raises:
        CheckpointError: no checkpoint is intact; says what is wrong with each.
    """
    description = read_description(run)
    warnings = []
    for checkpoint in reversed(_checkpoints(run)):
        try:
            state, weights = _read(checkpoint, model, device)
            _require_origin(checkpoint, state, description)
        except (CheckpointError, HubError, OSError) as error:
            warnings.append(f"{checkpoint} is skipped: {error}")
            continue
        for name, network in model.named_children():
            network.load_state_dict(weights[name])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if found := differences(state["versions"], versions(device)):
            warnings.append(
                f"{checkpoint} was made with other versions, so results may differ in their last bits: "
                + "; ".join(found)
            )
        return Restored(state["step"], tuple(warnings))
    raise CheckpointError(
        f"{run} has no intact checkpoint to continue from:\n  " + "\n  ".join(warnings) + "\n"
        "Put back a copy of one, or begin anew with another --out"
    )


def _read(
    checkpoint: Path, model: Electra | MaskedLM, device: torch.device
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The trainer's state, and each network's."""
    names = [name for name, _ in model.named_children()]
    if found := durable.damage(checkpoint, (_TRAINER, *(f"{name}/model.safetensors" for name in names))):
        raise CheckpointError("; ".join(found))
    try:
        state = torch.load(checkpoint / _TRAINER, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{_TRAINER} cannot be read by torch {torch.__version__} ({error})") from None
    return state, {name: hub.weights_for(getattr(model, name), checkpoint / name) for name in names}


def _require_origin(checkpoint: Path, state: dict[str, Any], description: dict[str, Any]) -> None:
    """Refuse what is intact but out of place: another step's checkpoint, or another run's."""
    if checkpoint.name != f"step-{state['step']:08d}":
        raise CheckpointError(f"it holds step {state['step']}")
    if found := _differences(description, state["run"]):
        raise CheckpointError(f"it is of another run ({'; '.join(found)})")


def _set_aside(checkpoint: Path) -> None:
    """Take a damaged checkpoint out of the row without deleting it: nothing counts or overwrites it from here on."""
    if checkpoint.exists():
        names = (f"{checkpoint.name}.damaged{number or ''}" for number in itertools.count())
        checkpoint.rename(next(path for name in names if not (path := checkpoint.with_name(name)).exists()))
        durable.fsync(checkpoint.parent)


def rewind(run: Path, step: int) -> None:
    """Make the directory that of a run which has just saved `step` (0: which begins); for its one writer.

    Newer checkpoints, which `restore` has skipped, are set aside as step-N.damaged, metrics after the step are dropped,
    what a killed writer left under temporary names is removed, and the step's weights are published again.
    """
    for checkpoint in _checkpoints(run):
        if checkpoint.name > f"step-{step:08d}":
            _set_aside(checkpoint)
    _remove_leftovers(run / "checkpoints")
    with writing(run, "the metrics and weights to continue from"):
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        durable.write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        if step:
            _publish(run / "checkpoints" / f"step-{step:08d}", run)


# ---- what the run is -------------------------------------------------------------------------------------------------


def describes_run(run: Path) -> bool:
    return (run / "run.json").is_file()


def is_unused(run: Path) -> bool:
    """Whether a run may begin in a directory: there is none, or it holds no more than a start that was killed left."""
    if not run.exists():
        return True
    left = {"lock", "run.json.tmp", "demo.fa", "demo.fa.tmp"}
    return run.is_dir() and all(path.name in left for path in run.iterdir())


def versions(device: torch.device) -> dict[str, str | None]:
    """What a run is made with; None for what is not there."""

    def installed(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "nucel": installed("nucel"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "triton": installed("triton"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def write_description(run: Path, description: dict[str, Any]) -> None:
    durable.write_text(run / "run.json", json.dumps(description, indent=2) + "\n")


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
        durable.write_text(run / "summary.json", json.dumps(finite(summary), indent=2) + "\n")


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


def differences(stored: Any, given: Any, name: str = "") -> list[str]:
    """What two JSON values of the same kind differ in, a line for each place."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return [
            line
            for key in {**stored, **given}
            for line in differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if stored == given else [f"{name}: the run has {stored}, given is {given}"]


# ---- metrics ---------------------------------------------------------------------------------------------------------


def finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as JSON can hold them: nan and infinities become null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}


def append_metrics(run: Path, line: dict[str, Any]) -> None:
    with writing(run, "a line of metrics.jsonl"), open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(line)) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl; a last line cut short by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines
