"""The control: masked language modelling with the same encoder, windows and masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..model.config import ElectraConfig
from ..model.networks import Generator, initialize
from .masking import fill_in, mask
from .metrics import Verdict, masked_metrics, masked_sums
from .stages import Proposed


class MaskedLM(nn.Module):
    """The control: an encoder of the discriminator's size that learns from masked bases alone (BERT's objective).

    It reads the same windows with the same masks as the pair. Its losses have one stage.
    """

    def __init__(self, config: ElectraConfig, masked_lm: Generator | None = None, context: int | None = None):
        super().__init__()
        self.config = config
        self.masked_lm = masked_lm or Generator(config.discriminator, config.tie_embeddings, context)

    def initialize(self, seed: int) -> MaskedLM:
        """Draw all weights anew from a seed; returns self."""
        initialize(self.masked_lm, torch.Generator().manual_seed(seed))
        return self

    def forward(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Proposed:
        """The loss of windows; arguments as for `Electra`."""
        masked = mask(tokens, self.config.mask_rate, seed, rows, self.config.mask_span, lengths)
        return fill_in(self.masked_lm, masked, lengths)

    def stages(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Iterator[Proposed]:
        """The one stage that there is."""
        yield self(tokens, seed, rows, lengths)

    @staticmethod
    def sums(last: Proposed) -> tuple[Tensor, Tensor]:
        """What a forward pass adds to the metrics: losses (2,), counts (3,); on the device, without waiting for it."""
        return masked_sums(last, last.loss)

    @staticmethod
    def metrics(losses: Tensor, counts: Tensor) -> dict[str, float]:
        """Means, from the totals of `sums`."""
        return masked_metrics(losses, counts)

    @staticmethod
    def scores(last: Proposed) -> tuple[()]:
        """Nothing that exact metrics need beside the sums."""
        return ()

    @staticmethod
    def exact_metrics() -> dict[str, float]:
        """None beside `metrics`, which are exact."""
        return {}

    @staticmethod
    def interval() -> dict[str, float]:
        """None."""
        return {}

    @staticmethod
    def progress(metrics: dict[str, float]) -> str:
        """Training's metrics in a few words, for the progress bar."""
        return f"masked-base loss {metrics['generator_loss']:.3f}"

    @staticmethod
    def summary(metrics: dict[str, float]) -> str:
        """A validation in a line."""
        return f"held-out masked-base loss {metrics['generator_loss']:.4f}"

    @staticmethod
    def verdict(metrics: dict[str, float]) -> Verdict:
        """Whether a validation, with the `composition` of its genome, is better than a constant guess."""
        details = f"base accuracy {metrics['generator_accuracy']:.3f}"
        return Verdict("the loss at masked bases", metrics["generator_loss"], metrics["composition"], details)
