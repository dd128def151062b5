"""Networks, their optimizer, and transformers' directory format."""

from __future__ import annotations
