"""What is trained, and how it is run: frozen dataclasses, and the presets as functions.

Every field is a command-line flag of ``python -m nucel.train``. `Recipe` joins the options that decide the result; two
runs with the same recipe on the same genome are the same run, and only such a run can be resumed. `TrainConfig` adds
where and how it is carried out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..genome.windows import WindowOptions
from ..model.config import ElectraConfig, EncoderConfig
from ..objectives.masking import slots_of
from ..runtime.errors import require
from .options import (
    InputOptions,
    MachineOptions,
    ObjectiveOptions,
    OptimizerOptions,
    OutputOptions,
    PrecisionOptions,
    ReadingOptions,
    RunOptions,
)


@dataclass(frozen=True)
class Recipe(PrecisionOptions, OptimizerOptions, ObjectiveOptions, ReadingOptions, WindowOptions):
    """All that decides the result of a run besides the genome. The defaults are the paper's, where it states them."""

    model: ElectraConfig = field(default_factory=ElectraConfig)

    def __post_init__(self) -> None:
        require(self.context >= 2, f"context must be at least 2 ([CLS] and one base), got {self.context}")
        self._require_windows()
        require(
            slots_of(self.context, self.model.mask_rate, self.model.mask_span) >= 1,
            f"mask_rate {self.model.mask_rate} masks no position of a context of {self.context}"
            + (f" in blocks of {self.model.mask_span}" if self.model.mask_span > 1 else "")
            + "; raise one of them",
        )
        require(0 <= self.max_unknown <= 1, f"max_unknown must lie in [0, 1], got {self.max_unknown}")
        require(0 <= self.max_masked <= 1, f"max_masked must lie in [0, 1], got {self.max_masked}")
        require(0 <= self.masked_weight <= 1, f"masked_weight must lie in [0, 1], got {self.masked_weight}")
        require(
            all(0 < w < math.inf for w in self.genome_weights),
            f"genome_weights must be positive and finite, got {self.genome_weights}",
        )
        require(0 <= self.hold_out_fraction < 1, f"hold_out_fraction must lie in [0, 1), got {self.hold_out_fraction}")
        require(
            bool(self.hold_out) or self.hold_out_fraction > 0,
            "validation needs held-out windows: give --hold-out contigs or a --hold-out-fraction above 0",
        )
        for name in ("steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "adam_eps", "max_grad_norm"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be positive and finite, got {value}")
        for name in ("weight_decay", "warmup_steps"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} must be at least 0 and finite, got {value}")
        require(0 <= self.seed < 2**63, f"seed must lie in [0, 2^63), got {self.seed}")
        require(all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), got {self.betas}")

    def _require_windows(self) -> None:
        if self.window == "record":
            require(
                self.keep_bed is None and self.drop_bed is None,
                "--window record takes whole records, not regions: choose records with --contigs in place of "
                "--keep-bed and --drop-bed",
            )
            return
        require(
            not self.drop_gaps,
            "--drop-gaps changes where bases lie, which windows that tile contigs rely on: "
            "give --window record with it, or remove the gaps from the file",
        )
        require(
            self.window_bp >= self.context - 1,
            f"window_bp must be at least context - 1 = {self.context - 1}, got {self.window_bp}",
        )
        require(
            0 <= self.overlap_bp < self.window_bp,
            f"overlap_bp must lie in [0, window_bp = {self.window_bp}), got {self.overlap_bp}",
        )


@dataclass(frozen=True)
class TrainConfig(MachineOptions, RunOptions, OutputOptions, InputOptions, Recipe):
    """A recipe, and where and how it is carried out: none of the other options changes what is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("validate_every", "validation_windows", "save_every", "keep", "log_every", "max_skipped"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("stop_after", "micro_batch", "threads", "extend_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(
            self.extend_steps is None or self.resume is not None,
            "--extend-steps trains a finished run on: name it with --resume",
        )
        require(
            self.micro_batch is None or self.batch_size % self.micro_batch == 0,
            f"batch_size must be a multiple of micro_batch, got {self.batch_size} and {self.micro_batch}",
        )
        require(
            not self.genome_weights or len(self.genome_weights) == max(1, len(self.genome)),
            f"genome_weights must be one for each --genome, got {len(self.genome_weights)} for {len(self.genome)}",
        )


def debug() -> TrainConfig:
    """A pair of 1 M parameters that learns the demo genome within a minute or two on a laptop's CPU."""
    return TrainConfig(
        model=ElectraConfig(
            generator=EncoderConfig(layers=2, width=64, heads=2, intermediate=128, init_std=0.05),
            discriminator=EncoderConfig(layers=4, width=128, heads=4, intermediate=256, init_std=0.05),
        ),
        context=256,
        window_bp=320,
        overlap_bp=32,
        hold_out_fraction=0.1,
        steps=320,
        batch_size=16,
        lr=2e-3,
        warmup_steps=40,
        decay="linear",
        validate_every=50,
        validation_windows=128,
        save_every=160,
        log_every=10,
    )


def small() -> TrainConfig:
    """A few million parameters: a bacterium on two idle cores within half an hour (--dtype bf16), or a small GPU."""
    return TrainConfig(
        model=ElectraConfig(
            generator=EncoderConfig(layers=3, width=128, heads=4, intermediate=256, init_std=0.04),
            discriminator=EncoderConfig(layers=4, width=256, heads=8, intermediate=512, init_std=0.03),
        ),
        context=512,
        window_bp=640,
        overlap_bp=64,
        hold_out_fraction=0.05,
        steps=1000,
        batch_size=16,
        lr=1e-3,
        warmup_steps=100,
        decay="linear",
        validate_every=250,
        validation_windows=256,
        save_every=500,
        log_every=20,
    )


def base() -> TrainConfig:
    """The paper's pair (93 M + 12 M parameters) and recipe; 700,000 steps are about 50 epochs of the human genome."""
    return TrainConfig()


def barcode() -> TrainConfig:
    """BarcodeMAE's sizes and optimizer, 6 + 6 layers of width 768, for FASTA files of DNA barcodes; on a GPU."""
    # Of the published recipe are the sizes, AdamW's rate (1e-4 for a batch of 64) and decay, and the masks. Its
    # one-cycle schedule is a warm-up over 30 % of the steps and a cosine to 0; the first moment's decay is not cycled.
    # Its 45 epochs are these steps for 64,000 records. The gated unit's inner width of 2048 has as many weights as an
    # ungated one of 3072.
    encoder = EncoderConfig(layers=6, width=768, heads=6, intermediate=2048)
    return _barcodes(
        model=ElectraConfig(
            generator=EncoderConfig(layers=6, width=192, heads=3, intermediate=512),
            discriminator=encoder,
            decoder=encoder,
            mask_rate=0.5,
            mask_span=6,
        ),
        steps=45_000,
        batch_size=64,
        lr=1e-4,
        warmup_steps=13_500,
    )


def barcode_small() -> TrainConfig:
    """A masked autoencoder of 4 + 2 layers of width 256 for DNA barcodes, on a CPU."""
    return _barcodes(
        model=ElectraConfig(
            generator=EncoderConfig(layers=2, width=128, heads=4, intermediate=256, init_std=0.04),
            discriminator=EncoderConfig(layers=4, width=256, heads=4, intermediate=512, init_std=0.03),
            decoder=EncoderConfig(layers=2, width=256, heads=4, intermediate=512, init_std=0.03),
            mask_rate=0.5,
            mask_span=6,
        ),
        steps=1500,
        batch_size=32,
        lr=1e-3,
        warmup_steps=300,
        validate_every=250,
        validation_windows=256,
        save_every=500,
        log_every=20,
    )


def _barcodes(**settings: Any) -> TrainConfig:
    """What both presets for barcodes share. Barcodes are written on one strand, so none is read from the other."""
    return TrainConfig(
        objective="mae",
        context=661,
        window="record",
        drop_gaps=True,
        hold_out_fraction=0.05,
        reverse_complement=False,
        weight_decay=1e-5,
        decay="cosine",
        **settings,
    )


PRESETS = {"debug": debug, "small": small, "base": base, "barcode": barcode, "barcode-small": barcode_small}
