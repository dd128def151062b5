"""Training and embedding beside transformers' ModernBERT: tokens/s, share of the product's rate, peak MiB.

    python -m benchmarks.bench_train --out DIR [--seconds 400]     the whole table, on a GPU or a CPU
    pytest benchmarks/bench_train.py --benchmark-only              a small part of it

Same sizes, weights, batch, precision and masks; the losses of the first step are compared, and an implementation that
is wrong is not timed. A training step is forward, backward, clipping and AdamW. A batch that does not fit a GPU's
memory is split into the largest micro-batches that do. On a CPU, base stands for three of its layers (one global, two
local).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.table import Row, Table, command_line, machine, measured, seconds_of
from benchmarks.transformers_pair import TransformersPair
from nucel.model.compiled import compile_blocks
from nucel.objectives.electra import Electra
from nucel.pretraining import cost
from nucel.pretraining.config import PRESETS, TrainConfig
from nucel.pretraining.meter import Meter
from nucel.pretraining.step import Batch, Guard, make_optimizer, train_step
from nucel.runs.state import TrainState
from nucel.runtime.device import Precision
from nucel.tokenizers.nucleotide import BASES, CLS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMPLEMENTATIONS = ("nucel, compiled", "transformers, compiled", "nucel, eager", "transformers, eager")

LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-3}
"""Relative, of the first step's loss. The rule of the tests does not fit: a step draws bases from logits, so that two
implementations can draw different ones where logits are within rounding of one another. Measured on a CPU for all
three presets: no difference in fp32, and at most 7e-5 in bf16. One draw in debug's batch, the smallest, is about 1e-4.
"""


def windows(config: TrainConfig, device: torch.device) -> Tensor:
    """A batch of random bases, uint8 (B, T)."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.context)
    tokens = torch.randint(*(BASES[0], BASES[-1] + 1), shape, generator=generator).to(torch.uint8)
    tokens[:, 0] = CLS
    return tokens.to(device)


def on_a_cpu(preset: str, context: int | None = None, batch: int = 4) -> TrainConfig:
    """A preset with a small batch; of base, three layers of the discriminator and a generator of one."""
    config = dataclasses.replace(PRESETS[preset](), batch_size=batch)
    if preset == "base":
        pair = config.model
        pair = dataclasses.replace(
            pair,
            generator=dataclasses.replace(pair.generator, layers=1),
            discriminator=dataclasses.replace(pair.discriminator, layers=3),
        )
        config = dataclasses.replace(config, model=pair)
    if context is not None:
        config = dataclasses.replace(config, context=context, window_bp=context)
    return config


# ---- implementations -------------------------------------------------------------------------------------------------


class Nucel:
    """Our pair, trained by our step, and its discriminator as an encoder."""

    def __init__(self, config: TrainConfig, precision: Precision, compiled: bool):
        self.config, self.precision = config, precision
        self.tokens = windows(config, precision.device)
        self.model = Electra(config.model).initialize(0).to(precision.device)
        if compiled:
            compile_blocks(self.model)
        optimizer, scaler = make_optimizer(self.model, config), precision.gradient_scaler()
        self.state = TrainState(self.model, optimizer, scaler)
        self.batch = Batch(0, self.tokens, torch.arange(len(self.tokens), device=precision.device))
        self.meter, self.guard = Meter(self.model), Guard(precision.device)

    def train(self, micro_batch: int) -> float:
        """One optimizer step; its loss, which the host waits for."""
        self.meter.reset()
        train_step(self.state, self.batch, self.config, self.precision, micro_batch, self.meter, self.guard)
        return self.meter.read()["loss"]

    def embed(self, micro_batch: int) -> None:
        with torch.inference_mode(), self.precision.autocast():
            for tokens in self.tokens.split(micro_batch):
                self.model.discriminator.model(tokens)


class Transformers:
    """The same pair built from transformers' classes, trained by a plain step in PyTorch."""

    def __init__(self, config: TrainConfig, precision: Precision, compiled: bool):
        self.config, self.precision = config, precision
        self.tokens = windows(config, precision.device)
        self.rows = torch.arange(config.batch_size, device=precision.device)
        self.model = TransformersPair(Electra(config.model).initialize(0)).to(precision.device)
        if compiled:
            self.model.compile_networks()
        self.optimizer = make_optimizer(self.model, config)

    def train(self, micro_batch: int) -> float:
        """One optimizer step; its loss, which the host waits for."""
        losses = []
        for tokens, rows in zip(self.tokens.split(micro_batch), self.rows.split(micro_batch), strict=True):
            with self.precision.autocast():
                loss = self.model.loss(tokens, 0, rows)
            (loss * (len(tokens) / len(self.tokens))).backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).mean())

    def embed(self, micro_batch: int) -> None:
        with torch.inference_mode(), self.precision.autocast():
            for tokens in self.tokens.split(micro_batch):
                self.model.hidden(tokens)


def implementation(name: str, config: TrainConfig, precision: Precision) -> Nucel | Transformers:
    library, _, mode = name.partition(", ")
    return {"nucel": Nucel, "transformers": Transformers}[library](config, precision, mode == "compiled")


# ---- measuring -------------------------------------------------------------------------------------------------------


def largest_micro_batch(call: Callable[[int], Any], batch: int) -> tuple[int, Any]:
    """The largest of batch, batch / 2, ... that runs, and the result; what has to be compiled is compiled then."""
    while True:
        try:
            return batch, call(batch)
        except torch.OutOfMemoryError:
            if batch % 2:
                raise
        torch.cuda.empty_cache()
        batch //= 2


def check_loss(loss: float, expected: float, dtype: torch.dtype) -> None:
    assert math.isclose(loss, expected, rel_tol=LOSS_TOLERANCE[dtype]), (
        f"the first step's loss is {loss}, not {expected}"
    )


class Case:
    """Sizes and a precision, in which all implementations are measured; the first sets the loss of the first step."""

    def __init__(self, preset: str, config: TrainConfig, precision: Precision):
        self.config, self.precision = config, precision
        self.on_a_gpu = precision.device.type == "cuda"
        self.dtype = precision.dtype_name
        self.labels = {"sizes": preset, "B x T": f"{config.batch_size} x {config.context}", "dtype": self.dtype}
        self.trainers: dict[str, Nucel | Transformers] = {}
        self.losses: dict[str, float] = {}

    def trainer(self, name: str) -> Nucel | Transformers:
        """Made when it is asked for first. On a GPU each has the memory to itself."""
        if name not in self.trainers:
            if self.on_a_gpu:
                self.trainers.clear()
                torch.cuda.empty_cache()
            self.trainers[name] = implementation(name, self.config, self.precision)
        return self.trainers[name]

    def prepared(self, row: Row) -> tuple[Callable[[], Any], int]:
        """A call that does a row's work once and fits the memory, and its micro-batch.

        Raises:
            AssertionError: the loss of the first step is wrong; then neither training nor embedding is timed.
        """
        name, training = row["implementation"], row["work"] == "training"
        trainer = self.trainer(name)
        call = trainer.train if training else trainer.embed
        micro_batch, result = largest_micro_batch(call, self.config.batch_size)
        if training:
            self.losses[name] = result
        if name in self.losses:
            check_loss(self.losses[name], next(iter(self.losses.values())), self.precision.dtype)
        return lambda: call(micro_batch), micro_batch

    def summary(self, seconds: list[float], micro_batch: int) -> Row:
        median = statistics.median(seconds)
        tokens_per_s = self.config.batch_size * self.config.context / median
        return {"micro_batch": micro_batch, "ms": 1e3 * median, "tokens_per_s": tokens_per_s}

    def alone(self, row: Row) -> Row:
        """The values of a row, on a GPU."""
        device = self.precision.device
        torch.cuda.reset_peak_memory_stats(device)
        call, micro_batch = self.prepared(row)
        values = self.summary([seconds_of(call, device) for _ in range(7)], micro_batch)
        return values | {"peak_mib": torch.cuda.max_memory_allocated(device) / 2**20}

    def in_turns(self, labels: list[Row]) -> Iterator[Row]:
        """On a CPU, whose speed drifts: the implementations take turns."""
        waiting: list[tuple[Row, Callable[[], Any], int, list[float]]] = []
        for row in labels:
            prepared = measured(row, lambda row=row: {"prepared": self.prepared(row)})
            if "reason" in prepared:
                yield prepared
            else:
                waiting.append((row, *prepared["prepared"], []))
        for _ in range(5):
            for _, call, _, seconds in waiting:
                seconds.append(seconds_of(call, self.precision.device))
        for row, _, micro_batch, seconds in waiting:
            yield row | self.summary(seconds, micro_batch)

    def rows(self) -> Iterator[Row]:
        """A row for each implementation and each kind of work."""
        names = [name for name in IMPLEMENTATIONS if self.on_a_gpu or not name.endswith("compiled")]
        labels = [
            {"work": work, **self.labels, "implementation": name}
            for name in names
            for work in ("training", "embedding")
        ]
        if self.on_a_gpu:
            yield from (measured(row, lambda row=row: self.alone(row)) for row in labels)
        else:
            yield from self.in_turns(labels)


def cases(device: torch.device) -> Iterator[Case]:
    """What matters most first."""
    if device.type == "cuda":
        for preset in ("base", "small", "debug"):
            yield Case(preset, PRESETS[preset](), Precision(device, torch.bfloat16))
        return
    for preset, context, batch in (("base", 1024, 4), ("base", 8192, 1), ("small", None, 4), ("debug", None, 4)):
        for dtype in DTYPES.values():
            yield Case(preset, on_a_cpu(preset, context, batch), Precision(device, dtype))


def rows(device: torch.device, rates: dict[str, float]) -> Iterator[Row]:
    """Rows of all cases, with their share of the rate of a product, and the lead of our fastest over each.

    Args:
        rates: operations per second of a large product in each dtype.
    """
    for case in cases(device):
        flops = cost.training_flops(Electra, case.config.model, case.config.context) / case.config.context
        done: list[Row] = []
        for row in case.rows():
            if row["work"] == "training" and "tokens_per_s" in row:
                row["product_share"] = row["tokens_per_s"] * flops / rates[case.dtype]
            done.append(row)
            set_leads([other for other in done if other["work"] == row["work"] and "tokens_per_s" in other])
            yield row


def set_leads(rows: list[Row]) -> None:
    """The factor by which our fastest is faster than each of these rows, which do the same work."""
    ours = [row["tokens_per_s"] for row in rows if row["implementation"].startswith("nucel")]
    for row in rows:
        row["lead"] = max(ours) / row["tokens_per_s"] if ours else None


def main() -> None:
    import transformers

    parser = command_line(__doc__, "train (on a CPU, train_cpu)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    rates = {name: cost.product_rate(device, dtype, seconds=1.0) for name, dtype in DTYPES.items()}
    table = Table(
        facts=machine(device) | {"transformers": transformers.__version__, "product_rate": rates},
        labels=("work", "sizes", "B x T", "dtype", "implementation"),
        values={
            "micro_batch": ("micro-batch", ""),
            "ms": ("ms", ".1f"),
            "tokens_per_s": ("tokens/s", ",.0f"),
            "lead": ("our fastest is faster by", ".2f"),
            "product_share": ("of product rate", ".0%"),
            "peak_mib": ("MiB", ".0f"),
        },
        path=options.out / ("train" if device.type == "cuda" else "train_cpu"),
        note="Rate of a large product, measured in the same run, TFLOP/s: "
        + ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in rates.items())
        + ".",
    )
    table.fill(rows(device, rates), options.seconds)
    print(table.markdown())


# ---- a small part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("work", ["training", "embedding"])
@pytest.mark.parametrize("name", ["nucel, eager", "transformers, eager"])
@pytest.mark.parametrize("preset", ["debug", "small"])
def test_tokens_per_second_on_a_cpu(timed, preset, name, work, dtype):
    pytest.importorskip("transformers")
    config, precision = on_a_cpu(preset), Precision(torch.device("cpu"), DTYPES[dtype])
    trainer = implementation(name, config, precision)
    expected = implementation("nucel, eager", config, precision).train(config.batch_size)
    check_loss(trainer.train(config.batch_size), expected, precision.dtype)
    call = trainer.train if work == "training" else trainer.embed
    timed(
        f"{work}, {preset}, {config.batch_size} x {config.context}, {dtype}",
        name,
        lambda: call(config.batch_size),
        rounds=5,
        amounts={"tokens": trainer.tokens.numel()},
    )


if __name__ == "__main__":
    main()
