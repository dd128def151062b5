"""What the README promises stays true: its commands, its map, its places for results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme_results import BEGIN, END, with_results

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_continuous_integration_runs_the_readme_s_test_command():
    (command,) = re.findall(r"## Test\n\n```sh\n(.*)\n```", README)
    assert command in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_every_path_of_the_map_exists():
    rows = README.split("## Map")[1].split("|")
    paths = {path for row in rows for path in re.findall(r"`((?:csrc|nucel|tests|benchmarks)/[\w./]*)`", row)}
    assert len(paths) > 8
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links and [link for link in links if not (REPOSITORY / link).exists()] == []


def test_results_of_a_gpu_round_replace_those_before(tmp_path):
    for rows in ("first", "second"):
        (tmp_path / "attention.md").write_text(f"| {rows} |\n")
        text = with_results(README, tmp_path)
        assert with_results(text, tmp_path) == text
        assert f"| {rows} |" in text.split(BEGIN)[1].split(END)[0]
        assert text.split(BEGIN)[0] == README.split(BEGIN)[0] and text.split(END)[1] == README.split(END)[1]
    assert "| first |" not in text


def test_an_empty_results_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run benchmarks/gpu_round"):
        with_results(README, tmp_path)
