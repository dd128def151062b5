"""Run the tutorials and write what they print into their pages: ``python -m website.tutorials FOLDER [PAGE...]``.

A tutorial is a page in docs/tutorials. Its blocks of `sh` and `python` run one after the other in FOLDER, which the
tutorials share: later ones use the model of the first. A block of `text` that follows a command holds what it printed.
Pictures that a page shows are taken from FOLDER.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TUTORIALS = REPOSITORY / "docs" / "tutorials"
PAGES = ("pretrain", "finetune", "variants", "track", "judge")
"""In this order."""
BLOCK = re.compile(
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```\n(?P<output>\n```text\n.*?^```\n)?", re.DOTALL | re.M
)
PICTURE = re.compile(r"\]\(\.\./pictures/([\w-]+\.png)\)")
Shell = Callable[[str], str]
"""Runs a command in the current folder and returns what it prints."""


def shell(command: str) -> str:
    """A command's progress and report. The result for programs, one long line of JSON, is left out."""
    python = f'python() {{ {sys.executable} "$@"; }}\n'
    environment = os.environ | {"COLUMNS": "100", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", python + command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    return "".join(line + "\n" for line in done.stdout.splitlines() if not line.startswith("{"))


def run_page(page: str, folder: Path, run: Shell = shell) -> str:
    """Run the blocks of a page in a folder; returns its text with what they print."""
    text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": page}

    def with_output(block: re.Match[str]) -> str:
        if block["language"] == "sh":
            printed = run(block["code"])
        else:
            with contextlib.redirect_stdout(io.StringIO()) as caught:
                exec(compile(block["code"], f"{page}.md", "exec"), names)
            printed = caught.getvalue()
        lines = "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")
        output = f"\n```text\n{lines}\n```\n" if block["output"] else ""
        return f"```{block['language']}\n{block['code']}```\n{output}"

    with changed_directory(folder):
        return BLOCK.sub(with_output, text)


def picture_path(folder: Path, name: str) -> Path:
    """A picture that a page shows: NAME.png, or the test.png in the folder NAME that fine-tuning leaves."""
    inner = folder / name.removesuffix(".png") / "test.png"
    return inner if inner.exists() else folder / name


@contextlib.contextmanager
def changed_directory(folder: Path) -> Iterator[None]:
    """contextlib.chdir, which Python 3.10 does not have."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(folder: Path, pages: tuple[str, ...] = PAGES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        text = run_page(page, folder)
        (TUTORIALS / f"{page}.md").write_text(text, encoding="utf-8")
        for picture in PICTURE.findall(text):
            shutil.copyfile(picture_path(folder, picture), REPOSITORY / "docs" / "pictures" / picture)
        print(f"{page}: done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or PAGES)
