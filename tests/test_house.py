"""The rule of the house: a file in nucel/ is typed, a folder is imported, and imports point down."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nucel"
FLOORS = [
    {"kernels", "tokenizers", "runtime"},
    {"genome", "model"},
    {"objectives", "inference", "runs"},
    {"pretraining", "tasks", "interpretation"},
    {"suites"},
]
"""A room may import from the rooms of lower floors and from itself; the verbs stand above all of them."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(source: Path) -> str:
    parts = source.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(source): source for source in SOURCES}


def imported(source: Path) -> set[str]:
    """The package's modules that a file imports by name, and `_nucel`; imports for type checkers count too."""
    package = source.relative_to(PACKAGE).parent.parts
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] in ("nucel", "_nucel")}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module.split(".")[0] in ("nucel", "_nucel"):
                names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            parts = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                longer = ".".join((*parts, alias.name))
                names.add(longer if longer in MODULES else ".".join(parts))
    return names


def room(module: str) -> str | None:
    """The folder that a module is in; None for what stands in the street."""
    first = module.split(".")[0]
    return first if first in FLOOR else None


@pytest.mark.parametrize("source", SOURCES, ids=module_name)
def test_imports_point_down(source):
    own = room(module_name(source))
    for name in imported(source):
        other = room(name)
        assert not name.startswith("nucel"), f"{source} imports the package by its absolute name"
        if own is None:
            continue
        if name == "_nucel":
            assert own in ("genome", "kernels"), "only genome/ and kernels/ import the extension"
        else:
            assert other is not None, f"{source} imports {name or 'the root'}, which is above it"
            assert other == own or FLOOR[other] < FLOOR[own], f"{source} imports {name}"


def test_every_folder_is_a_room():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders - {"embed"} <= FLOOR.keys()


def test_no_module_imports_itself_around_a_circle():
    graph = {module_name(source): imported(source) & MODULES.keys() for source in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_verb_imports_a_verb():
    verbs = {name for name in MODULES if name and room(name) is None}
    for verb in verbs:
        others = {name for name in imported(MODULES[verb]) & verbs if name.split(".")[0] != verb.split(".")[0]}
        assert not others, f"{verb} imports {others}"


@pytest.mark.parametrize("source", sorted(PACKAGE.rglob("__init__.py")), ids=module_name)
def test_packages_hand_names_on_and_define_nothing(source):
    """A docstring, imports, and names: `__all__`, `__version__`."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            assert {target.id for target in node.targets} <= {"__all__", "__version__"}
        elif isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant)
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom)
