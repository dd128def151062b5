"""Where networks compute, and in which precision; every verb offers the same two flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from .errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(NamedTuple):
    """Where and in which dtype the networks compute; their weights stay fp32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """fp32, bf16 or fp16: how a dtype is spelled in flags and in all that is written."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """For fp16 one that adapts. For other dtypes its scale is 1: it only skips steps that are not finite."""
        if self.dtype == torch.float16:
            return torch.amp.GradScaler(self.device.type)
        return torch.amp.GradScaler(self.device.type, init_scale=1.0)


def choose_precision(device: str, dtype: str) -> Precision:
    """Resolve ``auto``: a GPU where there is one, bf16 on it and fp32 on a CPU.

    Raises:
        ConfigError: a device that torch does not know or does not see, or no such dtype.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}") from None
    if dtype == "auto":
        dtype = "fp32" if chosen.type == "cpu" else "bf16"
    return Precision(chosen, DTYPES[dtype])


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The flags of a verb that runs a network."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; auto is bf16 on a GPU and fp32 on a CPU. Weights are always fp32."""
