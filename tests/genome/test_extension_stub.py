"""The types that csrc/_nucel.pyi states for the compiled module are those that it has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import _nucel
import pytest

STUB = (Path(__file__).parents[2] / "csrc" / "_nucel.pyi").read_text(encoding="utf-8")
# What pybind11 adds to each class: a metaclass, and a capsule with a pointer.
ALLOWED = r"_nucel\.(Attention|Fasta|Genome|Sampler)(\.__pybind11_module_local_\w+)?"


def test_stub_agrees_with_the_compiled_module(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "_nucel.pyi").write_text(STUB, encoding="utf-8")
    (tmp_path / "allowed").write_text(ALLOWED, encoding="utf-8")
    words = [sys.executable, "-m", "mypy.stubtest", "_nucel", "--allowlist", str(tmp_path / "allowed")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _functions(node: ast.Module | ast.ClassDef, owner: object) -> list:
    """(compiled function, its parameters in the stub) for all that a module or a class has."""
    pairs = []
    for part in node.body:
        if isinstance(part, ast.ClassDef):
            pairs += _functions(part, getattr(owner, part.name))
        elif isinstance(part, ast.FunctionDef) and not part.decorator_list:
            pairs.append((getattr(owner, part.name), [argument.arg for argument in part.args.args]))
    return pairs


@pytest.mark.parametrize(("function", "parameters"), _functions(ast.parse(STUB), _nucel))
def test_parameters_are_those_of_the_compiled_function(function, parameters):
    # stubtest cannot compare these: pybind11 writes a function's signature in the first line of its docstring only.
    signature = function.__doc__.splitlines()[0]
    assert re.findall(r"[(,] ?(\w+): ", signature) == parameters
