"""The messages that docs/faq.md explains are messages of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")


def texts() -> list[str]:
    """Every text in the package's sources; neighbouring literals are joined, `...` stands for what is filled in."""
    found = []
    for file in REPOSITORY.glob("nucel/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "..." for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_is_one_of_ours():
    messages = re.findall(r"^\*\*`(.+?)`\*\*", PAGE, flags=re.MULTILINE)
    assert len(messages) > 15
    ours = texts()
    assert [message for message in messages if not any(message in text for text in ours)] == []


def test_every_flag_is_one_of_ours():
    sources = "".join(file.read_text(encoding="utf-8") for file in REPOSITORY.glob("nucel/**/*.py"))
    fields = set(re.findall(r"^    (\w+): ", sources, flags=re.MULTILINE))
    fields |= {name.replace("-", "_") for name in re.findall(r'arg\(name="([\w-]+)"\)', sources)}
    flags = {name.replace("-", "_") for name in re.findall(r"(?<=--)[a-z][a-z-]+", PAGE)} - {"rename_chrs"}
    assert len(flags) > 15 and flags <= fields, flags - fields
