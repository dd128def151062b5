"""What this process runs on: versions, processors, memory."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import torch


def versions(device: torch.device) -> dict[str, str | None]:
    """What a run is made with; None for what is not there."""

    def installed(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "nucel": installed("nucel"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "triton": installed("triton"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = dict(line.split(":", 1) for line in lines).get("MemAvailable")
    return None if available is None else int(available.split()[0]) * 1024
