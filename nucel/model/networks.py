"""An encoder with a head: generator, discriminator, classifier; an autoencoder's decoder; and their initial weights."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..kernels.rtd_loss import rtd_loss
from ..tokenizers.nucleotide import BASES, PAD, TOKENS
from .config import EncoderConfig
from .encoder import Block, Encoder, Linear, rotary_table


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

    def __init__(self, config: EncoderConfig, tie_embeddings: bool = True, context: int | None = None):
        super().__init__()
        self.model = Encoder(config, context)
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

    def logits(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) at every position of tokens (B, T); those of padding mean nothing."""
        return self.decoder(self.head(self.model(tokens, lengths)))


class Decoder(nn.Module):
    """A masked autoencoder's decoder: names the bases that the encoder did not see. It is of use in training alone.

    Args:
        config: its own sizes.
        inputs: width of the encoder; a projection leads to the decoder's where that is another.
    """

    def __init__(self, config: EncoderConfig, inputs: int):
        super().__init__()
        self.config = config
        self.projection = nn.Identity() if inputs == config.width else Linear(inputs, config.width)
        self.mask_token = nn.Parameter(torch.empty(config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)
        self.head = Head(config)
        self.classifier = nn.Linear(config.width, len(BASES))

    def forward(
        self,
        hidden: Tensor,
        positions: Tensor,
        counts: Tensor,
        wanted: Tensor,
        size: int,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, M, V), -inf for all tokens but A, C, G, T.

        Args:
            hidden: (B, K, C), the encoder's output.
            positions, counts: (B, K) and (B,): where its tokens stand, and how many of a row are no padding.
            wanted: (B, M), the positions to name.
            size: T, the positions of a row.
            lengths: (B,) integer, real positions of right-padded rows.
        """
        x = self.norm(self.scattered(self.projection(hidden), positions, counts, size))
        config, device = self.config, hidden.device
        thetas = (config.global_theta, config.local_theta)
        far, near = (rotary_table(size, config.head_width, theta, device) for theta in thetas)
        for number, block in enumerate(self.layers):
            x = block(x, far if config.is_global(number) else near, lengths)
        rows = wanted[..., None].expand(-1, -1, x.shape[-1])
        logits = self.classifier(self.head(self.final_norm(x.gather(1, rows))))
        return F.pad(logits, (BASES[0], len(TOKENS) - 1 - BASES[-1]), value=-math.inf)

    def scattered(self, x: Tensor, positions: Tensor, counts: Tensor, size: int) -> Tensor:
        """(B, T, C) with x (B, K, C) at its positions, and the learned vector at all others."""
        padding = torch.arange(x.shape[1], device=x.device) >= counts[:, None]
        place = positions.masked_fill(padding, size)[..., None].expand_as(x)  # padding goes behind the row's end
        base = self.mask_token.to(x.dtype).expand(len(x), size + 1, -1)
        return base.scatter(1, place, x)[:, :size]


class Discriminator(nn.Module):
    """Replaced-token detector: one logit per position, high where the token looks original."""

    def __init__(self, config: EncoderConfig, context: int | None = None):
        super().__init__()
        self.model = Encoder(config, context)
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

    def logits(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T) in fp32, without labels: the log-odds that each token of tokens (B, T) is the original.

        A gradient flows through them where one is wanted. Logits of padding mean nothing.
        """
        return self.logits_of_hidden(self.model(tokens, lengths))

    def logits_of_hidden(self, hidden: Tensor) -> Tensor:
        """The same logits (B, T), from the encoder's last hidden states (B, T, C).

        Neither way holds GELU's or the norm's output, (B, T, C), for longer than it takes to use it: the loss op fuses
        them, and where a gradient is wanted, which that op does not pass through its logits, they are recomputed.
        """
        dense = self.head.dense(hidden)
        if torch.is_grad_enabled() and dense.requires_grad:
            return checkpoint(self._logits_of_dense, dense, use_reentrant=False)
        labels = torch.zeros(dense.shape[:2], dtype=torch.bool, device=dense.device)  # they enter the loss alone
        norm, last = self.head.norm, self.classifier
        _, logits = rtd_loss(dense, norm.weight, last.weight.squeeze(0), last.bias.squeeze(0), labels, None, norm.eps)
        return logits

    def _logits_of_dense(self, dense: Tensor) -> Tensor:
        """In the op's precision: fp32, or fp64 for fp64 input, under autocast too."""
        with torch.autocast(dense.device.type, enabled=False):
            activated = F.gelu(dense.to(torch.promote_types(dense.dtype, torch.float32)))
            return self.classifier(self.head.norm(activated)).squeeze(-1)


class Classifier(nn.Module):
    """One vector per sequence, a prediction head, and an output for each class, or one for a number to predict.

    A linear head is the paper's "linear layer on [CLS]" as ModernBertForSequenceClassification can hold it: the head's
    dense layer is the identity (and stays so), its activation "linear", so that only the head's norm stands between the
    pooled vector and the output layer. [CLS] has left the encoder normalized, up to the weights of the final norm.

    Attributes:
        labels: the classes' names in the order of the outputs; None for regression.
        pooling: "cls", or "mean" over all real positions, [CLS] included, as transformers has it.
    """

    def __init__(
        self,
        config: EncoderConfig,
        labels: tuple[str, ...] | None,
        pooling: str,
        linear: bool,
        context: int | None = None,
    ):
        super().__init__()
        self.labels = labels
        self.pooling = pooling
        self.model = Encoder(config, context)
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
def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """ModernBERT's initialisation of an encoder, alone or with a head, or a decoder, drawn from the given generator.

    Normal, truncated at two standard deviations: init_std for embeddings, Wqkv and Wi; init_std / sqrt(2 * layers) for
    what writes to the residual stream and for the heads, so that the untrained logits are near 0. Biases 0, norms 1.
    A decoder's learned vector and its projection are drawn as embeddings are.
    The dense layer of a linear head is the identity, and is kept from training.
    """
    core = network if isinstance(network, Encoder | Decoder) else network.get_submodule("model")
    if not isinstance(core, Encoder | Decoder):
        raise TypeError(f"what is initialised has an encoder as its `model`, got {type(core).__name__}")
    reads = core.config.init_std
    writes = reads / math.sqrt(2 * core.config.layers)
    for name, weight in network.named_parameters():
        match name.split(".")[-2:]:
            case [_, "bias"]:
                weight.zero_()
            case ["norm" | "attn_norm" | "mlp_norm" | "final_norm", _]:
                weight.fill_(1)
            case ["tok_embeddings" | "Wqkv" | "Wi" | "projection", _] | ["mask_token"]:
                nn.init.trunc_normal_(weight, std=reads, a=-2 * reads, b=2 * reads, generator=generator)
            case ["Wo" | "dense" | "decoder" | "classifier", _]:
                nn.init.trunc_normal_(weight, std=writes, a=-2 * writes, b=2 * writes, generator=generator)
            case _:
                raise AssertionError(f"no initialisation is defined for {name}")
    if isinstance(core, Encoder):
        core.embeddings.tok_embeddings.weight[PAD] = 0
    head = getattr(network, "head", None)
    if isinstance(head, Head) and head.linear:
        nn.init.eye_(head.dense.weight)
        head.dense.weight.requires_grad_(False)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 in hexadecimal over a network's weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
