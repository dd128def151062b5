"""The encoder and the three networks built on it.

    tokens --embeddings--> x --[x + attn(norm(x)); x + mlp(norm(x))] * layers--> final_norm --> hidden

ModernBERT's architecture with ModernBERT's parameter names, so that a state dict of transformers'
ModernBertForMaskedLM is a `Generator`, one of ModernBertForTokenClassification (one label) a `Discriminator` and one of
ModernBertForSequenceClassification a `Classifier`.

Legend: B batch, T positions, H heads, D head width, C model width, M masked slots, V vocabulary, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EncoderConfig
from .kernels.attention import attention, attention_weights
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

    def _qkv(self, x: Tensor) -> Tensor:
        return self.Wqkv(x).unflatten(-1, (3, self.heads, -1))

    def forward(self, x: Tensor, rotary: Rotary, lengths: Tensor | None) -> Tensor:
        return self.Wo(attention(self._qkv(x), *rotary, self.radius, lengths).flatten(-2))

    def weights(self, x: Tensor, rotary: Rotary, lengths: Tensor | None) -> Tensor:
        """How much each position takes from each, (B, H, T, T); see `reference.attention_weights`."""
        return attention_weights(self._qkv(x), *rotary, self.radius, lengths)


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
    """ModernBERT-type encoder over nucleotides.

    Attributes:
        context: tokens of the windows it was trained on, where that is known. Nothing in the encoder limits length;
            whether more than this makes sense is for the caller to decide.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.context: int | None = None
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def _rotary(self, tokens: Tensor) -> tuple[Rotary, Rotary]:
        """Tables of global and of local layers."""
        positions, head_width = tokens.shape[1], self.config.head_width
        thetas = (self.config.global_theta, self.config.local_theta)
        return tuple(rotary_table(positions, head_width, theta, tokens.device) for theta in thetas)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, layer: int = -1) -> Tensor:
        """Hidden states (B, T, C) of token ids (B, T), any integer dtype.

        lengths (B,) gives the real positions of right-padded rows; hidden states of padding mean nothing. `layer`
        counts as transformers' hidden_states do: 0 is what enters the first block, n what leaves the n-th, and the last
        (or -1, and so on backwards) what leaves the final norm. Blocks after it are not run.

        Raises:
            ValueError: there is no such layer.
        """
        last = len(self.layers)
        if not -last - 1 <= layer <= last:
            raise ValueError(f"layer must lie in [{-last - 1}, {last}] for an encoder of {last} blocks, got {layer}")
        depth = layer if layer >= 0 else layer + last + 1
        everywhere, local = self._rotary(tokens)

        x = self.embeddings(tokens)
        for number, block in zip(range(depth), self.layers, strict=False):
            x = block(x, everywhere if self.config.is_global(number) else local, lengths)
        return self.final_norm(x) if depth == last else x

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
        everywhere, local = self._rotary(tokens)
        weights = {}
        x = self.embeddings(tokens)
        for number, block in zip(range(max(layers, default=-1) + 1), self.layers, strict=False):
            rotary = everywhere if self.config.is_global(number) else local
            if number in layers:
                weights[number] = block.attn.weights(block.attn_norm(x), rotary, lengths)
            x = block(x, rotary, lengths)
        return weights


class Head(nn.Module):
    """ModernBERT's prediction head up to its output layer: norm(gelu(dense)), or norm(dense) where it is linear."""

    def __init__(self, config: EncoderConfig, linear: bool = False):
        super().__init__()
        self.linear = linear
        self.dense = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        x = self.dense(hidden)
        return self.norm(x if self.linear else F.gelu(x))


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


class Classifier(nn.Module):
    """One vector per sequence, a prediction head, and an output for each class, or one for a number to predict.

    A linear head is the paper's "linear layer on [CLS]" as ModernBertForSequenceClassification can hold it: the head's
    dense layer is the identity (and stays so), its activation "linear", so that only the head's norm stands between the
    pooled vector and the output layer. [CLS] has left the encoder normalized, up to the weights of the final norm.

    Attributes:
        labels: the classes' names in the order of the outputs; None for regression.
        pooling: "cls", or "mean" over all real positions, [CLS] included, as transformers has it.
    """

    def __init__(self, config: EncoderConfig, labels: tuple[str, ...] | None, pooling: str, linear: bool):
        super().__init__()
        self.labels = labels
        self.pooling = pooling
        self.model = Encoder(config)
        self.head = Head(config, linear)
        self.classifier = nn.Linear(config.width, 1 if labels is None else len(labels))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits of the classes, or the predicted number, (B, K) for tokens (B, T)."""
        hidden = self.model(tokens, lengths)
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif lengths is None:
            pooled = hidden.mean(1)
        else:
            real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
            pooled = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return self.classifier(self.head(pooled))


@torch.no_grad()
def initialize(network: Generator | Discriminator | Classifier, generator: torch.Generator) -> None:
    """ModernBERT's initialisation, drawn from the given generator.

    Normal, truncated at two standard deviations: init_std for embeddings, Wqkv and Wi; init_std / sqrt(2 * layers) for
    what writes to the residual stream and for the heads, so that the untrained logits are near 0. Biases 0, norms 1.
    The dense layer of a linear head is the identity, and is kept from training.
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
    if network.head.linear:
        nn.init.eye_(network.head.dense.weight)
        network.head.dense.weight.requires_grad_(False)
