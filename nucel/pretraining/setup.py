"""What a run is made of before its first step, and how it describes itself: to run.json, and to who watches."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import kernels
from ..genome import demo
from ..genome.fasta import Genome
from ..genome.sampler import WindowSampler
from ..genome.windows import Windows
from ..model.compiled import compile_blocks
from ..model.config import EncoderConfig
from ..objectives.electra import Electra
from ..objectives.mlm import MaskedLM
from ..runs.checkpoint import TrainState
from ..runs.description import GenomeDescription, RunDescription, WindowCounts
from ..runs.directory import RunDirectory
from ..runtime import environment
from ..runtime.cli import console, note
from ..runtime.device import Precision
from ..runtime.distributed import World
from ..runtime.errors import ConfigError, GenomeError
from . import cost
from .config import PRESETS, TrainConfig
from .step import make_optimizer
from .stored import recipe_of, settings_of
from .validation import VALIDATION_SEED

OBJECTIVES = {"electra": Electra, "mlm": MaskedLM}


class Setup(NamedTuple):
    """What a run is made of before its first step."""

    genome: Genome
    train_windows: Windows
    held_windows: Windows
    sampler: WindowSampler
    """This rank's rows."""
    validation_sampler: WindowSampler
    validation_windows: int
    state: TrainState
    precision: Precision
    micro_batch: int
    compiled: bool


def open_genome(config: TrainConfig, run: RunDirectory) -> Genome:
    if config.genome:
        return Genome(config.genome, config.cache_dir, copy_beside=config.cache_dir is None)
    path = run.demo_genome
    if not path.exists():
        console.print(f"No --genome given: generating a demo genome, {path}", markup=False)
        demo.write_demo_genome(path)
    return Genome(path)


def windows_of(config: TrainConfig, genome: Genome) -> tuple[Windows, Windows]:
    """Windows to train on, and those held out.

    Raises:
        GenomeError: there are none; names the presets with smaller windows if that may be why.
    """
    try:
        train, held = Windows.tile(genome, config).hold_out(config.hold_out, config.hold_out_fraction)
    except GenomeError as error:
        sizes = {name: preset().window_bp for name, preset in PRESETS.items()}
        smaller = [f"{name} ({size} bp)" for name, size in sizes.items() if size < config.window_bp]
        if not smaller or genome.lengths.max() > _FEW_WINDOWS * config.window_bp:
            raise
        raise GenomeError(f"{error}. Presets with smaller windows: {', '.join(smaller)}") from None
    return train.weighted(config.genome_weights) if config.genome_weights else train, held


_FEW_WINDOWS = 10
_MANY_EPOCHS = 500
"""The paper's run takes about 50."""


def remarks(config: TrainConfig, setup: Setup) -> list[str]:
    """What a user should know of the settings before a long run, though they work."""
    notes = []
    count, epochs = len(setup.train_windows), config.steps / setup.sampler.steps_per_epoch
    advice = "take a smaller preset, fewer --steps, a smaller --batch-size, or more genome"
    if count < config.batch_size:
        notes.append(
            f"The genome is small for these settings: it has {count} windows to train on, fewer than a batch of "
            f"{config.batch_size}; {advice}"
        )
    elif epochs > _MANY_EPOCHS:
        notes.append(
            f"The genome is small for these settings: the run reads each of its {count} windows {epochs:,.0f} times, "
            f"and may learn them by heart; {advice}"
        )
    if round(config.model.mask_rate * (config.context - 1)) == config.context - 1:
        notes.append(
            f"--model.mask-rate {config.model.mask_rate} masks all {config.context - 1} bases of a window, so that "
            "there is nothing to predict them from; the paper masks 0.15"
        )
    if setup.validation_windows == 1 and config.objective == "electra":
        notes.append(
            "One window is held out, so that the AUROC has no interval; raise --validation-windows or "
            "--hold-out-fraction"
        )
    return notes


def prepare(config: TrainConfig, precision: Precision, genome: Genome, ranks: World) -> Setup:
    """Raises:
    ConfigError: settings that do not fit the genome or the ranks.
    """
    rows, rest = divmod(config.batch_size, ranks.size)
    if rest:
        raise ConfigError(
            f"--batch-size is over all ranks and must be a multiple of their number: got {config.batch_size} "
            f"for {ranks.size} ranks"
        )
    if config.micro_batch and rows % config.micro_batch:
        raise ConfigError(
            f"each of {ranks.size} ranks has {rows} windows of the batch: give a --micro-batch that divides them, "
            f"got {config.micro_batch}"
        )
    model = OBJECTIVES[config.objective](config.model, context=config.context)
    model = model.initialize(config.seed).to(precision.device)
    compiled = config.compile == "on" or (config.compile == "auto" and precision.device.type == "cuda")
    if compiled:
        compile_blocks(model)
    micro_batch = config.micro_batch or ranks.from_first(
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
        rank=ranks.rank,
        world_size=ranks.size,
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
        genome, train_windows, held_windows, sampler, validation_sampler, validation_windows,
        TrainState(model, make_optimizer(model, config), precision.gradient_scaler()), precision, micro_batch, compiled,
    )  # fmt: skip


def describe(config: TrainConfig, setup: Setup, command: str) -> RunDescription:
    """What run.json holds: all that decides the result, and what it was made with."""
    return RunDescription(
        recipe=recipe_of(config, setup.precision),
        genome=GenomeDescription(
            files=[str(path.absolute()) for path in setup.genome.paths],
            fingerprint=setup.genome.fingerprint,
            contigs=len(setup.genome.contigs),
            length_bp=int(setup.genome.lengths.sum()),
        ),
        windows=WindowCounts(train=len(setup.train_windows), held_out=len(setup.held_windows)),
        command=command,
        versions=environment.versions(setup.precision.device),
        settings=settings_of(config),
    )


def banner(config: TrainConfig, setup: Setup, ranks: World, run: RunDirectory | None) -> None:
    device, genome = setup.precision.device, setup.genome
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{device.type}, {torch.get_num_threads()} threads"
    if ranks.size > 1:
        hardware = f"{ranks.size} ranks, each on {hardware}"
    fused = kernels.fused_ops(device)
    plain = [op for op in kernels.OPS if op not in fused]
    paths = []
    if fused:
        paths.append(f"{device.type}'s own: {', '.join(fused)}")
    if plain:
        paths.append(f"PyTorch reference: {', '.join(plain)} (no fused kernel is registered for {device.type})")
    paths.append("blocks compiled" if setup.compiled else "blocks not compiled")

    def size(name: str, shape: EncoderConfig) -> str:
        millions = sum(p.numel() for p in getattr(setup.state.model, name).parameters()) / 1e6
        return f"{name.replace('_', ' ')} {shape.layers} x {shape.width} ({millions:.1f} M)"

    shapes = {"generator": config.model.generator, "discriminator": config.model.discriminator}
    if config.objective == "mlm":
        shapes = {"masked_lm": config.model.discriminator}
    sources = ", ".join(map(str, genome.paths)) if config.genome or run else "demo"
    accumulated = config.batch_size // ranks.size // setup.micro_batch
    rows = {
        "model": ", ".join(size(name, shape) for name, shape in shapes.items()),
        "genome": f"{sources}: {len(genome.contigs)} contig(s), {genome.lengths.sum() / 1e6:.2f} Mb",
        "windows": f"{len(setup.train_windows)} to train on, {len(setup.held_windows)} held out, of "
        f"{config.window_bp} bp; an epoch is {setup.sampler.steps_per_epoch:.1f} steps",
        "budget": f"{config.steps} steps of {config.batch_size} x {config.context} tokens, "
        f"{config.steps / setup.sampler.steps_per_epoch:.1f} epochs",
        "device": f"{hardware}, {str(setup.precision.dtype).removeprefix('torch.')}, micro-batch {setup.micro_batch}"
        + (f", {accumulated} to a step" if accumulated > 1 else ""),
        "kernels": "; ".join(paths),
    }
    if run is not None:
        rows["run"] = str(run)
    for name, text in rows.items():
        console.print(f"  {name:8} {text}", soft_wrap=True, markup=False)
    for remark in remarks(config, setup):
        note(remark)
