"""One training step: schedule, optimizer, precision, and the guard against losses that are not finite."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..model.optimizer import adamw, update
from ..objectives.electra import Electra
from ..objectives.mlm import MaskedLM
from ..runtime.device import Precision
from .config import Recipe
from .meter import Meter


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of the update that leads from `step` (0-based) to the next: linear warm-up from 0, then recipe.decay.

    Linear and cosine decay reach 0 after the last step.
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    match recipe.decay:
        case "constant":
            return recipe.lr
        case "linear":
            return recipe.lr * (1 - progress)
        case "cosine":
            return recipe.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(model: Electra | MaskedLM, recipe: Recipe) -> torch.optim.AdamW:
    """The recipe's AdamW."""
    return adamw(model, recipe.lr, recipe.weight_decay, recipe.betas, recipe.adam_eps)


class Guard:
    """Counts steps that were skipped because a loss or a gradient was not finite; only `read` waits for the device."""

    def __init__(self, device: torch.device):
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, gradient_norm: Tensor, step: int) -> None:
        skipped = (~gradient_norm.isfinite()).long()
        found, in_a_row, longest, last = self._counts.unbind()
        in_a_row = (in_a_row + 1) * skipped
        last = torch.where(skipped.bool(), step, last)
        self._counts = torch.stack((found + skipped, in_a_row, torch.maximum(longest, in_a_row), last))

    def read(self) -> Skipped:
        """What was skipped since the last reading; a row of skipped steps may have begun before."""
        found, in_a_row, longest, last = self._counts.tolist()
        self._counts = self._counts.new_tensor((0, in_a_row, in_a_row, last))
        return Skipped(found, longest, last)


class Skipped(NamedTuple):
    """Steps that changed nothing: how many, the most in a row, and the last of them (0-based)."""

    steps: int
    longest: int
    last: int


def upload(tokens: np.ndarray, device: torch.device) -> Tensor:
    """A batch on the device; to a GPU from pinned memory, so that the host need not wait."""
    batch = torch.from_numpy(tokens)
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def train_step(
    model: Electra | MaskedLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    recipe: Recipe,
    tokens: Tensor,
    step: int,
    micro_batch: int,
    meter: Meter,
    guard: Guard,
    first_row: int = 0,
) -> None:
    """One optimizer step, without host synchronisation; its figures go to the meter, its health to the guard.

    The batch's loss is the mean of the losses of its micro-batches, which are all of the same size. A step whose loss
    or gradient is not finite leaves weights and moments as they are.

    Args:
        tokens: (B, T), this rank's rows of the step's batch.
        first_row: number of the first of them within the batch of all ranks.
    """
    first = step * recipe.batch_size + first_row
    rows = torch.arange(first, first + len(tokens), device=tokens.device)

    def backward(loss: Tensor) -> None:
        poison = torch.where(loss.detach().isfinite(), 1.0, math.nan)  # makes the gradients tell what the loss knows
        with torch.autocast(precision.device.type, enabled=False):
            scaler.scale(loss * poison * (micro_batch / len(tokens))).backward()

    parts = list(zip(tokens.split(micro_batch), rows.split(micro_batch), strict=True))
    for number, (part, part_rows) in enumerate(parts, 1):
        with precision.autocast(), contextlib.nullcontext() if number == len(parts) else _no_exchange(model):
            meter.add(model(part, recipe.seed, part_rows, backward=backward))
    norm = update(model, optimizer, scaler, precision, learning_rate(recipe, step), recipe.max_grad_norm)
    guard.add(norm, step)


@contextlib.contextmanager
def _no_exchange(model: Electra | MaskedLM):
    """Let gradients accumulate on each rank, to be averaged over the ranks with the last micro-batch."""
    with contextlib.ExitStack() as stack:
        for network in model.children():
            if isinstance(network, DistributedDataParallel):
                stack.enter_context(network.no_sync())
        yield
