"""The fused ops by name, and which of them have kernels for a device."""

from __future__ import annotations

import torch

from . import attention, rtd_loss

OPS = {
    "attention": (attention.attention_op, attention.attention_backward_op),
    "rtd_loss": (rtd_loss.rtd_loss_op, rtd_loss.rtd_loss_backward_op),
}
"""Every op by name: its forward and its backward."""


def fused_ops(device: torch.device) -> list[str]:
    """Names of the ops that have kernels of their own for this device type, not only the reference."""
    key = device.type.upper()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return [name for name, pair in OPS.items() if all(has_kernel(op._qualname, key) for op in pair)]
