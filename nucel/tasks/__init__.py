"""Labelled tables: reading them, training on them, measuring and predicting."""

from __future__ import annotations
