"""The method: mask, propose, corrupt, discriminate (ELECTRA; NucEL's label, 1 = original).

    tokens --mask--> Masked --Generator--> logits --propose--> proposals --corrupt--> Corrupted --Discriminator--> loss

All randomness is counter-based: a draw is a hash of (seed, row, stream, column), where a row is a window's place in the
whole run. So the same windows get the same masks and the same proposals on any device, in any micro-batch, on any
number of ranks, after any resume, and no generator has a state to save.

Legend: B batch, T positions, M masked slots, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..model.config import ElectraConfig
from ..model.networks import Discriminator, Generator, initialize
from ..tokenizers.nucleotide import BASES
from .masking import PROPOSAL_STREAM, fill_in, mask, random_bits
from .metrics import (
    RankedScores,
    Verdict,
    bootstrap_auroc,
    masked_metrics,
    masked_sums,
    replaced_metrics,
    replaced_sums,
)
from .stages import Corrupted, Discriminated, Masked, Proposed


@torch.no_grad()
def propose(logits: Tensor, temperature: float, seed: int, rows: Tensor, positions: Tensor) -> Tensor:
    """Draw one of A, C, G, T per slot from softmax(logits / temperature), by Gumbel-max in fp32; token ids (B, M).

    Args:
        logits: (B, M, V).
        seed, rows, positions: as for `mask`; the draw belongs to the position, not to its slot.
    """
    base = torch.arange(len(BASES), device=logits.device)
    bits = random_bits(seed, PROPOSAL_STREAM, rows[:, None, None], positions[..., None] * len(BASES) + base)
    uniform = ((bits >> 40).float() + 0.5) * 2.0**-23  # 23 bits: both ends stay off 0 and 1 in fp32
    gumbel = -(-uniform.log()).log()
    scores = logits[..., BASES[0] : BASES[-1] + 1].float() / temperature
    return (scores + gumbel).argmax(-1) + BASES[0]


def corrupt(tokens: Tensor, masked: Masked, proposals: Tensor) -> Corrupted:
    """Put the proposals (B, M) into tokens (B, T). A proposal that equals the original token counts as original."""
    filling = torch.where(masked.used, proposals.to(tokens.dtype), masked.originals)
    corrupted = tokens.scatter(1, masked.positions, filling)
    return Corrupted(corrupted, corrupted == tokens)


class Electra(nn.Module):
    """Generator and discriminator, trained together (NucEL, eq. 1-3).

    Args:
        generator: by default it is built from the configuration.
        discriminator: by default it is built from the configuration.
        context: tokens of the windows they are trained on, where that is known.
    """

    def __init__(
        self,
        config: ElectraConfig,
        generator: Generator | None = None,
        discriminator: Discriminator | None = None,
        context: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.generator = generator or Generator(config.generator, config.tie_embeddings, context)
        self.discriminator = discriminator or Discriminator(config.discriminator, context)

    def initialize(self, seed: int) -> Electra:
        """Draw all weights anew from a seed; returns self."""
        draws = torch.Generator().manual_seed(seed)
        initialize(self.generator, draws)
        initialize(self.discriminator, draws)
        return self

    def propose(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Proposed:
        """The generator's stage: mask the windows and fill them in.

        Args:
            tokens: (B, T), [CLS] first.
            seed: with `rows` it decides masks and proposals.
            rows: int64 (B,), each window's number in the run.
            lengths: (B,) integer, real positions of right-padded rows.
        """
        masked = mask(tokens, self.config.mask_rate, seed, rows, self.config.mask_span, lengths)
        return fill_in(self.generator, masked, lengths)

    def discriminate(
        self, tokens: Tensor, seed: int, rows: Tensor, proposed: Proposed, lengths: Tensor | None = None
    ) -> Discriminated:
        """The discriminator's stage, on the windows of `propose`. No gradient flows from it to the generator."""
        config, masked = self.config, proposed.masked
        proposals = propose(proposed.logits, config.temperature, seed, rows, masked.positions)
        corrupted = corrupt(tokens, masked, proposals)
        rtd_loss, logits = self.discriminator(corrupted.tokens, corrupted.original, lengths)
        return Discriminated(config.discriminator_weight * rtd_loss, rtd_loss, logits, corrupted, proposed)

    def stages(
        self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None
    ) -> Iterator[Proposed | Discriminated]:
        """Both stages, one after the other; the loss is the sum of theirs.

        A trainer calls backward between them, so that the generator's activations need not outlive its own backward.
        """
        proposed = self.propose(tokens, seed, rows, lengths)
        yield proposed
        yield self.discriminate(tokens, seed, rows, proposed, lengths)

    def forward(self, tokens: Tensor, seed: int, rows: Tensor, lengths: Tensor | None = None) -> Discriminated:
        """Both stages at once; arguments as for `propose`."""
        return self.discriminate(tokens, seed, rows, self.propose(tokens, seed, rows, lengths), lengths)

    @staticmethod
    def sums(last: Discriminated) -> tuple[Tensor, Tensor, Tensor]:
        """What a forward pass adds to the metrics: losses (3,), counts (4,), a histogram; no host synchronisation."""
        losses, counts = masked_sums(last.proposed, last.loss)
        rtd_loss, sampled, histogram = replaced_sums(last)
        return torch.cat((losses, rtd_loss[None])), torch.cat((counts, sampled[None])), histogram

    @staticmethod
    def metrics(losses: Tensor, counts: Tensor, histogram: Tensor) -> dict[str, float]:
        """Means and rates, from the totals of `sums`."""
        used, windows, sampled = counts[1:].tolist()
        return {
            **masked_metrics(losses[:2], counts[:3]),
            "generator_sampled_accuracy": sampled / max(1, used),
            "rtd_loss": float(losses[2]) / windows,
            **replaced_metrics(histogram, int(windows)),
        }

    @staticmethod
    def scores(last: Discriminated) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, T), which are replaced, which are bases, on the host: what validation's exact metrics need."""
        corrupted = last.corrupted
        return last.logits.float().cpu(), ~corrupted.original.cpu(), corrupted.bases.cpu()

    @staticmethod
    def exact_metrics(logits: Tensor, replaced: Tensor, bases: Tensor) -> dict[str, float]:
        """AUROC and average precision of the replaced tokens, from `scores`."""
        ranked = RankedScores(-logits[bases], replaced[bases])
        return {"rtd_auroc": ranked.auroc(), "rtd_average_precision": ranked.average_precision()}

    @staticmethod
    def interval(logits: Tensor, replaced: Tensor, bases: Tensor) -> dict[str, float]:
        """Bounds of the AUROC's 95 % interval over windows, from `scores`; nan where one window gives no interval."""
        low, high = bootstrap_auroc(-logits, replaced, bases)
        return {"rtd_auroc_low": low, "rtd_auroc_high": high}

    @staticmethod
    def progress(metrics: dict[str, float]) -> str:
        """Training's metrics in a few words, for the progress bar."""
        return (
            f"generator {metrics['generator_loss']:.3f} RTD {metrics['rtd_loss']:.4f} AUROC {metrics['rtd_auroc']:.3f}"
        )

    @staticmethod
    def summary(metrics: dict[str, float]) -> str:
        """A validation in a line."""
        return (
            f"held-out generator loss {metrics['generator_loss']:.4f}, RTD loss {metrics['rtd_loss']:.4f} "
            f"(constant guess {metrics['rtd_blind']:.4f}), AUROC {metrics['rtd_auroc']:.4f}"
        )

    @staticmethod
    def verdict(metrics: dict[str, float]) -> Verdict:
        """Whether a validation, with its interval, is better than a constant guess."""
        low, high = metrics["rtd_auroc_low"], metrics["rtd_auroc_high"]
        interval = "" if math.isnan(low) else f", 95 % interval {low:.3f} to {high:.3f}"
        details = f"AUROC {metrics['rtd_auroc']:.3f}{interval}"
        return Verdict("the discriminator's loss", metrics["rtd_loss"], metrics["rtd_blind"], details, not low <= 0.5)
