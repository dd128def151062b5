"""Where a training step's time goes: each of its parts measured alone, beside its floor, and the whole step.

    python -m benchmarks.gpu.profile_step --out DIR [--preset base] [--micro-batch 192]

A part's floor is the slower of its bytes at the rate of a copy and its operations at the rate of a large product, both
measured in the same run on the same device. Parts are run as the step runs them, forward and backward, on tensors of
the step's shapes. Norms, residuals and GeGLU are what a block takes beyond its products and its attention.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.bench_train import DTYPES, Nucel, on_a_cpu, windows
from benchmarks.table import Row, Table, command_line, machine, median_seconds
from nucel.kernels.attention import attention, flops
from nucel.kernels.rtd_loss import rtd_loss
from nucel.model.compiled import compile_blocks
from nucel.model.config import EncoderConfig
from nucel.model.encoder import Block, Embeddings, Linear, rotary_table
from nucel.objectives.electra import Electra, corrupt, propose
from nucel.objectives.masking import mask, masked_cross_entropy
from nucel.pretraining import cost
from nucel.pretraining.config import PRESETS, TrainConfig
from nucel.pretraining.step import make_optimizer
from nucel.runtime.device import Precision

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
        seconds = median_seconds(lambda: target.copy_(source), precision.device, rounds=9)
        return cls(precision, 2 * 4 * size / seconds, cost.product_rate(*precision, seconds=1.0))

    def time(self, call: Callable[[], Any]) -> float:
        return median_seconds(call, self.precision.device, ROUNDS)

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
    device: Device, name: str, shape: EncoderConfig, size: tuple[int, int], compiled: bool
) -> Iterator[Part]:
    """Parts of an encoder for a micro-batch of size (B, T)."""
    where, dtype = device.precision
    tokens, item, width = math.prod(size), dtype.itemsize, shape.width
    products, of_block = 0.0, {}

    def stream(features: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn((*size, features), device=where, dtype=kind)

    sizes = {
        "Wqkv": (width, 3 * width), "attention's Wo": (width, width),
        "Wi": (width, 2 * shape.intermediate), "GeGLU's Wo": (shape.intermediate, width),
    }  # fmt: skip
    for layer, (inputs, outputs) in sizes.items():
        seconds = device.both_ways(Linear(inputs, outputs).to(where), stream(inputs))
        # Forward reads x and writes y; backward reads dy and x, and writes dx; the weights are small beside them.
        moved = tokens * item * (3 * inputs + 2 * outputs)
        yield Part(f"{name}: {layer}", shape.layers, seconds, moved, 6 * tokens * inputs * outputs)
        products += seconds

    rotary = rotary_table(size[1], shape.head_width, 10_000.0, where)
    everywhere = sum(shape.is_global(layer) for layer in range(shape.layers))
    for kind, radius, count in (("local", shape.radius, shape.layers - everywhere), ("global", None, everywhere)):
        qkv = torch.randn((*size, 3, shape.heads, shape.head_width), device=where, dtype=dtype)
        seconds = device.both_ways(lambda qkv, radius=radius: attention(qkv, *rotary, radius), qkv)
        work = sum(flops(qkv.shape, radius, backward) for backward in (False, True))
        # Forward reads qkv and writes out; backward reads qkv, out and its gradient, and writes qkv's.
        moved = tokens * item * width * (3 + 1 + 3 + 2 + 3)
        yield Part(f"{name}: {kind} attention", count, seconds, moved, work)
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
    yield Part(f"{name}: norms, residuals, GeGLU", shape.layers, rest, moved, 0)

    embeddings = Embeddings(shape).to(where)
    ids = torch.randint(11, 15, size, device=where)
    gradient = stream(width, torch.float32)

    def embed() -> None:
        with device.precision.autocast():
            embeddings(ids).backward(gradient)

    yield Part(f"{name}: embedding and its norm", 1, device.time(embed), tokens * 4 * width * 5, 0)


def head_parts(device: Device, config: TrainConfig, electra: Electra, micro_batch: int) -> Iterator[Part]:
    """What a step computes outside the two encoders, but for the update."""
    where, dtype = device.precision
    pair, size = config.model, (micro_batch, config.context)
    tokens, rows = windows(config, where)[:micro_batch], torch.arange(micro_batch, device=where)
    masked = mask(tokens, pair.mask_rate, 0, rows)
    slots, width = masked.positions.numel(), pair.generator.width

    def generator_tail(hidden: Tensor) -> Tensor:
        picked = hidden.gather(1, masked.positions[..., None].expand(-1, -1, width))
        return masked_cross_entropy(electra.generator.decoder(electra.generator.head(picked)), masked)

    seconds = device.both_ways(generator_tail, torch.randn((*size, width), device=where))
    moved, work = slots * width * 4 * 8, 6 * slots * width * (width + 27)
    yield Part("generator: head at masked positions, loss", 1, seconds, moved, work)

    logits = torch.randn((*masked.positions.shape, 27), device=where)

    def draw() -> None:
        drawn = mask(tokens, pair.mask_rate, 0, rows)
        corrupt(tokens, drawn, propose(logits, pair.temperature, 0, rows, drawn.positions))

    yield Part("mask, propose, corrupt", 1, device.time(draw), tokens.numel() * 8 * 6, 0)

    head, classifier = electra.discriminator.head, electra.discriminator.classifier
    dense = torch.randn((*size, pair.discriminator.width), device=where, dtype=dtype)
    original = torch.rand(size, device=where) < 0.9

    def tail(dense: Tensor) -> Tensor:
        return rtd_loss(dense, head.norm.weight, classifier.weight[0], classifier.bias[0], original)[0]

    dense_bytes, work = dense.numel() * dtype.itemsize, 6 * dense.numel() * pair.discriminator.width
    yield Part("discriminator: head's dense", 1, device.both_ways(head.dense, dense.clone()), dense_bytes * 5, work)
    yield Part("discriminator: GELU, norm, RTD loss", 1, device.both_ways(tail, dense.clone()), dense_bytes * 3, 0)


def update_part(device: Device, config: TrainConfig, electra: Electra) -> Part:
    optimizer = make_optimizer(electra, config)
    for parameter in electra.parameters():
        parameter.grad = torch.randn_like(parameter)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(electra.parameters(), 1.0)
        optimizer.step()

    # Clipping reads gradients twice and writes them; AdamW reads and writes weight and moments, and reads the gradient.
    size = sum(p.numel() for p in electra.parameters())
    return Part("clipping and AdamW", 1, device.time(update), size * 4 * 10, 0)


def step_parts(device: Device, config: TrainConfig, micro_batch: int, compiled: bool) -> Iterator[Part]:
    """All parts of a step, with how often each runs in it."""
    electra = Electra(config.model).initialize(0).to(device.precision.device)
    size = (micro_batch, config.context)
    of_micro_batch = itertools.chain(
        encoder_parts(device, "generator", config.model.generator, size, compiled),
        encoder_parts(device, "discriminator", config.model.discriminator, size, compiled),
        head_parts(device, config, electra, micro_batch),
    )
    for part in of_micro_batch:
        yield part._replace(count=part.count * (config.batch_size // micro_batch))
    yield update_part(device, config, electra)


def whole_step(device: Device, config: TrainConfig, micro_batch: int, compiled: bool) -> float:
    """Seconds."""
    trainer = Nucel(config, device.precision, compiled)
    return device.time(lambda: trainer.train(micro_batch))


# ---- the table -------------------------------------------------------------------------------------------------------


def part_row(device: Device, part: Part, step_ms: float) -> Row:
    """A part beside its floor, and its share of the whole step."""
    floor_ms = 1e3 * max(part.bytes / device.bytes_per_s, part.operations / device.operations_per_s)
    ms = 1e3 * part.seconds
    return {
        "part": part.name,
        "count": part.count,
        "bytes": part.bytes,
        "operations": part.operations,
        "ms": ms,
        "floor_ms": floor_ms,
        "of_floor": floor_ms / ms if ms else None,
        "step_ms": ms * part.count,
        "share": ms * part.count / step_ms,
    }


def rows(device: Device, config: TrainConfig, micro_batch: int, compiled: bool) -> Iterator[Row]:
    """The whole step, its parts, their sum, and the sum of their floors; a profile that is cut has the first of these.

    The share of the last is what a step would take of its time if every part were at its floor.
    """
    whole_ms = 1e3 * whole_step(device, config, micro_batch, compiled)
    tokens_per_s = 1e3 * config.batch_size * config.context / whole_ms
    yield {"part": "whole step", "step_ms": whole_ms, "share": 1.0, "tokens_per_s": tokens_per_s}
    parts_ms = floor_ms = 0.0
    for part in step_parts(device, config, micro_batch, compiled):
        row = part_row(device, part, whole_ms)
        parts_ms += row["step_ms"]
        floor_ms += row["floor_ms"] * part.count
        yield row
    for name, ms in (("sum of the parts", parts_ms), ("sum of the floors", floor_ms)):
        yield {"part": name, "of_floor": floor_ms / ms, "step_ms": ms, "share": ms / whole_ms}


def main() -> None:
    on_a_gpu = torch.cuda.is_available()
    parser = command_line(__doc__, "profile (on a CPU, profile_cpu)")
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
    setting = {
        "preset": options.preset, "batch": config.batch_size, "context": config.context, "dtype": options.dtype,
        "micro_batch": config.micro_batch, "compiled": on_a_gpu,
        "bytes_per_s": device.bytes_per_s, "operations_per_s": device.operations_per_s,
    }  # fmt: skip
    table = Table(
        facts=machine(precision.device) | setting,
        labels=("part",),
        values={
            "count": ("times", ""),
            "ms": ("ms each", ".3f"),
            "floor_ms": ("floor ms", ".3f"),
            "of_floor": ("of floor", ".0%"),
            "step_ms": ("ms in a step", ".1f"),
            "share": ("share", ".1%"),
            "tokens_per_s": ("tokens/s", ",.0f"),
        },
        path=options.out / ("profile" if on_a_gpu else "profile_cpu"),
        note=f"{options.preset}, {config.batch_size} x {config.context} tokens, {options.dtype}, "
        f"micro-batch {config.micro_batch}, blocks {'compiled' if on_a_gpu else 'not compiled'}. "
        f"Copy {device.bytes_per_s / 1e9:,.0f} GB/s, product {device.operations_per_s / 1e12:,.3g} TFLOP/s.",
    )
    table.fill(rows(device, config, config.micro_batch, compiled=on_a_gpu), options.seconds)
    print(table.markdown())


if __name__ == "__main__":
    main()
