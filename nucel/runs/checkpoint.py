"""Checkpoints of a run: written whole or not at all, checked as a whole before anything of them is loaded.

A checkpoint is written under a temporary name, flushed to disk and renamed, so that one either exists whole or not at
all; its SHA256SUMS also reveal later damage, flipped bits and edits included. No random generator has a state:
optimizer, scaler and the step are all a run needs to go on bit for bit. docs/runs.md is the manual.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model import hub
from ..model.hub_files import first_not_finite
from ..runtime import files
from ..runtime.environment import versions
from ..runtime.errors import CheckpointError, HubError
from ..runtime.files import differences, mib
from .description import RunDescription
from .directory import RunDirectory
from .log import parse_metrics
from .state import HELPERS, TRAINER, TrainState, helpers_of, require_content

_UNREADABLE = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError,
    LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What torch.load raises for a file that torch did not write: pickle names most of these, torch's reader adds some."""


def _parameter_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def require_space(run: RunDirectory, model: nn.Module, keep: int) -> None:
    """Refuse to start what could not be saved: `keep` checkpoints, one that is being written, and the run's own copy.

    A checkpoint is the weights and two moments of each.

    Raises:
        CheckpointError: the run's disk has not enough room for those that are not there yet.
    """
    missing = max(1, keep + 1 - len(run.checkpoints()))
    needed = (3 * missing + 1) * _parameter_bytes(model)
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise CheckpointError(
            f"{run} has {mib(free)} free, and its checkpoints need {mib(needed)}; "
            "free some space, choose another --out, or --keep fewer"
        )


def save(run: RunDirectory, step: int, state: TrainState, keep: int) -> Path:
    """Write the checkpoint of a step, delete all but the newest `keep`, and publish its weights as the run's.

    Nothing is written if the step has an intact checkpoint already.

    Raises:
        CheckpointError: it could not be written; those before it are as they were.
    """
    folder = run.checkpoints_folder
    target = run.checkpoint(step)
    with run.writing(f"the checkpoint of step {step}", 3 * _parameter_bytes(state.model)):
        folder.mkdir(exist_ok=True)
        files.fsync(run.path)
        files.remove_temporary(folder)
        if files.damage(target):
            _set_aside(target)
            _write(run, step, state)
    _remove(run.checkpoints()[:-keep])
    with run.writing("the copy of the newest weights", _parameter_bytes(state.model)):
        _publish(target, run)
    return target


def _write(run: RunDirectory, step: int, state: TrainState) -> None:
    """Write a checkpoint whole or not at all. All of it, and the metrics up to it, are on the disk on return."""
    saved = {
        "step": step,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "run": run.read_description().as_json(),
        "versions": versions(next(state.model.parameters()).device),
    }
    if helpers := helpers_of(state.model):
        saved[HELPERS] = {name: dict(helper.state_dict()) for name, helper in helpers.items()}
    with files.replacing(run.checkpoint(step)) as temporary:
        temporary.mkdir()
        for name, network in hub.networks_of(state.model).items():
            hub.save(network, temporary / name)
        with open(temporary / TRAINER, "wb") as file:
            _save_state(saved, file)
        files.write_sums(temporary)
        if run.metrics.exists():
            files.fsync(run.metrics)


def _save_state(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # After a write has failed, torch complains that its archive is inconsistent.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _remove(checkpoints: list[Path]) -> None:
    """Delete checkpoints; one that is half deleted no longer has a checkpoint's name."""
    doomed = [old.rename(files.temporary_name(old)) for old in checkpoints]
    for old in doomed:
        files.fsync(old.parent)
        shutil.rmtree(old)


def _publish(checkpoint: Path, run: RunDirectory) -> None:
    """Make the run's model folders hold the files of a checkpoint's, each that is different replaced at once.

    Copies, not links: whoever saves fine-tuned weights into RUN/discriminator must not change the checkpoint.
    """
    for source in (path for path in checkpoint.iterdir() if path.is_dir()):
        target = run.path / source.name
        if target.exists():
            for file in source.iterdir():
                copy = target / file.name
                if copy.exists() and filecmp.cmp(file, copy, shallow=False):
                    continue
                with files.replacing(copy) as temporary:
                    shutil.copyfile(file, temporary)
        else:
            with files.replacing(target) as temporary:
                temporary.mkdir()
                for file in source.iterdir():
                    shutil.copyfile(file, temporary / file.name)


class Restored(NamedTuple):
    """Where a restored run stands."""

    step: int
    warnings: tuple[str, ...]
    """What is wrong with each newer checkpoint, and whether this one was written with other versions of software."""


def restore(run: RunDirectory, state: TrainState, device: torch.device) -> Restored:
    """Load the newest intact checkpoint into networks, optimizer and scaler; changes nothing in the directory.

    A checkpoint is read and compared as a whole before anything of it is loaded.

    Raises:
        CheckpointError: no checkpoint is intact; says what is wrong with each.
    """
    description = run.read_description()
    warnings = []
    for checkpoint in reversed(run.checkpoints()):
        try:
            saved, weights = _read(checkpoint, state.model, device)
            require_content(saved, state)
            _require_origin(checkpoint, saved, description)
        except (CheckpointError, HubError, OSError) as error:
            warnings.append(f"{checkpoint} is skipped: {error}")
            continue
        for name, network in state.model.named_children():
            network.load_state_dict(weights[name] if name in weights else saved[HELPERS][name])
        # The groups' settings are the recipe's, which is the same; only the moments are the checkpoint's.
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
        state.scaler.load_state_dict(saved["scaler"])
        if others := differences(saved["versions"], versions(device)):
            warnings.append(
                f"{checkpoint} was made with other versions, so results may differ in their last bits: "
                + "; ".join(others)
            )
        return Restored(saved["step"], tuple(warnings))
    raise CheckpointError(
        f"{run} has no intact checkpoint to continue from:\n  " + "\n  ".join(warnings) + "\n"
        "Put back a copy of one, or begin anew with another --out"
    )


def _read(
    checkpoint: Path, model: nn.Module, device: torch.device
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The trainer's state, and each network's."""
    names = list(hub.networks_of(model))
    if wrong := files.damage(checkpoint, (TRAINER, *(f"{name}/model.safetensors" for name in names))):
        raise CheckpointError("; ".join(wrong))
    try:
        saved = torch.load(checkpoint / TRAINER, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{TRAINER} cannot be read by torch {torch.__version__} ({error})") from None
    weights = {name: hub.weights_for(getattr(model, name), checkpoint / name) for name in names}
    for name, state in weights.items():
        if tensor := first_not_finite(state):
            raise CheckpointError(f"{name}: {tensor} holds values that are not finite")
    return saved, weights


def _require_origin(checkpoint: Path, saved: dict[str, Any], description: RunDescription) -> None:
    """Refuse what is intact but not where it belongs: another step's checkpoint, or another run's."""
    if checkpoint.name != f"step-{saved['step']:08d}":
        raise CheckpointError(f"it holds step {saved['step']}")
    try:
        origin = RunDescription.from_json(saved["run"])
    except ValueError as error:
        raise CheckpointError(f"{TRAINER}: run: {error}") from None
    if lines := description.without_extensions(origin.steps).differences(origin.recipe, origin.genome):
        raise CheckpointError(f"it is of another run ({'; '.join(lines)})")
    if description.extended_from and saved["step"] < (begun := description.extended_from[-1]):
        raise CheckpointError(f"it is of step {saved['step']}, and the run was extended from step {begun}")


def _set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint without deleting it: nothing counts or overwrites it from here on."""
    if checkpoint.exists():
        names = (f"{checkpoint.name}.damaged{number or ''}" for number in itertools.count())
        checkpoint.rename(next(path for name in names if not (path := checkpoint.with_name(name)).exists()))
        files.fsync(checkpoint.parent)


def rewind(run: RunDirectory, step: int) -> list[str]:
    """Make the directory that of a run which has just saved `step` (0: which begins); for its one writer.

    Newer checkpoints, which `restore` has skipped, are set aside as step-N.damaged, metrics after the step are dropped,
    what a killed writer left under temporary names is removed, and the step's weights are published again.

    Returns:
        what was damaged of the files that a resume does not need.
    """
    for checkpoint in run.checkpoints():
        if checkpoint.name > run.checkpoint(step).name:
            _set_aside(checkpoint)
    run.remove_leftovers()
    warnings = []
    if run.has_damaged_summary():
        warnings.append(f"{run.summary} is damaged; it is written anew at the end")
    with run.writing("the metrics and weights to continue from"):
        lines, damaged = parse_metrics(run)
        if damaged:
            warnings.append(f"{run.metrics} has {damaged} damaged line(s), which are dropped")
        kept = [line for line in lines if line["step"] <= step]
        files.write_text(run.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        if step:
            _publish(run.checkpoint(step), run)
    return warnings
