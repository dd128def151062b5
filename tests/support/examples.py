"""How many examples hypothesis draws: as many as the profile says (tests/conftest.py), fewer where each is slow."""

from __future__ import annotations

from hypothesis import settings


def fewer_examples(factor: int) -> settings:
    """A decorator: the profile's number of examples divided by `factor`."""
    return settings(max_examples=settings().max_examples // factor)
