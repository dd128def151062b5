"""Runs optimizer steps, logs metrics, and explains when it must stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..genome.records import RecordBatch
from ..runs import log
from ..runs.directory import RunDirectory
from ..runtime import files
from ..runtime.cli import console
from ..runtime.distributed import World
from ..runtime.errors import TrainingError
from . import cost
from .config import TrainConfig
from .meter import Meter
from .setup import Setup
from .step import Batch, Guard, Skipped, learning_rate, train_step, upload
from .validation import Validation, validate


@contextlib.contextmanager
def noted_signals() -> Iterator[list[str]]:
    """A list that names SIGTERM or SIGINT once it has come, so that a step can be finished; a second one interrupts."""
    received: list[str] = []

    def note(number: int, _frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    # Only a process's main thread may do this; elsewhere, signals are the business of whoever runs us.
    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loop:
    """Carries out a run's steps in order, from the step `first` on, and writes their metrics.

    Attributes:
        step: optimizer steps done, those of earlier sessions included.
        tokens_per_s: over all ranks and the whole session, but for its first step, which compiles kernels.
        skipped_steps: of the whole run, sessions before this one included.
    """

    def __init__(
        self,
        config: TrainConfig,
        setup: Setup,
        run: RunDirectory | None,
        ranks: World,
        first: int = 0,
        record: Callable[[dict[str, Any]], None] | None = None,
    ):
        """run is None where nothing may be written; record takes each line of metrics, on the rank that writes them."""
        self.config, self.setup, self.ranks, self.run, self.step = config, setup, ranks, run, first
        self.record = record
        self.precision = setup.precision
        device = self.precision.device
        self.parallel = setup.state._replace(model=ranks.exchange_gradients(setup.state.model, device))
        self.meter, self.guard = Meter(setup.state.model), Guard(device)
        self.tokens_per_s: float | None = None
        self.skipped_steps = sum(line.get("skipped_steps") or 0 for line in log.read_metrics(run)) if run else 0
        self._seconds = 0.0
        self._steps, self._logged = 0, (0, 0.0)
        self._tokens_per_step = config.batch_size * config.context
        self._flops_per_token = 0.0
        self._peak: float | None = None
        if device.type == "cuda":
            self._flops_per_token = (
                cost.training_flops(type(setup.state.model), config.model, config.context) / config.context
            )
            self._peak = cost.product_rate(device, self.precision.dtype) * ranks.size
        self._ahead: Batch | None = None
        self._validated: int | None = None

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Counts what happens within as time of training; validation and saving are left out."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def advance(self) -> None:
        """Carry out the next step, and prepare the windows of the one after while the device is busy."""
        config, setup, device = self.config, self.setup, self.precision.device
        started = time.perf_counter()
        with self._timed():
            batch = self._ahead or upload(setup.sampler, self.step, device)
            try:
                train_step(self.parallel, batch, config, self.precision, setup.micro_batch, self.meter, self.guard)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise TrainingError(
                    f"out of memory with --micro-batch {setup.micro_batch} of {config.context} tokens; "
                    f"give a smaller one, it changes the result by rounding alone. ({str(error).splitlines()[0]})"
                ) from None
            self.step += 1
            self._ahead = upload(setup.sampler, self.step, device)
        self._steps += 1
        if self._steps == 1:
            self._wait()
            if setup.compiled and self.ranks.is_main:
                seconds = time.perf_counter() - started
                console.print(f"  compiled in {seconds:.0f} s (kept on disk: the next run starts sooner)")
            self._seconds = 0.0
            self._logged = (1, 0.0)

    def _wait(self) -> None:
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize(self.precision.device)

    def log(self) -> str:
        """Write a line of metrics and return what the bar shows.

        Raises:
            TrainingError: too many steps in a row were not finite.
        """
        with self._timed():  # reading waits for the device, and what it waits for is training
            metrics = self.meter.read(self.ranks.add)
        skipped = self.guard.read()
        if skipped.longest >= self.config.max_skipped:
            raise TrainingError(self._explain(skipped))
        line = {"step": self.step, "split": "train", **metrics, "lr": learning_rate(self.config, self.step - 1)}
        line |= {"skipped_steps": skipped.steps, **self._speed()}
        if self.record:
            self.record(line)
        self.skipped_steps += skipped.steps
        return self._bar_text(line)

    def _bar_text(self, line: dict[str, Any]) -> str:
        parts = [self.setup.state.model.progress(line)]
        if "tokens_per_s" in line:
            parts.append(f"{line['tokens_per_s']:,.0f} tokens/s")
        if "mfu" in line:
            parts.append(f"{line['mfu']:.0%} MFU")
        if "memory_mib" in line:
            parts.append(f"{line['memory_mib'] / 1024:.0f} GiB")
        if self.skipped_steps:
            parts.append(f"{self.skipped_steps} skipped")
        return " ".join(parts)

    def _speed(self) -> dict[str, float]:
        """Tokens per second since the last line; of a GPU also the share of its product rate, and peak memory."""
        steps, seconds = self._logged
        self._logged = (self._steps, self._seconds)
        figures = {}
        if self._steps > steps:
            rate = (self._steps - steps) * self._tokens_per_step / (self._seconds - seconds)
            self.tokens_per_s = (self._steps - 1) * self._tokens_per_step / self._seconds
            figures["tokens_per_s"] = rate
            if self._peak is not None:
                figures["mfu"] = rate * self._flops_per_token / self._peak
        if self.precision.device.type == "cuda":
            figures["memory_mib"] = torch.cuda.max_memory_allocated(self.precision.device) / 2**20
        return figures

    def _explain(self, skipped: Skipped) -> str:
        """Which windows the last step had that was not finite."""
        batch = self.setup.sampler.batch_of_all_ranks(skipped.last)
        names = [self.setup.genome.contigs[contig] for contig in batch.contig]
        if self.run is None:
            kept = ". Nothing was saved."
        else:
            path = self.run.not_finite
            if self.ranks.is_main:
                tokens = batch.lengths if isinstance(batch, RecordBatch) else np.full(len(names), self.config.context)
                rows = (
                    f"{name}\t{start}\t{start + size - 1}\t{'-' if strand < 0 else '+'}\n"
                    for name, start, size, strand in zip(names, batch.start_bp, tokens, batch.strand, strict=True)
                )
                files.write_text(path, "contig\tstart\tend\tstrand\n" + "".join(rows))
            kept = f"; {path} lists them all. The weights are those before; the newest checkpoint is intact."
        return (
            f"{skipped.longest} steps in a row had a loss or gradient that is not finite and were skipped "
            f"(--max-skipped {self.config.max_skipped}). The last was step {skipped.last + 1}, whose first window is "
            f"at {names[0]}:{batch.start_bp[0]}{kept} Try a lower --lr, a lower --max-grad-norm, more --warmup-steps, "
            "or --dtype fp32."
        )

    def validate(self) -> Validation:
        """Validate, write a line of metrics, and print one; for rank 0 alone, and before a checkpoint is saved.

        Raises:
            TrainingError: the loss is not finite.
        """
        validation = self._held_out(self.setup.validation_windows)
        if self.record:
            self.record({"step": self.step, "split": "validation", **validation.metrics})
        console.print(f"step {self.step}: {self.setup.state.model.summary(validation.metrics)}", soft_wrap=True)
        self._require_finite(validation)
        return validation

    def validate_again(self) -> Validation:
        """Validate what a finished run has saved; the line of metrics is there already.

        Raises:
            TrainingError: the loss is not finite.
        """
        validation = self._held_out(self.setup.validation_windows)
        self._require_finite(validation)
        return validation

    def require_usable(self) -> None:
        """Refuse to save weights that are not finite, or that give no finite loss on held-out windows; for rank 0.

        A step that made them so is noticed by the steps after it alone, which are skipped.

        Raises:
            TrainingError: says which weights, or that it is the loss.
        """
        for name, parameter in self.setup.state.model.named_parameters():
            if not parameter.isfinite().all():
                raise TrainingError(f"the weights {name} are not finite {self._unsaved()}")
        if self._validated != self.step:
            self._require_finite(self._held_out(self.setup.validation_sampler.rows))

    def _held_out(self, windows: int) -> Validation:
        self._validated = self.step
        return validate(self.setup.state.model, self.setup.validation_sampler, windows, self.precision)

    def _require_finite(self, validation: Validation) -> None:
        if not math.isfinite(validation.metrics["loss"]):
            raise TrainingError(f"the loss on held-out windows is not finite {self._unsaved()}")

    def _unsaved(self) -> str:
        return (
            f"after step {self.step}; the weights of this step are not saved, the newest checkpoint is intact. Try a "
            "lower --lr or --dtype fp32."
        )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
