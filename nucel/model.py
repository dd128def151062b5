"""The encoder and the two networks built on it.

    tokens --embeddings--> x --[x + attn(norm(x)); x + mlp(norm(x))] * layers--> final_norm --> hidden

ModernBERT's architecture with ModernBERT's parameter names, so that a state dict of transformers'
ModernBertForMaskedLM is a `Generator` and one of ModernBertForTokenClassification (one label) a `Discriminator`.

Legend: B batch, T positions, H heads, D head width, C model width, M masked slots, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EncoderConfig
from .kernels.attention import attention
from .kernels.linear import linear
from .kernels.rtd_loss import rtd_loss
from .vocab import PAD, TOKENS

Rotary = tuple[Tensor, Tensor]


def rotary_table(positions: int, head_width: int, theta: float, device: torch.device) -> Rotary:
    """cos and sin (T, D/2) in fp32 of position * theta^(-2d/D) (RoFormer, eq. 15)."""
    inverse_frequency = 1.0 / theta ** (torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width)
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * inverse_frequency
    return angle.cos(), angle.sin()


class Linear(nn.Linear):
    """A linear layer without bias, by `kernels.linear`."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Embeddings(nn.Module):
    """Token embedding and its norm; positions enter through attention alone."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(len(TOKENS), config.width, padding_idx=PAD)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(tokens.long()))


class Attention(nn.Module):
    """Rotary self-attention, in a window (radius) or global (radius None)."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        self.heads = config.heads
        self.radius = None if config.is_global(layer) else config.radius
        self.Wqkv = Linear(config.width, 3 * config.width)
        self.Wo = Linear(config.width, config.width)

    def forward(self, x: Tensor, rotary: Rotary, lengths: Tensor | None) -> Tensor:
        qkv = self.Wqkv(x).unflatten(-1, (3, self.heads, -1))
        return self.Wo(attention(qkv, *rotary, self.radius, lengths).flatten(-2))


class GeGLU(nn.Module):
    """Gated linear unit with exact GELU: Wo(gelu(a) * gate) (Shazeer 2020, GEGLU)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.Wi = Linear(config.width, 2 * config.intermediate)
        self.Wo = Linear(config.intermediate, config.width)

    def forward(self, x: Tensor) -> Tensor:
        a, gate = self.Wi(x).chunk(2, dim=-1)
        return self.Wo(F.gelu(a) * gate)


class Block(nn.Module):
    """Pre-norm block; the first has no attention norm, since the embeddings end in one."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)
        self.attn_norm = nn.Identity() if layer == 0 else norm
        self.attn = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)
        self.mlp = GeGLU(config)

    def forward(self, x: Tensor, rotary: Rotary, lengths: Tensor | None) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotary, lengths)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """ModernBERT-type encoder over nucleotides."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, C) of token ids (B, T), any integer dtype.

        lengths (B,) gives the real positions of right-padded rows; hidden states of padding mean nothing.
        """
        positions, head_width = tokens.shape[1], self.config.head_width
        local = rotary_table(positions, head_width, self.config.local_theta, tokens.device)
        everywhere = rotary_table(positions, head_width, self.config.global_theta, tokens.device)

        x = self.embeddings(tokens)
        for layer, block in enumerate(self.layers):
            x = block(x, everywhere if self.config.is_global(layer) else local, lengths)
        return self.final_norm(x)


class Head(nn.Module):
    """ModernBERT's prediction head up to its output layer: norm(gelu(dense))."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden)))


class Generator(nn.Module):
    """Masked-language model: logits over the vocabulary, at the masked positions only."""

    def __init__(self, config: EncoderConfig, tie_embeddings: bool = True):
        super().__init__()
        self.model = Encoder(config)
        self.head = Head(config)
        self.decoder = nn.Linear(config.width, len(TOKENS))
        if tie_embeddings:
            self.decoder.weight = self.model.embeddings.tok_embeddings.weight

    @property
    def tied(self) -> bool:
        """Whether the decoder shares the embedding matrix."""
        return self.decoder.weight is self.model.embeddings.tok_embeddings.weight

    def forward(self, tokens: Tensor, positions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, M, V) at positions (B, M) of tokens (B, T)."""
        hidden = self.model(tokens, lengths)
        rows = positions[..., None].expand(-1, -1, hidden.shape[-1])
        return self.decoder(self.head(hidden.gather(1, rows)))


class Discriminator(nn.Module):
    """Replaced-token detector: one logit per position, high where the token looks original."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.model = Encoder(config)
        self.head = Head(config)
        self.classifier = nn.Linear(config.width, 1)

    def forward(self, tokens: Tensor, original: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss () and logits (B, T) for tokens (B, T) and labels original, bool (B, T)."""
        return rtd_loss(
            self.head.dense(self.model(tokens, lengths)),
            self.head.norm.weight,
            self.classifier.weight.squeeze(0),
            self.classifier.bias.squeeze(0),
            original,
            lengths,
            self.head.norm.eps,
        )


@torch.no_grad()
def initialize(network: Generator | Discriminator, generator: torch.Generator) -> None:
    """ModernBERT's initialisation, drawn from the given generator.

    Normal, truncated at two standard deviations: init_std for embeddings, Wqkv and Wi; init_std / sqrt(2 * layers) for
    what writes to the residual stream and for the heads, so that the untrained logits are near 0. Biases 0, norms 1.
    """
    encoder = network.model
    reads = encoder.config.init_std
    writes = reads / math.sqrt(2 * encoder.config.layers)
    for name, weight in network.named_parameters():
        match name.split(".")[-2:]:
            case [_, "bias"]:
                weight.zero_()
            case ["norm" | "attn_norm" | "mlp_norm" | "final_norm", _]:
                weight.fill_(1)
            case ["tok_embeddings" | "Wqkv" | "Wi", _]:
                nn.init.trunc_normal_(weight, std=reads, a=-2 * reads, b=2 * reads, generator=generator)
            case ["Wo" | "dense" | "decoder" | "classifier", _]:
                nn.init.trunc_normal_(weight, std=writes, a=-2 * writes, b=2 * writes, generator=generator)
            case _:
                raise AssertionError(f"no initialisation is defined for {name}")
    encoder.embeddings.tok_embeddings.weight[PAD] = 0
