"""Every relative link of every page leads to a file, and every anchor to a heading; paths named in the text exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md", "tests/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
MANUALS = [page for page in PAGES if page in ("README.md", "CONTRIBUTING.md") or page.startswith("docs/")]


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    slugs: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", without_code_blocks(text), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        seen = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in slugs)
        slugs.append(f"{slug}-{seen}" if seen else slug)
    return set(slugs)


def dead_links(page: Path) -> list[str]:
    text = without_code_blocks(page.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


def test_pages_are_listed():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md", "benchmarks/NOTES.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert dead_links(REPOSITORY / page) == []


def test_dead_links_are_recognised(tmp_path):
    (tmp_path / "other.md").write_text("# `Files` and folders\n## Twice\n## Twice\n```sh\n# a comment\n```\n")
    page = tmp_path / "page.md"
    good = ["other.md", "other.md#files-and-folders", "other.md#twice", "other.md#twice-1", "#here", "https://no.where"]
    bad = ["another.md", "other.md#files", "other.md#twice-2", "other.md#a-comment", "#there"]
    page.write_text("# Here\n" + "".join(f"[text]({link})\n" for link in good + bad))
    assert dead_links(page) == bad


@pytest.mark.parametrize("page", MANUALS)
def test_paths_in_the_text_exist(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = {path.rstrip(".") for path in re.findall(r"\b(?:benchmarks|csrc|nucel|tests|examples)/[\w./]+", text)}
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("page", MANUALS)
def test_commands_in_the_text_exist(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = set(re.findall(r"python3? -m ((?:nucel|benchmarks)\.[a-z_.]*[a-z_])", text))
    files = {module: REPOSITORY / module.replace(".", "/") for module in named}
    runnable = {m for m, file in files.items() if file.with_suffix(".py").exists() or (file / "__main__.py").exists()}
    assert named == runnable


def test_the_index_names_every_page():
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in REPOSITORY.glob("docs/*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([\w.]+)\)", index))
