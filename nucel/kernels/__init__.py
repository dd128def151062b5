"""Fused operations on tensors: no DNA, no configuration, no modules."""

from __future__ import annotations

import torch

from . import attention, rtd_loss

OPS = (attention.attention_op, attention.attention_backward_op, rtd_loss.rtd_loss_op, rtd_loss.rtd_loss_backward_op)


def has_fused_kernels(device: torch.device) -> bool:
    """Whether the dispatcher holds a kernel of its own for this device type behind every op, not only the reference."""
    key = device.type.upper()
    return all(torch._C._dispatch_has_kernel_for_dispatch_key(op._qualname, key) for op in OPS)
