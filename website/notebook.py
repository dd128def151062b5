"""Make the notebook of the first tutorial: ``python -m website.notebook``.

Its cells are the page's blocks. Commands run with the notebook's own Python, pictures are those that they draw, and the
training is shorter, so that the whole takes less than three minutes on two cores.
"""

from __future__ import annotations

import json
import re

from website.tutorials import BLOCK, TUTORIALS

PAGE = "pretrain"
SHORTER = ("--steps 120", "--steps 40")
PICTURE = re.compile(r"^!\[.*?\]\(\.\./pictures/([\w-]+\.png)\)$", re.MULTILINE)


def notebook(page: str) -> str:
    """The notebook of a page's text, as JSON; without outputs."""
    cells = [_cell("code", "import sys\n\nfrom IPython.display import Image")]
    end = 0
    for block in [*BLOCK.finditer(page), None]:
        cells += _prose(page[end : block.start() if block else None])
        if block:
            code = block["code"].strip().replace(*SHORTER)
            if block["language"] == "sh":
                code = re.sub("^python ", "!{sys.executable} ", code, flags=re.MULTILINE)
            cells.append(_cell("code", code))
            end = block.end()
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _prose(text: str) -> list[dict]:
    """Cells of the text between two blocks: a picture becomes a line of code that shows it."""
    cells = []
    for number, part in enumerate(PICTURE.split(text)):
        if number % 2:
            cells.append(_cell("code", f'Image("{part}")'))
        elif part.strip():
            cells.append(_cell("markdown", part.strip()))
    return cells


def _cell(kind: str, source: str) -> dict:
    outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True), **outputs}


def main() -> None:
    page = (TUTORIALS / f"{PAGE}.md").read_text(encoding="utf-8")
    (TUTORIALS / f"{PAGE}.ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
