"""Fused operations on tensors: no DNA, no configuration, no modules."""

from __future__ import annotations

from .ops import OPS, fused_ops

__all__ = ["OPS", "fused_ops"]
