"""The map in docs/architecture.md shows the files that there are, all of them, and its floors every folder."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


def mapped_paths() -> set[str]:
    """The paths in the map, which is the page's last block of code: two spaces of indentation per folder."""
    tree = PAGE.split("## Map")[1].split("```")[1]
    paths, folders = set(), []
    for line in tree.strip().splitlines():
        indentation, name = re.match(r"( *)(\S+)  +\S", line).groups()
        folders = [*folders[: len(indentation) // 2], name]
        paths.add("".join(folders))
    return paths


def test_every_path_of_the_map_exists():
    paths = mapped_paths()
    assert len(paths) > 60
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_every_source_file_is_on_the_map():
    sources = [*REPOSITORY.glob("csrc/*.?pp"), *REPOSITORY.glob("nucel/**/*.py")]
    names = {path.relative_to(REPOSITORY).as_posix() for path in sources if path.name != "__init__.py"}
    assert sorted(names - mapped_paths()) == []


def test_every_folder_has_a_floor():
    table = PAGE.split("## Floors")[1].split("## ")[0]
    named = {name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    folders = {path.parent.name for path in REPOSITORY.glob("nucel/*/__init__.py")}
    assert folders - {"embed"} == named


def test_the_verbs_are_what_can_be_typed():
    named = set(re.findall(r"`(\w+)`", PAGE.split("The verbs are ")[1].split(", each started")[0]))
    package = REPOSITORY / "nucel"
    files = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    folders = {path.parent.name for path in package.glob("*/__main__.py")}
    assert named == files | folders
