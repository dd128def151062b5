"""What pre-training and fine-tuning share: AdamW, its schedule, and the update from gradients to weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..runtime.device import Precision


def adamw(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW on what takes gradients, with weight decay on matrices only, never on norms and biases."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def scheduled_rate(
    lr: float, step: int, steps: int, warmup_steps: int, decay: Literal["constant", "linear", "cosine"]
) -> float:
    """Rate of the update that leads from `step` (0-based) to the next: linear warm-up from 0 to lr, then the decay.

    Linear and cosine decay reach 0 after the last of `steps`.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    match decay:
        case "constant":
            return lr
        case "linear":
            return lr * (1 - progress)
        case "cosine":
            return lr * (1 + math.cos(math.pi * progress)) / 2


def update(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    lr: float,
    max_grad_norm: float,
) -> Tensor:
    """Clip the gradients, take a step at the given rate and drop them, without host synchronisation.

    Gradients that are not finite leave weights and moments as they are.

    Returns:
        the gradients' norm () before clipping.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
    scaler.step(optimizer)
    scaler.update(None if precision.dtype == torch.float16 else 1.0)
    optimizer.zero_grad(set_to_none=True)
    return norm
