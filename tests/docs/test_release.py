"""The files that describe a release agree on its version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def first(pattern: str, name: str) -> str:
    match = re.search(pattern, (REPOSITORY / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert match, f"{name} has nothing like {pattern}"
    return match.group(1)


def test_versions_agree():
    version = first(r'^version = "(.*)"$', "pyproject.toml")
    assert first(r'^version: "?([^"\n]*)"?$', "CITATION.cff") == version
    assert first(r"^## \[(\d[^\]]*)\]", "CHANGELOG.md") == version


def test_an_sdist_has_every_source():
    """`runs` among the patterns once left out nucel/runs, and no wheel from an sdist could be imported."""
    pathspec = pytest.importorskip("pathspec")
    (patterns,) = re.findall(r"^sdist\.exclude = (\[.*?\])", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    for lines in (ast.literal_eval(patterns), ignored):
        spec = pathspec.PathSpec.from_lines("gitignore", lines)
        assert spec.match_file("runs/a/metrics.jsonl")
        sources = [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("nucel/**/*.py")]
        assert len(sources) > 100 and not [path for path in sources if spec.match_file(path)]
