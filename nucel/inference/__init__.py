"""From sequences to what a network computes for them."""

from __future__ import annotations
