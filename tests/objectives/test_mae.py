"""The masked autoencoder: what its encoder sees and what it cannot see, its loss, its cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import tiny_encoder

from nucel.kernels.attention import attention
from nucel.kernels.attention_gathered import gathered_attention, visible
from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.model.encoder import Encoder, rotary_at, rotary_table
from nucel.objectives.electra import Electra
from nucel.objectives.mae import MaskedAutoencoder, capacity, kept
from nucel.objectives.masking import mask, random_bits, slots_of
from nucel.objectives.mlm import MaskedLM
from nucel.pretraining.cost import training_flops
from nucel.tokenizers.nucleotide import BASES, CLS, MASK, PAD, UNK

SHAPE = EncoderConfig(layers=3, width=32, heads=2, intermediate=48, radius=8, global_every=2, init_std=0.1)
CONFIG = ElectraConfig(
    discriminator=SHAPE, decoder=replace(SHAPE, layers=2, width=16, heads=1), mask_rate=0.5, mask_span=6
)


def windows(batch, positions, unknown=0.0, lengths=None, seed=0):
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(BASES[0], BASES[-1] + 1, (batch, positions), generator=draws)
    tokens[torch.rand(batch, positions, generator=draws) < unknown] = UNK
    tokens[:, 0] = CLS
    if lengths is not None:
        tokens[torch.arange(positions) >= lengths[:, None]] = PAD
    return tokens.to(torch.uint8)


def autoencoder(config=CONFIG, seed=0):
    return MaskedAutoencoder(config).initialize(seed).eval()


# ---- masks -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(2, 90), st.floats(0, 1), st.integers(1, 9), st.floats(0, 0.3), st.data())
def test_blocks_are_masked_whole_and_counted_by_each_rows_length(batch, positions, rate, span, unknown, data):
    lengths = data.draw(st.none() | st.lists(st.integers(1, positions), min_size=batch, max_size=batch))
    lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    tokens = windows(batch, positions, unknown, lengths)
    masked = mask(tokens, rate, 3, torch.arange(batch), span, lengths)
    for row in range(batch):
        length = positions if lengths is None else int(lengths[row])
        starts = range(1, length - span + 1, span)
        known = [start for start in starts if all(BASES[0] <= token for token in tokens[row, start : start + span])]
        hidden = masked.positions[row][masked.used[row]].tolist()
        first = [p for p in hidden if (p - 1) % span == 0]
        assert len(set(hidden)) == len(hidden) == span * min(len(known), round(rate * len(starts)))
        assert sorted(hidden) == sorted(p + i for p in first for i in range(span)) and set(first) <= set(known)
        expected = tokens[row].clone()
        expected[hidden] = MASK
        assert torch.equal(masked.tokens[row], expected)
    assert torch.equal(tokens.gather(1, masked.positions), masked.originals)


def test_masks_of_single_bases_are_those_of_earlier_versions():
    """Runs that were started before there were spans go on with the same masks."""
    tokens, rows = windows(5, 120, unknown=0.2), torch.arange(5) + 17
    maskable = (tokens >= BASES[0]) & (tokens <= BASES[-1])
    keys = random_bits(4, 1, rows[:, None], torch.arange(120)).masked_fill(~maskable, -1)
    chosen = keys.topk(round(0.9 * 119), dim=1)
    assert torch.equal(mask(tokens, 0.9, 4, rows).positions, chosen.indices.masked_fill(chosen.values < 0, 0))


def test_padding_changes_no_rows_masks():
    lengths = torch.tensor([42, 61, 7])
    tokens = windows(3, 61, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = mask(tokens[row : row + 1, :length], 0.5, 1, torch.tensor([row]), 6)
        together = mask(tokens, 0.5, 1, torch.arange(3), 6, lengths)
        used = together.positions[row][together.used[row]]
        assert torch.equal(used, alone.positions[0][alone.used[0]])


# ---- what is gathered ------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(2, 60), st.floats(0, 0.9), st.integers(1, 7), st.booleans(), st.data())
def test_all_that_is_not_masked_is_kept_where_it_stood(batch, positions, rate, span, variable, data):
    lengths = None
    if variable:
        some = st.lists(st.integers(1, positions), min_size=batch, max_size=batch)
        lengths = torch.tensor(data.draw(some), dtype=torch.int32)
    tokens = windows(batch, positions, lengths=lengths)
    masked = mask(tokens, rate, 0, torch.arange(batch), span, lengths)
    seen = kept(masked, capacity(positions, rate, span, variable), lengths)
    assert variable or (seen.lengths == seen.tokens.shape[1]).all()
    for row in range(batch):
        real = positions if lengths is None else int(lengths[row])
        left = [p for p in range(real) if p not in masked.positions[row][masked.used[row]].tolist()]
        count = int(seen.lengths[row])
        assert seen.positions[row][:count].tolist() == left and not seen.positions[row][count:].any()
        assert seen.tokens[row][:count].tolist() == tokens[row][left].tolist()
        assert (seen.tokens[row][count:] == PAD).all()


def test_unknown_bases_are_the_first_to_go_where_too_few_could_be_masked():
    tokens = windows(1, 61)
    tokens[0, 1::6] = UNK  # one in each block: nothing can be masked
    masked = mask(tokens, 0.5, 0, torch.arange(1), 6)
    size = capacity(61, 0.5, 6, False)
    seen = kept(masked, size, None)
    assert not masked.used.any() and size == 61 - slots_of(61, 0.5, 6) == 31
    assert seen.lengths.tolist() == [31] and seen.tokens[0, 0] == CLS and not (seen.tokens == UNK).any()
    few = windows(1, 61)
    few[0, 1:31:6] = UNK  # five blocks of ten: the other five are masked, and all that is unknown is kept
    seen = kept(mask(few, 0.5, 0, torch.arange(1), 6), size, None)
    assert (seen.tokens == UNK).sum() == 5


# ---- attention at positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [None, 5])
def test_attention_at_0_1_2_is_that_of_the_op(radius):
    draws = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 23, 3, 2, 8, generator=draws, dtype=torch.float64)
    lengths = torch.tensor([23, 9])
    positions = torch.arange(23).expand(2, 23) * (torch.arange(23) < lengths[:, None])
    seen = visible(positions, radius or 0, lengths)
    mine = gathered_attention(qkv, *rotary_at(positions, 8, 100.0), seen.everywhere if radius is None else seen.nearby)
    theirs = attention(qkv, *rotary_table(23, 8, 100.0, qkv.device), radius, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(mine[row, :length], theirs[row, :length], rtol=1e-10, atol=1e-12)


def test_gradients_of_the_encoder_and_of_the_decoder_are_right():
    draws = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 6, 3, 1, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[0, 9, 2, 7, 4, 0]])
    rotary = rotary_at(positions, 4, 10.0)
    for seen in visible(positions, 4, torch.tensor([5])):
        assert torch.autograd.gradcheck(lambda x, seen=seen: gathered_attention(x, *rotary, seen), qkv)

    small = replace(SHAPE, width=8, heads=2, intermediate=8)
    sizes = replace(CONFIG, discriminator=small, decoder=replace(small, width=4, heads=1))
    model = autoencoder(sizes).double()
    lengths = torch.tensor([31, 20])
    tokens = windows(2, 31, lengths=lengths)
    names = ("mask_token", "projection.weight", "classifier.bias")
    weights = tuple(dict(model.decoder.named_parameters())[name] for name in names)
    weights += (model.encoder.final_norm.weight,)

    def loss(*_):
        return model(tokens, 0, torch.arange(2), lengths).loss

    assert torch.autograd.gradcheck(loss, weights)


def at_positions(encoder, tokens, positions):
    with torch.no_grad():
        return encoder(tokens, positions=positions)


def test_with_nothing_masked_the_encoder_is_what_it_is_alone():
    encoder, lengths = tiny_encoder(), torch.tensor([50, 33])
    for some in (None, lengths):
        tokens = windows(2, 50, lengths=some)
        seen = kept(mask(tokens, 0.0, 0, torch.arange(2), 6, some), capacity(50, 0.0, 6, some is not None), some)
        with torch.no_grad():
            mine, alone = encoder(seen.tokens, seen.lengths, positions=seen.positions), encoder(tokens, some)
        for row, length in enumerate([50, 50] if some is None else some):
            torch.testing.assert_close(mine[row, :length], alone[row, :length], rtol=1e-4, atol=1e-5)


def test_the_order_of_kept_tokens_is_the_order_of_the_output():
    encoder, draws = tiny_encoder(), torch.Generator().manual_seed(1)
    tokens, positions = windows(2, 30), torch.randperm(90, generator=draws)[:30].expand(2, 30)
    order = torch.randperm(30, generator=draws)
    first = at_positions(encoder, tokens, positions)[:, order]
    torch.testing.assert_close(
        at_positions(encoder, tokens[:, order], positions[:, order]), first, rtol=1e-4, atol=1e-5
    )
    moved = at_positions(encoder, tokens, positions.flip(1))[:, order]
    assert not torch.allclose(moved, first, atol=1e-2)


def test_only_distances_count():
    encoder, tokens = tiny_encoder(), windows(2, 30)
    positions = torch.arange(0, 90, 3).expand(2, 30)
    first = at_positions(encoder, tokens, positions)
    torch.testing.assert_close(at_positions(encoder, tokens, positions + 1000), first, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(at_positions(encoder, tokens, positions // 3), first, atol=1e-2)


def test_masked_bases_cannot_influence_the_encoder():
    model, tokens, rows = autoencoder(), windows(3, 61), torch.arange(3)
    masked = mask(tokens, 0.5, 0, rows, 6)
    others = tokens.scatter(1, masked.positions, (masked.originals - BASES[0] + 1) % 4 + BASES[0])
    assert (others != tokens).sum() == masked.used.sum() > 0
    seen = []
    model.encoder.register_forward_hook(lambda _module, _inputs, hidden: seen.append(hidden))
    with torch.no_grad():
        losses = [model(x, 0, rows).loss for x in (tokens, others)]
    assert torch.equal(*seen) and losses[0] != losses[1]


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_the_first_loss_is_that_of_a_guess_among_four_bases():
    result = autoencoder()(windows(8, 121), 0, torch.arange(8))
    assert result.loss.item() == pytest.approx(math.log(4), abs=0.05)
    assert (
        result.logits.softmax(-1)[..., : BASES[0]].sum() == result.logits.softmax(-1)[..., BASES[-1] + 1 :].sum() == 0
    )


def test_padding_and_neighbouring_rows_change_a_loss_by_rounding_alone():
    model, lengths = autoencoder(), torch.tensor([61, 40, 9])
    tokens = windows(3, 61, lengths=lengths)
    with torch.no_grad():
        together = model(tokens, 0, torch.arange(3), lengths)
        alone = [
            model(tokens[row : row + 1, :length], 0, torch.tensor([row])).loss * together.masked.used[row].sum()
            for row, length in enumerate(lengths.tolist())
        ]
    torch.testing.assert_close(sum(alone) / together.masked.used.sum(), together.loss, rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_weight():
    model = autoencoder().train()
    model(windows(4, 61), 0, torch.arange(4)).loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_the_control_reads_the_same_masks():
    tokens, rows = windows(3, 61), torch.arange(3)
    lm = MaskedLM(CONFIG).initialize(0)(tokens, 5, rows)
    pair = Electra(replace(CONFIG, generator=SHAPE)).initialize(0).propose(tokens, 5, rows)
    mae = autoencoder()(tokens, 5, rows)
    assert torch.equal(lm.masked.positions, mae.masked.positions)
    assert torch.equal(pair.masked.positions, mae.masked.positions)


def test_the_encoder_costs_about_half_of_a_masked_language_models():
    config = ElectraConfig(
        discriminator=EncoderConfig(layers=6, width=768, heads=6, intermediate=2048), mask_rate=0.5, mask_span=6,
        decoder=EncoderConfig(layers=1, width=2, heads=1, intermediate=1),
    )  # fmt: skip
    half = training_flops(MaskedAutoencoder, config, 661) / training_flops(MaskedLM, config, 661)
    assert 0.45 < half < 0.55


def test_a_projection_is_there_only_where_widths_differ():
    names = [name for name, _ in MaskedAutoencoder(replace(CONFIG, decoder=SHAPE)).named_parameters()]
    assert "decoder.projection.weight" not in names
    assert "decoder.projection.weight" in dict(autoencoder().named_parameters())
    assert isinstance(autoencoder().encoder, Encoder)
