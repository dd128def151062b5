"""`nucel VERB` is `python -m nucel.VERB`."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from nucel.__main__ import VERBS

PACKAGE = Path(__file__).parents[2] / "nucel"


def nucel(*words):
    return subprocess.run([sys.executable, "-m", "nucel", *words], capture_output=True, text=True)


def test_every_file_and_folder_that_can_be_typed_is_a_verb():
    typed = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert typed - {"__init__", "__main__"} == set(VERBS)


def test_a_verb_gets_the_remaining_words(tmp_path):
    done = nucel("genome", str(tmp_path / "none.fa"))
    assert done.returncode == 2 and "no such FASTA file" in done.stderr
    assert "usage: python -m nucel.plot" in nucel("plot", "--help").stdout


def test_help_version_and_other_words():
    for words in ((), ("--help",)):
        done = nucel(*words)
        lines = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, flags=re.MULTILINE))
        assert done.returncode == 0 and tuple(lines) == VERBS
        assert all(len(purpose) > 15 and "python -m" not in purpose for purpose in lines.values()), lines
    assert nucel("--version").stdout == f"nucel {importlib.metadata.version('nucel')}\n"
    done = nucel("tain")
    assert done.returncode == 1 and "'tain' is not a verb" in done.stderr
