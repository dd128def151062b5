"""A run directory: its files, checkpoints, metrics, curves and model card."""

from __future__ import annotations
