"""The tutorials run as they stand, one after the other, with a shorter training of a smaller network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.commands import run_line

from website import tutorials


def shell(commands: str) -> str:
    """Run verbs in this process; of other commands, require that the files that they show exist."""
    for line in commands.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[0] == "python":
            run_line(line)
        else:
            assert words[0] in ("cat", "tail") and Path(words[-1]).is_file(), line
    return ""


@pytest.mark.slow
def test_the_tutorials_run_as_they_stand(tmp_path, monkeypatch):
    for library in ("sklearn", "matplotlib", "pyBigWig"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    for page in tutorials.PAGES:
        text = tutorials.run_page(page, tmp_path, shell)
        pictures = tutorials.PICTURE.findall(text)
        assert pictures and all(tutorials.picture_path(tmp_path, name).stat().st_size > 2000 for name in pictures)


def test_every_tutorial_is_run_and_shows_what_was_printed():
    assert {f"{page}.md" for page in tutorials.PAGES} == {path.name for path in tutorials.TUTORIALS.glob("*.md")}
    for page in tutorials.PAGES:
        text = (tutorials.TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
        assert len(tutorials.BLOCK.findall(text)) >= 2
        outputs = re.findall(r"^```text\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        assert outputs and all(output.strip() for output in outputs)
        assert not re.search(r"/(root|home|tmp)/", text)


def test_outputs_are_put_after_their_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tutorials, "TUTORIALS", tmp_path)
    page = "A\n\n```python\nx = 1\nprint(x)\n```\n\n```text\nold\n```\n\n```sh\nnext {x}\n```\n\nB\n"
    (tmp_path / "p.md").write_text(page, encoding="utf-8")
    commands = []
    text = tutorials.run_page("p", tmp_path, lambda command: commands.append(command) or "printed, not shown\n")
    assert text == page.replace("old", "1") and commands == ["next {x}\n"]
