"""A run directory: what is trained, its checkpoints, and the newest weights in hub form.

    RUN/run.json                      recipe, genome, versions, command line
    RUN/metrics.jsonl                 one line per log interval and per validation
    RUN/checkpoints/step-00001000/    discriminator/ and generator/ in hub form, trainer.pt
    RUN/discriminator/ RUN/generator/ the newest checkpoint's, for whoever loads the run

A checkpoint is written under a temporary name, flushed to disk and renamed, so that one either exists whole or not at
all. Nothing random has a state: optimizer, scaler and the step are all a run needs to go on bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from . import hub
from .electra import Electra, MaskedLM


class CheckpointError(ValueError):
    """A run directory that cannot be used as asked; says what is in it and what to do."""


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: a reader sees the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(directory: Path) -> None:
    """Force a directory tree to disk: the files first, then the names."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            _fsync(os.path.join(parent, name))
        _fsync(parent)


def _checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-????????"))


def save(
    run: Path,
    step: int,
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    keep: int,
) -> Path:
    """Write the checkpoint of a step, publish its weights as the run's, and delete all but the newest `keep`."""
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        shutil.rmtree(leftover)
    target = folder / f"step-{step:08d}"
    temporary = folder / (target.name + ".tmp")
    try:
        temporary.mkdir()
        for name, network in model.named_children():
            hub.save(network, temporary / name)
        state = {"step": step, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        with open(temporary / "trainer.pt", "wb") as file:
            torch.save(state, file)
        _flush(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(folder)
    for name, _ in model.named_children():
        _publish(target / name, run / name)
    for old in _checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def _publish(source: Path, target: Path) -> None:
    """Make target hold source's files, each replaced at once; a hard link where the file system has them."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        temporary = target / (file.name + ".tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copy2(file, temporary)
        os.replace(temporary, target / file.name)


def has_checkpoint(run: Path) -> bool:
    return bool(_checkpoints(run))


def restore(
    run: Path,
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> int:
    """Load the newest checkpoint into networks, optimizer and scaler; returns its step."""
    checkpoint = _checkpoints(run)[-1]
    try:
        state = torch.load(checkpoint / "trainer.pt", map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{checkpoint / 'trainer.pt'} is damaged ({error}); delete {checkpoint}") from None
    for name, network in model.named_children():
        hub.load_into(network, checkpoint / name)
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    return state["step"]


# ---- what the run is -------------------------------------------------------------------------------------------------


def describes_run(run: Path) -> bool:
    return (run / "run.json").is_file()


def write_description(run: Path, description: dict[str, Any]) -> None:
    write_text(run / "run.json", json.dumps(description, indent=2) + "\n")


def require_same_run(run: Path, description: dict[str, Any]) -> None:
    """Refuse to continue a run with another recipe or genome, naming every difference.

    Raises:
        CheckpointError: run.json differs in its recipe or its genome's fingerprint.
    """
    path = run / "run.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {run} is no run that can be continued") from None
    given = json.loads(json.dumps(description))
    found = differences(stored["recipe"], given["recipe"])
    if stored["genome"]["fingerprint"] != given["genome"]["fingerprint"]:
        found.append(
            f"genome: the run's is {', '.join(stored['genome']['files'])}, "
            f"{', '.join(given['genome']['files'])} has other content"
        )
    if found:
        raise CheckpointError(
            f"{run} was started differently and cannot be continued like this:\n  "
            + "\n  ".join(found)
            + f"\nIt was started by: {stored['command']}"
        )


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
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
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


def forget_metrics_after(run: Path, step: int) -> None:
    """Drop lines past a step, which a resumed run writes again."""
    kept = [line for line in read_metrics(run) if line["step"] <= step]
    write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
