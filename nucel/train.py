"""Pre-train a NucEL pair on a genome: ``python -m nucel.train [debug|small|base] --genome FILE... --out DIR``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from . import checkpoint, demo, kernels
from .checkpoint import CheckpointError
from .config import PRESETS, ConfigError, Recipe, TrainConfig
from .device import DTYPES, Precision, choose_precision
from .electra import Electra
from .genome import Genome, GenomeError, Windows, WindowSampler
from .hub import HubError
from .metrics import Meter, RankedScores, bootstrap_auroc

_VALIDATION_SEED = 0
"""Validation uses the same windows, masks and draws in every run, so that runs can be compared."""

console = Console(stderr=True, highlight=False)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of the update that leads from `step` (0-based) to the next: linear warm-up from 0, then recipe.decay.

    Linear and cosine decay reach 0 after the last step.
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    match recipe.decay:
        case "constant":
            return recipe.lr
        case "linear":
            return recipe.lr * (1 - progress)
        case "cosine":
            return recipe.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(electra: Electra, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, never on norms and biases."""
    parameters = list(electra.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.adam_eps, fused=True)


# ---- one step and one validation -------------------------------------------------------------------------------------


def train_step(
    electra: Electra,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    recipe: Recipe,
    tokens: Tensor,
    step: int,
    micro_batch: int,
    meter: Meter,
) -> None:
    """One optimizer step on tokens (B, T), without host synchronisation; its figures go to the meter.

    The batch's loss is the mean of its micro-batches' losses.
    """
    rows = torch.arange(step * len(tokens), (step + 1) * len(tokens), device=tokens.device)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    for part, part_rows in zip(tokens.split(micro_batch), rows.split(micro_batch), strict=True):
        with precision.autocast():
            losses = electra(part, recipe.seed, part_rows)
        scaler.scale(losses.loss * (len(part) / len(tokens))).backward()
        meter.add(losses)
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(electra.parameters(), recipe.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


class Validation(NamedTuple):
    """What a validation finds."""

    figures: dict[str, float]
    rtd_logits: Tensor
    """(windows, T)."""
    replaced: Tensor
    """bool (windows, T)."""


@torch.no_grad()
def validate(electra: Electra, sampler: WindowSampler, windows: int, precision: Precision) -> Validation:
    """Losses and replaced-token detection over the first `windows` rows of a held-out sampler, the same each time."""
    electra.eval()
    meter, logits, replaced = Meter(precision.device), [], []
    for step in range(math.ceil(windows / sampler.rows)):
        first = step * sampler.rows
        tokens = _upload(sampler.batch(step).tokens[: windows - first], precision.device)
        rows = torch.arange(first, first + len(tokens), device=precision.device)
        with precision.autocast():
            losses = electra(tokens, _VALIDATION_SEED, rows)
        meter.add(losses)
        logits.append(losses.rtd_logits.float().cpu())
        replaced.append(~losses.corrupted.original.cpu())
    electra.train()

    logits, replaced = torch.cat(logits), torch.cat(replaced)
    ranked = RankedScores(-logits.flatten(), replaced.flatten())
    exact = {"rtd_auroc": ranked.auroc(), "rtd_average_precision": ranked.average_precision()}
    figures = meter.read() | exact
    return Validation(figures, logits, replaced)


# ---- the run ---------------------------------------------------------------------------------------------------------


def _choose_directory(config: TrainConfig) -> tuple[Path, bool]:
    """The run directory, and whether a run in it is continued.

    Raises:
        ConfigError, CheckpointError: the directory does not fit what was asked for.
    """
    if config.resume is None:
        run = config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
        _require_unused(run, "continue the run in it with --resume auto, or choose another directory")
        return run, False
    if config.resume == "auto":
        if config.out is None:
            raise ConfigError("--resume auto needs --out, the run directory to continue or to start")
        if not checkpoint.describes_run(config.out):
            _require_unused(config.out, "it holds no run; choose another directory")
        return config.out, checkpoint.has_checkpoint(config.out)
    run = Path(config.resume)
    if config.out is not None and config.out.resolve() != run.resolve():
        raise ConfigError(f"--resume {run} continues in that directory; leave out --out {config.out}")
    if not checkpoint.describes_run(run) or not checkpoint.has_checkpoint(run):
        raise CheckpointError(f"--resume {run}: there is no run with a checkpoint in that directory")
    return run, True


def _require_unused(run: Path, advice: str) -> None:
    if run.exists() and not run.is_dir():
        raise CheckpointError(f"{run} is a file; give a directory")
    if run.exists() and any(run.iterdir()):
        raise CheckpointError(f"{run} is not empty; {advice}")


@contextlib.contextmanager
def _removed_on_failure(run: Path) -> Iterator[None]:
    """Leave no directory behind when a run cannot even begin."""
    existed = run.exists()
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(run, ignore_errors=True)
        raise


def _open_genome(config: TrainConfig, run: Path) -> Genome:
    if config.genome:
        return Genome(config.genome)
    path = run / "demo.fa"
    if not path.exists():
        console.print(f"No --genome given: generating a demo genome, {path}")
        run.mkdir(parents=True, exist_ok=True)
        demo.write_demo_genome(path)
    return Genome(path)


def _windows(config: TrainConfig, genome: Genome) -> tuple[Windows, Windows]:
    """Windows to train on, and those held out."""
    train, held = Windows.choose(genome, config).hold_out(config.hold_out, config.hold_out_fraction)
    return train.weighted(config.genome_weights) if config.genome_weights else train, held


def _describe(config: TrainConfig, precision: Precision, genome: Genome, command: str) -> dict[str, Any]:
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
        "genome": {"files": [str(path) for path in genome.paths], "fingerprint": genome.fingerprint},
        "command": command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _require_space(run: Path, electra: Electra) -> None:
    """Refuse to start what could not be saved: weights and two moments, fp32, twice while one replaces another."""
    needed = 2 * 3 * 4 * sum(p.numel() for p in electra.parameters())
    free = shutil.disk_usage(run).free
    if free < needed:
        raise CheckpointError(
            f"{run} has {free / 2**20:.0f} MiB free, and its checkpoints need {needed / 2**20:.0f} MiB; "
            "free some space or choose another --out"
        )


def _banner(
    config: TrainConfig,
    electra: Electra,
    genome: Genome,
    train: Windows,
    held: Windows,
    precision: Precision,
    run: Path,
) -> None:
    device = precision.device
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{device.type}, {torch.get_num_threads()} threads"
    fused = kernels.fused_ops(device)
    plain = [op for op in kernels.OPS if op not in fused]
    paths = []
    if fused:
        paths.append(f"fused for {device.type}: {', '.join(fused)}")
    if plain:
        paths.append(f"PyTorch reference: {', '.join(plain)} (no fused kernel is registered for {device.type})")

    def size(network: str) -> str:
        shape, module = getattr(config.model, network), getattr(electra, network)
        millions = sum(p.numel() for p in module.parameters()) / 1e6
        return f"{network} {shape.layers} x {shape.width} ({millions:.1f} M)"

    steps_per_epoch = len(train) / config.batch_size
    rows = {
        "model": f"{size('generator')}, {size('discriminator')}",
        "genome": f"{', '.join(str(p) for p in genome.paths)}: {len(genome.contigs)} contig(s), "
        f"{genome.lengths.sum() / 1e6:.2f} Mb",
        "windows": f"{len(train)} to train on, {len(held)} held out, of {config.window_bp} bp; "
        f"an epoch is {steps_per_epoch:.1f} steps",
        "budget": f"{config.steps} steps of {config.batch_size} x {config.context} tokens, "
        f"{config.steps / steps_per_epoch:.1f} epochs",
        "device": f"{hardware}, {str(precision.dtype).removeprefix('torch.')}",
        "kernels": "; ".join(paths),
        "run": str(run),
    }
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


def _upload(tokens: np.ndarray, device: torch.device) -> Tensor:
    """A batch on the device; to a GPU from pinned memory, so that the host need not wait."""
    batch = torch.from_numpy(tokens)
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


class Stopwatch:
    """Time spent in training steps alone, validation and saving left out."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def train(config: TrainConfig, command: str = "nucel.train") -> dict[str, Any]:
    """Carry out a run; returns its summary, the JSON object that `main` prints.

    Raises:
        ConfigError, GenomeError, CheckpointError, OSError: bad input; nothing half-written is left.
    """
    precision = choose_precision(config.device, config.dtype)
    device = precision.device
    run, resumed = _choose_directory(config)
    micro_batch = config.micro_batch or config.batch_size
    with _removed_on_failure(run):
        genome = _open_genome(config, run)
        train_windows, held_windows = _windows(config, genome)
        sampler = WindowSampler(
            train_windows,
            context=config.context,
            batch_size=config.batch_size,
            seed=config.seed,
            reverse_complement=config.reverse_complement,
            threads=config.threads,
        )
        validation_windows = min(config.validation_windows, len(held_windows))
        validation_sampler = WindowSampler(
            held_windows,
            context=config.context,
            batch_size=min(micro_batch, validation_windows),
            seed=_VALIDATION_SEED,
            reverse_complement=False,
            threads=config.threads,
        )
        electra = Electra(config.model).initialize(config.seed).to(device)
        for network in (electra.generator, electra.discriminator):
            network.model.context = config.context
        optimizer = make_optimizer(electra, config)
        scaler = precision.gradient_scaler()
        description = _describe(config, precision, genome, command)
        run.mkdir(parents=True, exist_ok=True)
        _require_space(run, electra)
        if checkpoint.describes_run(run):
            checkpoint.require_same_run(run, description)
        else:
            checkpoint.write_description(run, description)
    first = checkpoint.restore(run, electra, optimizer, scaler, device) if resumed else 0
    checkpoint.forget_metrics_after(run, first)

    _banner(config, electra, genome, train_windows, held_windows, precision, run)
    if resumed:
        console.print(f"  continuing after step {first}")
    last = min(config.steps, config.stop_after or config.steps)
    tokens_per_step = config.batch_size * config.context
    watch, logged, seconds_logged = Stopwatch(), first, 0.0
    meter = Meter(device)

    def report_validation(step: int) -> Validation:
        found = validate(electra, validation_sampler, validation_windows, precision)
        checkpoint.append_metrics(run, {"step": step, "split": "validation", **found.figures})
        f = found.figures
        console.print(
            f"step {step}: held-out generator loss {f['generator_loss']:.4f}, "
            f"RTD loss {f['rtd_loss']:.4f} (blind {f['rtd_blind']:.4f}), AUROC {f['rtd_auroc']:.4f}",
            soft_wrap=True,
        )
        return found

    found = None
    with _progress(last, first) as show:
        for step in range(first, last):
            with watch.running():
                tokens = _upload(sampler.batch(step).tokens, device)
                train_step(electra, optimizer, scaler, precision, config, tokens, step, micro_batch, meter)
                done = step + 1
                if done % config.log_every == 0 or done == last:
                    figures = meter.read()  # waits for the device, so that the watch is right
            if done % config.log_every == 0 or done == last:
                rate = (done - logged) * tokens_per_step / (watch.seconds - seconds_logged)
                logged, seconds_logged = done, watch.seconds
                line = {"step": done, "split": "train", **figures, "lr": learning_rate(config, step)}
                checkpoint.append_metrics(run, {**line, "tokens_per_s": rate})
                show(
                    done,
                    f"generator {figures['generator_loss']:.3f} RTD {figures['rtd_loss']:.4f} "
                    f"AUROC {figures['rtd_auroc']:.3f} {rate:,.0f} tokens/s",
                )
            if done % config.validate_every == 0 or done == last:
                found = report_validation(done)
            if done % config.save_every == 0 or done == last:
                checkpoint.save(run, done, electra, optimizer, scaler, config.keep)
    if found is None:  # a finished run was resumed: nothing is new but the summary
        found = validate(electra, validation_sampler, validation_windows, precision)

    low, high = bootstrap_auroc(-found.rtd_logits, found.replaced)
    _plot(run)
    summary = {
        "step": max(first, last),
        "tokens": max(first, last) * tokens_per_step,
        "tokens_per_s": round((last - first) * tokens_per_step / watch.seconds, 1) if last > first else None,
        **{f"val_{name}": round(value, 6) for name, value in found.figures.items()},
        "val_rtd_auroc_low": round(low, 6),
        "val_rtd_auroc_high": round(high, 6),
        "val_windows": validation_windows,
        "device": str(device),
        "out": str(run),
    }
    return checkpoint.finite(summary)


def _plot(run: Path) -> None:
    from .plot import plot_run

    try:
        plot_run(run, run / "loss.png")
    except ModuleNotFoundError as missing:
        console.print(f"No loss.png: {missing.name} is not installed (pip install 'nucel\\[plots]')")


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
        summary = train(config, command)
    except (ConfigError, GenomeError, CheckpointError, HubError, OSError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
