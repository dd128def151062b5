"""A hook of MkDocs: files outside docs/ that a page links to become pages of the site as well.

Pages link to files of the repository by relative paths, which work on the page of a forge. Here such a file gets a
page under `repository/`: Markdown as it is, a folder as a list of its files, anything else as a block of code. Links
are rewritten on the way, in both directions. What those pages link to follows, until nothing is missing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
OUTSIDE = "repository/"
"""Where the site has the files that are not in docs/."""
LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".cff": "yaml", ".yml": "yaml"}

CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*[ \t]*$|(?<!`)(`+)(?!`).*?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE)
"""Blocks and spans of code, in which nothing is a link."""
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


def map_links(markdown: str, change: Callable[[str], str]) -> str:
    """The Markdown with each relative link's path replaced by what `change` makes of it."""
    parts, end = [], 0
    for code in [*CODE.finditer(markdown), None]:
        text = markdown[end : code.start() if code else None]
        parts.append(LINK.sub(lambda match: match[1] + change(match[2]), text))
        if code:
            parts.append(code[0])
            end = code.end()
    return "".join(parts)


def path_of(source: str) -> str:
    """The path in the repository of a page of the site, given by its source."""
    if not source.startswith(OUTSIDE):
        return f"docs/{source}"
    path = source.removeprefix(OUTSIDE)
    if path.endswith("/index.md"):
        return path.removesuffix("index.md")
    return path if (REPOSITORY / path).exists() else path.removesuffix(".md")


def source_of(path: str) -> str:
    """The source of the page that shows a file or folder of the repository; `path` has no `..`."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (REPOSITORY / path).is_dir():
        return f"{OUTSIDE}{path.rstrip('/')}/index.md"
    return OUTSIDE + (path if path.endswith(".md") else f"{path}.md")


def target(page: str, link: str) -> str:
    """The path in the repository that a link on the page at a path leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def text_of(path: str) -> str:
    """The Markdown that shows a file or folder of the repository."""
    file = REPOSITORY / path
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if child.is_file() and child.name[0] not in "._")
        return f"# {path.rstrip('/')}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    return f"# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the files outside docs/, beginning with those that the navigation names."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    known = {source for source, _ in waiting}

    def add(path: str, inclusion: InclusionLevel = InclusionLevel.NOT_IN_NAV) -> None:
        source = source_of(path)
        if source not in known and not path.startswith("docs/") and (REPOSITORY / path).exists():
            known.add(source)
            text = text_of(path)
            files.append(File.generated(config, source, content=text, inclusion=inclusion))
            waiting.append((source, text))

    for source in re.findall(rf"'({OUTSIDE}[^']*)'", repr(config.nav)):
        add(path_of(source), InclusionLevel.INCLUDED)
    while waiting:
        source, text = waiting.pop()
        page = path_of(source)

        def follow(link: str, page: str = page) -> str:
            add(target(page, link))
            return link

        map_links(text, follow)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links to where the site has their targets."""
    source = page.file.src_uri

    def change(link: str) -> str:
        found = target(path_of(source), link)
        if not (REPOSITORY / found).exists():
            return link  # MkDocs will complain
        return posixpath.relpath(source_of(found), posixpath.dirname(source) or ".")

    return map_links(markdown, change)
