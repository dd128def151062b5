"""Where a training step's time goes: each of its parts measured alone, beside its floor, and the whole step.

    python benchmarks/profile_step.py --out DIR [--preset base] [--micro-batch 192]

A part's floor is the slower of its bytes at the rate of a copy and its operations at the rate of a large product, both
measured in the same run on the same device. Parts are run as the step runs them, forward and backward, on tensors of
the step's shapes. Norms, residuals and GeGLU are what a block takes beyond its products and its attention.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_train import DTYPES, on_a_cpu, processor, seconds_of, windows
from nucel.compiled import compile_blocks
from nucel.config import PRESETS, EncoderConfig, TrainConfig
from nucel.device import Precision
from nucel.electra import Electra, corrupt, mask, masked_cross_entropy, propose
from nucel.metrics import Meter
from nucel.step import Guard, make_optimizer, train_step
from torch import Tensor, nn

from nucel import cost
from nucel.kernels.attention import attention, flops
from nucel.kernels.rtd_loss import rtd_loss
from nucel.model import Block, Embeddings, Linear, rotary_table

ROUNDS = 7


class Part(NamedTuple):
    """One line of the table: what runs, how often in a step, and what it must cost at least."""

    name: str
    count: int
    seconds: float
    """Of one, forward and backward."""
    bytes: float
    operations: float


class Device(NamedTuple):
    precision: Precision
    bytes_per_s: float
    operations_per_s: float

    @classmethod
    def measured(cls, precision: Precision) -> Device:
        size = 2**28 if precision.device.type == "cuda" else 2**25
        source = torch.zeros(size, device=precision.device)
        target = torch.empty_like(source)
        seconds = statistics.median(seconds_of(lambda: target.copy_(source), precision.device) for _ in range(9))
        return cls(precision, 2 * 4 * size / seconds, cost.product_rate(*precision, seconds=1.0))

    def time(self, call: Callable[[], Any]) -> float:
        call()
        call()
        return statistics.median(seconds_of(call, self.precision.device) for _ in range(ROUNDS))

    def both_ways(self, forward: Callable[..., Tensor], *inputs: Tensor) -> float:
        """Seconds of a forward and a backward pass to inputs and weights."""
        inputs = [x.requires_grad_() for x in inputs]
        with self.precision.autocast():
            grad = torch.randn_like(forward(*inputs))

        def call() -> None:
            with self.precision.autocast():
                out = forward(*inputs)
            out.backward(grad)

        return self.time(call)


# ---- parts -----------------------------------------------------------------------------------------------------------


def encoder_parts(
    device: Device, name: str, shape: EncoderConfig, batch: int, context: int, compiled: bool
) -> list[Part]:
    where, dtype = device.precision
    tokens, item, width = batch * context, dtype.itemsize, shape.width
    parts, of_block = [], {}

    def stream(features: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn((batch, context, features), device=where, dtype=kind)

    sizes = {
        "Wqkv": (width, 3 * width), "attention's Wo": (width, width),
        "Wi": (width, 2 * shape.intermediate), "GeGLU's Wo": (shape.intermediate, width),
    }  # fmt: skip
    for layer, (inputs, outputs) in sizes.items():
        seconds = device.both_ways(Linear(inputs, outputs).to(where), stream(inputs))
        # Forward reads x and writes y; backward reads dy and x, and writes dx; the weights are small beside them.
        moved = tokens * item * (3 * inputs + 2 * outputs)
        parts.append(Part(f"{name}: {layer}", shape.layers, seconds, moved, 6 * tokens * inputs * outputs))
    products = sum(part.seconds for part in parts)

    rotary = rotary_table(context, shape.head_width, 10_000.0, where)
    everywhere = sum(shape.is_global(layer) for layer in range(shape.layers))
    for kind, radius, count in (("local", shape.radius, shape.layers - everywhere), ("global", None, everywhere)):
        qkv = torch.randn((batch, context, 3, shape.heads, shape.head_width), device=where, dtype=dtype)
        seconds = device.both_ways(lambda qkv, radius=radius: attention(qkv, *rotary, radius), qkv)
        work = sum(flops(qkv.shape, radius, backward) for backward in (False, True))
        # Forward reads qkv and writes out; backward reads qkv, out and its gradient, and writes qkv's.
        parts.append(
            Part(f"{name}: {kind} attention", count, seconds, tokens * item * width * (3 + 1 + 3 + 2 + 3), work)
        )
        of_block[kind] = seconds

    block = Block(shape, 1 if shape.global_every > 1 else 3).to(where)
    if compiled:
        holder = nn.ModuleList([block])
        compile_blocks(holder)
    kind = "global" if block.attn.radius is None else "local"
    seconds = device.both_ways(lambda x: block(x, rotary, None), stream(width, torch.float32))
    # fp32 stream: each of two additions reads and writes it forward, and its gradient backward; each norm reads it and
    # its gradient and writes its output and its gradient; GeGLU reads 2 I and writes I, backward reads and writes 3 I.
    moved = tokens * (
        2 * 4 * 4 * width + 2 * (4 + 4 + 4) * width + 2 * 2 * item * width + 9 * item * shape.intermediate
    )
    rest = max(0.0, seconds - products - of_block[kind])
    parts.append(Part(f"{name}: norms, residuals, GeGLU", shape.layers, rest, moved, 0))

    embeddings = Embeddings(shape).to(where)
    ids = torch.randint(11, 15, (batch, context), device=where)

    def embed() -> None:
        with device.precision.autocast():
            embeddings(ids).backward(gradient)

    gradient = stream(width, torch.float32)
    parts.append(Part(f"{name}: embedding and its norm", 1, device.time(embed), tokens * 4 * width * 5, 0))
    return parts


def step_parts(device: Device, config: TrainConfig, micro_batch: int, compiled: bool) -> list[Part]:
    where, dtype = device.precision
    pair, context = config.model, config.context
    tokens, rows = windows(config, where)[:micro_batch], torch.arange(micro_batch, device=where)
    parts = encoder_parts(device, "generator", pair.generator, micro_batch, context, compiled)
    parts += encoder_parts(device, "discriminator", pair.discriminator, micro_batch, context, compiled)

    masked = mask(tokens, pair.mask_rate, 0, rows)
    electra = Electra(pair).initialize(0).to(where)
    slots, width = masked.positions.numel(), pair.generator.width

    def generator_tail(hidden: Tensor) -> Tensor:
        picked = hidden.gather(1, masked.positions[..., None].expand(-1, -1, width))
        return masked_cross_entropy(electra.generator.decoder(electra.generator.head(picked)), masked)

    hidden = torch.randn((micro_batch, context, width), device=where)
    parts.append(
        Part("generator: head at masked positions, loss", 1, device.both_ways(generator_tail, hidden),
             slots * width * 4 * 8, 6 * slots * width * (width + 27))
    )  # fmt: skip

    def draw() -> None:
        found = mask(tokens, pair.mask_rate, 0, rows)
        corrupt(tokens, found, propose(logits, pair.temperature, 0, rows, found.positions))

    logits = torch.randn((*masked.positions.shape, 27), device=where)
    parts.append(Part("mask, propose, corrupt", 1, device.time(draw), tokens.numel() * 8 * 6, 0))

    head, width = electra.discriminator.head, pair.discriminator.width
    dense = torch.randn((micro_batch, context, width), device=where, dtype=dtype)
    original = torch.rand((micro_batch, context), device=where) < 0.9
    classifier = electra.discriminator.classifier

    def tail(dense: Tensor) -> Tensor:
        return rtd_loss(dense, head.norm.weight, classifier.weight[0], classifier.bias[0], original)[0]

    parts.append(Part("discriminator: head's dense", 1, device.both_ways(head.dense, dense.clone()),
                      dense.numel() * dtype.itemsize * 5, 6 * dense.numel() * width))  # fmt: skip
    parts.append(Part("discriminator: GELU, norm, RTD loss", 1, device.both_ways(tail, dense.clone()),
                      dense.numel() * dtype.itemsize * 3, 0))  # fmt: skip
    accumulated = config.batch_size // micro_batch
    parts = [part._replace(count=part.count * accumulated) for part in parts]

    optimizer = make_optimizer(electra, config)
    for parameter in electra.parameters():
        parameter.grad = torch.randn_like(parameter)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(electra.parameters(), 1.0)
        optimizer.step()

    # Clipping reads gradients twice and writes them; AdamW reads and writes weight and moments, and reads the gradient.
    size = sum(p.numel() for p in electra.parameters())
    return [*parts, Part("clipping and AdamW", 1, device.time(update), size * 4 * 10, 0)]


def whole_step(device: Device, config: TrainConfig, micro_batch: int, compiled: bool) -> float:
    electra = Electra(config.model).initialize(0).to(device.precision.device)
    if compiled:
        compile_blocks(electra)
    optimizer, scaler = make_optimizer(electra, config), device.precision.gradient_scaler()
    meter, guard = Meter(device.precision.device), Guard(device.precision.device)
    tokens = windows(config, device.precision.device)
    return device.time(
        lambda: train_step(electra, optimizer, scaler, device.precision, config, tokens, 0, micro_batch, meter, guard)
    )


# ---- the table -------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"{result['machine']}; torch {result['torch']}"
        + (f", Triton {result['triton']}" if "triton" in result else "")
        + f". {result['preset']}, {result['batch']} x {result['context']} tokens, {result['dtype']}, micro-batch "
        f"{result['micro_batch']}, blocks {'compiled' if result['compiled'] else 'not compiled'}. Copy "
        f"{result['bytes_per_s'] / 1e9:,.0f} GB/s, product {result['operations_per_s'] / 1e12:,.3g} TFLOP/s.",
        "",
        "| part | times | ms each | floor ms | of floor | ms in a step | share |",
        "|" + " --- |" * 7,
    ]
    for part in result["parts"]:
        ms, total = 1e3 * part["seconds"], 1e3 * part["seconds"] * part["count"]
        share = total / result["step_ms"]
        efficiency = f"{part['floor_ms'] / ms:.0%}" if ms else ""
        figures = (part["count"], f"{ms:.3f}", f"{part['floor_ms']:.3f}", efficiency, f"{total:.1f}", f"{share:.1%}")
        lines.append(f"| {part['name']} | " + " | ".join(map(str, figures)) + " |")
    parts_ms = sum(1e3 * part["seconds"] * part["count"] for part in result["parts"])
    floor_ms = sum(part["floor_ms"] * part["count"] for part in result["parts"])
    lines += [
        f"| sum of the parts | | | | {floor_ms / parts_ms:.0%} | {parts_ms:.1f} | {parts_ms / result['step_ms']:.1%} |",
        f"| **whole step** | | | | {floor_ms / result['step_ms']:.0%} | **{result['step_ms']:.1f}** | "
        f"{result['tokens_per_s']:,.0f} tokens/s |",
    ]
    return "\n".join(lines)


def main() -> None:
    on_a_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for profile.json and profile.md, or profile_cpu.*"
    )
    parser.add_argument("--preset", choices=PRESETS, default="base")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16" if on_a_gpu else "fp32")
    parser.add_argument("--micro-batch", type=int, help="by default the whole batch")
    options = parser.parse_args()
    precision = Precision(torch.device("cuda" if on_a_gpu else "cpu"), DTYPES[options.dtype])
    config = PRESETS[options.preset]() if on_a_gpu else on_a_cpu(options.preset)
    if options.micro_batch and config.batch_size % options.micro_batch:
        parser.error(f"--micro-batch must divide {config.batch_size}")
    config = dataclasses.replace(config, micro_batch=options.micro_batch or config.batch_size)

    device = Device.measured(precision)
    parts = step_parts(device, config, config.micro_batch, compiled=on_a_gpu)
    step = whole_step(device, config, config.micro_batch, compiled=on_a_gpu)
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_a_gpu else f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "preset": options.preset, "batch": config.batch_size, "context": config.context,
        "dtype": options.dtype, "micro_batch": config.micro_batch, "compiled": on_a_gpu,
        "bytes_per_s": device.bytes_per_s, "operations_per_s": device.operations_per_s, "step_ms": 1e3 * step,
        "tokens_per_s": config.batch_size * config.context / step,
        "parts": [
            part._asdict()
            | {"floor_ms": 1e3 * max(part.bytes / device.bytes_per_s, part.operations / device.operations_per_s)}
            for part in parts
        ],
    }  # fmt: skip
    if on_a_gpu:
        import triton

        result["triton"] = triton.__version__
    options.out.mkdir(parents=True, exist_ok=True)
    name = "profile" if on_a_gpu else "profile_cpu"
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))
    (options.out / f"{name}.md").write_text(markdown(result) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
