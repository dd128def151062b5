"""What a step changes, and what of it a checkpoint's trainer.pt must hold: checked before anything is loaded."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model import hub
from ..runtime.errors import CheckpointError

TRAINER = "trainer.pt"
HELPERS = "helpers"
"""What a trainer's state holds besides, of an objective that has networks which serve training alone."""


class TrainState(NamedTuple):
    """What a step changes: weights, moments and loss scale."""

    model: Any
    """An objective's module, which this folder knows no more of than its networks' names.

    Networks that are models of their own are saved in the hub's form. What is left, a masked autoencoder's decoder, is
    saved with the optimizer's state alone.
    """
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def helpers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of what is trained that are no models of their own."""
    published = hub.networks_of(model)
    return {name: part for name, part in model.named_children() if name not in published}


def require_content(saved: Any, state: TrainState) -> None:
    """Refuse what `save` did not write: fused optimizers take moments of any shape, and write beyond their end.

    Raises:
        CheckpointError: says which entry is wrong.
    """
    kinds = {"step": int, "optimizer": dict, "scaler": dict, "run": dict, "versions": dict}
    if helpers := helpers_of(state.model):
        kinds[HELPERS] = dict
    if not isinstance(saved, dict) or saved.keys() != kinds.keys():
        raise CheckpointError(f"{TRAINER} must hold {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(saved[name]) is not kind:
            raise CheckpointError(f"{TRAINER}: {name} must be of type {kind.__name__}")
    if saved["optimizer"].keys() != {"state", "param_groups"} or type(saved["optimizer"]["state"]) is not dict:
        raise CheckpointError(f"{TRAINER}: optimizer must hold state and param_groups")
    _require_moments(saved["optimizer"]["state"], saved["step"], state)
    _require_helpers(saved.get(HELPERS, {}), helpers)
    expected = state.scaler.state_dict()
    if saved["scaler"].keys() != expected.keys():
        raise CheckpointError(f"{TRAINER}: scaler must hold {', '.join(expected) or 'nothing'}")
    for name, value in saved["scaler"].items():
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise CheckpointError(f"{TRAINER}: scaler.{name} must be a number of at least 0, got {value!r:.60}")


def _require_helpers(saved: dict[Any, Any], helpers: dict[str, nn.Module]) -> None:
    """Weights of the networks that serve training alone: all of them, and as they are to be."""
    for name, helper in helpers.items():
        expected, given = helper.state_dict(), saved.get(name)
        if type(given) is not dict or given.keys() != expected.keys():
            raise CheckpointError(f"{TRAINER}: {HELPERS} must hold all weights of the {name}, and nothing else")
        for key, like in expected.items():
            if wrong := _difference_in_form(given[key], like):
                raise CheckpointError(f"{TRAINER}: {name}.{key} {wrong}")
            if not given[key].isfinite().all():
                raise CheckpointError(f"{TRAINER}: {name}.{key} holds values that are not finite")


def _require_moments(moments: dict[Any, Any], step: int, state: TrainState) -> None:
    """Moments of the optimizer's parameters, by their numbers; a parameter without any gradient yet has none."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    if others := [key for key in moments if type(key) is not int or not 0 <= key < len(parameters)]:
        raise CheckpointError(f"{TRAINER}: the optimizer has no parameter {others[0]!r:.60}, only {len(parameters)}")
    for number, own in moments.items():
        parameter = parameters[number]
        where = f"{TRAINER}: the optimizer's state of {names[id(parameter)]}"
        if type(own) is not dict or own.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise CheckpointError(f"{where} must hold step, exp_avg and exp_avg_sq")
        count = torch.zeros((), device=parameter.device)
        for name, like in (("step", count), ("exp_avg", parameter), ("exp_avg_sq", parameter)):
            if wrong := _difference_in_form(own[name], like):
                raise CheckpointError(f"{where}: {name} {wrong}")
        if not 0 <= own["step"].item() <= step:
            raise CheckpointError(f"{where}: step is {own['step'].item():g} after {step} steps")


def _difference_in_form(value: Any, like: Tensor) -> str | None:
    """What makes a value unfit to take the place of a tensor."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != like.device.type:
        return f"must be a dense tensor on {like.device.type}"
    if value.dtype != like.dtype:
        return f"has dtype {value.dtype}, must be {like.dtype}"
    if value.shape != like.shape:
        return f"has shape {tuple(value.shape)}, must be {tuple(like.shape)}"
    if value.stride() != like.stride():
        return f"has strides {value.stride()}, must be {like.stride()}"
    return None
