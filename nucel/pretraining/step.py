"""One training step: windows on the device, forward, backward, update, and the guard against what is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..genome.records import RecordBatch, RecordSampler
from ..genome.sampler import WindowSampler
from ..model.optimizer import adamw, scheduled_rate, update
from ..objectives.kinds import Objective
from ..runs.state import TrainState
from ..runtime.device import Precision
from .config import Recipe
from .meter import Meter


def learning_rate(recipe: Recipe, step: int) -> float:
    """The recipe's rate of the update that leads from `step` (0-based) to the next."""
    return scheduled_rate(recipe.lr, step, recipe.steps, recipe.warmup_steps, recipe.decay)


def make_optimizer(model: Objective, recipe: Recipe) -> torch.optim.AdamW:
    """The recipe's AdamW."""
    return adamw(model, recipe.lr, recipe.weight_decay, recipe.betas, recipe.adam_eps)


class Guard:
    """Counts steps that were skipped because a loss or a gradient was not finite; only `read` waits for the device."""

    def __init__(self, device: torch.device):
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, gradient_norm: Tensor, step: int) -> None:
        skipped = (~gradient_norm.isfinite()).long()
        steps, in_a_row, longest, last = self._counts.unbind()
        in_a_row = (in_a_row + 1) * skipped
        last = torch.where(skipped.bool(), step, last)
        self._counts = torch.stack((steps + skipped, in_a_row, torch.maximum(longest, in_a_row), last))

    def read(self) -> Skipped:
        """What was skipped since the last reading; a row of skipped steps may have begun before."""
        steps, in_a_row, longest, last = self._counts.tolist()
        self._counts = self._counts.new_tensor((0, in_a_row, in_a_row, last))
        return Skipped(steps, longest, last)


class Skipped(NamedTuple):
    """Steps that changed nothing: how many, the most in a row, and the last of them (0-based)."""

    steps: int
    longest: int
    last: int


class Batch(NamedTuple):
    """A step's windows on the device."""

    step: int
    """0-based."""
    tokens: Tensor
    """uint8 (B, T), this rank's."""
    rows: Tensor
    """int64 (B,), each window's number in the run."""
    lengths: Tensor | None = None
    """int32 (B,), real positions of right-padded rows; None where all rows are full."""

    def split(self, size: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Tokens, rows and lengths of the micro-batches."""
        parts = len(self.tokens.split(size))
        lengths = [None] * parts if self.lengths is None else self.lengths.split(size)
        return list(zip(self.tokens.split(size), self.rows.split(size), lengths, strict=True))


def upload(sampler: WindowSampler | RecordSampler, step: int, device: torch.device) -> Batch:
    """A step's windows; to a GPU from pinned memory, so that the host need not wait."""
    windows = sampler.batch(step)
    lengths = (windows.lengths,) if isinstance(windows, RecordBatch) else ()
    tensors = [torch.from_numpy(x) for x in (windows.tokens, windows.rows, *lengths)]
    if device.type == "cuda":
        return Batch(step, *(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors))
    return Batch(step, *(tensor.to(device) for tensor in tensors))


def train_step(
    state: TrainState,
    batch: Batch,
    recipe: Recipe,
    precision: Precision,
    micro_batch: int,
    meter: Meter,
    guard: Guard,
) -> None:
    """One optimizer step, without host synchronisation; its metrics go to the meter, its health to the guard.

    The batch's loss is the mean of the losses of its micro-batches, which are all of the same size. A step whose loss
    or gradient is not finite leaves weights and moments as they are.
    """
    model, optimizer, scaler = state
    parts = batch.split(micro_batch)
    for number, (tokens, rows, lengths) in enumerate(parts, 1):
        with precision.autocast(), contextlib.nullcontext() if number == len(parts) else _no_exchange(model):
            for stage in model.stages(tokens, recipe.seed, rows, lengths):
                with torch.autocast(precision.device.type, enabled=False):
                    scaler.scale(_poisoned(stage.share) * (micro_batch / len(batch.tokens))).backward()
            meter.add(stage)
    norm = update(model, optimizer, scaler, precision, learning_rate(recipe, batch.step), recipe.max_grad_norm)
    guard.add(norm, batch.step)


def _poisoned(loss: Tensor) -> Tensor:
    """The same loss (), with gradients that are not finite if it is not."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


@contextlib.contextmanager
def _no_exchange(model: Objective) -> Iterator[None]:
    """Let gradients accumulate on each rank, to be averaged over the ranks with the last micro-batch."""
    with contextlib.ExitStack() as stack:
        for network in model.children():
            if isinstance(network, DistributedDataParallel):
                stack.enter_context(network.no_sync())
        yield
