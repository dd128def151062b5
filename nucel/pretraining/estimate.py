"""What a run would take, from a few measured steps (`--dry-run`)."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..genome import demo
from ..genome.fasta import Genome
from ..runtime import cli
from ..runtime.cli import console, note
from ..runtime.device import choose_precision
from ..runtime.distributed import ALONE, World
from . import cost
from .config import TrainConfig
from .initial import start_from
from .loop import Loop
from .setup import banner, prepare
from .stored import extended

_MEASURED_SECONDS = 20.0


def estimate(config: TrainConfig, ranks: World = ALONE) -> cli.Result:
    """Measure a few steps and say what the run would take; writes nothing, and never steps beyond config.steps.

    Raises:
        As `train`.
    """
    config = extended(config)
    precision = choose_precision(config.device, config.dtype)
    with _opened(config) as genome:
        setup = prepare(config, precision, genome, ranks)
        if config.init_from and config.resume is None:
            start_from(config.init_from, setup.state.model, note if ranks.is_main else lambda _: None)
        loop = Loop(config, setup, None, ranks)
        if ranks.is_main:
            banner(config, setup, ranks, None)
        started = time.perf_counter()
        loop.advance()
        first_seconds = time.perf_counter() - started
        while loop.step < config.steps and (
            loop.step < 3 or not ranks.any(time.perf_counter() - started > _MEASURED_SECONDS)
        ):
            loop.advance()
        loop.log()
    tokens_per_step = config.batch_size * config.context
    # The first step, which is slower than those that follow, is all there is of a run of one step.
    tokens_per_s = loop.tokens_per_s or tokens_per_step / first_seconds
    epochs = 50
    epoch_steps = setup.sampler.steps_per_epoch * epochs
    hours = {steps: steps * tokens_per_step / tokens_per_s / 3600 for steps in (config.steps, epoch_steps)}
    summary: dict[str, Any] = {
        "tokens_per_s": round(tokens_per_s, 1),
        "steps_measured": max(1, loop.step - 1),
        "micro_batch": setup.micro_batch,
        "flops_per_token": cost.training_flops(type(setup.state.model), config.model, config.context) / config.context,
        "steps": config.steps,
        "tokens": config.steps * tokens_per_step,
        "epochs": round(config.steps / setup.sampler.steps_per_epoch, 2),
        "hours": round(hours[config.steps], 2),
        "steps_for_50_epochs": round(epoch_steps),
        "tokens_for_50_epochs": round(epoch_steps * tokens_per_step),
        "hours_for_50_epochs": round(hours[epoch_steps], 2),
        "device": str(precision.device),
    }
    amounts = [(summary[f"steps{end}"], summary[f"tokens{end}"], summary[f"hours{end}"]) for end in ("", _PAPERS)]
    if ranks.is_main:
        console.print(
            f"  {summary['tokens_per_s']:,.0f} tokens/s over {summary['steps_measured']} step(s)\n"
            + "\n".join(
                f"  --steps {steps}: {tokens / 1e9:.2f} G tokens, {passes} epochs, {hours:.2f} h"
                for (steps, tokens, hours), passes in zip(amounts, (summary["epochs"], epochs), strict=True)
            ),
            soft_wrap=True,
        )
    lines = (
        f"The run would take about {_duration(summary['hours'])} on this machine.",
        "This was a dry run: nothing was written.",
        "Next: the same command without --dry-run",
    )
    return cli.Result(summary, lines)


_PAPERS = "_for_50_epochs"


def _duration(hours: float) -> str:
    return (
        f"{hours:,.1f} hours" if hours >= 2 else f"{hours * 60:,.0f} minutes" if hours >= 1 / 30 else "a minute or two"
    )


@contextlib.contextmanager
def _opened(config: TrainConfig) -> Iterator[Genome]:
    """The genome; a demo genome lies in a temporary folder for as long as it is measured on."""
    if config.genome:
        yield Genome(config.genome, config.cache_dir, copy_beside=False)
        return
    console.print("No --genome given: measuring on a generated demo genome, which is not kept")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.fa"
        demo.write_demo_genome(path)
        yield Genome(path)
