"""A browser without a window, for pictures of pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def command(profile: Path) -> list[str]:
    """The first words of its command; skips the test where there is none.

    Args:
        profile: folder of its own.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
