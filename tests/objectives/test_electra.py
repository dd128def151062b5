"""Masking, proposing, corrupting; and what an untrained pair costs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.objectives.electra import Electra, corrupt, propose
from nucel.objectives.masking import mask, masked_cross_entropy, random_bits
from nucel.tokenizers.nucleotide import BASES, CLS, MASK, PAD, UNK

TINY = ElectraConfig(
    generator=EncoderConfig(layers=1, width=32, heads=1, intermediate=32, radius=4),
    discriminator=EncoderConfig(layers=2, width=32, heads=1, intermediate=32, radius=4),
)


def windows(batch, positions, seed=0, unknown=0.0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(BASES[0], BASES[-1] + 1, (batch, positions), generator=generator)
    tokens[torch.rand(batch, positions, generator=generator) < unknown] = UNK
    tokens[:, 0] = CLS
    return tokens.to(torch.uint8)


@given(
    st.integers(1, 5), st.integers(2, 200), st.floats(0.01, 0.9), st.floats(0, 1), st.integers(0, 2**62), st.integers(0)
)
def test_mask_chooses_distinct_bases_and_nothing_else(batch, positions, rate, unknown, seed, first_row):
    tokens = windows(batch, positions, seed % 1000, unknown)
    rows = torch.arange(batch) + first_row % 2**50
    masked = mask(tokens, rate, seed, rows)
    slots = round(rate * (positions - 1))
    assert masked.positions.shape == masked.originals.shape == (batch, slots)
    maskable = (tokens >= BASES[0]) & (tokens <= BASES[-1])
    for row in range(batch):
        used = masked.positions[row][masked.used[row]].tolist()
        assert len(used) == len(set(used)) == min(slots, int(maskable[row].sum()))
        assert maskable[row][used].all()
        assert masked.tokens[row][used].eq(MASK).all()
        rest = torch.ones(positions, dtype=torch.bool)
        rest[used] = False
        assert torch.equal(masked.tokens[row][rest], tokens[row][rest])
    assert torch.equal(tokens.gather(1, masked.positions), masked.originals)


def test_every_position_is_masked_equally_often():
    counts = torch.zeros(64)
    masked = mask(windows(20_000, 64), 0.15, 0, torch.arange(20_000))
    counts += torch.bincount(masked.positions.flatten(), minlength=64)
    assert counts[0] == 0
    # Slots are drawn without replacement, which makes the counts more even than chi-square assumes: the test is lenient
    # on that side and sharp on the other.
    assert chisquare(counts[1:]).pvalue > 1e-3


def test_masks_and_proposals_belong_to_the_row_not_to_the_batch():
    electra = Electra(TINY).initialize(0).eval()
    tokens, rows = windows(6, 50), torch.arange(6) + 1000
    whole = electra(tokens, 7, rows)
    for part in (slice(0, 2), slice(2, 6)):
        some = electra(tokens[part], 7, rows[part])
        assert torch.equal(some.proposed.masked.positions, whole.proposed.masked.positions[part])
        assert torch.equal(some.corrupted.tokens, whole.corrupted.tokens[part])
    again = electra(tokens, 7, rows)
    assert torch.equal(again.corrupted.tokens, whole.corrupted.tokens)
    for other in (electra(tokens, 8, rows), electra(tokens, 7, rows + 6)):
        assert not torch.equal(other.proposed.masked.positions, whole.proposed.masked.positions)


def test_random_bits_look_random():
    bits = random_bits(3, 1, torch.arange(500)[:, None], torch.arange(400))
    assert bits.min() >= 0 and bits.unique().numel() == bits.numel()
    assert chisquare(torch.bincount((bits >> 55).flatten(), minlength=256)).pvalue > 1e-3
    assert chisquare(torch.bincount((bits & 255).flatten(), minlength=256)).pvalue > 1e-3
    signs = ((bits >> 40) & 1).double() * 2 - 1
    for neighbour in (signs[1:] * signs[:-1], signs[:, 1:] * signs[:, :-1]):
        assert abs(float(neighbour.mean())) < 4 / math.sqrt(neighbour.numel())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_proposals_follow_the_softmax_over_bases(temperature):
    logits = torch.full((400, 100, 27), 50.0)  # what is no base is never drawn, however likely
    logits[..., BASES[0] : BASES[-1] + 1] = torch.tensor([0.0, 1.0, -1.0, 0.5])
    positions = torch.arange(1, 101).expand(400, -1)
    drawn = propose(logits, temperature, 0, torch.arange(400), positions)
    counts = torch.bincount(drawn.flatten(), minlength=27)
    assert counts.sum() == counts[BASES[0] : BASES[-1] + 1].sum() == 40_000
    expected = (torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64) / temperature).softmax(-1) * 40_000
    assert chisquare(counts[BASES[0] : BASES[-1] + 1], expected).pvalue > 1e-3


def test_proposals_are_finite_in_low_precision_and_carry_no_gradient():
    logits = torch.full((2, 3, 27), 6e4, dtype=torch.float16, requires_grad=True)
    drawn = propose(logits, 1.0, 0, torch.arange(2), torch.arange(1, 4).expand(2, -1))
    assert drawn.min() >= BASES[0] and drawn.max() <= BASES[-1] and not drawn.requires_grad


def test_a_proposal_equal_to_the_original_counts_as_original():
    tokens = windows(4, 40, unknown=0.9)
    masked = mask(tokens, 0.5, 0, torch.arange(4))
    assert not masked.used.all()
    same = corrupt(tokens, masked, masked.originals.long())
    assert same.original.all() and torch.equal(same.tokens, tokens)
    other = torch.where(masked.originals == BASES[0], BASES[1], BASES[0])
    changed = corrupt(tokens, masked, other)
    assert (~changed.original).sum(1).tolist() == masked.used.sum(1).tolist()
    assert changed.tokens[:, 0].eq(CLS).all()


def test_an_untrained_pair_costs_what_guessing_costs():
    electra = Electra(ElectraConfig(generator=EncoderConfig(3, 64, 2, 64), discriminator=EncoderConfig(3, 64, 2, 64)))
    losses = electra.initialize(0)(windows(8, 128), 0, torch.arange(8))
    # Logits start with a standard deviation of about 0.02 * sqrt(64) = 0.16, the same at all positions.
    assert float(losses.proposed.loss) == pytest.approx(math.log(27), abs=2 * 0.16)
    assert float(losses.rtd_loss) == pytest.approx(math.log(2), abs=0.02)
    assert float(losses.loss) == pytest.approx(math.log(27) + 50 * math.log(2), abs=1.0)
    torch.testing.assert_close(losses.loss, losses.proposed.loss + 50 * losses.rtd_loss)


def test_generator_learns_nothing_from_the_discriminator():
    electra = Electra(TINY).initialize(0)
    electra(windows(2, 40), 0, torch.arange(2)).rtd_loss.backward()
    assert all(p.grad is None for p in electra.generator.parameters())
    assert all(p.grad is not None for p in electra.discriminator.parameters())


def test_padding_is_neither_masked_nor_judged():
    electra = Electra(TINY).initialize(0)
    tokens = windows(2, 40)
    tokens[0, 25:] = PAD
    lengths = torch.tensor([25, 40], dtype=torch.int32)
    losses = electra(tokens, 0, torch.arange(2), lengths)
    assert losses.proposed.masked.positions[0].max() < 25
    real = torch.arange(40) < lengths[:, None]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        losses.logits[real], losses.corrupted.original[real].float()
    )
    torch.testing.assert_close(losses.rtd_loss, expected)


def test_a_window_without_bases_costs_nothing():
    tokens = torch.full((1, 20), UNK, dtype=torch.uint8)
    tokens[:, 0] = CLS
    losses = Electra(TINY).initialize(0)(tokens, 0, torch.arange(1))
    assert losses.proposed.loss == 0 and losses.loss.isfinite() and losses.corrupted.original.all()


def test_masked_cross_entropy_is_the_mean_over_used_slots():
    tokens = windows(3, 30, unknown=0.8)
    masked = mask(tokens, 0.5, 0, torch.arange(3))
    logits = torch.randn(*masked.positions.shape, 27)
    used = masked.used
    expected = torch.nn.functional.cross_entropy(logits[used], masked.originals[used].long())
    torch.testing.assert_close(masked_cross_entropy(logits, masked), expected)
