"""The notebook of the first tutorial is the tutorial, and runs."""

from __future__ import annotations

import json
import os
import sys

import pytest

from website import notebook

PATH = notebook.TUTORIALS / f"{notebook.PAGE}.ipynb"


def test_the_notebook_is_that_of_the_page():
    """Else: python -m website.notebook."""
    page = PATH.with_suffix(".md").read_text(encoding="utf-8")
    assert PATH.read_text(encoding="utf-8") == notebook.notebook(page)
    code = "".join("".join(cell["source"]) for cell in json.loads(notebook.notebook(page))["cells"])
    assert notebook.SHORTER[1] in code and notebook.SHORTER[0] not in code and "pictures/" not in code


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # the package that is tested
    book = nbformat.read(PATH, as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=170, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))
    assert "The run is in runs/demo" in printed and "correlation of the first axis with GC content" in printed
    assert (tmp_path / "embeddings.png").stat().st_size > 2000
