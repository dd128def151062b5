"""One pre-training run, from a configuration to published weights.

choose_directory  lock it            one process writes into a run
open_genome       prepare            genome -> windows -> samplers; model, optimizer, scaler
describe          run.json           a resume must have the same recipe and genome
restore           step `first`       0, or the newest intact checkpoint
repeat
    loop.advance                     upload -> train_step -> next windows
    loop.log          log_every      metrics.jsonl, the bar
    loop.validate     validate_every held-out windows, on rank 0
    checkpoint.save   save_every     and when a signal has come
summary.json, cards, loss.png
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..runs import card, checkpoint, log
from ..runs.directory import RunDirectory
from ..runtime import cli, files
from ..runtime.cli import console, note, progress_bar
from ..runtime.device import Precision, choose_precision
from ..runtime.distributed import ALONE, World, is_lost_connection
from ..runtime.errors import CheckpointError, ConfigError, NucelError, TrainingError
from . import report
from .config import TrainConfig
from .initial import start_from
from .loop import Loop, noted_signals
from .setup import Setup, banner, describe, open_genome, prepare
from .stored import extended, is_demo, recipe_of
from .validation import Validation


def choose_directory(config: TrainConfig) -> RunDirectory:
    """The run directory; a run that has a checkpoint in it is to be continued.

    Raises:
        ConfigError, CheckpointError: the directory does not fit what was asked for.
    """
    if config.resume is None:
        run = RunDirectory(config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"))
        _require_unused(run)
        return run
    if config.resume == "auto":
        if config.out is None:
            raise ConfigError("--resume auto needs --out, the run directory to continue or to start")
        run = RunDirectory(config.out)
        if not run.describes_run():
            _require_unused(run)
    else:
        run = RunDirectory(Path(config.resume))
        if config.out is not None and config.out.resolve() != run.path.resolve():
            raise ConfigError(f"--resume {run} continues in that directory; leave out --out {config.out}")
        if not run.describes_run():
            raise CheckpointError(f"--resume {run}: there is no run in that directory (it has no run.json)")
    if config.extend_steps and (step := run.newest_step()) < config.steps:
        finish = f": finish it first with {run.resume_command}" if run.describes_run() else ""
        raise CheckpointError(
            f"--extend-steps trains a finished run on, and {run} is at step {step} of {config.steps}{finish}"
        )
    return run


def _require_unused(run: RunDirectory) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise CheckpointError(f"{run} is a file; give a directory")
    if not run.is_unused():
        advice = "it does not hold a run; choose another --out"
        if run.describes_run():
            advice = f"go on with the run in it by {run.resume_command}, or choose another --out"
        raise CheckpointError(f"{run} is not empty; {advice}")


def train(config: TrainConfig, command: str = "nucel.train", ranks: World = ALONE) -> cli.Result:
    """Carry out a run; returns its summary and the lines that `main` prints.

    Raises:
        ConfigError, GenomeError, HubError, CheckpointError, OSError: bad input; nothing half-written is left.
        TrainingError: training cannot go on.
    """
    precision = choose_precision(config.device, config.dtype)
    log.require(config.track)
    run = ranks.from_first(choose_directory(config) if ranks.is_main else None)
    go_on = ranks.launched(_go_on(config, run, command))
    with run.locked(note) if ranks.is_main else contextlib.nullcontext(), _lost_ranks_explained(ranks, go_on):
        if ranks.is_main and run.describes_run():
            _require_no_contradiction(config, run, precision)
        with ranks.first_alone():
            genome = open_genome(config, run)
        setup = prepare(config, precision, genome, ranks)
        first = _restore(config, setup, run, command, ranks)
        config = extended(config)
        loop, validation, stopped_by = _train(config, setup, run, first, ranks)
        interrupted = loop.step < _last_step(config)
        if not ranks.is_main:
            return cli.Result({"interrupted": interrupted})
        if validation is None and not interrupted:  # a finished run was resumed: nothing is new but the summary
            validation = loop.validate_again()
        summary = {
            "step": loop.step,
            "tokens": loop.step * config.batch_size * config.context,
            "tokens_per_s": loop.tokens_per_s and round(loop.tokens_per_s, 1),
            "interrupted": interrupted,
            **_validated(validation, setup),
            "skipped_steps": loop.skipped_steps,
            "device": str(precision.device),
            "out": str(run),
        }
        run.write_summary(summary)
        card.write(run)
        _plot(run)
        if interrupted or validation is None:
            lines = report.stopped(run, stopped_by or "A signal on another rank", loop.step, config, go_on)
        else:
            lines = report.trained(run, validation, loop.step, config, setup)
        return cli.Result(files.finite(summary), lines)


def _go_on(config: TrainConfig, run: RunDirectory, command: str) -> str:
    """The command that continues what a signal or a lost rank has ended.

    A session that was itself a resume is repeated as it was typed, with whatever it changed of the run's settings.
    """
    typed = config.resume is not None and command.startswith("python")
    return command if typed and not (config.extend_steps or config.stop_after) else run.resume_command


@contextlib.contextmanager
def _lost_ranks_explained(ranks: World, go_on: str) -> Iterator[None]:
    """Turn what this rank sees when another is gone into a message that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or isinstance(error, NucelError) or not is_lost_connection(error):
            raise
        raise TrainingError(f"lost another rank; go on with: {go_on} ({error})") from None


def _require_no_contradiction(config: TrainConfig, run: RunDirectory, precision: Precision) -> None:
    """Refuse another recipe, or a demo genome for a run on another one, before anything is written.

    Raises:
        CheckpointError: names the differences.
    """
    stored = run.read_description()
    genome = None
    if not config.genome and not is_demo(stored, run):
        genome = dataclasses.replace(stored.genome, files=["the demo genome, as no --genome is given,"], fingerprint="")
    run.require_same_run(recipe_of(config, precision), genome)


def _last_step(config: TrainConfig) -> int:
    """Of this session."""
    return min(config.steps, config.stop_after or config.steps)


def _restore(config: TrainConfig, setup: Setup, run: RunDirectory, command: str, ranks: World) -> int:
    """Describe a run that begins, or load the newest checkpoint of one that goes on; returns the steps it has done."""
    description = describe(config, setup, command)
    resumed = ranks.from_first(run.has_checkpoint())
    if config.init_from and not resumed:
        initial = start_from(config.init_from, setup.state.model, note if ranks.is_main else lambda _: None)
        if run.describes_run() and run.read_description().initial_weights != initial:
            raise CheckpointError(
                f"{config.init_from} has other weights than those that {run} was started from, and {run} has no "
                "checkpoint; start a new run with another --out"
            )
        description = dataclasses.replace(description, initial_weights=initial)
    if ranks.is_main:
        checkpoint.require_space(run, setup.state.model, config.keep)
        if run.describes_run():
            run.require_same_run(description.recipe, description.genome)
        else:
            run.write_description(description)
    first, warnings = checkpoint.restore(run, setup.state, setup.precision.device) if resumed else (0, ())
    if (agreed := ranks.from_first(first)) != first:
        raise CheckpointError(
            f"rank {ranks.rank} has an intact checkpoint of step {first}, rank 0 one of step {agreed}: "
            f"do all ranks read the same {run}?"
        )
    if config.extend_steps and first < config.steps:
        raise CheckpointError(
            f"{run} cannot be extended: its newest intact checkpoint is of step {first} of {config.steps}; finish it "
            f"again with {run.resume_command}"
        )
    if ranks.is_main:
        if config.extend_steps:
            run.write_description(run.read_description().extended(config.extend_steps))
        for warning in (*warnings, *checkpoint.rewind(run, first)):
            note(warning)
        banner(extended(config), setup, ranks, run)
        if resumed:
            console.print(f"  continuing after step {first}")
    return first


def _train(
    config: TrainConfig, setup: Setup, run: RunDirectory, first: int, ranks: World
) -> tuple[Loop, Validation | None, str | None]:
    """The loop; its last validation, if there was one, and the signal that stopped it."""
    last = _last_step(config)
    validation: Validation | None = None
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(noted_signals())
        if not ranks.is_main:
            loop, show = Loop(config, setup, run, ranks, first), None
        else:
            show = stack.enter_context(progress_bar())
            record = stack.enter_context(log.recording(run, first, config.track))
            loop = Loop(config, setup, run, ranks, first, record)
        while loop.step < last:
            loop.advance()
            stopping = ranks.any(bool(received))
            at_end = loop.step == last or stopping
            if loop.step % config.log_every == 0 or at_end:
                text = loop.log()
                if show:
                    show(loop.step, last, text)
            if ranks.is_main:
                if loop.step % config.validate_every == 0 or loop.step == last:
                    validation = loop.validate()
                if loop.step % config.save_every == 0 or at_end:
                    loop.require_usable()
                    checkpoint.save(run, loop.step, setup.state, config.keep)
                    card.write(run)
            if stopping:
                break
    return loop, validation, received[0] if received else None


def _validated(validation: Validation | None, setup: Setup) -> dict[str, Any]:
    """The summary's part of a validation."""
    if validation is None:
        return {}
    rounded = {f"val_{name}": round(value, 6) for name, value in report.metrics_of(validation, setup).items()}
    return rounded | {"val_windows": setup.validation_windows}


def _plot(run: RunDirectory) -> None:
    from ..runs.curves import plot_run

    try:
        plot_run(run)
    except CheckpointError as error:  # a finished run was resumed, and its metrics are lost
        note(f"No loss.png: {error}")
    except ModuleNotFoundError as missing:
        console.print(f"No loss.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")
