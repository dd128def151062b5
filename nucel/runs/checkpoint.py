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

import filecmp
import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model import hub
from ..runtime import files
from ..runtime.environment import versions
from ..runtime.errors import CheckpointError, HubError
from ..runtime.files import differences, mib
from .directory import _differences, checkpoints, read_description, writing
from .log import read_metrics

_TRAINER = "trainer.pt"


def _parameter_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def require_space(run: Path, model: nn.Module, keep: int) -> None:
    """Refuse to start what could not be saved: `keep` checkpoints, one that is being written, and the run's own copy.

    A checkpoint is the weights and two moments of each.

    Raises:
        CheckpointError: the run's disk has not enough room for those that are not there yet.
    """
    missing = max(1, keep + 1 - len(checkpoints(run)))
    needed = (3 * missing + 1) * _parameter_bytes(model)
    free = shutil.disk_usage(run).free
    if free < needed:
        raise CheckpointError(
            f"{run} has {mib(free)} free, and its checkpoints need {mib(needed)}; "
            "free some space, choose another --out, or --keep fewer"
        )


class TrainState(NamedTuple):
    """What a step changes: weights, moments and loss scale."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save(
    run: Path,
    step: int,
    model: nn.Module,
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
        files.fsync(run)
        _remove_leftovers(folder)
        if files.damage(target):
            _set_aside(target)
            _write(target, step, model, optimizer, scaler, read_description(run))
    _remove(checkpoints(run)[:-keep])
    with writing(run, "the copy of the newest weights", _parameter_bytes(model)):
        _publish(target, run)
    return target


def _write(
    target: Path,
    step: int,
    model: nn.Module,
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
        files.write_sums(temporary)
        files.flush(temporary)
        metrics = target.parents[1] / "metrics.jsonl"
        if metrics.exists():
            files.fsync(metrics)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.fsync(target.parent)


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
        files.fsync(old.parent)
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
                with files.replacing(copy) as temporary:
                    shutil.copyfile(file, temporary)
        else:
            temporary = run / (source.name + ".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir()
                for file in source.iterdir():
                    shutil.copyfile(file, temporary / file.name)
                files.flush(temporary)
                temporary.rename(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            files.fsync(run)


class Restored(NamedTuple):
    """What `restore` found."""

    step: int
    warnings: tuple[str, ...]
    """What is wrong with each newer checkpoint, and whether this one was written with other versions of software."""


def restore(
    run: Path,
    model: nn.Module,
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
    for checkpoint in reversed(checkpoints(run)):
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
    checkpoint: Path, model: nn.Module, device: torch.device
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The trainer's state, and each network's."""
    names = [name for name, _ in model.named_children()]
    if found := files.damage(checkpoint, (_TRAINER, *(f"{name}/model.safetensors" for name in names))):
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
        files.fsync(checkpoint.parent)


def rewind(run: Path, step: int) -> None:
    """Make the directory that of a run which has just saved `step` (0: which begins); for its one writer.

    Newer checkpoints, which `restore` has skipped, are set aside as step-N.damaged, metrics after the step are dropped,
    what a killed writer left under temporary names is removed, and the step's weights are published again.
    """
    for checkpoint in checkpoints(run):
        if checkpoint.name > f"step-{step:08d}":
            _set_aside(checkpoint)
    _remove_leftovers(run / "checkpoints")
    with writing(run, "the metrics and weights to continue from"):
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        files.write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        if step:
            _publish(run / "checkpoints" / f"step-{step:08d}", run)
