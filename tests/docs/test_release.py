"""The files that describe a release agree on its version."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def first(pattern: str, name: str) -> str:
    match = re.search(pattern, (REPOSITORY / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert match, f"{name} has nothing like {pattern}"
    return match.group(1)


def test_versions_agree():
    version = first(r'^version = "(.*)"$', "pyproject.toml")
    assert first(r'^version: "?([^"\n]*)"?$', "CITATION.cff") == version
    assert first(r"^## \[(\d[^\]]*)\]", "CHANGELOG.md") == version
