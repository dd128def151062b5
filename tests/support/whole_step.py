"""One training step of the pair, ours and transformers': both losses and the gradient of every parameter."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from nucel.model import hub
from nucel.model.config import ElectraConfig
from nucel.objectives.electra import Electra


def assert_step_agrees(
    model: ElectraConfig,
    tokens: Tensor,
    folder: Path,
    attention: str,
    dtype: torch.dtype,
    rtol: float,
    gradient_tolerance: float,
) -> None:
    """The same weights and the same masked and corrupted tokens give the same losses and gradients.

    Args:
        folder: where the weights are written for transformers to read.
        attention: transformers' implementation, "eager" or "sdpa".
        rtol: of the losses.
        gradient_tolerance: of each gradient, as a share of its largest element.
    """
    pair = Electra(model).initialize(0)
    hub.save(pair.generator, folder / "generator")
    hub.save(pair.discriminator, folder / "discriminator")
    losses = pair.to(dtype)(tokens, 3, torch.arange(len(tokens)))
    losses.loss.backward()

    def load(kind, name):
        return kind.from_pretrained(folder / name, attn_implementation=attention).to(dtype)

    generator = load(transformers.ModernBertForMaskedLM, "generator")
    labels = torch.full(tokens.shape, -100)
    labels.scatter_(1, losses.proposed.masked.positions, losses.proposed.masked.originals.long())
    labels[:, 0] = -100
    generator_loss = generator(input_ids=losses.proposed.masked.tokens.long(), labels=labels).loss.to(dtype)

    discriminator = load(transformers.ModernBertForTokenClassification, "discriminator")
    logits = discriminator(input_ids=losses.corrupted.tokens.long()).logits
    rtd_loss = F.cross_entropy(logits.flatten(0, 1), losses.corrupted.original.long().flatten())
    (generator_loss + model.discriminator_weight * rtd_loss).backward()

    assert 0 < losses.corrupted.original.double().mean() < 1
    torch.testing.assert_close(losses.proposed.loss, generator_loss, rtol=rtol, atol=0)
    torch.testing.assert_close(losses.rtd_loss, rtd_loss, rtol=rtol, atol=0)
    for ours, theirs in ((pair.generator, generator), (pair.discriminator, discriminator)):
        found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
        assert found.keys() == expected.keys()
        for name, parameter in found.items():
            theirs_grad = expected[name].grad
            if parameter.shape != theirs_grad.shape:  # the discriminator's classifier: the row of "original" is ours
                theirs_grad = theirs_grad[1:]
            scale = float(theirs_grad.abs().max())
            assert scale > 0, name
            error = float((parameter.grad - theirs_grad).abs().max())
            assert error <= gradient_tolerance * scale, f"{name}: {error / scale:.2e} of its largest element"
