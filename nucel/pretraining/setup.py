"""What a run is made of before its first step, and how it describes itself: to run.json, and to who watches."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import kernels
from ..genome import demo
from ..genome.fasta import Genome
from ..genome.records import Records, RecordSampler
from ..genome.sampler import WindowSampler
from ..genome.windows import Windows
from ..model.compiled import compile_blocks
from ..model.config import EncoderConfig
from ..objectives.kinds import OBJECTIVES
from ..objectives.masking import slots_of
from ..runs.description import GenomeDescription, RunDescription, WindowCounts
from ..runs.directory import RunDirectory
from ..runs.state import TrainState
from ..runtime import environment
from ..runtime.cli import console, note
from ..runtime.device import Precision
from ..runtime.distributed import ALONE, World
from ..runtime.errors import ConfigError, GenomeError
from . import cost
from .config import PRESETS, TrainConfig
from .step import make_optimizer
from .stored import recipe_of, settings_of
from .validation import VALIDATION_SEED


class Setup(NamedTuple):
    """What a run is made of before its first step."""

    genome: Genome
    train_windows: Windows | Records
    held_windows: Windows | Records
    sampler: WindowSampler | RecordSampler
    """This rank's rows."""
    validation_sampler: WindowSampler | RecordSampler
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


def windows_of(config: TrainConfig, genome: Genome) -> tuple[Windows | Records, Windows | Records]:
    """Windows, or records, to train on, and those held out.

    Raises:
        GenomeError: there are none; names the presets with smaller windows if that may be why.
    """
    all_windows: Windows | Records
    try:
        if config.window == "record":
            all_windows = Records.of(genome, config, config.drop_gaps)
        else:
            all_windows = Windows.tile(genome, config)
        train, held = all_windows.hold_out(config.hold_out, config.hold_out_fraction)
    except GenomeError as error:
        sizes = {name: preset().window_bp for name, preset in PRESETS.items()}
        smaller = [f"{name} ({size} bp)" for name, size in sizes.items() if size < config.window_bp]
        if config.window == "record" or not smaller or genome.lengths.max() > _FEW_WINDOWS * config.window_bp:
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
    if slots_of(config.context, config.model.mask_rate, config.model.mask_span) == config.context - 1:
        notes.append(
            f"--model.mask-rate {config.model.mask_rate} masks all {config.context - 1} bases of a window, so that "
            "there is nothing to predict them from; the paper masks 0.15"
        )
    if isinstance(setup.train_windows, Records):
        notes += _remarks_on_records(config, setup.train_windows)
    if setup.validation_windows == 1 and config.objective == "electra":
        notes.append(
            "One window is held out, so that the AUROC has no interval; raise --validation-windows or "
            "--hold-out-fraction"
        )
    return notes


def _remarks_on_records(config: TrainConfig, records: Records) -> list[str]:
    longest, room = int(records.lengths.max()), config.context - 1
    if longest < _FILLED * room:
        return [f"The longest record has {longest} bp: much of each row is padding, --context {longest + 1} is enough"]
    if cropped := int((records.lengths > room).sum()):
        return [f"{cropped} of {len(records)} records are longer than {room} bp and are cropped; raise --context"]
    return []


_FILLED = 0.9
"""Of a row, by the longest record."""


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
            cost.window_bytes(config.model, config.context, precision.dtype, compiled, type(model)),
            sum(p.numel() for p in model.parameters()),
        )
    )
    train_windows, held_windows = windows_of(config, genome)
    validation_windows = min(config.validation_windows, len(held_windows))
    sampler = _sampler(train_windows, config, config.batch_size, config.seed, ranks, config.reverse_complement)
    at_once = min(micro_batch, validation_windows)
    validation_sampler = _sampler(held_windows, config, at_once, VALIDATION_SEED, ALONE, False)
    return Setup(
        genome, train_windows, held_windows, sampler, validation_sampler, validation_windows,
        TrainState(model, make_optimizer(model, config), precision.gradient_scaler()), precision, micro_batch, compiled,
    )  # fmt: skip


def _sampler(
    windows: Windows | Records, config: TrainConfig, batch_size: int, seed: int, ranks: World, both_strands: bool
) -> WindowSampler | RecordSampler:
    drawn = (config.context, batch_size, seed, ranks.rank, ranks.size, both_strands, config.threads)
    return RecordSampler(windows, *drawn) if isinstance(windows, Records) else WindowSampler(windows, *drawn)


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


def _lengths(config: TrainConfig, setup: Setup) -> str:
    """How long windows are, in words."""
    if not isinstance(setup.train_windows, Records):
        return f"of {config.window_bp} bp"
    lengths = setup.train_windows.lengths
    return f"records of {lengths.min()} to {lengths.max()} bp"


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

    encoder = config.model.discriminator
    shapes = {
        "electra": {"generator": config.model.generator, "discriminator": encoder},
        "mlm": {"masked_lm": encoder},
        "mae": {"encoder": encoder, "decoder": config.model.decoder},
    }[config.objective]
    sources = ", ".join(map(str, genome.paths)) if config.genome or run else "demo"
    accumulated = config.batch_size // ranks.size // setup.micro_batch
    rows = {
        "model": ", ".join(size(name, shape) for name, shape in shapes.items()),
        "genome": f"{sources}: {len(genome.contigs)} contig(s), {genome.lengths.sum() / 1e6:.2f} Mb",
        "windows": f"{len(setup.train_windows)} to train on, {len(setup.held_windows)} held out, "
        f"{_lengths(config, setup)}; an epoch is {setup.sampler.steps_per_epoch:.1f} steps",
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
