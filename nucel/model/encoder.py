"""The encoder and the three networks built on it.

    tokens --embeddings--> x --[x + attn(norm(x)); x + mlp(norm(x))] * layers--> final_norm --> hidden

ModernBERT's architecture with ModernBERT's parameter names, so that a state dict of transformers'
ModernBertForMaskedLM is a `Generator`, one of ModernBertForTokenClassification a `Discriminator` (`hub` says how) and
one of ModernBertForSequenceClassification a `Classifier`.

Legend: B batch, T positions, H heads, D head width, C model width, M masked slots, V vocabulary, K outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.attention import attention, attention_weights
from ..kernels.attention_gathered import gathered_attention, visible
from ..kernels.linear import linear
from ..kernels.pointwise import geglu, norm
from ..tokenizers.nucleotide import PAD, TOKENS
from .config import EncoderConfig

Rotary = tuple[Tensor, Tensor]


def rotary_table(positions: int, head_width: int, theta: float, device: torch.device) -> Rotary:
    """cos and sin (T, D/2) in fp32 of position * theta^(-2d/D) (RoFormer, eq. 15)."""
    return rotary_at(torch.arange(positions, device=device), head_width, theta)


def rotary_at(positions: Tensor, head_width: int, theta: float) -> Rotary:
    """`rotary_table` of any positions (...): cos and sin (..., D/2)."""
    steps = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device)
    inverse_frequency = 1.0 / theta ** (steps / head_width)
    angle = positions.to(torch.float32)[..., None] * inverse_frequency
    return angle.cos(), angle.sin()


class Linear(nn.Linear):
    """A linear layer without bias, by `kernels.linear`."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class InnerNorm(nn.LayerNorm):
    """The norm before a product, by `kernels.pointwise`."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config.width, eps=config.norm_eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.weight, self.eps)


class Embeddings(nn.Module):
    """Token embedding and its norm; positions enter through attention alone."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(len(TOKENS), config.width, padding_idx=PAD)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(tokens.long()))


class Attention(nn.Module):
    """Rotary self-attention, local (within radius) or global (radius None)."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        self.heads = config.heads
        self.radius = None if config.is_global(layer) else config.radius
        self.Wqkv = Linear(config.width, 3 * config.width)
        self.Wo = Linear(config.width, config.width)

    def _qkv(self, x: Tensor) -> Tensor:
        return self.Wqkv(x).unflatten(-1, (3, self.heads, -1))

    def forward(self, x: Tensor, rotary: Rotary, lengths: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """Of the positions 0, 1, 2, ...; of any others where the table is of those, (B, T, D/2), with who is `seen`."""
        if rotary[0].ndim == 3:
            return self.Wo(gathered_attention(self._qkv(x), *rotary, seen).flatten(-2))
        return self.Wo(attention(self._qkv(x), *rotary, self.radius, lengths).flatten(-2))

    def weights(self, x: Tensor, rotary: Rotary, lengths: Tensor | None) -> Tensor:
        """Attention weights (B, H, T, T); see `kernels.attention.attention_weights`."""
        return attention_weights(self._qkv(x), *rotary, self.radius, lengths)


class GeGLU(nn.Module):
    """Gated linear unit with exact GELU: Wo(gelu(a) * gate) (Shazeer 2020, GEGLU)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.Wi = Linear(config.width, 2 * config.intermediate)
        self.Wo = Linear(config.intermediate, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.Wo(geglu(self.Wi(x)))


class Block(nn.Module):
    """Pre-norm block; the first has no attention norm, since the embeddings end in one."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        self.attn_norm = nn.Identity() if layer == 0 else InnerNorm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = InnerNorm(config)
        self.mlp = GeGLU(config)

    def forward(self, x: Tensor, rotary: Rotary, lengths: Tensor | None, seen: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotary, lengths, seen)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """ModernBERT-type encoder over nucleotides.

    Attributes:
        context: tokens of the windows it was trained on, where that is known. Nothing in the encoder limits length;
            whether more than this makes sense is for the caller to decide.
    """

    def __init__(self, config: EncoderConfig, context: int | None = None):
        super().__init__()
        self.config = config
        self.context = context
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def _inputs(self, tokens: Tensor, lengths: Tensor | None, positions: Tensor | None) -> tuple[Any, Any]:
        """What global and what local blocks take besides x."""
        if positions is None:
            far, near = self._rotary(tokens)
            return (far, lengths), (near, lengths)
        thetas = (self.config.global_theta, self.config.local_theta)
        far, near = (rotary_at(positions, self.config.head_width, theta) for theta in thetas)
        seen = visible(positions, self.config.radius, lengths)
        return (far, lengths, seen.everywhere), (near, lengths, seen.nearby)

    def _rotary(self, tokens: Tensor) -> tuple[Rotary, Rotary]:
        """Tables of global and of local layers."""
        positions, head_width = tokens.shape[1], self.config.head_width
        thetas = (self.config.global_theta, self.config.local_theta)
        far, near = (rotary_table(positions, head_width, theta, tokens.device) for theta in thetas)
        return far, near

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, layer: int = -1, positions: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, T, C) of token ids (B, T), any integer dtype.

        lengths (B,) gives the real positions of right-padded rows; hidden states of padding mean nothing. `layer`
        counts as transformers' hidden_states do: 0 is what enters the first block, n what leaves the n-th, and the last
        (or -1, and so on backwards) what leaves the final norm. Blocks after it are not run.

        positions (B, T) integer says where the tokens stand, if that is not 0, 1, 2, ...: tokens that were gathered
        from longer rows, in any order. Rotary angles and the radius of local layers are of these positions. Padding
        must be given a position within the radius of a real token.

        Raises:
            ValueError: there is no such layer.
        """
        return self.hidden_states(tokens, (layer,), lengths, positions)[0]

    def hidden_states(
        self, tokens: Tensor, layers: Sequence[int], lengths: Tensor | None = None, positions: Tensor | None = None
    ) -> list[Tensor]:
        """Hidden states of several layers from one pass, each (B, T, C), in the order asked for; else as `forward`.

        Raises:
            ValueError: there is no such layer.
        """
        last = len(self.layers)
        for layer in layers:
            if not -last - 1 <= layer <= last:
                raise ValueError(
                    f"layer must lie in [{-last - 1}, {last}] for an encoder of {last} blocks, got {layer}"
                )
        depths = [layer if layer >= 0 else layer + last + 1 for layer in layers]
        far, near = self._inputs(tokens, lengths, positions)

        x = self.embeddings(tokens)
        found = {0: x} if 0 in depths else {}
        for number, block in zip(range(max(depths, default=0)), self.layers, strict=False):
            x = block(x, *(far if self.config.is_global(number) else near))
            if number + 1 in depths:
                found[number + 1] = self.final_norm(x) if number + 1 == last else x
        return [found[depth] for depth in depths]

    def attention_weights(
        self, tokens: Tensor, layers: Collection[int], lengths: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Attention weights (B, H, T, T) of chosen blocks, counted from 0, for token ids (B, T).

        Computed in plain PyTorch beside the forward pass; each block takes 4 * B * H * T^2 bytes.

        Raises:
            ValueError: there is no such block.
        """
        for layer in layers:
            if not 0 <= layer < len(self.layers):
                raise ValueError(f"attention layers must lie in [0, {len(self.layers)}), got {layer}")
        global_rotary, local_rotary = self._rotary(tokens)
        weights: dict[int, Tensor] = {}
        x = self.embeddings(tokens)
        for number, block in zip(range(max(layers, default=-1) + 1), self.layers, strict=False):
            rotary = global_rotary if self.config.is_global(number) else local_rotary
            if number in layers and isinstance(block, Block):
                weights[number] = block.attn.weights(block.attn_norm(x), rotary, lengths)
            x = block(x, rotary, lengths)
        return weights
