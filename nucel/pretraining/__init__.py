"""The trainer."""

from __future__ import annotations
