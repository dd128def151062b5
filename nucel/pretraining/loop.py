"""Runs optimizer steps, logs metrics, and explains when it must stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ..genome.fasta import Genome
from ..genome.sampler import WindowSampler
from ..genome.windows import Windows
from ..objectives.electra import Electra
from ..objectives.mlm import MaskedLM
from ..runs import log
from ..runs.directory import RunDirectory
from ..runtime import files
from ..runtime.cli import console
from ..runtime.device import Precision
from ..runtime.distributed import World
from ..runtime.errors import TrainingError
from . import cost
from .config import TrainConfig
from .meter import Meter
from .step import Guard, Skipped, learning_rate, train_step, upload
from .validation import Validation, validate


class Stopwatch:
    """Time spent in training steps alone, validation and saving left out."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


class Signals:
    """Notes SIGTERM and SIGINT for the length of a block, so that a step can be finished; a second one interrupts."""

    def __init__(self) -> None:
        self.received: str | None = None

    @contextlib.contextmanager
    def noted(self) -> Iterator[Signals]:
        def note(number: int, _frame: Any) -> None:
            if self.received:
                raise KeyboardInterrupt
            self.received = signal.Signals(number).name

        # Only a process's main thread may do this; elsewhere, signals are whoever runs us's business.
        try:
            before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Setup(NamedTuple):
    """What a run is made of before its first step."""

    genome: Genome
    train_windows: Windows
    held_windows: Windows
    sampler: WindowSampler
    """This rank's rows."""
    validation_sampler: WindowSampler
    validation_windows: int
    model: Electra | MaskedLM
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    micro_batch: int
    compiled: bool


class Loop:
    """The repeated part of a run: steps, and what is told of them."""

    def __init__(
        self,
        config: TrainConfig,
        setup: Setup,
        precision: Precision,
        place: World,
        run: RunDirectory,
        record: Callable[[dict[str, Any]], None],
    ):
        """record takes each line of metrics."""
        self.config, self.setup, self.precision, self.place, self.run = config, setup, precision, place, run
        self.record = record
        device = precision.device
        self.parallel = place.exchange_gradients(setup.model, device)
        self.meter, self.guard = Meter(device), Guard(device)
        self.watch = Stopwatch()
        self.tokens_per_s: float | None = None
        """Over all ranks and the whole session, but for its first step, which compiles kernels."""
        self.skipped_steps = sum(line.get("skipped_steps") or 0 for line in log.read_metrics(run))
        """Of the whole run, sessions before this one included."""
        self._steps, self._logged = 0, (0, 0.0)
        self._tokens_per_step = config.batch_size * config.context
        self._flops_per_token = self._peak = None
        if device.type == "cuda":
            self._flops_per_token = (
                cost.training_flops(type(setup.model), config.model, config.context) / config.context
            )
            self._peak = cost.product_rate(device, precision.dtype) * place.size
        self._ahead = None

    def step(self, step: int) -> None:
        """Carry out a step, and prepare the next one's windows while the device is busy."""
        config, setup, device = self.config, self.setup, self.precision.device
        started = time.perf_counter()
        with self.watch.running():
            tokens = upload(setup.sampler.batch(step).tokens, device) if self._ahead is None else self._ahead
            try:
                train_step(
                    self.parallel, setup.optimizer, setup.scaler, self.precision, config, tokens, step,
                    setup.micro_batch, self.meter, self.guard, self.place.rank * setup.sampler.rows,
                )  # fmt: skip
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise TrainingError(
                    f"out of memory with --micro-batch {setup.micro_batch} of {config.context} tokens; "
                    f"give a smaller one, it changes the result by rounding alone. ({str(error).splitlines()[0]})"
                ) from None
            self._ahead = upload(setup.sampler.batch(step + 1).tokens, device)
        self._steps += 1
        if self._steps == 1:
            self._wait()
            if setup.compiled and self.place.speaks:
                seconds = time.perf_counter() - started
                console.print(f"  compiled in {seconds:.0f} s (kept on disk: the next run starts sooner)")
            self.watch.seconds = 0.0
            self._logged = (1, 0.0)

    def _wait(self) -> None:
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize(self.precision.device)

    def log(self, step: int) -> str:
        """Write a line of metrics and return what the bar shows.

        Raises:
            TrainingError: too many steps in a row were not finite.
        """
        with self.watch.running():  # reading waits for the device, and what it waits for is training
            figures = self.meter.read(self.place.add)
        skipped = self.guard.read()
        if skipped.longest >= self.config.max_skipped:
            raise TrainingError(self._explain(skipped))
        line = {"step": step, "split": "train", **figures, "lr": learning_rate(self.config, step - 1)}
        line |= {"skipped_steps": skipped.steps, **self._speed()}
        self.record(line)
        self.skipped_steps += skipped.steps
        return _bar_text(line, self.skipped_steps)

    def _speed(self) -> dict[str, float]:
        """Tokens per second since the last line; of a GPU also the share of its product rate, and peak memory."""
        steps, seconds = self._logged
        self._logged = (self._steps, self.watch.seconds)
        figures = {}
        if self._steps > steps:
            rate = (self._steps - steps) * self._tokens_per_step / (self.watch.seconds - seconds)
            self.tokens_per_s = (self._steps - 1) * self._tokens_per_step / self.watch.seconds
            figures["tokens_per_s"] = rate
            if self._peak is not None:
                figures["mfu"] = rate * self._flops_per_token / self._peak
        if self.precision.device.type == "cuda":
            figures["memory_mib"] = torch.cuda.max_memory_allocated(self.precision.device) / 2**20
        return figures

    def _explain(self, skipped: Skipped) -> str:
        """Which windows the last step had that was not finite."""
        whole = WindowSampler(
            self.setup.train_windows,
            context=self.config.context,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            reverse_complement=self.config.reverse_complement,
        )
        batch = whole.batch(skipped.last)
        names = [self.setup.genome.contigs[contig] for contig in batch.contig]
        path = self.run.not_finite
        if self.place.speaks:
            rows = (
                f"{name}\t{start}\t{start + self.config.context - 1}\t{'-' if strand < 0 else '+'}\n"
                for name, start, strand in zip(names, batch.start_bp, batch.strand, strict=True)
            )
            files.write_text(path, "contig\tstart\tend\tstrand\n" + "".join(rows))
        return (
            f"{skipped.longest} steps in a row had a loss or gradient that is not finite and were skipped "
            f"(--max-skipped {self.config.max_skipped}). The last was step {skipped.last + 1}, whose windows are in "
            f"{path}, the first being {names[0]}:{batch.start_bp[0]}. The weights are those before; the newest "
            "checkpoint is intact. Try a lower --lr, a lower --max-grad-norm, more --warmup-steps, or --dtype fp32."
        )

    def validate(self, step: int) -> Validation:
        setup = self.setup
        found = validate(setup.model, setup.validation_sampler, setup.validation_windows, self.precision)
        self.record({"step": step, "split": "validation", **found.figures})
        f = found.figures
        text = f"step {step}: held-out generator loss {f['generator_loss']:.4f}"
        if "rtd_loss" in f:
            text += f", RTD loss {f['rtd_loss']:.4f} (blind {f['rtd_blind']:.4f}), AUROC {f['rtd_auroc']:.4f}"
        console.print(text, soft_wrap=True)
        return found


def _bar_text(line: dict[str, Any], skipped_steps: int) -> str:
    parts = [f"generator {line['generator_loss']:.3f}"]
    if "rtd_loss" in line:
        parts.append(f"RTD {line['rtd_loss']:.4f} AUROC {line['rtd_auroc']:.3f}")
    if "tokens_per_s" in line:
        parts.append(f"{line['tokens_per_s']:,.0f} tokens/s")
    if "mfu" in line:
        parts.append(f"{line['mfu']:.0%} MFU")
    if "memory_mib" in line:
        parts.append(f"{line['memory_mib'] / 1024:.0f} GiB")
    if skipped_steps:
        parts.append(f"{skipped_steps} skipped")
    return " ".join(parts)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
