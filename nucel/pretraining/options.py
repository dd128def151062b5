"""The settings of a training run, in the groups in which ``python -m nucel.train PRESET --help`` shows them.

`pretraining.config` joins them into one flat configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# ---- what decides the result -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadingOptions:
    """Which windows are kept for validation, and how windows are read."""

    hold_out: tuple[str, ...] = ()
    """Contigs kept for validation, by name or glob."""
    hold_out_fraction: float = 0.01
    """Share of the windows kept for validation, in contiguous blocks, besides the contigs of --hold-out."""
    window: Literal["tile", "record"] = "tile"
    """tile: windows of one length that cover the contigs. record: one window for each record of files of short
    sequences, at its own length; a record of more than --context tokens is cropped."""
    drop_gaps: bool = False
    """With --window record: remove the gaps (-) of aligned sequences. Otherwise they read as unknown bases."""
    reverse_complement: Annotated[bool, tyro.conf.arg(name="augment-reverse-complement")] = True
    """Read each window from either strand with equal chance; not stated in the paper."""


@dataclass(frozen=True)
class ObjectiveOptions:
    """What is learned, and from which weights."""

    objective: Literal["electra", "mlm", "mae"] = "electra"
    """electra trains the pair; mlm, its control, the discriminator's encoder on masked bases alone; mae the same
    encoder as a masked autoencoder, which sees what is not masked alone."""
    init_from: Path | None = None
    """Begin with the weights of a run or of a folder with its model directories, instead of new ones."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer, and its schedule."""

    steps: int = 700_000
    """Optimizer steps of the whole schedule."""
    batch_size: int = 192
    """Windows per optimizer step, over all ranks and micro-batches."""
    lr: float = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices (never of norms and biases); not stated in the paper."""
    warmup_steps: int = 1000
    """Steps of linear warm-up from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate from warm-up to the last step; linear and cosine end at 0. Not stated in the paper."""
    max_grad_norm: float = 1.0
    """Gradients of both networks together are scaled down to this norm."""
    seed: int = 0
    """Random seed of weights, windows, masks and sampled bases."""


@dataclass(frozen=True)
class PrecisionOptions:
    """The precision of the arithmetic."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; auto is bf16 on a GPU and fp32 on a CPU. Weights are always fp32."""


# ---- where and how it is carried out ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputOptions:
    """The files of bases."""

    genome: tuple[Path, ...] = ()
    """FASTA files, plain or gzip / bgzip, or folders of them. Without one a small demo genome is generated."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""


@dataclass(frozen=True)
class RunOptions:
    """Where a run begins and ends."""

    resume: str | None = None
    """A run directory to continue, by its own recipe and genome; or "auto": continue the run in --out, or start it."""
    extend_steps: int | None = None
    """With --resume: train a finished run for so many more steps, on the schedule of a run of all its steps."""
    stop_after: int | None = None
    """Stop after this step with a checkpoint; the schedule stays that of --steps."""
    dry_run: bool = False
    """Measure a few steps, print what the run would take (tokens, epochs, hours), and write nothing."""
    max_skipped: int = 20
    """Stop after so many steps in a row whose loss or gradient is not finite; each of them is skipped."""


@dataclass(frozen=True)
class OutputOptions:
    """Where a run is written, and how often it is validated, saved and logged."""

    out: Path | None = None
    """Run directory; by default runs/ and a time stamp."""
    validate_every: int = 1000
    """Steps between validations; one always follows the last step."""
    validation_windows: int = 1024
    """Held-out windows per validation, the same ones each time (fewer where fewer are held out)."""
    save_every: int = 1000
    """Steps between checkpoints; one always follows the last step."""
    keep: int = 2
    """Checkpoints kept."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    track: bool = False
    """Also write what metrics.jsonl gets for TensorBoard, into the folder tensorboard of the run directory."""


@dataclass(frozen=True)
class MachineOptions:
    """Device, memory and threads."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."""
    micro_batch: int | None = None
    """Windows per forward and backward pass of a rank; gradients are accumulated. By default as many as fit."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks with torch.compile; auto does so on a GPU."""
    threads: int | None = None
    """Threads of the sampler; by default the CPUs this process may use."""
