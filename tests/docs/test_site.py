"""The documentation builds as a site, without a warning; every link on it leads somewhere, and nothing is fetched."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import nucel

REPOSITORY = Path(__file__).parents[2]
PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("benchmarks/**/*.md")]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Tags whose address a browser loads by itself."""


class Addresses(HTMLParser):
    """The addresses in a page: of links, of what is loaded, and the anchors that it has."""

    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if FETCHED.get(tag) in found:
            self.loaded.append(found[FETCHED[tag]])


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site):
    pages = {page: Addresses(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 20
    links = 0
    for page, addresses in pages.items():
        for link in addresses.links + addresses.loaded:
            path, _, anchor = unquote(link).partition("#")
            if re.match("[a-z]+:", path):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (page, link)
            assert not anchor or target not in pages or anchor in pages[target].anchors | {"__tabbed"}, (page, link)
            links += 1
    assert links > 1000


@pytest.mark.slow
def test_the_site_fetches_nothing(site):
    for page in site.rglob("*.html"):
        assert [address for address in Addresses(page).loaded if re.match("(https?:)?//", address)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_files_outside_docs_are_pages_of_the_site(site):
    for name in ("index", "CONTRIBUTING", "benchmarks/NOTES", "examples/index", "examples/finetune_csv.py"):
        assert (site / "repository" / f"{name}.html").exists()
    examples = Addresses(site / "repository" / "examples" / "index.html").links
    assert {f"{path.name}.html" for path in REPOSITORY.glob("examples/*.py")} <= set(examples)


def test_links_in_code_stay_as_they_are():
    outside = pytest.importorskip("website.outside", reason="needs mkdocs")
    code = "`[a](b.md)`\n```\n[a](b.md)\n```\n``[a](b.md) ` ``"
    text = f"[a](b.md) {code} [a](b.md#c) [x](https://a.b) [y](#z)\n![p](q.svg)"
    seen = []

    def change(path: str) -> str:
        seen.append(path)
        return "changed"

    changed = outside.map_links(text, change)
    assert seen == ["b.md", "b.md", "q.svg"]
    assert changed.count("[a](b.md)") == 3 and "[a](changed#c)" in changed and "![p](changed)" in changed


@pytest.mark.parametrize(
    "path", ["README.md", "docs/use.md", "examples/", "examples/finetune_csv.py", "benchmarks/results/train_cpu.md"]
)
def test_pages_and_paths_are_inverse(path):
    outside = pytest.importorskip("website.outside", reason="needs mkdocs")
    assert outside.path_of(outside.source_of(path)) == path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_lists_and_tables_begin_after_a_blank_line(page):
    """Python-Markdown takes them for text otherwise, where a forge does not."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        for start in (r"([-*]|1\.) ", r"\|"):
            if re.match(start, line) and before.strip():
                assert re.match(rf"{start}|\s|\d+\. ", before), line


def test_the_reference_has_every_public_name():
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: nucel\.(?:embed\.)?(\w+)$", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(set(nucel.__all__) - {"__version__"})
