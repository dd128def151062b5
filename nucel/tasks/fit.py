"""Train a network on a task: one loop for fine-tuning, for its controls and for the one-hot CNN.

    batches --network--> outputs --loss--> update --every so often--> Evaluation on dev --the best--> FitResult

What is kept is the network at its lowest loss on the dev table, as the paper and GUE choose it. Batches, strands and
dropout are functions of the seed, so that a fit can be repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.predict import Batch, make_batch
from ..model.optimizer import adamw, scheduled_rate, update
from ..runtime.device import Precision
from ..runtime.errors import ConfigError, TrainingError, require
from ..tokenizers import nucleotide
from .predictions import Predictions, raw_outputs
from .task import Split, Task

_PLATEAU_PATIENCE, _PLATEAU_FACTOR = 5, 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained on a task, but for how long and how fast. The paper states none of it; the defaults are
    those of DNABERT-2's protocol for GUE, which it follows."""

    batch_size: int = 32
    """Sequences per optimizer step."""
    warmup_steps: int = 50
    """Steps of linear warm-up from 0."""
    decay: Literal["linear", "constant", "plateau"] = "linear"
    """Learning rate after warm-up: linear ends at 0; plateau multiplies the rate by 0.2 whenever the dev loss has not
    fallen for five validations."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices (never of norms and biases)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; inf leaves them."""
    validate_every: int | None = None
    """Steps between validations on the dev table; by default an epoch's. One always follows the last step."""
    patience: int | None = None
    """Stop when the dev loss has not fallen for so many validations; by default never."""
    augment_reverse_complement: bool = False
    """Train on either strand of each sequence with equal chance, drawn anew in each epoch."""
    average_reverse_complement: bool = False
    """Predict from the mean of both strands' outputs, on the dev table too."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "validate_every", "patience"):
            require_count(name, getattr(self, name))
        require(self.max_grad_norm > 0, f"max_grad_norm must be positive, got {self.max_grad_norm}")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        require(math.isfinite(self.weight_decay), f"weight_decay must be finite, got {self.weight_decay}")

    def steps_an_epoch(self, rows: int) -> int:
        """Optimizer steps for one pass over a training table of so many rows."""
        return math.ceil(rows / self.batch_size)


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainingOptions):
    """How a network is trained on a task. The default rate and epochs, DNABERT-2's too, suit a large pre-trained model:
    small ones want a larger --lr, 1e-4 to 1e-3, and on small tables more --epochs."""

    epochs: int = 3
    """Passes over the training table."""
    lr: float = 3e-5
    """Peak learning rate of AdamW."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("epochs", self.epochs)
        require_rate(self.lr)

    def steps(self, rows: int) -> int:
        """Optimizer steps on a training table of so many rows."""
        return self.epochs * self.steps_an_epoch(rows)


def require_count(name: str, value: int | None) -> None:
    """Refuse a number below 1; None is left to its default."""
    require(value is None or value >= 1, f"{name} must be at least 1, got {value}")


def require_rate(lr: float) -> None:
    """Refuse a learning rate that is not a positive finite number."""
    require(lr > 0 and math.isfinite(lr), f"lr must be positive and finite, got {lr}")


def require_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse no seeds, negative ones, and one seed twice."""
    require(
        bool(seeds) and len(set(seeds)) == len(seeds) and min(seeds) >= 0,
        f"seeds must be distinct numbers of at least 0, got {seeds}",
    )


class Evaluation(NamedTuple):
    """One validation on the dev table."""

    step: int
    epoch: float
    lr: float
    train_loss: float
    """Mean over the steps since the evaluation before."""
    dev_loss: float


class FitResult(NamedTuple):
    """How a training went; the network holds the weights of its best evaluation."""

    history: list[Evaluation]
    best: Evaluation
    seconds: float
    """In training and evaluation."""
    steps_per_s: float
    """Of training alone."""

    def summary(self, seed: int, test: Predictions) -> dict[str, Any]:
        """What is reported of one seed, with the metrics of its predictions for the test table."""
        return {
            "seed": seed,
            **{f"test_{name}": value for name, value in test.metrics.items()},
            "dev_loss": self.best.dev_loss,
            "best_step": self.best.step,
            "steps": self.history[-1].step,
            "seconds": round(self.seconds, 2),
            "steps_per_s": round(self.steps_per_s, 2),
        }


def learning_rate(options: FitOptions, step: int, steps: int, dev_losses: list[float]) -> float:
    """Rate of the update that leads from `step` (0-based) to the next, of `steps` in all."""
    if options.decay != "plateau":
        return scheduled_rate(options.lr, step, steps, options.warmup_steps, options.decay)
    reached = scheduled_rate(options.lr, step, steps, options.warmup_steps, "constant")
    return reached if step < options.warmup_steps else reached * _PLATEAU_FACTOR ** _plateaus(dev_losses)


def _plateaus(losses: list[float]) -> int:
    """How often a loss went without a new minimum for the patience of five evaluations."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == _PLATEAU_PATIENCE:
            count, waited = count + 1, 0
    return count


class TargetScale(NamedTuple):
    """Units that numbers to predict are trained in: mean 0 and variance 1 of the training table."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, targets: np.ndarray) -> TargetScale:
        return cls(float(targets.mean()), float(targets.std()))

    def standardized(self, targets: np.ndarray) -> np.ndarray:
        """float32 (n,)."""
        return ((targets - self.mean) / self.deviation).astype(np.float32)

    def undo(self, network: nn.Module) -> None:
        """Rescale the network's last layer, `classifier`, so that its outputs are in the table's units."""
        with torch.no_grad():
            network.get_parameter("classifier.weight").mul_(self.deviation)
            network.get_parameter("classifier.bias").mul_(self.deviation).add_(self.mean)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats for classes int64 (B,), or mean squared error for numbers float32 (B,)."""
    if targets.is_floating_point():
        return F.mse_loss(outputs.float().squeeze(-1), targets)
    return F.cross_entropy(outputs.float(), targets)


def _batches(train: Split, options: FitOptions, seed: int, device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of all epochs and their targets (B,): rows in random order, strands drawn where both are trained on."""
    tokens = train.sequences.tokens
    targets = torch.from_numpy(train.targets)
    for epoch in range(options.epochs):
        draws = np.random.default_rng((seed, epoch))
        order = draws.permutation(len(tokens))
        flipped = draws.random(len(tokens)) < 0.5 * options.augment_reverse_complement
        for rows in np.array_split(order, math.ceil(len(tokens) / options.batch_size)):
            strands = [nucleotide.reverse_complement(tokens[i]) if flipped[i] else tokens[i] for i in rows]
            yield make_batch(strands, device), targets[rows].to(device)


@dataclass
class Record:
    """All evaluations so far, and the weights of the best of them."""

    history: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def dev_losses(self) -> list[float]:
        return [evaluation.dev_loss for evaluation in self.history]

    @property
    def text(self) -> str:
        return f"dev loss {self.history[-1].dev_loss:.4f}" if self.history else ""

    @property
    def since_best(self) -> int:
        """Evaluations after the best one."""
        return len(self.history) - 1 - self.history.index(self.best) if self.best else 0

    def add(self, evaluation: Evaluation, network: nn.Module) -> None:
        """Raises TrainingError where a loss is not finite."""
        if not (math.isfinite(evaluation.dev_loss) and math.isfinite(evaluation.train_loss)):
            raise TrainingError(
                f"after {evaluation.step} steps the loss is {evaluation.train_loss}, on the dev table "
                f"{evaluation.dev_loss}: lower --lr"
            )
        self.history.append(evaluation)
        if self.best is None or evaluation.dev_loss < self.best.dev_loss:
            self.best = evaluation
            self.weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def fit(
    network: nn.Module,
    task: Task,
    options: FitOptions,
    seed: int,
    precision: Precision,
    show: Callable[[int, int, str], None] = lambda step, steps, text: None,
    enough: Callable[[nn.Module], bool] = lambda network: False,
) -> FitResult:
    """Train a network, from tokens (B, T) and lengths to (B, K), and leave it with its best weights.

    For regression it is trained on numbers of mean 0 and variance 1; at the end its last layer, `classifier`, is
    rescaled to the table's units.

    Args:
        network: on the precision's device; its weights are what training begins with.
        seed: of batches, strands and dropout.
        show: is told the step, the number of steps, and how it goes.
        enough: is asked after each validation whether the network, in evaluation mode, is good enough to stop.

    Raises:
        TrainingError: the loss is not finite.
    """
    device = precision.device
    scale = TargetScale.of(task.train.targets) if task.labels is None else None
    train, dev = (
        split if scale is None else split._replace(targets=scale.standardized(split.targets))
        for split in (task.train, task.dev)
    )
    steps = options.steps(len(train.targets))
    every = options.validate_every or steps // options.epochs
    optimizer, scaler = adamw(network, options.lr, options.weight_decay), precision.gradient_scaler()
    record = Record()
    total, logged = torch.zeros((), device=device), 0
    started, training_s = time.perf_counter(), 0.0

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.train()
        resumed = time.perf_counter()
        for step, (batch, targets) in enumerate(_batches(train, options, seed, device)):
            rate = learning_rate(options, step, steps, record.dev_losses)
            with precision.autocast():
                outputs = network(batch.tokens, batch.lengths)
            loss = _loss(outputs, targets)
            scaler.scale(loss).backward()
            update(network, optimizer, scaler, precision, rate, options.max_grad_norm)
            total += loss.detach()
            done = step + 1
            if done % every and done != steps:
                show(done, steps, record.text)
                continue
            train_loss = float(total) / (done - logged)  # waits for the device, so that the time is right
            training_s += time.perf_counter() - resumed
            total, logged = torch.zeros_like(total), done
            dev_loss = _split_loss(network, dev, options, precision)
            record.add(Evaluation(done, done * options.epochs / steps, rate, train_loss, dev_loss), network)
            show(done, steps, record.text)
            if options.patience is not None and record.since_best >= options.patience:
                break
            network.eval()
            if enough(network):
                break
            network.train()
            resumed = time.perf_counter()

    network.load_state_dict(record.weights)
    network.eval()
    if scale is not None:
        scale.undo(network)
    best = min(record.history, key=lambda evaluation: evaluation.dev_loss)
    return FitResult(record.history, best, time.perf_counter() - started, record.history[-1].step / training_s)


def _split_loss(network: nn.Module, split: Split, options: FitOptions, precision: Precision) -> float:
    """Loss on a table, by the network as it is trained; the network is left in training mode."""
    network.eval()
    outputs = raw_outputs(network, split.sequences.tokens, precision, options.average_reverse_complement)
    network.train()
    return float(_loss(torch.from_numpy(outputs), torch.from_numpy(split.targets)))
