"""One pre-training run, from a configuration to published weights."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import kernels
from ..genome import demo
from ..genome.fasta import Genome
from ..genome.sampler import WindowSampler
from ..genome.windows import Windows
from ..model.compiled import compile_blocks
from ..model.config import EncoderConfig
from ..objectives.electra import Electra
from ..objectives.mlm import MaskedLM
from ..runs import card, checkpoint, log
from ..runs.directory import GenomeDescription, RunDescription, RunDirectory, WindowCounts
from ..runtime import environment, files
from ..runtime.cli import console, note
from ..runtime.device import DTYPES, Precision, choose_precision
from ..runtime.distributed import ALONE, World
from ..runtime.errors import CheckpointError, ConfigError
from . import cost
from .config import Recipe, TrainConfig
from .loop import Loop, Setup, Signals
from .meter import bootstrap_auroc
from .step import make_optimizer
from .validation import VALIDATION_SEED, Validation, validate

_MODELS = {"electra": Electra, "mlm": MaskedLM}


def choose_directory(config: TrainConfig) -> RunDirectory:
    """The run directory; a run that has a checkpoint in it is to be continued.

    Raises:
        ConfigError, CheckpointError: the directory does not fit what was asked for.
    """
    if config.resume is None:
        run = RunDirectory(config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"))
        _require_unused(run, "continue the run in it with --resume auto, or choose another directory")
        return run
    if config.resume == "auto":
        if config.out is None:
            raise ConfigError("--resume auto needs --out, the run directory to continue or to start")
        run = RunDirectory(config.out)
        if not run.describes_run():
            _require_unused(run, "it does not hold a run; choose another directory")
        return run
    run = RunDirectory(Path(config.resume))
    if config.out is not None and config.out.resolve() != run.path.resolve():
        raise ConfigError(f"--resume {run} continues in that directory; leave out --out {config.out}")
    if not run.describes_run() or not run.has_checkpoint():
        raise CheckpointError(f"--resume {run}: there is no run with a checkpoint in that directory")
    return run


def _require_unused(run: RunDirectory, advice: str) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise CheckpointError(f"{run} is a file; give a directory")
    if not run.is_unused():
        raise CheckpointError(f"{run} is not empty; {advice}")


def open_genome(config: TrainConfig, run: RunDirectory) -> Genome:
    if config.genome:
        return Genome(config.genome, copy_beside=not config.dry_run)
    path = run.demo_genome
    if not path.exists():
        console.print(f"No --genome given: generating a demo genome, {path}", markup=False)
        demo.write_demo_genome(path)
    return Genome(path)


def windows_of(config: TrainConfig, genome: Genome) -> tuple[Windows, Windows]:
    """Windows to train on, and those held out."""
    train, held = Windows.choose(genome, config).hold_out(config.hold_out, config.hold_out_fraction)
    return train.weighted(config.genome_weights) if config.genome_weights else train, held


def _describe(config: TrainConfig, precision: Precision, setup: Setup, command: str) -> RunDescription:
    """What run.json holds: all that decides the result, and what it was made with."""
    recipe = {field.name: getattr(config, field.name) for field in dataclasses.fields(Recipe)}
    recipe["model"] = dataclasses.asdict(config.model)
    # A region's file may change its content, and a path its meaning.
    for bed in ("keep_bed", "drop_bed"):
        if path := recipe[bed]:
            recipe[bed] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    recipe["dtype"] = next(name for name, dtype in DTYPES.items() if dtype == precision.dtype)
    return RunDescription(
        recipe=recipe,
        genome=GenomeDescription(
            files=[str(path) for path in setup.genome.paths],
            fingerprint=setup.genome.fingerprint,
            contigs=len(setup.genome.contigs),
            length_bp=int(setup.genome.lengths.sum()),
        ),
        windows=WindowCounts(train=len(setup.train_windows), held_out=len(setup.held_windows)),
        command=command,
        versions=environment.versions(precision.device),
    )


def banner(config: TrainConfig, setup: Setup, precision: Precision, place: World, run: RunDirectory | None) -> None:
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


def prepare(config: TrainConfig, precision: Precision, genome: Genome, place: World) -> Setup:
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
    model = _MODELS[config.objective](config.model, context=config.context)
    model = model.initialize(config.seed).to(precision.device)
    compiled = config.compile == "on" or (config.compile == "auto" and precision.device.type == "cuda")
    if compiled:
        compile_blocks(model)
    micro_batch = config.micro_batch or place.from_first(
        cost.choose_micro_batch(
            rows,
            environment.free_memory(precision.device),
            cost.window_bytes(config.model, config.context, precision.dtype, compiled),
            sum(p.numel() for p in model.parameters()),
        )
    )
    train_windows, held_windows = windows_of(config, genome)
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
    log.require(config.track)
    run = place.from_first(choose_directory(config) if place.speaks else None)
    with run.locked(note) if place.speaks else contextlib.nullcontext():
        return _train(config, command, precision, run, place)


def _train(config: TrainConfig, command: str, precision: Precision, run: RunDirectory, place: World) -> dict[str, Any]:
    with place.first_alone():
        genome = open_genome(config, run)
    setup = prepare(config, precision, genome, place)
    state = checkpoint.TrainState(setup.model, setup.optimizer, setup.scaler)
    description = _describe(config, precision, setup, command)
    if place.speaks:
        checkpoint.require_space(run, setup.model, config.keep)
        if run.describes_run():
            run.require_same_run(description)
        else:
            run.write_description(description)
    resumed = place.from_first(run.has_checkpoint())
    first, warnings = checkpoint.restore(run, state, precision.device) if resumed else (0, ())
    if (agreed := place.from_first(first)) != first:
        raise CheckpointError(
            f"rank {place.rank} finds an intact checkpoint of step {first}, rank 0 one of step {agreed}: "
            f"do all ranks read the same {run}?"
        )
    if place.speaks:
        for warning in (*warnings, *checkpoint.rewind(run, first)):
            note(warning)
        banner(config, setup, precision, place, run)
        if resumed:
            console.print(f"  continuing after step {first}")

    last = min(config.steps, config.stop_after or config.steps)
    found, step = None, first
    with contextlib.ExitStack() as stack:
        signals, show, record = stack.enter_context(Signals().noted()), _ignore, _ignore
        if place.speaks:
            show = stack.enter_context(_progress(last, first))
            record = stack.enter_context(log.recording(run, first, config.track))
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
                checkpoint.save(run, step, state, config.keep)
                card.write(run)
            if stopping:
                break
    if not place.speaks:
        return {"interrupted": step < last}
    if step < last:
        console.print(f"{signals.received or 'A signal on another rank'}: saved step {step}; go on with --resume auto")
    elif found is None:  # a finished run was resumed: nothing is new but the summary
        found = validate(setup.model, setup.validation_sampler, setup.validation_windows, precision)
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
    run.write_summary(summary)
    card.write(run)
    _plot(run)
    return files.finite(summary)


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


def _plot(run: RunDirectory) -> None:
    from ..runs.curves import plot_run

    try:
        plot_run(run)
    except CheckpointError as error:  # a finished run was resumed, and its metrics are lost
        note(f"No loss.png: {error}")
    except ModuleNotFoundError as missing:
        console.print(f"No loss.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")
