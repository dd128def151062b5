"""Imports point down only: what a module may import is decided by its place in the house."""

from __future__ import annotations

import ast
from pathlib import Path

import nucel

LEVEL = {
    "vocab": 0, "config": 0, "demo": 0, "kernels": 0, "results": 0, "durable": 0, "command": 0,
    "_nucel": 0,
    "model": 1, "genome": 1, "device": 1, "baseline": 1, "evaluate": 1,
    "electra": 2, "hub": 2, "compiled": 2, "sequences": 2, "optimizer": 2,
    "metrics": 3, "checkpoint": 3, "cost": 3, "parallel": 3, "embed": 3, "task": 3,
    "step": 4, "plot": 4, "card": 4, "track": 4, "fit": 4, "loop": 5, "finetune": 5,
    "train": 6, "predict": 6, "suite": 6,
}  # fmt: skip
PACKAGE = Path(nucel.__file__).parent


def _imported(source: Path) -> set[str]:
    """Names of the package's own modules that a file imports, by either spelling."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            prefix = ["nucel"] if source.parent == PACKAGE or node.level == 2 else ["nucel", source.parent.name]
            module = node.module.split(".") if node.module else []
            paths = [prefix + (module or [alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".")
            paths = [[*module, alias.name] if module == ["nucel"] else module for alias in node.names]
        else:
            continue
        names |= {path[1] for path in paths if path[0] == "nucel" and len(path) > 1}
        names |= {"_nucel" for path in paths if path[0] == "_nucel"}
    return names


def test_every_module_has_a_level():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/*.py")}
    modules -= {"__init__"}
    assert modules <= LEVEL.keys()


def test_imports_point_down():
    for source in PACKAGE.rglob("*.py"):
        if source == PACKAGE / "__init__.py":
            continue
        own = source.stem if source.parent == PACKAGE else source.parent.name
        for name in _imported(source) - {own}:
            assert LEVEL[name] < LEVEL[own], f"{own} imports {name}"


def test_only_genome_imports_the_extension():
    importers = [source for source in PACKAGE.rglob("*.py") if "_nucel" in _imported(source)]
    assert importers == [PACKAGE / "genome" / "__init__.py"]
