"""Readable names of parametrized cases, such as B3-T131-H1-D32."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def shape_id(axes: str, shape: Sequence[int]) -> str:
    """One letter and one number for each axis."""
    return "-".join(f"{axis}{size}" for axis, size in zip(axes, shape, strict=True))


def radius_id(radius: int | None) -> str:
    return "global" if radius is None else f"radius{radius}"


def lengths_id(lengths: Sequence[int] | None) -> str:
    return "full" if lengths is None else "lengths" + "+".join(map(str, lengths))


def dtype_id(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
