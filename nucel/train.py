"""Pre-train a NucEL pair on a genome: ``python -m nucel.train [debug|small|base] --genome FILE... --out DIR``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import card, checkpoint, cost, demo, kernels, parallel, track
from .checkpoint import CheckpointError
from .compiled import compile_blocks
from .config import PRESETS, ConfigError, EncoderConfig, Recipe, TrainConfig
from .device import DTYPES, Precision, choose_precision
from .electra import Electra, MaskedLM
from .genome import Genome, GenomeError, Windows, WindowSampler
from .hub import HubError
from .loop import Loop, Setup, Signals, TrainingError, console
from .metrics import bootstrap_auroc
from .parallel import ALONE, World
from .step import VALIDATION_SEED, Validation, make_optimizer, validate

_MODELS = {"electra": Electra, "mlm": MaskedLM}
_MEASURED_SECONDS = 20.0
INTERRUPTED = 75
"""Exit status of a run that a signal ended after a checkpoint: EX_TEMPFAIL, "run it again"."""


def _choose_directory(config: TrainConfig) -> Path:
    """The run directory; a run that has a checkpoint in it is to be continued.

    Raises:
        ConfigError, CheckpointError: the directory does not fit what was asked for.
    """
    if config.resume is None:
        run = config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
        _require_unused(run, "continue the run in it with --resume auto, or choose another directory")
        return run
    if config.resume == "auto":
        if config.out is None:
            raise ConfigError("--resume auto needs --out, the run directory to continue or to start")
        if not checkpoint.describes_run(config.out):
            _require_unused(config.out, "it holds no run; choose another directory")
        return config.out
    run = Path(config.resume)
    if config.out is not None and config.out.resolve() != run.resolve():
        raise ConfigError(f"--resume {run} continues in that directory; leave out --out {config.out}")
    if not checkpoint.describes_run(run) or not checkpoint.has_checkpoint(run):
        raise CheckpointError(f"--resume {run}: there is no run with a checkpoint in that directory")
    return run


def _require_unused(run: Path, advice: str) -> None:
    if run.exists() and not run.is_dir():
        raise CheckpointError(f"{run} is a file; give a directory")
    if not checkpoint.is_unused(run):
        raise CheckpointError(f"{run} is not empty; {advice}")


def _announce(message: str) -> None:
    console.print(f"note: {message}", style="yellow", soft_wrap=True, markup=False)


def _open_genome(config: TrainConfig, run: Path) -> Genome:
    if config.genome:
        return Genome(config.genome)
    path = run / "demo.fa"
    if not path.exists():
        console.print(f"No --genome given: generating a demo genome, {path}")
        demo.write_demo_genome(path)
    return Genome(path)


def _windows(config: TrainConfig, genome: Genome) -> tuple[Windows, Windows]:
    """Windows to train on, and those held out."""
    train, held = Windows.choose(genome, config).hold_out(config.hold_out, config.hold_out_fraction)
    return train.weighted(config.genome_weights) if config.genome_weights else train, held


def _describe(config: TrainConfig, precision: Precision, setup: Setup, command: str) -> dict[str, Any]:
    """What run.json holds: all that decides the result, and what it was made with."""
    recipe = {field.name: getattr(config, field.name) for field in dataclasses.fields(Recipe)}
    recipe["model"] = dataclasses.asdict(config.model)
    # A region's file may change its content, and a path its meaning.
    for bed in ("keep_bed", "drop_bed"):
        if path := recipe[bed]:
            recipe[bed] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    recipe["dtype"] = next(name for name, dtype in DTYPES.items() if dtype == precision.dtype)
    return {
        "recipe": recipe,
        "genome": {
            "files": [str(path) for path in setup.genome.paths],
            "fingerprint": setup.genome.fingerprint,
            "contigs": len(setup.genome.contigs),
            "length_bp": int(setup.genome.lengths.sum()),
        },
        "windows": {"train": len(setup.train_windows), "held_out": len(setup.held_windows)},
        "command": command,
        "versions": checkpoint.versions(precision.device),
    }


def _banner(config: TrainConfig, setup: Setup, precision: Precision, place: World, run: Path | None) -> None:
    device, genome = precision.device, setup.genome
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{device.type}, {torch.get_num_threads()} threads"
    if place.size > 1:
        hardware = f"{place.size} ranks, each on {hardware}"
    fused = kernels.fused_ops(device)
    plain = [op for op in kernels.OPS if op not in fused]
    paths = []
    if fused:
        paths.append(f"{device.type}'s own: {', '.join(fused)}")
    if plain:
        paths.append(f"PyTorch reference: {', '.join(plain)} (no fused kernel is registered for {device.type})")
    paths.append("blocks compiled" if setup.compiled else "blocks not compiled")

    def size(name: str, shape: EncoderConfig) -> str:
        millions = sum(p.numel() for p in getattr(setup.model, name).parameters()) / 1e6
        return f"{name.replace('_', ' ')} {shape.layers} x {shape.width} ({millions:.1f} M)"

    shapes = {"generator": config.model.generator, "discriminator": config.model.discriminator}
    if config.objective == "mlm":
        shapes = {"masked_lm": config.model.discriminator}
    accumulated = config.batch_size // place.size // setup.micro_batch
    rows = {
        "model": ", ".join(size(name, shape) for name, shape in shapes.items()),
        "genome": f"{', '.join(str(p) for p in genome.paths)}: {len(genome.contigs)} contig(s), "
        f"{genome.lengths.sum() / 1e6:.2f} Mb",
        "windows": f"{len(setup.train_windows)} to train on, {len(setup.held_windows)} held out, of "
        f"{config.window_bp} bp; an epoch is {setup.sampler.steps_per_epoch:.1f} steps",
        "budget": f"{config.steps} steps of {config.batch_size} x {config.context} tokens, "
        f"{config.steps / setup.sampler.steps_per_epoch:.1f} epochs",
        "device": f"{hardware}, {str(precision.dtype).removeprefix('torch.')}, micro-batch {setup.micro_batch}"
        + (f", {accumulated} to a step" if accumulated > 1 else ""),
        "kernels": "; ".join(paths),
    }
    if run is not None:
        rows["run"] = str(run)
    for name, text in rows.items():
        console.print(f"  {name:8} {text}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    """A bar that is called with the step and a line of figures."""
    columns = (
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=done, figures="")
        yield lambda step, figures: progress.update(task, completed=step, figures=figures)


def _prepare(config: TrainConfig, precision: Precision, genome: Genome, place: World) -> Setup:
    """Raises:
    ConfigError: settings that do not fit the genome or the ranks.
    """
    rows, rest = divmod(config.batch_size, place.size)
    if rest:
        raise ConfigError(
            f"--batch-size is over all ranks and must be a multiple of their number: got {config.batch_size} "
            f"for {place.size} ranks"
        )
    if config.micro_batch and rows % config.micro_batch:
        raise ConfigError(
            f"each of {place.size} ranks has {rows} windows of the batch: give a --micro-batch that divides them, "
            f"got {config.micro_batch}"
        )
    model = _MODELS[config.objective](config.model).initialize(config.seed).to(precision.device)
    for network in model.children():
        network.model.context = config.context
    compiled = config.compile == "on" or (config.compile == "auto" and precision.device.type == "cuda")
    if compiled:
        compile_blocks(model)
    micro_batch = config.micro_batch or place.from_first(
        cost.choose_micro_batch(
            rows,
            cost.free_memory(precision.device),
            cost.window_bytes(config.model, config.context, precision.dtype, compiled),
            sum(p.numel() for p in model.parameters()),
        )
    )
    train_windows, held_windows = _windows(config, genome)
    validation_windows = min(config.validation_windows, len(held_windows))
    sampler = WindowSampler(
        train_windows,
        context=config.context,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=place.rank,
        world_size=place.size,
        reverse_complement=config.reverse_complement,
        threads=config.threads,
    )
    validation_sampler = WindowSampler(
        held_windows,
        context=config.context,
        batch_size=min(micro_batch, validation_windows),
        seed=VALIDATION_SEED,
        reverse_complement=False,
        threads=config.threads,
    )
    return Setup(
        genome, train_windows, held_windows, sampler, validation_sampler, validation_windows, model,
        make_optimizer(model, config), precision.gradient_scaler(), micro_batch, compiled,
    )  # fmt: skip


def train(config: TrainConfig, command: str = "nucel.train", place: World = ALONE) -> dict[str, Any]:
    """Carry out a run; returns its summary, the JSON object that `main` prints.

    Raises:
        ConfigError, GenomeError, CheckpointError, OSError: bad input; nothing half-written is left.
        TrainingError: training cannot go on.
    """
    precision = choose_precision(config.device, config.dtype)
    track.require(config.track)
    run = place.from_first(_choose_directory(config) if place.speaks else None)
    with checkpoint.locked(run, _announce) if place.speaks else contextlib.nullcontext():
        return _train(config, command, precision, run, place)


def _train(config: TrainConfig, command: str, precision: Precision, run: Path, place: World) -> dict[str, Any]:
    with place.first_alone():
        genome = _open_genome(config, run)
    setup = _prepare(config, precision, genome, place)
    model, optimizer, scaler = setup.model, setup.optimizer, setup.scaler
    description = _describe(config, precision, setup, command)
    if place.speaks:
        checkpoint.require_space(run, model, config.keep)
        if checkpoint.describes_run(run):
            checkpoint.require_same_run(run, description)
        else:
            checkpoint.write_description(run, description)
    resumed = place.from_first(checkpoint.has_checkpoint(run))
    first, warnings = checkpoint.restore(run, model, optimizer, scaler, precision.device) if resumed else (0, ())
    if (agreed := place.from_first(first)) != first:
        raise CheckpointError(
            f"rank {place.rank} finds an intact checkpoint of step {first}, rank 0 one of step {agreed}: "
            f"do all ranks read the same {run}?"
        )
    if place.speaks:
        for warning in warnings:
            _announce(warning)
        checkpoint.rewind(run, first)
        _banner(config, setup, precision, place, run)
        if resumed:
            console.print(f"  continuing after step {first}")

    last = min(config.steps, config.stop_after or config.steps)
    found, step = None, first
    with contextlib.ExitStack() as stack:
        signals, show, record = stack.enter_context(Signals().noted()), _ignore, _ignore
        if place.speaks:
            show = stack.enter_context(_progress(last, first))
            record = stack.enter_context(track.recording(run, first, config.track))
        loop = Loop(config, setup, precision, place, run, record)
        while step < last:
            loop.step(step)
            step += 1
            stopping = place.any(signals.received is not None)
            at_end = step == last or stopping
            if step % config.log_every == 0 or at_end:
                show(step, loop.log(step))
            if place.speaks and (step % config.validate_every == 0 or step == last):
                found = loop.validate(step)
            if place.speaks and (step % config.save_every == 0 or at_end):
                checkpoint.save(run, step, model, optimizer, scaler, config.keep)
                card.write(run)
            if stopping:
                break
    if not place.speaks:
        return {"interrupted": step < last}
    if step < last:
        console.print(f"{signals.received or 'A signal on another rank'}: saved step {step}; go on with --resume auto")
    elif found is None:  # a finished run was resumed: nothing is new but the summary
        found = validate(model, setup.validation_sampler, setup.validation_windows, precision)
    summary = {
        "step": max(first, step),
        "tokens": max(first, step) * config.batch_size * config.context,
        "tokens_per_s": loop.tokens_per_s and round(loop.tokens_per_s, 1),
        "interrupted": step < last,
        **_summarize(found, setup.validation_windows),
        "skipped_steps": loop.skipped_steps,
        "device": str(precision.device),
        "out": str(run),
    }
    checkpoint.write_summary(run, summary)
    card.write(run)
    _plot(run)
    return checkpoint.finite(summary)


def _ignore(*_figures: Any) -> None:
    """What a rank shows and records that does not speak."""


def _summarize(found: Validation | None, windows: int) -> dict[str, Any]:
    if found is None:
        return {}
    summary = {f"val_{name}": round(value, 6) for name, value in found.figures.items()}
    if found.rtd_logits is not None:
        low, high = bootstrap_auroc(-found.rtd_logits, found.replaced)
        summary |= {"val_rtd_auroc_low": round(low, 6), "val_rtd_auroc_high": round(high, 6)}
    return summary | {"val_windows": windows}


def _plot(run: Path) -> None:
    from .plot import plot_run

    try:
        plot_run(run, run / "loss.png")
    except ModuleNotFoundError as missing:
        console.print(f"No loss.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")


# ---- what a run would take -------------------------------------------------------------------------------------------


def estimate(config: TrainConfig, place: World = ALONE) -> dict[str, Any]:
    """Measure a few steps and say what the run would take; writes nothing.

    Raises:
        As `train`.
    """
    precision = choose_precision(config.device, config.dtype)
    with tempfile.TemporaryDirectory() as folder:
        with place.first_alone():
            genome = _open_genome(config, Path(folder))
        setup = _prepare(config, precision, genome, place)
        loop = Loop(config, setup, precision, place, Path(folder), _ignore)
        if place.speaks:
            _banner(config, setup, precision, place, None)
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


def main(arguments: list[str] | None = None) -> int:
    """Command line: parse, train, print the summary as one JSON object on the last line of stdout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "nucel.train", *arguments])
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["debug", *arguments]
    presets = {name: (preset.__doc__ or "", preset()) for name, preset in PRESETS.items()}
    try:
        config = tyro.extras.overridable_config_cli(
            presets,
            prog="python -m nucel.train",
            description="Pre-train a NucEL pair on a genome. Without a preset's name, debug is taken.",
            args=arguments,
        )
    except ConfigError as error:
        return _fail(error, ALONE)
    with parallel.world() as place:
        try:
            summary = estimate(config, place) if config.dry_run else train(config, command, place)
            place.wait()  # rank 0 has most to do at the end, and torchrun ends it if another leaves in disorder
        except (ConfigError, GenomeError, CheckpointError, HubError, OSError) as error:
            return _fail(error, place)
        except TrainingError as error:
            return _fail(error, place, status=1)
        except RuntimeError as error:
            if place.size == 1 or not parallel.is_lost_connection(error):
                raise
            return _fail(f"lost another rank; go on with --resume auto ({error})", place, status=1)
    if place.speaks:
        print(json.dumps(summary))
    return INTERRUPTED if summary.get("interrupted") else 0


def _fail(error: Exception | str, place: World, status: int = 2) -> int:
    rank = "" if place.speaks else f"rank {place.rank}: "
    console.print(f"{rank}error: {error}", style="red", soft_wrap=True, markup=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
