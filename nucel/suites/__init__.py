"""Published protocols, run whole, beside their controls."""

from __future__ import annotations
