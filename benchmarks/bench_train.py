"""Tokens per second of a training step, beside the same step built from transformers' ModernBERT.

Same sizes, batch and precision, same masked tokens; the two losses are compared before anything is timed.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nucel import hub
from nucel.config import PRESETS, TrainConfig
from nucel.electra import Electra, corrupt, mask, propose
from nucel.metrics import Meter
from nucel.train import Precision, make_optimizer, train_step
from nucel.vocab import BASES, CLS

BATCH = 4
"""Windows per step: enough for the products to be the cost, few enough for a CPU."""


def windows(config: TrainConfig) -> torch.Tensor:
    tokens = torch.randint(*(BASES[0], BASES[-1] + 1), (BATCH, config.context), dtype=torch.uint8)
    tokens[:, 0] = CLS
    return tokens


class TransformersPair:
    """The step of `nucel.train.train_step` on stock classes, with their defaults (SDPA)."""

    def __init__(self, electra: Electra, folder):
        transformers = pytest.importorskip("transformers")
        hub.save(electra.generator, folder / "generator")
        hub.save(electra.discriminator, folder / "discriminator")
        self.config = electra.config
        self.generator = transformers.ModernBertForMaskedLM.from_pretrained(folder / "generator")
        self.discriminator = transformers.ModernBertForTokenClassification.from_pretrained(folder / "discriminator")
        self.parameters = [*self.generator.parameters(), *self.discriminator.parameters()]

    def loss(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        masked = mask(tokens, self.config.mask_rate, 0, rows)
        labels = torch.full(tokens.shape, -100).scatter_(1, masked.positions, masked.originals.long())
        output = self.generator(input_ids=masked.tokens.long(), labels=labels)
        picked = masked.positions[..., None].expand(-1, -1, output.logits.shape[-1])
        proposals = propose(output.logits.gather(1, picked), self.config.temperature, 0, rows, masked.positions)
        corrupted = corrupt(tokens, masked, proposals)
        logits = self.discriminator(input_ids=corrupted.tokens.long()).logits.squeeze(-1)
        judged = F.binary_cross_entropy_with_logits(logits, corrupted.original.float())
        return output.loss + self.config.discriminator_weight * judged


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("who", ["nucel", "transformers"])
@pytest.mark.parametrize("preset", ["debug", "small"])
def test_training_step(benchmark, tmp_path, preset, who, dtype):
    benchmark.group = f"training step, {preset}, {dtype}"
    config = PRESETS[preset]()
    precision = Precision(torch.device("cpu"), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    electra = Electra(config.model).initialize(0)
    peer = TransformersPair(electra, tmp_path)
    tokens, rows = windows(config), torch.arange(BATCH)
    with torch.no_grad():
        torch.testing.assert_close(electra(tokens, 0, rows).loss, peer.loss(tokens, rows), rtol=1e-4, atol=0)

    if who == "nucel":
        optimizer = make_optimizer(electra, config)
        scaler, meter = precision.gradient_scaler(), Meter(precision.device)

        def step():
            train_step(electra, optimizer, scaler, precision, config, tokens, 0, BATCH, meter)
    else:
        optimizer = torch.optim.AdamW(peer.parameters, lr=config.lr, fused=True)

        def step():
            with precision.autocast():
                loss = peer.loss(tokens, rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens_per_s"] = round(tokens.numel() / benchmark.stats.stats.median)
