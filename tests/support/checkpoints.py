"""A tiny model and its run directory, for tests of what a run keeps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.objectives.electra import Electra
from nucel.pretraining.config import Recipe
from nucel.pretraining.step import make_optimizer
from nucel.runs.description import GenomeDescription, RunDescription, WindowCounts
from nucel.runs.directory import RunDirectory
from nucel.runs.state import TrainState

TINY_ENCODER = EncoderConfig(layers=1, width=8, heads=1, intermediate=8)
CPU = torch.device("cpu")
RECIPE = {"batch_size": 4, "context": 32, "steps": 8, "objective": "electra", "lr": 0.1, "model": {"mask_rate": 0.15}}
DESCRIPTION = RunDescription(
    recipe=RECIPE,
    genome=GenomeDescription(files=["a.fa"], fingerprint="0", contigs=1, length_bp=1000),
    windows=WindowCounts(train=9, held_out=1),
    command="python -m nucel.train",
    versions={"torch": torch.__version__},
)


def begin() -> TrainState:
    electra = Electra(ElectraConfig(generator=TINY_ENCODER, discriminator=TINY_ENCODER)).initialize(0)
    return TrainState(electra, make_optimizer(electra, Recipe()), torch.amp.GradScaler("cpu", enabled=False))


def advance(training: TrainState) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()


def tensors_of(training: TrainState) -> dict[str, torch.Tensor]:
    """Copies of the weights and moments."""
    tensors = dict(training.model.state_dict())
    for number, moments in training.optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": value for name, value in moments.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copy_of(run: RunDirectory, target: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.path, target))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def steps_of(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints_folder.iterdir())


def of_step(run: RunDirectory, step: int) -> Path:
    return run.checkpoint(step)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
