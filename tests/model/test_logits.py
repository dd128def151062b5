"""Inference calls of the pair: logits without labels, with and without a gradient, compiled or not."""

from __future__ import annotations

import pytest
import torch
from support.close import assert_as_good_as_pytorch, largest_error
from support.tiny import TINY
from torch.nn import functional as F

from nucel.model.compiled import compile_blocks
from nucel.model.networks import Discriminator, Generator, initialize
from nucel.tokenizers.nucleotide import BASES, CLS, PAD

LENGTHS = torch.tensor([40, 23, 7], dtype=torch.int32)


def tokens() -> torch.Tensor:
    drawn = torch.randint(BASES[0], BASES[-1] + 1, (3, 40), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = CLS
    return drawn.masked_fill(torch.arange(40) >= LENGTHS[:, None], PAD).to(torch.uint8)


@pytest.fixture
def discriminator() -> Discriminator:
    network = Discriminator(TINY)
    draws = torch.Generator().manual_seed(0)
    initialize(network, draws)
    torch.nn.init.normal_(network.classifier.weight, generator=draws)
    torch.nn.init.normal_(network.head.norm.weight, mean=1, std=0.3, generator=draws)
    return network.eval()


def real(logits: torch.Tensor) -> torch.Tensor:
    return logits[torch.arange(40) < LENGTHS[:, None]]


def test_logits_are_those_of_the_loss(discriminator):
    with torch.no_grad():
        logits = discriminator.logits(tokens(), LENGTHS)
        for original in (torch.zeros(3, 40, dtype=torch.bool), torch.ones(3, 40, dtype=torch.bool)):
            assert torch.equal(logits, discriminator(tokens(), original, LENGTHS)[1])
    assert logits.dtype == torch.float32 and logits.shape == (3, 40) and not logits.requires_grad


def test_the_way_with_a_gradient_gives_the_same_logits(discriminator):
    with torch.no_grad():
        plain = real(discriminator.logits(tokens(), LENGTHS))
    traced = real(discriminator.logits(tokens(), LENGTHS))
    assert traced.requires_grad
    exact = discriminator.double()
    with torch.no_grad():
        truth = real(exact.logits(tokens(), LENGTHS))
    errors = {"logits": largest_error(plain, truth)}
    assert_as_good_as_pytorch({"logits": traced.detach()}, {"logits": truth}, errors, torch.float32)


def test_the_gradient_of_the_loss_comes_through_the_logits_too(discriminator):
    """The loss computed from the logits has the gradient of the loss op, for every weight."""
    original = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) < 0.8
    network = discriminator.double()
    loss, _ = network(tokens(), original, LENGTHS)
    loss.backward()
    expected = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    logits = real(network.logits(tokens(), LENGTHS))
    F.binary_cross_entropy_with_logits(logits, real(original).double()).backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_what_the_head_keeps_for_the_backward_is_its_input(discriminator):
    """GELU's and the norm's outputs, (B, T, C), are recomputed and not kept."""
    hidden = discriminator.model(tokens(), LENGTHS).detach().requires_grad_()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.shape), x)[1], lambda x: x):
        discriminator.logits_of_hidden(hidden).sum()
    assert sum(shape == hidden.shape for shape in kept) <= 2  # hidden for the dense layer, dense for the tail


def test_low_precision_gives_fp32_logits(discriminator):
    with torch.autocast("cpu", torch.bfloat16):
        traced = discriminator.logits(tokens())
        with torch.no_grad():
            plain = discriminator.logits(tokens())
    assert traced.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(traced, plain, rtol=1e-4, atol=1e-4)


def test_generator_s_logits_at_all_positions_are_those_at_each():
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(0))
    positions = torch.arange(40).expand(3, 40)
    with torch.no_grad():
        found = generator.logits(tokens(), LENGTHS)
        torch.testing.assert_close(found, generator(tokens(), positions, LENGTHS), rtol=1e-6, atol=1e-6)
    assert found.shape == (3, 40, 27)


def test_several_layers_come_from_one_pass(discriminator):
    encoder = discriminator.model
    with torch.no_grad():
        found = encoder.hidden_states(tokens(), (-1, 0, 1, 2), LENGTHS)
        for layer, hidden in zip((-1, 0, 1, 2), found, strict=True):
            assert torch.equal(hidden, encoder(tokens(), LENGTHS, layer))
    with pytest.raises(ValueError, match="layer must lie in"):
        encoder.hidden_states(tokens(), (0, 3))


@pytest.mark.slow
def test_compiled_blocks_give_the_same_logits(discriminator):
    with torch.no_grad():
        expected = discriminator.logits(tokens())
        compile_blocks(discriminator)
        torch.testing.assert_close(discriminator.logits(tokens()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_the_gpu_gives_the_cpu_s_logits(discriminator):
    with torch.no_grad():
        expected = discriminator.logits(tokens(), LENGTHS)
        found = discriminator.cuda().logits(tokens().cuda(), LENGTHS.cuda()).cpu()
    torch.testing.assert_close(real(found), real(expected), rtol=1e-4, atol=1e-4)
