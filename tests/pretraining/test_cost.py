"""What training costs: counted operations against a count by hand, planned bytes against what autograd keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucel.kernels import pointwise
from nucel.model.compiled import compile_blocks
from nucel.model.config import EncoderConfig
from nucel.model.encoder import Encoder
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS
from nucel.pretraining.cost import activation_bytes, choose_micro_batch, product_rate, training_flops, window_bytes
from nucel.runtime.environment import free_memory


def visible_pairs(positions, radius):
    return sum(min(i + radius, positions - 1) - max(i - radius, 0) + 1 for i in range(positions))


@pytest.mark.parametrize("preset", PRESETS)
def test_flops_are_those_of_a_count_by_hand(preset):
    config = PRESETS[preset]()
    context, pair = config.context, config.model
    slots = pair.mask_span * round(pair.mask_rate * ((context - 1) // pair.mask_span))

    def encoder(shape):
        weights = shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.intermediate)
        pairs = sum(
            visible_pairs(context, context if shape.is_global(layer) else shape.radius) for layer in range(shape.layers)
        )
        # Forward, and gradients of input and weight: three products of 2 operations per weight; attention has 2 + 5.
        return 6 * weights * context + 7 * 2 * shape.width * pairs

    expected = encoder(pair.generator) + encoder(pair.discriminator)
    expected += 6 * slots * pair.generator.width * (pair.generator.width + 27)
    expected += 6 * context * pair.discriminator.width**2
    assert training_flops(Electra, pair, context) == expected


def test_the_papers_model_needs_about_700_mflop_per_token():
    config = PRESETS["base"]()
    assert training_flops(Electra, config.model, config.context) / config.context == pytest.approx(701e6, rel=0.02)


def kept_bytes(encoder, tokens, dtype):
    """What autograd keeps for the backward pass besides the weights and their casts."""
    storages = {}

    def keep(x):
        if x.ndim > 2 or x.shape[0] == tokens.numel():
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        encoder(tokens)
    return sum(storages.values())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_encoder_keeps_the_bytes_that_are_planned(dtype, compiled, monkeypatch):
    monkeypatch.setattr(pointwise, "compiled", lambda: False)  # as on a GPU; a CPU's kernels keep less
    config = EncoderConfig(layers=4, width=64, heads=2, intermediate=192)
    encoder = Encoder(config)
    if compiled:
        compile_blocks(encoder)
    tokens = torch.randint(11, 15, (2, 256))
    planned = tokens.numel() * activation_bytes(config, dtype, compiled)
    assert kept_bytes(encoder, tokens, dtype) == pytest.approx(planned, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_for_cpus_keep_less(dtype):
    config = EncoderConfig(layers=4, width=64, heads=2, intermediate=192)
    kept = kept_bytes(Encoder(config), torch.randint(11, 15, (2, 256)), dtype)
    spared = config.layers * config.intermediate * dtype.itemsize  # gelu(a)
    planned = activation_bytes(config, dtype, compiled=False) - spared
    assert kept == pytest.approx(2 * 256 * planned, rel=0.05)


def test_the_papers_batch_is_planned_within_80_gib():
    config = PRESETS["base"]()
    parameters = sum(p.numel() for p in Electra(config.model).parameters())
    per_window = window_bytes(config.model, config.context, torch.bfloat16, compiled=True)
    free = 79 * 2**30 - 4 * parameters  # an A100's, with the weights on it
    assert choose_micro_batch(config.batch_size, free, per_window, parameters) == 192


@given(st.integers(1, 400), st.integers(0, 10**9), st.integers(1, 10**7), st.integers(0, 10**7))
def test_the_micro_batch_is_the_largest_divisor_that_fits(batch, free, per_window, parameters):
    chosen = choose_micro_batch(batch, free, per_window, parameters)
    assert batch % chosen == 0
    left = 0.93 * free - 12 * parameters
    assert chosen == 1 or chosen * per_window <= left
    assert all(batch % m or m * per_window > left for m in range(chosen + 1, batch + 1))
    assert choose_micro_batch(batch, None, per_window, parameters) == batch


def test_memory_and_rate_are_those_of_a_machine():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32, seconds=0.02) < 1e16
