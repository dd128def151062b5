"""Training and embedding beside transformers' ModernBERT: tokens/s, share of the product's rate, peak MiB.

    python benchmarks/bench_train.py --out DIR [--seconds 400]     the whole table, on a GPU or a CPU
    pytest benchmarks/bench_train.py --benchmark-only              a small part of it

Same sizes, weights, batch, precision and masks; the losses of the first step are compared, and who is wrong is not
timed. A training step is forward, backward, clipping and AdamW. A batch that does not fit a GPU's memory is split into
the largest micro-batches that do. On a CPU, base stands for three of its layers (one global, two local).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nucel.compiled import compile_blocks
from nucel.config import PRESETS, TrainConfig
from nucel.device import Precision
from nucel.electra import Electra
from nucel.metrics import Meter
from nucel.step import Guard, make_optimizer, train_step
from nucel.vocab import BASES, CLS
from torch import Tensor
from transformers_pair import TransformersPair

from nucel import cost

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CONTENDERS = ("nucel, compiled", "transformers, compiled", "nucel, eager", "transformers, eager")


def windows(config: TrainConfig, device: torch.device) -> Tensor:
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


# ---- contenders ------------------------------------------------------------------------------------------------------


class Contender:
    """One way to train the pair and to embed with its discriminator."""

    def __init__(self, name: str, config: TrainConfig, precision: Precision):
        self.name, self.config, self.precision = name, config, precision
        self.tokens = windows(config, precision.device)
        self.rows = torch.arange(config.batch_size, device=precision.device)
        electra = Electra(config.model).initialize(0)
        self.ours = name.startswith("nucel")
        self.model = (electra if self.ours else TransformersPair(electra)).to(precision.device)
        if name.endswith("compiled"):
            if self.ours:
                compile_blocks(self.model)
            else:
                self.model.compile_networks()
        self.optimizer = make_optimizer(self.model, config)
        self.scaler, self.meter = precision.gradient_scaler(), Meter(precision.device)
        self.guard = Guard(precision.device)

    def step(self, micro_batch: int) -> float:
        """One optimizer step; its loss, which the host waits for."""
        if self.ours:
            self.meter.reset()
            train_step(
                self.model, self.optimizer, self.scaler, self.precision, self.config, self.tokens, 0, micro_batch,
                self.meter, self.guard,
            )  # fmt: skip
            return self.meter.read()["loss"]
        losses = []
        for tokens, rows in zip(self.tokens.split(micro_batch), self.rows.split(micro_batch), strict=True):
            with self.precision.autocast():
                losses.append(self.model.loss(tokens, 0, rows))
            (losses[-1] * (len(tokens) / len(self.tokens))).backward()
            losses[-1] = losses[-1].detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).mean())

    def embed(self, micro_batch: int) -> None:
        with torch.inference_mode(), self.precision.autocast():
            for tokens in self.tokens.split(micro_batch):
                self.model.discriminator.model(tokens) if self.ours else self.model.hidden(tokens)


# ---- measuring -------------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def first_call(call: Callable[[int], Any], batch: int) -> tuple[int, Any]:
    """The largest of batch, batch / 2, ... that runs, and the result; what has to be compiled is compiled then."""
    while True:
        try:
            return batch, call(batch)
        except torch.OutOfMemoryError:
            if batch % 2:
                raise
        torch.cuda.empty_cache()
        batch //= 2


def measure(case: dict[str, Any], config: TrainConfig, precision: Precision, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each contender and each kind of work, or the reason why there is none.

    On a CPU the contenders take turns, since its speed drifts. On a GPU each has the memory to itself.
    """
    device, waiting, losses = precision.device, [], {}
    for name in CONTENDERS:
        if name.endswith("compiled") and device.type == "cpu":
            continue
        try:
            contender = Contender(name, config, precision)
            for work, call in (("training", contender.step), ("embedding", contender.embed)):
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                micro_batch, result = first_call(call, config.batch_size)
                if work == "training":
                    losses[name] = result
                    tolerance = 1e-4 if precision.dtype == torch.float32 else 2e-2
                    expected = next(iter(losses.values()))
                    assert math.isclose(result, expected, rel_tol=tolerance), (
                        f"the first step's losses differ: {losses}"
                    )
                row = case | {"work": work, "contender": name, "micro_batch": micro_batch, "seconds": []}
                if device.type == "cuda":
                    row["seconds"] = [seconds_of(lambda c=call, m=micro_batch: c(m), device) for _ in range(rounds)]
                    row["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
                    yield summary(row, config)
                else:
                    waiting.append((row, call))
        except (RuntimeError, AssertionError) as reason:
            yield case | {"contender": name, "reason": f"{type(reason).__name__}: {reason}".splitlines()[0][:160]}
        if device.type == "cuda":
            contender = call = None
            torch.cuda.empty_cache()
    for _ in range(rounds):
        for row, call in waiting:
            row["seconds"].append(seconds_of(lambda c=call, m=row["micro_batch"]: c(m), device))
    yield from (summary(row, config) for row, _ in waiting)


def summary(row: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    seconds = statistics.median(row.pop("seconds"))
    return row | {"ms": 1e3 * seconds, "tokens_per_s": config.batch_size * config.context / seconds}


def cases(device: torch.device) -> list[tuple[dict[str, Any], TrainConfig, Precision]]:
    """Rows of the table, what matters most first."""
    if device.type == "cuda":
        configs = [(preset, PRESETS[preset](), "bf16") for preset in ("base", "small", "debug")]
    else:
        shapes = [("base", 1024, 4), ("base", 8192, 1), ("small", None, 4), ("debug", None, 4)]
        configs = [
            (preset, on_a_cpu(preset, context, batch), dtype) for preset, context, batch in shapes for dtype in DTYPES
        ]
    return [
        (
            {"preset": preset, "batch": config.batch_size, "context": config.context, "dtype": dtype},
            config,
            Precision(device, DTYPES[dtype]),
        )
        for preset, config, dtype in configs
    ]


def table(device: torch.device, seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    import transformers

    start = time.monotonic()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device.type == "cuda":
        import triton

        machine, rounds = torch.cuda.get_device_name(device), 7
        versions["triton"] = triton.__version__
    else:
        machine, rounds = f"{processor()}, {torch.get_num_threads()} threads", 5
    rates = {name: cost.product_rate(device, dtype, seconds=1.0) for name, dtype in DTYPES.items()}
    result: dict[str, Any] = {"machine": machine, **versions, "product_rate": rates, "rows": []}
    for case, config, precision in cases(device):
        if time.monotonic() - start > seconds:
            return result | {"unfinished": f"stopped after {seconds:.0f} s"}
        flops = cost.training_flops(Electra, config.model, config.context) / config.context
        for row in measure(case, config, precision, rounds):
            if row.get("work") == "training":
                row["product_share"] = row["tokens_per_s"] * flops / rates[case["dtype"]]
            result["rows"].append(row)
            save(result)
    return result


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def markdown(result: dict[str, Any]) -> str:
    """The table for a README, one row per contender; beside each the factor by which it is slower than our best."""
    names = ("torch", "Triton", "transformers")
    versions = ", ".join(f"{name} {result[name.lower()]}" for name in names if name.lower() in result)
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in result["product_rate"].items())
    lines = [
        f"{result['machine']}; {versions}. Rate of a large product, measured in the same run, TFLOP/s: {rates}.",
        "",
        "| work | sizes | B x T | dtype | who | micro-batch | ms | tokens/s | our best is faster by | of product rate "
        "| MiB |",
        "|" + " --- |" * 11,
    ]
    for row in result["rows"]:
        sizes = [row["preset"], f"{row['batch']} x {row['context']}", row["dtype"], row["contender"]]
        if "reason" in row:
            lines.append("| " + " | ".join(["", *sizes, row["reason"].replace("|", "/"), *[""] * 5]) + " |")
            continue
        rivals = [r for r in result["rows"] if all(r.get(k) == row[k] for k in ("work", "preset", "context", "dtype"))]
        best = max((r["tokens_per_s"] for r in rivals if r["contender"].startswith("nucel")), default=math.nan)
        cells = [
            row["work"], *sizes, str(row["micro_batch"]), f"{row['ms']:.1f}", f"{row['tokens_per_s']:,.0f}",
            f"{best / row['tokens_per_s']:.2f}",
            f"{row['product_share']:.0%}" if "product_share" in row else "",
            f"{row['peak_mib']:.0f}" if "peak_mib" in row else "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for train.json and train.md, or train_cpu.*")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no new case after so long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    name = "train" if device.type == "cuda" else "train_cpu"

    def save(result: dict[str, Any]) -> None:
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))
        (options.out / f"{name}.md").write_text(markdown(result) + "\n")

    result = table(device, options.seconds, save)
    save(result)
    print(markdown(result))


# ---- a small part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("work", ["training", "embedding"])
@pytest.mark.parametrize("who", ["nucel, eager", "transformers, eager"])
@pytest.mark.parametrize("preset", ["debug", "small"])
def test_tokens_per_second_on_a_cpu(benchmark, preset, who, work, dtype):
    pytest.importorskip("transformers")
    benchmark.group = f"{work}, {preset}, {dtype}"
    config, precision = on_a_cpu(preset), Precision(torch.device("cpu"), DTYPES[dtype])
    contender = Contender(who, config, precision)
    expected = Contender("nucel, eager", config, precision).step(config.batch_size)
    assert math.isclose(contender.step(config.batch_size), expected, rel_tol=1e-4 if dtype == "fp32" else 2e-2)
    call = contender.step if work == "training" else contender.embed
    benchmark.pedantic(lambda: call(config.batch_size), rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens_per_s"] = round(contender.tokens.numel() / benchmark.stats.stats.median)


if __name__ == "__main__":
    main()
