"""The pair and its loss built from transformers' ModernBERT, and its encoder: what we are compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nucel.model import hub
from nucel.objectives.electra import Electra, corrupt, propose
from nucel.objectives.masking import mask


class TransformersPair(nn.Module):
    """Stock classes with their defaults (SDPA) and our pair's weights; same masks and draws, called like `Electra`."""

    def __init__(self, electra: Electra):
        super().__init__()
        from transformers import ModernBertForMaskedLM, ModernBertForTokenClassification

        self.config = electra.config
        with tempfile.TemporaryDirectory() as folder:
            for name in ("generator", "discriminator"):
                hub.save(getattr(electra, name), Path(folder) / name)
            self.generator = ModernBertForMaskedLM.from_pretrained(Path(folder) / "generator")
            self.discriminator = ModernBertForTokenClassification.from_pretrained(Path(folder) / "discriminator")
        self.hidden_states = self.discriminator.model
        self.train()

    def compile_networks(self) -> None:
        self.generator.compile(dynamic=False)
        self.discriminator.compile(dynamic=False)
        self.hidden_states = torch.compile(self.discriminator.model, dynamic=False)

    def loss(self, tokens: Tensor, seed: int, rows: Tensor) -> Tensor:
        masked = mask(tokens, self.config.mask_rate, seed, rows)
        labels = torch.full_like(tokens, -100, dtype=torch.int64)
        labels.scatter_(1, masked.positions, masked.originals.long())
        output = self.generator(input_ids=masked.tokens.long(), labels=labels)
        picked = masked.positions[..., None].expand(-1, -1, output.logits.shape[-1])
        proposals = propose(output.logits.gather(1, picked), self.config.temperature, seed, rows, masked.positions)
        corrupted = corrupt(tokens, masked, proposals)
        logits = self.discriminator(input_ids=corrupted.tokens.long()).logits  # (B, T, 2): replaced, original
        rtd = F.cross_entropy(logits.flatten(0, 1), corrupted.original.long().flatten())
        return output.loss + self.config.discriminator_weight * rtd

    def hidden(self, tokens: Tensor) -> Tensor:
        """The discriminator's encoder."""
        return self.hidden_states(input_ids=tokens.long()).last_hidden_state
