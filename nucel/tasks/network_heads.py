"""Heads of frozen probes that torch trains: the MLP on vectors, and the training of it and of the CNNs.

    rows --batch--> inputs --network--> outputs --loss--> Adam --every epoch--> dev loss --the lowest--> kept

The encoder takes no part: inputs are its embeddings, numbers that nothing changes.

Legend: B rows of a batch, d features, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.optimizer import adamw, update
from ..runtime.device import Precision
from .baselines import dense
from .features import Maps
from .fit import Evaluation, FitOptions, Record, learning_rate
from .heads import FittedHead, Labels
from .predictions import probabilities

Inputs = np.ndarray | Maps
"""Features (n, d), or maps."""
MLP_FIT = FitOptions(
    epochs=100, batch_size=512, lr=1e-4, warmup_steps=0, decay="plateau", weight_decay=0.0, patience=10,
    max_grad_norm=float("inf"),
)  # fmt: skip
"""As the paper has it (`cnn_heads`); batch and epochs are those of its code."""
_INIT_STD = 0.005
_LEAST_STEPS = 8
"""Steps of an epoch at least: a batch of the paper's size would be all of a small table."""
_READ = 512
"""Rows that are read at once where no training needs fewer."""


def mlp_head(features: int, outputs: int, seed: int) -> nn.Module:
    """Two hidden layers, 512 and 256, with batch norm, ReLU and dropout 0.5; normal weights of deviation 0.005."""
    network = nn.Sequential(*dense(features, 512), *dense(512, 256), nn.Linear(256, outputs))
    draws = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=_INIT_STD, generator=draws)
            nn.init.zeros_(module.bias)
    return network


def fit_network(
    network: nn.Module,
    train: Inputs,
    dev: Inputs,
    labels: Labels,
    options: FitOptions,
    seed: int,
    device: torch.device,
    show: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> FittedHead:
    """Train a head, in fp32, and keep its weights of the lowest dev loss.

    Numbers are learned in units of mean 0 and variance 1 of the training rows, column by column; what was not measured
    is left out of the loss. Batches are smaller than the options say where an epoch would have fewer than 8 of them.

    Args:
        seed: of the order of the rows, and of dropout.
        show: is told the epoch, the number of epochs, and the dev loss.

    Raises:
        TrainingError: the loss is not finite.
    """
    precision = Precision(device, torch.float32)
    mean, deviation = _scale(labels)
    targets, dev_targets = (_targets(part, labels.classes, mean, deviation) for part in (labels.train, labels.dev))
    network = network.to(device)
    optimizer, scaler = adamw(network, options.lr, options.weight_decay), precision.gradient_scaler()
    record, step = Record(), 0
    steps_an_epoch = max(math.ceil(len(train) / options.batch_size), min(_LEAST_STEPS, len(train) // 2), 1)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(options.epochs):
            network.train()
            total = 0.0
            order = np.random.default_rng((seed, epoch)).permutation(len(train))
            rate = learning_rate(options, step, options.epochs * steps_an_epoch, record.dev_losses)
            for rows in np.array_split(order, steps_an_epoch):
                loss = _loss(network(*_read(train, rows, device)), targets[torch.from_numpy(rows)].to(device))
                scaler.scale(loss).backward()
                update(network, optimizer, scaler, precision, rate, options.max_grad_norm)
                total += float(loss.detach())
                step += 1
            dev_loss = float(_loss(torch.from_numpy(_outputs(network, dev, device)), dev_targets))
            record.add(Evaluation(step, epoch + 1, rate, total / steps_an_epoch, dev_loss), network)
            show(epoch + 1, options.epochs, record.text)
            if options.patience is not None and record.since_best >= options.patience:
                break
    network.load_state_dict(record.weights)
    network.eval()

    def predict(inputs: Inputs) -> np.ndarray:
        outputs = _outputs(network, inputs, device)
        if labels.classes is not None:
            return probabilities(outputs)
        return (outputs * deviation + mean).astype(np.float32)

    best = min(record.history, key=lambda evaluation: evaluation.dev_loss)
    return FittedHead(predict, {"dev_loss": best.dev_loss, "epochs": len(record.history), "best_epoch": best.epoch})


def _scale(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (K,) of each column of the training rows."""
    if labels.classes is not None:
        return np.zeros(1), np.ones(1)
    columns = labels.train.reshape(len(labels.train), -1)
    deviation = np.nanstd(columns, 0)
    return np.nanmean(columns, 0), np.where(deviation > 0, deviation, 1)


def _targets(targets: np.ndarray, classes: int | None, mean: np.ndarray, deviation: np.ndarray) -> Tensor:
    """int64 (n,) classes, or float32 (n, K) in standard units."""
    if classes is not None:
        return torch.from_numpy(targets)
    return torch.from_numpy(((targets.reshape(len(targets), -1) - mean) / deviation).astype(np.float32))


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, or mean squared error over what was measured."""
    if not targets.is_floating_point():
        return F.cross_entropy(outputs.float(), targets)
    known = ~targets.isnan()
    return ((outputs - targets.nan_to_num()).square() * known).sum() / known.sum().clamp(min=1)


def _read(inputs: Inputs, rows: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
    arrays = inputs.read(rows) if isinstance(inputs, Maps) else (inputs[rows],)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)


@torch.no_grad()
def _outputs(network: nn.Module, inputs: Inputs, device: torch.device) -> np.ndarray:
    """Outputs float32 (n, K) in evaluation mode: batch norm uses what training measured."""
    network.eval()
    blocks = np.array_split(np.arange(len(inputs)), max(1, math.ceil(len(inputs) / _READ)))
    return np.concatenate([network(*_read(inputs, rows, device)).float().cpu().numpy() for rows in blocks])
