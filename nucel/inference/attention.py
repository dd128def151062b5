"""Attention weights of a sequence, layer by layer."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from ..model.encoder import Encoder
from .embedding import token_ids
from .predict import make_batch


@torch.no_grad()
def attention_weights(encoder: Encoder, sequence: str | np.ndarray, layers: Collection[int]) -> dict[int, np.ndarray]:
    """Attention weights of chosen blocks for one sequence, {block: float32 (H, T, T)}, where T is 1 + its bases.

    Blocks are counted from 0; row i of a head is how much position i takes from each position, [CLS] first. They are
    computed in fp32 by the plain PyTorch reference, since fused kernels never hold them: 4 * H * T^2 bytes for each
    block that is asked for (64 MiB for 16 heads and 1024 tokens), and twice that while it is computed.

    Raises:
        InputError: an empty sequence or a letter that is not a nucleotide code.
        ValueError: there is no such block.
    """
    device = encoder.final_norm.weight.device
    batch = make_batch([token_ids(sequence, "the sequence")], device)
    weights = encoder.attention_weights(batch.tokens, layers, batch.lengths)
    return {layer: found[0].cpu().numpy() for layer, found in weights.items()}
