"""The options of variant scores, and which scores a model allows."""

from __future__ import annotations

from dataclasses import dataclass

from ..inference.predict import BATCH_TOKENS
from ..runtime.errors import ConfigError
from .networks import Networks
from .variant_scores import DISCRIMINATOR, ENCODER, GENERATOR, NEEDS, PAIR


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is scored, and in which windows."""

    scores: tuple[str, ...] = ()
    """Names of scores; by default all that the model allows, except pll, which takes 66 passes for each variant."""
    average_reverse_complement: bool = True
    """Take the mean of both strands, so that a variant and its reverse complement have the same scores."""
    layer: int = -1
    """Whose hidden states the distances compare, as transformers counts layers: -1 is the end, -2 the one before."""
    context: int | None = None
    """Longest window in tokens, [CLS] and bases; by default that of the windows which the model was trained on."""
    near_bp: int = 64
    """How far around a variant rtd_window, rtd_context and rtd_influence look."""
    pll_bp: int = 16
    """How far around a variant pll masks each base in turn."""
    share_window: int | None = None
    """Put all single-base variants of a bin of so many bases into one window, so that they share the pass of the
    reference. By default each variant is in the middle of its own."""
    fast: bool = False
    """Only llr_unmasked, from one pass for all variants of a shared window (half the context, if not said)."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that pass through the network at once, padding included; a longer sequence makes a batch of its own."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.scores if name not in NEEDS]:
            raise ConfigError(f"scores are {', '.join(NEEDS)}; got {', '.join(unknown)}")
        least = {"context": 4, "near_bp": 1, "pll_bp": 0, "share_window": 1, "batch_tokens": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"{name} must be at least {smallest}, got {value}")
        if self.fast and self.scores not in ((), ("llr_unmasked",)):
            raise ConfigError("--fast computes llr_unmasked alone; leave out --scores, or leave out --fast")

    def chosen(self, networks: Networks) -> tuple[str, ...]:
        """The scores to compute, in a fixed order.

        Raises:
            ConfigError: the model does not have what a score needs.
        """
        there = {
            ENCODER: networks.encoder is not None,
            GENERATOR: networks.generator is not None,
            DISCRIMINATOR: networks.discriminator is not None,
            PAIR: networks.generator is not None and networks.discriminator is not None,
        }
        asked = ("llr_unmasked",) if self.fast else self.scores
        for name in asked:
            if not there[NEEDS[name]]:
                raise ConfigError(f"{name} needs {NEEDS[name]}, and {networks.name} is {networks.kind}")
        return tuple(
            name for name, need in NEEDS.items() if (name in asked if asked else there[need] and name != "pll")
        )

    def room_bp(self, networks: Networks) -> int:
        """Bases of the longest window."""
        context = self.context or networks.context
        if context is None:
            raise ConfigError("the model does not say which context it was trained on; give --context")
        return context - 1
