"""Train a network on a task: one loop for fine-tuning, for its controls and for the one-hot CNN.

What is kept is the network at its lowest loss on the dev table, as the paper and GUE choose it. Batches, strands and
dropout are functions of the seed, so that a fit can be repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.predict import make_batch
from ..model.optimizer import adamw, update
from ..runtime.device import Precision
from ..runtime.errors import ConfigError, TrainingError
from ..tokenizers import nucleotide
from .predictions import Outcome, raw_outputs
from .task import Split, Task

_PLATEAU_PATIENCE, _PLATEAU_FACTOR = 5, 0.2


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a network is trained on a task. The paper states none of it; the defaults are those of DNABERT-2's protocol
    for GUE, which it follows. They suit a large pre-trained model: small ones want a larger --lr, 1e-4 to 1e-3."""

    epochs: int = 3
    """Passes over the training table."""
    batch_size: int = 32
    """Sequences per optimizer step."""
    lr: float = 3e-5
    """Peak learning rate of AdamW."""
    warmup_steps: int = 50
    """Steps of linear warm-up from 0."""
    decay: Literal["linear", "constant", "plateau"] = "linear"
    """Learning rate after warm-up: linear ends at 0; plateau takes a fifth whenever the dev loss has not fallen for
    five evaluations."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices (never of norms and biases)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; inf leaves them."""
    evaluate_every: int | None = None
    """Steps between evaluations on the dev table; by default an epoch's. One always follows the last step."""
    patience: int | None = None
    """Stop when the dev loss has not fallen for so many evaluations; by default never."""
    augment_reverse_complement: bool = False
    """Train on either strand of each sequence with equal chance, drawn anew in each epoch."""
    average_reverse_complement: bool = False
    """Predict from the mean of both strands' outputs, on the dev table too."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")


class Evaluation(NamedTuple):
    """One look at the dev table."""

    step: int
    epoch: float
    lr: float
    train_loss: float
    """Mean over the steps since the evaluation before."""
    dev_loss: float


class Fit(NamedTuple):
    """How a training went; the network holds the weights of its best evaluation."""

    history: list[Evaluation]
    best: Evaluation
    seconds: float
    """In training and evaluation."""
    steps_per_s: float
    """Of training alone."""


def learning_rate(options: FitOptions, step: int, steps: int, dev_losses: list[float]) -> float:
    """Rate of the update that leads from `step` (0-based) to the next, of `steps` in all."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    match options.decay:
        case "constant":
            return options.lr
        case "linear":
            return options.lr * (1 - (step - options.warmup_steps) / max(1, steps - options.warmup_steps))
        case "plateau":
            return options.lr * _PLATEAU_FACTOR ** _plateaus(dev_losses)


def _plateaus(losses: list[float]) -> int:
    """How often a loss went without a new minimum for the patience of five evaluations."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == _PLATEAU_PATIENCE:
            count, waited = count + 1, 0
    return count


def _loss(outputs: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Cross-entropy of the classes in nats, or squared error in standard deviations of the training table."""
    if task.labels is not None:
        return F.cross_entropy(outputs.float(), targets)
    return F.mse_loss(outputs.float().squeeze(-1), targets)


def _standard(task: Task) -> tuple[float, float]:
    """Mean and standard deviation that numbers to predict are trained in; (0, 1) for classes."""
    return (float(task.train.targets.mean()), float(task.train.targets.std())) if task.labels is None else (0.0, 1.0)


def fit(
    network: nn.Module,
    task: Task,
    options: FitOptions,
    seed: int,
    precision: Precision,
    show: Callable[[int, int, str], None] = lambda step, steps, text: None,
) -> Fit:
    """Train a network, from tokens (B, T) and lengths to (B, K), and leave it with its best weights.

    For regression it is trained on numbers of mean 0 and variance 1; at the end its last layer, `classifier`, is
    rescaled to the table's units.

    Args:
        network: on the precision's device; its weights are what training begins with.
        seed: of batches, strands and dropout.
        show: is told the step, the number of steps, and how it goes.

    Raises:
        TrainingError: the loss is not finite.
    """
    device = precision.device
    mean, deviation = _standard(task)
    tokens, targets = task.train.sequences.tokens, task.train.targets
    if task.labels is None:
        targets = ((targets - mean) / deviation).astype(np.float32)
    steps_per_epoch = math.ceil(len(tokens) / options.batch_size)
    steps = options.epochs * steps_per_epoch
    every = options.evaluate_every or steps_per_epoch
    optimizer, scaler = adamw(network, options.lr, options.weight_decay), precision.gradient_scaler()
    history: list[Evaluation] = []
    best: Evaluation | None = None
    weights: dict[str, Tensor] = {}
    total, logged = torch.zeros((), device=device), 0
    started, training_s = time.perf_counter(), 0.0

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.train()
        for step in range(steps):
            began = time.perf_counter()
            epoch, position = divmod(step, steps_per_epoch)
            if position == 0:
                draws = np.random.default_rng((seed, epoch))
                parts = np.array_split(draws.permutation(len(tokens)), steps_per_epoch)
                flipped = draws.random(len(tokens)) < 0.5 * options.augment_reverse_complement
            rows = parts[position]
            strands = [nucleotide.reverse_complement(tokens[i]) if flipped[i] else tokens[i] for i in rows]
            batch = make_batch(strands, range(len(rows)), device)
            rate = learning_rate(options, step, steps, [e.dev_loss for e in history])
            with precision.autocast():
                outputs = network(batch.tokens, batch.lengths)
            loss = _loss(outputs, torch.from_numpy(targets[rows]).to(device), task)
            scaler.scale(loss).backward()
            update(network, optimizer, scaler, precision, rate, options.max_grad_norm)
            total += loss.detach()
            done = step + 1
            due = done % every == 0 or done == steps
            if due:
                train_loss = float(total) / (done - logged)  # waits for the device, so that the time is right
            training_s += time.perf_counter() - began
            if not due:
                show(done, steps, f"dev loss {history[-1].dev_loss:.4f}" if history else "")
                continue

            total, logged = torch.zeros_like(total), done
            dev_loss = _split_loss(network, task, task.dev, options, precision, (mean, deviation))
            if not (math.isfinite(dev_loss) and math.isfinite(train_loss)):
                raise TrainingError(
                    f"after {done} steps the loss is {train_loss}, on the dev table {dev_loss}: lower --lr"
                )
            history.append(Evaluation(done, done / steps_per_epoch, rate, train_loss, dev_loss))
            if best is None or dev_loss < best.dev_loss:
                best = history[-1]
                weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            show(done, steps, f"dev loss {dev_loss:.4f}")
            since_best = len(history) - 1 - history.index(best)
            if options.patience is not None and since_best >= options.patience:
                break

    network.load_state_dict(weights)
    network.eval()
    if task.labels is None:
        with torch.no_grad():
            network.classifier.weight.mul_(deviation)
            network.classifier.bias.mul_(deviation).add_(mean)
    return Fit(history, best, time.perf_counter() - started, history[-1].step / training_s)


def _split_loss(
    network: nn.Module,
    task: Task,
    split: Split,
    options: FitOptions,
    precision: Precision,
    standard: tuple[float, float],
) -> float:
    """Loss on a table, by the network as it is trained; the network is left in training mode."""
    network.eval()
    outputs = raw_outputs(network, split.sequences.tokens, precision, options.average_reverse_complement)
    network.train()
    mean, deviation = standard
    targets = split.targets if task.labels is not None else ((split.targets - mean) / deviation).astype(np.float32)
    return float(_loss(torch.from_numpy(outputs), torch.from_numpy(targets), task))


def seed_figures(seed: int, fitted: Fit, outcome: Outcome) -> dict[str, Any]:
    """What is reported of one seed."""
    return {
        "seed": seed,
        **{f"test_{name}": value for name, value in outcome.figures.items()},
        "dev_loss": fitted.best.dev_loss,
        "best_step": fitted.best.step,
        "steps": fitted.history[-1].step,
        "seconds": round(fitted.seconds, 2),
        "steps_per_s": round(fitted.steps_per_s, 2),
    }
