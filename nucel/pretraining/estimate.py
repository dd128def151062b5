"""What a run would take, from a few measured steps (`--dry-run`)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from ..runs.directory import RunDirectory
from ..runtime.cli import console
from ..runtime.device import choose_precision
from ..runtime.distributed import ALONE, World
from . import cost
from .config import TrainConfig
from .loop import Loop
from .trainer import _ignore, banner, open_genome, prepare

_MEASURED_SECONDS = 20.0


def estimate(config: TrainConfig, place: World = ALONE) -> dict[str, Any]:
    """Measure a few steps and say what the run would take; writes nothing.

    Raises:
        As `train`.
    """
    precision = choose_precision(config.device, config.dtype)
    with tempfile.TemporaryDirectory() as folder:
        with place.first_alone():
            genome = open_genome(config, RunDirectory(Path(folder)))
        setup = prepare(config, precision, genome, place)
        loop = Loop(config, setup, precision, place, RunDirectory(Path(folder)), _ignore)
        if place.speaks:
            banner(config, setup, precision, place, None)
        started, step = time.perf_counter(), 0
        while step < 3 or not place.any(time.perf_counter() - started > _MEASURED_SECONDS):
            loop.step(step)
            step += 1
        loop.log(step)
    tokens_per_step = config.batch_size * config.context
    epochs = 50
    epoch_steps = setup.sampler.steps_per_epoch * epochs
    hours = {steps: steps * tokens_per_step / loop.tokens_per_s / 3600 for steps in (config.steps, epoch_steps)}
    summary = {
        "tokens_per_s": round(loop.tokens_per_s, 1),
        "steps_measured": step - 1,
        "micro_batch": setup.micro_batch,
        "flops_per_token": cost.training_flops(type(setup.model), config.model, config.context) / config.context,
        "steps": config.steps,
        "tokens": config.steps * tokens_per_step,
        "epochs": round(config.steps / setup.sampler.steps_per_epoch, 2),
        "hours": round(hours[config.steps], 2),
        "steps_for_50_epochs": round(epoch_steps),
        "tokens_for_50_epochs": round(epoch_steps * tokens_per_step),
        "hours_for_50_epochs": round(hours[epoch_steps], 2),
        "device": str(precision.device),
    }
    if place.speaks:
        console.print(
            f"  {summary['tokens_per_s']:,.0f} tokens/s over {summary['steps_measured']} steps\n"
            f"  --steps {config.steps}: {summary['tokens'] / 1e9:.2f} G tokens, {summary['epochs']} epochs, "
            f"{summary['hours']:.2f} h\n"
            f"  --steps {summary['steps_for_50_epochs']}: {summary['tokens_for_50_epochs'] / 1e9:.2f} G tokens, "
            f"{epochs} epochs, {summary['hours_for_50_epochs']:.2f} h",
            soft_wrap=True,
        )
    return summary
