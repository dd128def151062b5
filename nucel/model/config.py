"""Shapes of the networks, as frozen dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..runtime.errors import require


@dataclass(frozen=True)
class EncoderConfig:
    """A ModernBERT-type encoder. The defaults are NucEL's discriminator."""

    layers: int = 22
    """Number of blocks."""
    width: int = 512
    """Model width C (hidden size)."""
    heads: int = 16
    """Attention heads; the head width is width / heads."""
    intermediate: int = 2048
    """Inner width of the GeGLU."""
    radius: int = 64
    """Local layers: a position attends to those at most this far away (ModernBERT's local_attention is twice this)."""
    global_every: int = 3
    """Layers 0, n, 2n, ... are global, the others local."""
    global_theta: float = 160_000.0
    """Base of the rotary embedding in global layers."""
    local_theta: float = 10_000.0
    """Base of the rotary embedding in local layers."""
    norm_eps: float = 1e-5
    """Epsilon of the LayerNorms."""
    init_std: float = 0.02
    """Standard deviation of the initial weights. 0.02 suits a width of 512; narrow models learn sooner with more."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "intermediate", "global_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("global_theta", "local_theta"):
            value = getattr(self, name)
            require(1 <= value < math.inf, f"{name} must be at least 1 and finite, got {value}")
        for name in ("norm_eps", "init_std"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be positive and finite, got {value}")
        require(self.radius >= 0, f"radius must be at least 0, got {self.radius}")
        require(
            self.width % (2 * self.heads) == 0,
            f"width must be a multiple of 2 * heads (rotary embedding pairs up each head's channels), "
            f"got width {self.width} with {self.heads} heads",
        )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def is_global(self, layer: int) -> bool:
        return layer % self.global_every == 0


@dataclass(frozen=True)
class ElectraConfig:
    """A generator that proposes bases and a discriminator that judges every position."""

    generator: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(layers=11, width=256, heads=8, intermediate=1024)
    )
    discriminator: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder to keep; the masked language model and the masked autoencoder have its sizes too."""
    decoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(layers=6))
    """What rebuilds masked bases with `--objective mae`; the other objectives have none."""
    mask_rate: float = 0.15
    """Share of a window's positions that are masked."""
    mask_span: int = 1
    """Neighbouring bases that are masked together: a window is cut into blocks of so many."""
    temperature: float = 1.0
    """Sampling temperature of the generator; not stated in the paper. At 1000 the proposals are uniform, which tells
    the discriminator more where DNA is hard to predict, as in bacteria."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss beside the generator's."""
    tie_embeddings: bool = True
    """Generator's decoder shares its embedding matrix (ModernBERT's default; not stated in the paper)."""

    def __post_init__(self) -> None:
        require(
            0 < self.mask_rate < 1,
            f"mask_rate must lie between 0 and 1, got {self.mask_rate} (at 1 there is no base left to predict from)",
        )
        require(self.mask_span >= 1, f"mask_span must be at least 1, got {self.mask_span}")
        require(0 < self.temperature < math.inf, f"temperature must be positive and finite, got {self.temperature}")
        require(
            0 <= self.discriminator_weight < math.inf,
            f"discriminator_weight must be at least 0 and finite, got {self.discriminator_weight}",
        )
