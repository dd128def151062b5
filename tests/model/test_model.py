"""Sizes, names and behaviour of the networks."""

from __future__ import annotations

import math

import pytest
import torch

from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.model.encoder import Encoder
from nucel.model.networks import Discriminator, Generator, initialize
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS, Recipe, TrainConfig
from nucel.runtime.errors import ConfigError
from nucel.tokenizers.nucleotide import BASES, CLS, PAD

TINY = EncoderConfig(layers=4, width=32, heads=2, intermediate=48, radius=5, init_std=0.1)


def tokens(batch=2, positions=40, seed=0):
    drawn = torch.randint(BASES[0], BASES[-1] + 1, (batch, positions), generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] = CLS
    return drawn.to(torch.uint8)


def encoder(config=TINY, seed=0):
    network = Discriminator(config)
    initialize(network, torch.Generator().manual_seed(seed))
    return network.model.eval()


def test_the_paper_s_encoder_has_the_paper_s_size():
    with torch.device("meta"):
        electra = Electra(PRESETS["base"]().model)
    assert sum(p.numel() for p in electra.discriminator.model.parameters()) == 92_311_552
    assert sum(p.numel() for p in electra.generator.parameters()) == pytest.approx(11.6e6, rel=0.002)


def test_state_dict_has_modernbert_s_134_tensors():
    with torch.device("meta"):
        names = list(Encoder(EncoderConfig()).state_dict())
    assert len(names) == 134
    block = ("attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo")
    expected = {"embeddings.tok_embeddings.weight", "embeddings.norm.weight", "final_norm.weight"}
    expected |= {f"layers.{i}.{part}.weight" for i in range(22) for part in block} - {"layers.0.attn_norm.weight"}
    assert set(names) == expected


def test_every_third_layer_is_global():
    with torch.device("meta"):
        radii = [block.attn.radius for block in Encoder(EncoderConfig()).layers]
    assert radii == [None if i % 3 == 0 else 64 for i in range(22)]


def test_initial_weights_are_truncated_normals():
    config = EncoderConfig(layers=4, width=128, heads=4, intermediate=256)
    generator = Generator(config, tie_embeddings=False)
    initialize(generator, torch.Generator().manual_seed(0))
    for name, weight in generator.state_dict().items():
        if weight.ndim < 2:
            assert weight.eq(0 if name.endswith("bias") else 1).all()
            continue
        reads = any(part in name for part in ("tok_embeddings", "Wqkv", "Wi"))
        std = 0.02 if reads else 0.02 / math.sqrt(8)
        assert weight.abs().max() <= 2 * std
        truncation = 0.8796  # standard deviation of a unit normal cut at +-2
        assert float(weight[weight != 0].std()) == pytest.approx(truncation * std, rel=0.05), name
    assert generator.model.embeddings.tok_embeddings.weight[PAD].eq(0).all()


def test_weights_are_a_function_of_the_seed_alone():
    model = ElectraConfig(generator=TINY, discriminator=TINY)
    torch.manual_seed(1)
    first = Electra(model).initialize(5).state_dict()
    torch.manual_seed(2)
    second, other = (Electra(model).initialize(seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["generator.head.dense.weight"], other["generator.head.dense.weight"])


def test_padding_does_not_reach_real_positions():
    network = encoder()
    short = tokens(1, 25)
    padded = torch.full((1, 40), PAD, dtype=torch.uint8)
    padded[:, :25] = short
    garbage = padded.clone()
    garbage[:, 25:] = BASES[2]
    lengths = torch.tensor([25], dtype=torch.int32)
    expected = network(short)
    for rows in (padded, garbage):
        torch.testing.assert_close(network(rows, lengths)[:, :25], expected, rtol=1e-5, atol=1e-5)


def test_local_layers_see_their_window_and_no_further():
    network = encoder(
        EncoderConfig(layers=3, width=32, heads=2, intermediate=48, radius=5, global_every=4, init_std=0.3)
    )
    network.layers = network.layers[1:]  # two local layers: 10 positions in all
    network.config = EncoderConfig(**{**vars(network.config), "global_every": 1})
    rows = tokens(1, 60)
    changed = rows.clone()
    changed[0, 30] = BASES[0] if rows[0, 30] != BASES[0] else BASES[1]
    moved = (network(rows) - network(changed)).abs().amax(-1)[0] > 0
    assert moved.nonzero().flatten().tolist() == list(range(20, 41))


def test_generator_gives_logits_at_the_asked_positions_only():
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(0))
    rows = tokens()
    everywhere = generator(rows, torch.arange(40).expand(2, -1))
    positions = torch.tensor([[3, 1, 39], [0, 7, 7]])
    picked = everywhere.gather(1, positions[..., None].expand(-1, -1, everywhere.shape[-1]))
    torch.testing.assert_close(generator(rows, positions), picked)


def test_tied_decoder_shares_the_embedding():
    tied, untied = Generator(TINY), Generator(TINY, tie_embeddings=False)
    assert tied.tied and tied.decoder.weight is tied.model.embeddings.tok_embeddings.weight
    assert not untied.tied and untied.decoder.weight is not untied.model.embeddings.tok_embeddings.weight


def test_discriminator_compiles_as_one_graph():
    network = Discriminator(EncoderConfig(layers=2, width=32, heads=2, intermediate=32, radius=5))
    initialize(network, torch.Generator().manual_seed(0))
    rows, original = tokens(), torch.rand(2, 40) < 0.9
    compiled = torch.compile(network, fullgraph=True)
    results = []
    for function in (network, compiled):
        network.zero_grad()
        loss, logits = function(rows, original)
        loss.backward()
        results.append((loss.detach(), logits, *(p.grad for p in network.parameters())))
    for ours, eager in zip(reversed(results), results, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderConfig(width=100, heads=3), "width must be a multiple of 2"),
        (lambda: EncoderConfig(layers=0), "layers must be at least 1, got 0"),
        (lambda: EncoderConfig(radius=-1), "radius must be at least 0"),
        (lambda: ElectraConfig(mask_rate=1.0), "mask_rate must lie between 0 and 1"),
        (lambda: ElectraConfig(temperature=0), "temperature must be positive"),
        (lambda: Recipe(context=2000), "window_bp must be at least context - 1 = 1999"),
        (lambda: Recipe(overlap_bp=1224), "overlap_bp must lie in"),
        (lambda: Recipe(context=3, model=ElectraConfig(mask_rate=0.1)), "masks no position"),
        (lambda: Recipe(hold_out_fraction=0), "validation needs held-out windows"),
        (lambda: Recipe(seed=-1), "seed must lie in"),
        (lambda: TrainConfig(batch_size=10, micro_batch=4), "multiple of micro_batch"),
        (lambda: TrainConfig(stop_after=0), "stop_after must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset):
    config = PRESETS[preset]()
    assert config.steps > config.warmup_steps
