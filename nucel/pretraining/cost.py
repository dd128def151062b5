"""What training costs: floating-point operations as torch counts them, and the bytes that one window needs.

Legend: C model width, I inner width of the GeGLU.
"""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..kernels.linear import linear
from ..model.config import ElectraConfig, EncoderConfig
from ..objectives.electra import Electra
from ..objectives.kinds import Objective
from ..objectives.mae import MaskedAutoencoder, capacity

_RESERVE = 0.93
"""Share of the free memory that may be planned with: allocators round up and leave gaps."""


def training_flops(kind: type[Objective], config: ElectraConfig, context: int) -> int:
    """Operations of one window's forward and backward pass, by torch's own counter.

    Counted are matrix products and, in attention, the visible pairs. Nothing is computed: the tensors are meta tensors.
    """
    with torch.device("meta"):
        model = kind(config)
        tokens, row = torch.zeros((1, context), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens, 0, row).loss.backward()
    return counter.get_total_flops()


def activation_bytes(config: EncoderConfig, dtype: torch.dtype, compiled: bool) -> int:
    """Bytes per token that an encoder keeps for its backward pass, computing in dtype; the residual stream is fp32.

    A block keeps its input, packed q, k, v, attention's output and log-sum-exp, and the gated unit's input. Compiled,
    it also keeps what attention adds to the stream, and nothing else; otherwise the sum instead, the two norms'
    outputs, gelu(a), and the gated unit's output.
    """
    width, inner, item = config.width, config.intermediate, dtype.itemsize
    block = 4 * width + (3 + 1) * width * item + 4 * config.heads + 2 * inner * item
    block += width * item if compiled else 4 * width + 2 * width * item + 2 * inner * item
    ends = 2 * 4 * width + width * item  # the embeddings' and the last norm's inputs, and the last norm's output
    return config.layers * block + ends


def window_bytes(
    config: ElectraConfig, context: int, dtype: torch.dtype, compiled: bool, kind: type[Objective] = Electra
) -> int:
    """Bytes that one window adds to the peak of a training step.

    The generator's activations are gone before the discriminator runs. On top of them a backward pass holds the
    gradients of about one block. A masked autoencoder's two halves are kept together: its encoder's of the tokens that
    are left, with rotated queries and keys besides, and its decoder's of all.
    """

    def peak(encoder: EncoderConfig) -> int:
        gradients = 2 * 4 * encoder.width + (4 * encoder.width + 4 * encoder.intermediate) * dtype.itemsize
        return activation_bytes(encoder, dtype, compiled) + gradients

    if kind is MaskedAutoencoder:
        encoder, tokens = config.discriminator, capacity(context, config.mask_rate, config.mask_span, variable=False)
        rotated = 2 * encoder.width * dtype.itemsize * encoder.layers
        return tokens * (activation_bytes(encoder, dtype, compiled) + rotated) + context * peak(config.decoder)
    return context * max(peak(config.generator), peak(config.discriminator))


def choose_micro_batch(batch: int, free: int | None, per_window: int, parameters: int) -> int:
    """The largest divisor of a batch that fits into free bytes, beside gradients and AdamW's moments; at least 1."""
    if free is None:
        return batch
    left = _RESERVE * free - 3 * 4 * parameters
    return max(m for m in range(1, batch + 1) if batch % m == 0 and (m == 1 or m * per_window <= left))


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations per second of a matrix product that fills the device, measured: what MFU is a share of."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn((size, size), device=device, dtype=dtype) for _ in range(2))

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    linear(a, b)
    wait()
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            linear(a, b)
        wait()
        products += 4
    return products * 2 * size**3 / (time.perf_counter() - start)
